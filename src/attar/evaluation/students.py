"""The trainings of an evaluation: what is trained on, and which images judge; `side_by_side` has who trains which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import torch

from attar.artifacts.distilled import Distilled
from attar.data.centred import CentredSplit
from attar.data.loading import RealSet, kept
from attar.errors import ConfigError, DataError
from attar.evaluation.best_over_run import states_of
from attar.evaluation.settings import EvaluateSettings
from attar.evaluation.side_by_side import Handed, Open, handable
from attar.evaluation.subjects import Subjects
from attar.evaluation.trials import Source, Subject, Trials, Watch, distilled_subject, judge_name
from attar.models.factory import build
from attar.results.records import Labels, Split
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.team import Team
from attar.task import Task
from attar.training.loop import TrainSettings
from attar.training.soft import Teacher
from attar.training.strategies import require_suits

TRIALS = "evaluation"
WATCHED = 256
"""Images of the validation split that curves over epochs are of: each point within some 3 percent points."""

Student = tuple[str, Subject, int]
"""A training: name of the network, what it is trained on, seed."""


@dataclass(frozen=True)
class Students:
    """All trainings of an evaluation.

    Attributes:
        trials: trains and tests, and keeps what is finished.
        judge: real images that judge.
        judged_by: what tells these from others.
        models: networks.
        subjects: what each is trained on, the distilled images first.
        states: images on the way, by their step, trained on too.
        seeds: of the trainings of each network on each of them.
    """

    trials: Trials
    judge: RealSet
    judged_by: str
    models: tuple[str, ...]
    subjects: tuple[Subject, ...]
    states: Mapping[int, Subject]
    seeds: range

    @cached_property
    def all(self) -> list[Student]:
        """All of them, in the order in which one process trains them; those on all real images are the last."""
        return list(product(self.models, [*self.subjects, *self.states.values()], self.seeds))

    @property
    def files(self) -> list[Path]:
        """What each leaves, in that order."""
        return [self.trials.path(*student, self.judge, self.judged_by) for student in self.all]

    @property
    def costs(self) -> list[int]:
        """Images that each sees, in that order."""
        return [subject.settings.epochs * subject.num_images for _, subject, _ in self.all]

    def accuracy(self, model: str, subject: Subject, seed: int, team: Team | None = None) -> float:
        """Test accuracy in percent, of a training that is done now if it is not finished; see `Trials.accuracy`."""
        item = subject.student(model, seed)
        return self.trials.accuracy(model, subject, seed, self.judge, self.judged_by, item, team)

    def reached(self, number: int, team: Team | None = None) -> float:
        """Accuracy of one of them; see `accuracy`."""
        return self.accuracy(*self.all[number], team)

    @property
    def handable(self) -> bool:
        """Whether another process finds all networks and strategies by their names."""
        return all(handable(model, subject.settings) for model, subject, _ in self.all)

    def most_processes(self, number: int) -> int:
        """How many processes may share one of them, so that it is that of one to rounding."""
        return self.trials.most_processes(*self.all[number][:2])


@dataclass(frozen=True)
class Opening:
    """All that the students of an evaluation follow from; see `evaluate`."""

    distilled: Distilled
    source: Source
    settings: EvaluateSettings
    training: TrainSettings
    seed: int
    folder: Path
    teacher: Teacher | None

    def students(self, engine: Engine, events: Events) -> Students:
        """Make all that is trained on; raises what `evaluate` raises for what does not fit."""
        distilled, source, settings = self.distilled, self.source, self.settings
        watch = _watch(distilled, source, settings)
        subjects = _subjects(self, engine, events)
        for model in settings.models:
            network = build(model, distilled.task)  # what does not fit is told now, not between two trainings
            require_suits(self.training, network, distilled.task.shape, len(distilled))
        return Students(
            Trials(distilled.task, source, engine, events, self.folder / TRIALS, watch=watch),
            judging_set(distilled, source, settings.split, settings.test_resize_px),
            judge_name(source, settings.split, settings.test_resize_px),
            tuple(settings.models),
            tuple(subjects),
            _states(self, subjects[0], engine, events),
            range(self.seed, self.seed + settings.seeds),
        )

    @property
    def again(self) -> Open:
        """Opens the same students in another process."""
        return replace(self, source=Handed.of(self.source, self.settings.split)).students


def judging_set(distilled: Distilled, source: Source, split: Split, resize_px: int | None = None) -> RealSet:
    """The real images that judge, on the scale of the distilled ones; raises DataError where there are none.

    `resize_px` enlarges them, see `EvaluateSettings`; raises ConfigError where they are larger.
    """
    images = source.test if split == "test" else source.validation
    require_judges(len(images), len(source.validation), split)
    require_resize(resize_px, distilled.task)
    return RealSet(CentredSplit(images, resize_px) if resize_px else images, distilled.task.normalization)


def require_resize(px: int | None, task: Task) -> None:
    """Raise ConfigError where images that judge would have to shrink to be of `px`."""
    if px is not None and px < min(task.height_px, task.width_px):
        raise ConfigError(
            f"evaluate.test_resize_px is {px}, and images have {task.height_px}x{task.width_px} px",
            expected="at least their shorter side: they are enlarged, and their centre is cut out at their own size",
            fix="--set evaluate.test_resize_px=none",
        )


def require_judges(
    num_test: int, num_validation: int, split: Split, validation: str = "--set evaluate.split=validation"
) -> None:
    """Raise DataError where the split that judges has no images; `validation` is how the other one is asked for."""
    if num_test if split == "test" else num_validation:
        return
    held = "is held back" if split == "test" else "is held back, with source.validation_fraction above 0"
    fix = f"put some into a folder {split}/ beside train/, or two or more into a class, of which one {held}"
    raise DataError(
        f"the source has no {split} images to judge by",
        expected=f"a {split} split with at least one image",
        fix=validation if num_validation else fix,
    )


def _watch(distilled: Distilled, source: Source, settings: EvaluateSettings) -> Watch | None:
    """Up to WATCHED images of the validation split, the classes in proportion; None where it has none."""
    real = RealSet(source.validation, distilled.task.normalization)
    if not settings.curve_points or not len(real):
        return None
    by_class = real.labels.argsort(stable=True)
    places = torch.arange(min(WATCHED, len(real))) * len(real) // min(WATCHED, len(real))
    return Watch(kept(real, by_class[places].sort().values), "validation", settings.curve_points)


def _subjects(opening: Opening, engine: Engine, events: Events) -> list[Subject]:
    distilled, settings, training = opening.distilled, opening.settings, opening.training
    small = at_learnt_rate(distilled, training, events) if settings.use_learned_rate else training
    kinds: list[Labels] = [
        "soft" if kind == "stored" and distilled.label_kind != "hard" else "hard" for kind in settings.labels
    ]
    making = Subjects(distilled, opening.source, small, engine, events, opening.teacher)
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


def _states(opening: Opening, last: Subject, engine: Engine, events: Events) -> dict[int, Subject]:
    """The images on the way, by their step, with the labels of the `last` ones; says where there are none."""
    settings, training = opening.settings, opening.training
    if not settings.best_over_run:
        return {}
    try:
        states = states_of(opening.distilled, last.labels)
    except ConfigError as error:
        events.say(f"no best over the run: {error.found}; {error.fix}")
        return {}
    quiet, made = Events(quiet=True), dict[int, Subject]()
    for step, state in states.items():
        how = at_learnt_rate(state, training, quiet) if settings.use_learned_rate else training
        name = f"distilled, step {step}"
        made[step] = distilled_subject(state, how, last.labels, engine, opening.teacher, name, step)
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
