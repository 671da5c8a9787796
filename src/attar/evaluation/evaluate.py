"""Evaluate: is the distilled set worth more than as many real images?

For every network and seed, a network is trained from scratch on the distilled images and, with the same schedule
and augmentation, on what they are compared with; each is tested on real images after the last epoch. Where it is asked
for, the best over the run stands beside that, as a record of its own. Processes share the students
(`side_by_side.py`); where there are fewer students than processes, several train one together.

    evaluation/        finished trials
    evaluation.json    records, verdict, scores, what was judged, hardware
    by_class.json      accuracy class by class, and what was confused with what
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from attar.artifacts.description import LeftOut
from attar.artifacts.distilled import Distilled
from attar.augment.views import ALGORITHM, Views
from attar.config import dump
from attar.data.loading import EVERY_BYTE, few
from attar.evaluation.best_over_run import best_epochs, best_state
from attar.evaluation.following import followed
from attar.evaluation.settings import EvaluateSettings
from attar.evaluation.side_by_side import train
from attar.evaluation.students import Opening
from attar.evaluation.trials import Source, Subject
from attar.methods import METHODS
from attar.methods import method as method_named
from attar.methods.base import Method
from attar.results.by_class import BY_CLASS, ByClass, to_text
from attar.results.ddranking import Scores, scores
from attar.results.records import ACCURACY, Followed, Labels, Record, Split
from attar.results.verdict import Words, verdict
from attar.runtime.engine import Engine, hardware
from attar.runtime.events import Events
from attar.runtime.files import digest, write_json, write_text
from attar.task import Task
from attar.training.loop import TrainSettings
from attar.training.soft import Teacher

RESULT = "evaluation.json"


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
    opening = Opening(distilled, source, settings, training, seed, folder, teacher)
    students = opening.students(engine, events)
    if (by := source.content(settings.split).by) != EVERY_BYTE:
        events.say(f"the {settings.split} images are told from others by {by}")
    how = train(students, opening.again, engine, events, folder, stage="evaluate", processes=settings.processes)
    # from here on all are only read
    trials, judge, judged_by = students.trials, students.judge, students.judged_by
    subjects, states, seeds = students.subjects, students.states, students.seeds

    def by_protocol(model: str, subject: Subject) -> Followed:
        how = {"use_learned_rate": settings.use_learned_rate, "test_resize_px": settings.test_resize_px}
        said = distilled.views or {}
        drawn = subject.labels == "soft" and said.get("algorithm") == ALGORITHM  # views of others are stored, not drawn
        views = Views.from_json(said).settings if drawn else None
        return followed(settings.protocol, training, model, distilled.task, how, views)

    def record(model: str, subject: Subject) -> Record:
        values = [students.accuracy(model, subject, one) for one in seeds]
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
            _write(folder, evaluation, _judged(distilled, source, settings.split), engine, how.threads)
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


def _write(folder: Path, evaluation: Evaluation, judged: dict[str, Any], engine: Engine, threads: int) -> None:
    write_text(folder / BY_CLASS, to_text(evaluation.by_class))
    values = {
        "records": [record.to_json() for record in evaluation.records],
        "verdict": evaluation.verdict.to_json(),
        "scores": [one.to_json() for one in evaluation.scores],
        "judged": judged,
        "hardware": {**hardware(engine.device), "threads": threads},
    }
    write_json(folder / RESULT, values)
