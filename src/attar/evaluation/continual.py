"""Continual learning: classes arrive step by step, and the distilled images are the memory of those that went.

At each step a network for the classes seen so far is trained from scratch on all their distilled images and tested
on their real test images (Yin et al. 2023, SRe2L); the same with as many random real images. Processes share the
networks of all steps (`side_by_side.py`).

    evaluation/       finished trials
    continual.json    records, one for each step and subject, the orders of the classes, and hardware
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from attar.artifacts.distilled import Distilled
from attar.augment.replayed import ReplayedSet
from attar.augment.views import Views
from attar.config import dump
from attar.data.loading import RealSet, TrainingSet
from attar.errors import ConfigError, DataError
from attar.evaluation.side_by_side import Handed, Open, handable, train
from attar.evaluation.students import TRIALS, judging_set
from attar.evaluation.subjects import Subjects
from attar.evaluation.trials import Source, Subject, Trials, judge_name
from attar.items import Item
from attar.models.factory import build
from attar.options import Arriving, AtATime
from attar.results.records import ACCURACY, Arrival, Labels, Record, Split
from attar.runtime.engine import Engine, hardware
from attar.runtime.events import Events
from attar.runtime.files import write_json
from attar.runtime.seeding import generator
from attar.runtime.team import Team
from attar.task import Normalization, Task
from attar.training.loop import TrainSettings
from attar.training.soft import Teacher
from attar.training.strategies import require_suits

RESULT = "continual.json"
STAGE = "continual"


class ContinualSettings(AtATime, Arriving):
    """How classes arrive."""

    split: Split = "test"
    """Real images that judge."""


_Student = tuple[int, Subject, int]
"""A training: the step, from 0; what it is trained on, of which a part has arrived then; seed."""


@dataclass(frozen=True)
class _Students:
    """All trainings, and what they share."""

    task: Task
    judge: RealSet
    judged_by: str
    settings: ContinualSettings
    teacher: Teacher | None
    source: Source
    engine: Engine
    events: Events
    folder: Path
    subjects: Sequence[Subject]
    seeds: range

    @cached_property
    def all(self) -> list[_Student]:
        """All of them, in the order in which one process trains them."""
        return list(product(range(self.settings.steps), self.subjects, self.seeds))

    @property
    def files(self) -> list[Path]:
        """What each leaves, in that order."""
        return [self._trials(step, seed).path(*self._trial(step, what, seed)) for step, what, seed in self.all]

    @property
    def costs(self) -> list[int]:
        """Images that each sees, in that order."""
        parts = [self.part(*student) for student in self.all]
        return [part.settings.epochs * part.num_images for part in parts]

    def reached(self, number: int, team: Team | None = None) -> float:
        """Accuracy in percent of one of them, at once where it is known."""
        return self.accuracy(*self.all[number], team)

    @property
    def handable(self) -> bool:
        """Whether another process finds the network and all strategies by their names."""
        return all(handable(self.settings.model, subject.settings) for subject in self.subjects)

    def most_processes(self, number: int) -> int:
        """How many processes may share one of them, so that it is that of one to rounding."""
        step, subject, seed = self.all[number]
        return self._trials(step, seed).most_processes(self.settings.model, self.part(step, subject, seed))

    def accuracy(self, step: int, subject: Subject, seed: int, team: Team | None = None) -> float:
        """Accuracy in percent after `step` of the order that the seed draws, at once where it is known."""
        item = subject.student(self.settings.model, seed, step + 1)
        return self._trials(step, seed).accuracy(*self._trial(step, subject, seed), item, team)

    def tidy(self) -> None:
        """Remove what trainings with other settings left that were never finished."""
        self._trials(0, self.seeds[0]).tidy()

    def part(self, step: int, subject: Subject, seed: int) -> Subject:
        """What of a subject is there after `step`."""
        return part_of(subject, self.seen(step, seed), self.task, self.teacher)

    def seen(self, step: int, seed: int) -> Tensor:
        """Classes that have arrived after `step` of the order that the seed draws; see `seen_classes`."""
        return seen_classes(self.task.num_classes, self.settings.steps, step, seed)

    def _trials(self, step: int, seed: int) -> Trials:
        task = _task_of(self.task, self.seen(step, seed))
        return Trials(task, self.source, self.engine, self.events, self.folder / TRIALS / STAGE, STAGE)

    def _trial(self, step: int, subject: Subject, seed: int) -> tuple[str, Subject, int, TrainingSet, str]:
        """A training as `Trials` is told of it."""
        judge = SeenClasses(self.judge, self.seen(step, seed))
        return self.settings.model, self.part(step, subject, seed), seed, judge, self.judged_by


@dataclass(frozen=True)
class _Opening:
    """All that the students follow from; see `evaluate`."""

    distilled: Distilled
    source: Source
    settings: ContinualSettings
    training: TrainSettings
    seed: int
    folder: Path
    teacher: Teacher | None

    def students(self, engine: Engine, events: Events) -> _Students:
        """Make all that is trained on; raises what `continual` raises for what does not fit."""
        distilled, source, settings = self.distilled, self.source, self.settings
        require_suits(self.training, build(settings.model, distilled.task), distilled.task.shape, len(distilled))
        subjects = _subjects(self, engine, events)
        return _Students(
            distilled.task,
            judging_set(distilled, source, settings.split),
            judge_name(source, settings.split),
            settings,
            self.teacher,
            source,
            engine,
            events,
            self.folder,
            subjects,
            range(self.seed, self.seed + settings.seeds),
        )

    @property
    def again(self) -> Open:
        """Opens the same students in another process."""
        return replace(self, source=Handed.of(self.source, self.settings.split)).students


def continual(
    distilled: Distilled,
    source: Source,
    settings: ContinualSettings,
    training: TrainSettings,
    *,
    seed: int = 0,
    engine: Engine,
    events: Events,
    folder: Path,
    teacher: Teacher | None = None,
) -> tuple[Record, ...]:
    """Train and test what is not there yet, step by step, and write `continual.json`.

    Arguments and errors are those of `evaluate`; more steps than classes are a ConfigError, and so are
    labels of augmented views, which mix classes and so have to be made anew, where there is no teacher to make them.
    """
    source.task.require_same(distilled.task, "the source", "the distilled dataset")
    _require_steps(settings, distilled.task)
    opening = _Opening(distilled, source, settings, training, seed, folder, teacher)
    students = opening.students(engine, events)
    _require_judges(students)
    how = train(students, opening.again, engine, events, folder, stage=STAGE, processes=settings.processes)
    # from here on every trial is finished and only read
    records = tuple(_record(students, *of) for of in product(range(settings.steps), students.subjects))
    if engine.leads:
        _write(students, records, how.threads)
        students.tidy()
    return records


def _require_steps(settings: ContinualSettings, task: Task) -> None:
    if settings.steps > task.num_classes:
        raise ConfigError(
            f"{settings.steps} steps for {task.num_classes} classes",
            expected="at least one class in each step",
            fix=f"--steps {task.num_classes} or fewer",
        )


def _require_judges(students: _Students) -> None:
    """Fail before the first training where the classes of the first step have no images to judge by."""
    for seed in students.seeds:
        seen = students.seen(0, seed)
        if not torch.isin(students.judge.labels, seen).any():
            names = ", ".join(students.task.class_names[label] for label in seen.tolist()[:5])
            raise DataError(
                f"no {students.settings.split} image is of the classes that come first by seed {seed} ({names})",
                expected="images of every class to judge by",
                fix="fewer --steps, or a source with more images to judge by",
            )


def _subjects(opening: _Opening, engine: Engine, events: Events) -> list[Subject]:
    distilled, settings, teacher = opening.distilled, opening.settings, opening.teacher
    kinds: list[Labels] = [
        "soft" if kind == "stored" and distilled.label_kind != "hard" else "hard" for kind in settings.labels
    ]
    if "soft" in kinds and distilled.label_kind != "soft" and teacher is None:
        raise ConfigError(
            "the labels are of views of all images, and for those of the classes that have arrived at a step views "
            "are drawn and labelled anew, and there is no teacher to label them",
            expected="a distilled dataset in the run that made it, or with its teacher",
            fix="--labels hard",
        )
    making = Subjects(distilled, opening.source, opening.training, engine, events, teacher)
    return making.distilled(kinds) + (making.real("random", kinds) if settings.baseline else [])


def seen_classes(num_classes: int, steps: int, step: int, seed: int) -> Tensor:
    """Classes (k,) that have arrived by `step` (from 0), in the order of their arrival, int64."""
    order = torch.randperm(num_classes, generator=generator(seed, "continual", "classes"))
    return torch.cat(torch.tensor_split(order, steps)[: step + 1])


class SeenClasses:
    """The images of some classes of another set; class k is the k-th of `classes`, int64 (k,).

    Soft labels keep the probabilities of these classes, which are made to sum to 1 again.
    """

    def __init__(self, data: TrainingSet, classes: Tensor) -> None:
        self._data, self._classes = data, classes
        self.normalization: Normalization | None = getattr(data, "normalization", None)
        self._kept = torch.isin(data.labels, classes).nonzero().squeeze(1)
        self._places = torch.full((int(max(data.labels.max(), classes.max())) + 1,), -1)
        self._places[classes] = torch.arange(len(classes))
        self.labels = self._places[data.labels[self._kept]]

    def __len__(self) -> int:
        return len(self._kept)

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (b, c, h, w) of these indices (b,)."""
        return self._data.images(self._kept[indices])

    def targets(self, indices: Tensor) -> Tensor:
        """Places of the classes int64 (b,), or probabilities float (b, k)."""
        targets = self._data.targets(self._kept[indices])
        if targets.ndim == 1:
            return self._places[targets]
        seen = targets[:, self._classes].clamp_min(torch.finfo(targets.dtype).tiny)
        return seen / seen.sum(1, keepdim=True)


def _task_of(task: Task, seen: Tensor) -> Task:
    return replace(task, class_names=tuple(task.class_names[label] for label in seen.tolist()))


def part_of(subject: Subject, seen: Tensor, task: Task, teacher: Teacher | None) -> Subject:
    """What of a subject is there when these classes have arrived; as large as their share of the classes."""

    def make(seed: int) -> TrainingSet:
        whole = subject.make(seed)
        part = SeenClasses(whole, seen)
        if not isinstance(whole, ReplayedSet):
            return part
        assert teacher is not None, "views of fewer images, mixed with each other, are labelled anew"
        views = Views(whole.views.settings, whole.views.seed, len(part), task.shape, whole.views.tiles)
        return ReplayedSet(part.images, part.labels, views, lambda shown: teacher.logits(shown)[:, seen], whole.device)

    share = len(seen) / task.num_classes
    num_images, size_bytes = round(subject.num_images * share), round(subject.size_bytes * share)
    return replace(subject, make=make, num_images=num_images, size_bytes=size_bytes)


def _record(students: _Students, step: int, subject: Subject) -> Record:
    settings, seeds = students.settings, students.seeds
    part = students.part(step, subject, seeds[0])
    return Record.of(
        ACCURACY,
        subject.name,
        settings.model,
        [students.accuracy(step, subject, seed) for seed in seeds],
        seeds=seeds,
        num_images=part.num_images,
        size_bytes=part.size_bytes,
        group=subject.group,
        labels=subject.labels,
        split=settings.split,
        arrival=Arrival(step + 1, settings.steps, len(students.seen(step, seeds[0]))),
        protocol={"precision": students.engine.precision, **dump(subject.settings)},
    )


def _write(students: _Students, records: Sequence[Record], threads: int) -> None:
    """Write the result and log it."""
    for record in records:
        assert record.arrival is not None
        item = Item(record.subject, "student", record.subject, group=record.group, labels=record.labels)
        students.events.emit(STAGE, "accuracy", **item.fields(), step=record.arrival.step, accuracy=record.mean)
    names, last = students.task.class_names, students.settings.steps - 1
    values = {
        "records": [record.to_json() for record in records],
        "orders": {seed: [names[label] for label in students.seen(last, seed).tolist()] for seed in students.seeds},
        "hardware": {**hardware(students.engine.device), "threads": threads},
    }
    write_json(students.folder / RESULT, values)
