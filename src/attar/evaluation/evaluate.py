"""Evaluate: is the distilled set worth more than as many real images?

For every network and seed, a network is trained from scratch on the distilled images and, with the same schedule
and augmentation, on what they are compared with; each is tested on real images after the last epoch. Where it is asked
for, the best over the run stands beside that, as a record of its own. Processes share the students; where there are
fewer students than processes, several train one together.

    evaluation/        finished trials
    evaluation.json    records, verdict, scores, what was judged, hardware
    by_class.json      accuracy class by class, and what was confused with what
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator

from attar.artifacts.description import LeftOut
from attar.artifacts.distilled import Distilled
from attar.augment.views import ALGORITHM, Views
from attar.config import dump
from attar.data.centred import CentredSplit
from attar.data.loading import EVERY_BYTE, RealSet, few, kept
from attar.errors import ConfigError, DataError
from attar.evaluation.best_over_run import best_epochs, best_state, states_of
from attar.evaluation.following import followed
from attar.evaluation.subjects import Subjects
from attar.evaluation.trials import Source, Subject, Trials, Watch, distilled_subject, judge_name
from attar.marks import Mark
from attar.methods import METHODS
from attar.methods import method as method_named
from attar.methods.base import Method
from attar.models.factory import build
from attar.options import Judging, LabelKind
from attar.results.by_class import BY_CLASS, ByClass, to_text
from attar.results.ddranking import Scores, scores
from attar.results.records import ACCURACY, Followed, Labels, Record, Split
from attar.results.verdict import Words, verdict
from attar.runtime.engine import Engine, hardware
from attar.runtime.events import Events
from attar.runtime.files import digest, write_json, write_text
from attar.runtime.team import Team, share_out
from attar.task import Task
from attar.training.loop import TrainSettings
from attar.training.soft import Teacher

RESULT = "evaluation.json"
TRIALS = "evaluation"
WATCHED = 256
"""Images of the validation split that curves over epochs are of: each point within some 3 percent points."""


class EvaluateSettings(Judging):
    """How the distilled set is judged."""

    full_epochs: int = Field(default=50, ge=1)
    """Epochs on the whole training split; all other train settings are the same."""
    labels: tuple[LabelKind, ...] = Field(default=("stored",), min_length=1)
    """Which labels the distilled images are trained with: those stored with them (soft, if there are any) or their
    classes. The verdict covers each."""
    use_learned_rate: bool = True
    """If the distilled dataset carries a learning rate that was learnt with its images, as those of trajectory matching
    do, train on it at that rate, as MTT and TESLA judge; false: at train.learning_rate, like everything else."""
    best_over_run: bool = False
    """Also train on the intermediate images that recover kept (recover.num_states), with as many seeds as on the last
    ones, and record the best mean over the run as a row of its own: what the tables of MTT and TESLA report. The
    headline stays that of the last images."""
    test_every: int = Field(default=0, ge=0)
    """Also test the students of small sets every so many epochs, and record each one's best epoch as a row of its own:
    what RDED prints (every 10 epochs) and many tables report. The headline stays the last epoch. 0: tested once."""
    split: Split = "test"
    """Which real images judge. Choose settings on the validation split and leave the test split to the end."""
    test_resize_px: int | None = Field(default=None, ge=1)
    """Enlarge the test images so that their shorter side has this many pixels, and crop the centre at the size that
    networks take; none: as they are. Published along with crops in training: 256 at 224 px, and 72 at 64 px by RDED."""

    curve_points: Annotated[int, Mark.HOW] = Field(default=12, ge=0)
    """How often each student is tested on a few validation images during training, for the curves in the report;
    nothing is chosen by them. 0: never."""

    @field_validator("models", "baselines", "labels")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    def complete(self) -> EvaluateSettings:
        """The same with all trainings that the scores are made of, where scores are wanted."""
        if not self.scores:
            return self
        baselines = tuple(dict.fromkeys((*self.baselines, "random", "full")))
        return self.model_copy(update={"baselines": baselines, "labels": ("stored", "hard")})


@dataclass(frozen=True)
class Evaluation:
    """Records, those of the distilled set first for each network, what they say in words, and scores by network.

    Records of a best over the run, where there are any, are the last ones.
    """

    records: tuple[Record, ...]
    verdict: Words
    scores: tuple[Scores, ...] = ()
    report: Path | None = None
    """The page about it, where one was drawn."""
    by_class: tuple[ByClass, ...] = ()
    """Accuracies class by class, of every record but a best over the run."""


def evaluate(
    distilled: Distilled,
    source: Source,
    settings: EvaluateSettings,
    training: TrainSettings,
    *,
    seed: int = 0,
    engine: Engine,
    events: Events,
    folder: Path,
    teacher: Teacher | None = None,
) -> Evaluation:
    """Train and test all that is not there yet, and write `evaluation.json`.

    Args:
        distilled: what is judged.
        source: the real images that it was made from.
        settings: networks (by name, `auto` resolved), seeds, baselines.
        training: schedule and augmentation for all.
        seed: the first of the seeds, which follow one another.
        engine: device and precision.
        events: log and progress.
        folder: run folder; finished trials in it are used, those of other settings are left alone.
        teacher: labels the random real images where the distilled ones have soft labels, and the distilled ones where
            theirs are made in training; None: the random ones keep hard labels, and the verdict says so.

    Raises ArtifactError where classes or shapes of the two disagree, ConfigError where no rate was learnt,
    DataError where a class has too few real images or the split is empty.
    """
    source.task.require_same(distilled.task, "the source", "the distilled dataset")
    settings = settings.complete()
    watch = _watch(distilled, source, settings)
    trials = Trials(distilled.task, source, engine, events, folder / TRIALS, watch=watch)
    judge = judging_set(distilled, source, settings.split, settings.test_resize_px)
    judged_by = judge_name(source, settings.split, settings.test_resize_px)
    if (by := source.content(settings.split).by) != EVERY_BYTE:
        events.say(f"the {settings.split} images are told from others by {by}")
    subjects = _subjects(distilled, source, settings, training, engine, events, teacher)
    states = _states(distilled, subjects[0], settings, training, engine, events, teacher)
    for model in settings.models:
        build(model, distilled.task)  # a name or size that does not fit is told now, not between two trainings
    seeds = range(seed, seed + settings.seeds)

    def measure(model: str, subject: Subject, one: int, members: Team | None = None) -> float:
        return trials.accuracy(model, subject, one, judge, judged_by, subject.student(model, one), members)

    def most(student: tuple[str, Subject, int]) -> int:
        return trials.most_processes(*student[:2])

    students = list(product(settings.models, [*subjects, *states.values()], seeds))
    mine = share_out(students, engine.processes, most, engine.device)
    with events.progress("evaluate", len(mine)) as bar:
        for (model, subject, one), members in mine:
            bar.advance(accuracy=measure(model, subject, one, members))
    engine.barrier(trials.path(*student, judge, judged_by) for student in students)  # from here on all are only read

    def by_protocol(model: str, subject: Subject) -> Followed:
        how = {"use_learned_rate": settings.use_learned_rate, "test_resize_px": settings.test_resize_px}
        said = distilled.views or {}
        drawn = subject.labels == "soft" and said.get("algorithm") == ALGORITHM  # views of others are stored, not drawn
        views = Views.from_json(said).settings if drawn else None
        return followed(settings.protocol, training, model, distilled.task, how, views)

    def record(model: str, subject: Subject) -> Record:
        values = [measure(model, subject, one) for one in seeds]
        return Record.of(
            ACCURACY,
            subject.name,
            model,
            values,
            seeds=seeds,
            num_images=subject.num_images,
            size_bytes=subject.size_bytes,
            group=subject.group,
            labels=subject.labels,
            augmented=subject.augmented,
            split=settings.split,
            num_judges=len(judge),
            resize_px=settings.test_resize_px,
            followed=by_protocol(model, subject),
            protocol={"precision": engine.precision, **dump(subject.settings)},
        )

    records = [record(model, subject) for model, subject in product(settings.models, subjects)]
    by_class = []
    for made, (model, subject) in zip(records, product(settings.models, subjects), strict=True):
        found = (trials.cells(model, subject, seed, judge, judged_by) for seed in seeds)
        if len(counted := [cells for cells in found if cells is not None]) == len(seeds):
            by_class.append(ByClass.of(made, distilled.task.num_classes, counted))
    for last, (model, subject) in zip(tuple(records), product(settings.models, subjects), strict=True):
        if states and subject is subjects[0]:
            records.append(best_state(last, {step: record(model, state) for step, state in states.items()}))
        if subject.test_every:
            tested = [trials.tested(model, subject, one, judge, judged_by) for one in seeds]
            records += [best_epochs(last, tested)] if len(tested[0]) > 1 else []
    own: Labels = "hard" if distilled.label_kind == "hard" else "soft"
    evaluation = Evaluation(
        tuple(records), verdict(records, _called(distilled)), scores(records, own), by_class=tuple(by_class)
    )
    if engine.leads:
        with engine.turn():
            _write(folder, evaluation, _judged(distilled, source, settings.split), engine)
            trials.tidy()
    return evaluation


def _called(distilled: Distilled) -> str:
    """What the verdict calls the images that are judged: those of a coreset are not distilled."""
    name = distilled.info.get("method")
    return method_named(name).makes if isinstance(name, str) and name in METHODS.own else Method.makes


def held_bytes(settings: EvaluateSettings, num_images: int, task: Task, *, soft: bool) -> int:
    """About the most main memory that sets of so many images take while networks are trained on them.

    The distilled set, and real images at the same count: 8-bit pixels each, or floats where they are few or whitened;
    and `soft` labels of them, one each. Float images that are many stay on disk and take less.
    """
    floats = few((num_images, *task.shape)) or task.normalization.whitening is not None
    each = math.prod(task.shape) * (4 if floats else 1) + (4 * task.num_classes if soft else 0)
    num_sets = 1 + any(name != "full" for name in settings.complete().baselines)
    return num_sets * num_images * each


def judging_set(distilled: Distilled, source: Source, split: Split, resize_px: int | None = None) -> RealSet:
    """The real images that judge, on the scale of the distilled ones; raises DataError where there are none.

    `resize_px` enlarges them, see `EvaluateSettings`; raises ConfigError where they are larger.
    """
    images = source.test if split == "test" else source.validation
    require_judges(len(images), split)
    require_resize(resize_px, distilled.task)
    return RealSet(CentredSplit(images, resize_px) if resize_px else images, distilled.task.normalization)


def _watch(distilled: Distilled, source: Source, settings: EvaluateSettings) -> Watch | None:
    """Up to WATCHED images of the validation split, the classes in proportion; None where it has none."""
    real = RealSet(source.validation, distilled.task.normalization)
    if not settings.curve_points or not len(real):
        return None
    by_class = real.labels.argsort(stable=True)
    places = torch.arange(min(WATCHED, len(real))) * len(real) // min(WATCHED, len(real))
    return Watch(kept(real, by_class[places].sort().values), "validation", settings.curve_points)


def require_resize(px: int | None, task: Task) -> None:
    """Raise ConfigError where images that judge would have to shrink to be of `px`."""
    if px is not None and px < min(task.height_px, task.width_px):
        raise ConfigError(
            f"evaluate.test_resize_px is {px}, and images have {task.height_px}x{task.width_px} px",
            expected="at least their shorter side: they are enlarged, and their centre is cut out at their own size",
            fix="--set evaluate.test_resize_px=none",
        )


def require_judges(num: int, split: Split) -> None:
    """Raise DataError where the split that judges has no images."""
    if not num:
        raise DataError(
            f"the source has no {split} images to judge by",
            expected=f"a {split} split with at least one image",
            fix="--set source.validation_fraction=0.1" if split == "validation" else "--set evaluate.split=validation",
        )


def _subjects(
    distilled: Distilled,
    source: Source,
    settings: EvaluateSettings,
    training: TrainSettings,
    engine: Engine,
    events: Events,
    teacher: Teacher | None,
) -> list[Subject]:
    small = at_learnt_rate(distilled, training, events) if settings.use_learned_rate else training
    kinds: list[Labels] = [
        "soft" if kind == "stored" and distilled.label_kind != "hard" else "hard" for kind in settings.labels
    ]
    making = Subjects(distilled, source, small, engine, events, teacher)
    made = making.distilled(kinds)
    for name in settings.baselines:
        if name != "full":
            made += making.real(name, kinds)
    if settings.scores:
        made += _not_augmented(making, made, kinds[0], events)
    made = [replace(subject, test_every=settings.test_every) for subject in made]
    if "full" in settings.baselines:
        made.append(making.full(training, settings.full_epochs))
    return made


def _states(
    distilled: Distilled,
    last: Subject,
    settings: EvaluateSettings,
    training: TrainSettings,
    engine: Engine,
    events: Events,
    teacher: Teacher | None,
) -> dict[int, Subject]:
    """The images on the way, by their step, with the labels of the `last` ones; says where there are none."""
    if not settings.best_over_run:
        return {}
    try:
        states = states_of(distilled, last.labels)
    except ConfigError as error:
        events.say(f"no best over the run: {error.found}; {error.fix}")
        return {}
    quiet, made = Events(quiet=True), dict[int, Subject]()
    for step, state in states.items():
        how = at_learnt_rate(state, training, quiet) if settings.use_learned_rate else training
        name = f"distilled, step {step}"
        made[step] = distilled_subject(state, how, last.labels, engine, teacher, name, step)
    return made


def _not_augmented(making: Subjects, made: Sequence[Subject], own: Labels, events: Events) -> list[Subject]:
    """Distilled and random images with their own labels, as they are; none where labels need views and a teacher."""
    compared = [one for one in made if one.group in ("distilled", "random") and one.labels == own]
    try:
        return [making.not_augmented(subject) for subject in compared]
    except ConfigError as error:
        events.say(f"no augmentation-robust score: {error.found}")
        return []


def at_learnt_rate(distilled: Distilled, training: TrainSettings, events: Events) -> TrainSettings:
    """The training at the rate that the distilled images were learnt with, where they carry one; says so."""
    rate = distilled.learning_rate
    if rate is None or rate == training.learning_rate:
        return training
    events.say(
        f"students of small sets train at the learnt rate {rate:.4g}, which came with the images; "
        f"train.learning_rate is {training.learning_rate:g}"
    )
    return training.model_copy(update={"learning_rate": rate})


def _judged(distilled: Distilled, source: Source, split: Split) -> dict[str, Any]:
    """What was judged and by which real images, for whoever compares evaluations."""
    task, info = distilled.task, distilled.info
    left_out = LeftOut.of(getattr(source, "skipped", []), str(getattr(source, "name", "")))
    return {
        "method": info.get("method"),
        "makes": _called(distilled),
        "ipc": round(len(distilled) / task.num_classes, 2),
        "labels": distilled.label_kind,
        "sizes": dict(distilled.sizes),
        "classes": task.num_classes,
        "task": digest([list(task.class_names), list(task.shape)]),
        "shape": list(task.shape),
        "source": source.fingerprint,
        "judges": source.content(split)._asdict(),
        "num_train_images": len(source.train),
        **({"left_out": left_out.model_dump(mode="json")} if left_out else {}),
    }


def _write(folder: Path, evaluation: Evaluation, judged: dict[str, Any], engine: Engine) -> None:
    write_text(folder / BY_CLASS, to_text(evaluation.by_class))
    values = {
        "records": [record.to_json() for record in evaluation.records],
        "verdict": evaluation.verdict.to_json(),
        "scores": [one.to_json() for one in evaluation.scores],
        "judged": judged,
        "hardware": hardware(engine.device),
    }
    write_json(folder / RESULT, values)
