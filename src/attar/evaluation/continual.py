"""Continual learning: classes arrive step by step, and the distilled images are the memory of those that went.

At each step a network for the classes seen so far is trained from scratch on all their distilled images and tested
on their real test images (Yin et al. 2023, SRe2L); the same with as many random real images.

    evaluation/       finished trials
    continual.json    records, one for each step and subject, the orders of the classes, and hardware
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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
from attar.evaluation.students import TRIALS, judging_set
from attar.evaluation.subjects import Subjects
from attar.evaluation.trials import Source, Subject, Trials, judge_name
from attar.items import Item
from attar.models.factory import build
from attar.options import Arriving
from attar.results.records import ACCURACY, Arrival, Labels, Record, Split
from attar.runtime.engine import Engine, hardware
from attar.runtime.events import Events
from attar.runtime.files import write_json
from attar.runtime.seeding import generator
from attar.task import Normalization, Task
from attar.training.loop import TrainSettings
from attar.training.soft import Teacher

RESULT = "continual.json"
STAGE = "continual"


class ContinualSettings(Arriving):
    """How classes arrive."""

    split: Split = "test"
    """Real images that judge."""


@dataclass(frozen=True)
class _Setting:
    """What all trainings share."""

    task: Task
    judge: RealSet
    settings: ContinualSettings
    teacher: Teacher | None
    source: Source
    engine: Engine
    events: Events
    folder: Path

    def measure(self, step: int, subject: Subject, seed: int) -> float:
        """Accuracy in percent after `step` (from 0) of the order that the seed draws; at once where it is known."""
        seen = seen_classes(self.task.num_classes, self.settings.steps, step, seed)
        trials = Trials(_task_of(self.task, seen), self.source, self.engine, self.events, self.folder / TRIALS, STAGE)
        part = part_of(subject, seen, self.task, self.teacher)
        item = subject.student(self.settings.model, seed, step + 1)
        judge = SeenClasses(self.judge, seen)
        judged_by = judge_name(self.source, self.settings.split)
        return trials.accuracy(self.settings.model, part, seed, judge, judged_by, item)


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
    build(settings.model, distilled.task)
    subjects = _subjects(distilled, source, settings, training, engine, events, teacher)
    judge = judging_set(distilled, source, settings.split)
    shared = _Setting(distilled.task, judge, settings, teacher, source, engine, events, folder)
    seeds, steps = range(seed, seed + settings.seeds), range(settings.steps)
    _require_judges(shared, seeds)
    mine = engine.share(list(product(steps, subjects, seeds)))
    with events.progress("continual", len(mine)) as bar:
        for step, subject, one in mine:
            bar.advance(accuracy=shared.measure(step, subject, one))
    engine.barrier()  # from here on every trial is finished and only read
    records = tuple(
        _record(shared, step, subject, [shared.measure(step, subject, one) for one in seeds], seeds)
        for step, subject in product(steps, subjects)
    )
    if engine.leads:
        _write(shared, records, seeds)
    return records


def _require_steps(settings: ContinualSettings, task: Task) -> None:
    if settings.steps > task.num_classes:
        raise ConfigError(
            f"{settings.steps} steps for {task.num_classes} classes",
            expected="at least one class in each step",
            fix=f"--steps {task.num_classes} or fewer",
        )


def _require_judges(shared: _Setting, seeds: Iterable[int]) -> None:
    """Fail before the first training where the classes of the first step have no images to judge by."""
    for seed in seeds:
        seen = seen_classes(shared.task.num_classes, shared.settings.steps, 0, seed)
        if not torch.isin(shared.judge.labels, seen).any():
            names = ", ".join(shared.task.class_names[label] for label in seen.tolist()[:5])
            raise DataError(
                f"no {shared.settings.split} image is of the classes that come first by seed {seed} ({names})",
                expected="images of every class to judge by",
                fix="fewer --steps, or a source with more images to judge by",
            )


def _subjects(
    distilled: Distilled,
    source: Source,
    settings: ContinualSettings,
    training: TrainSettings,
    engine: Engine,
    events: Events,
    teacher: Teacher | None,
) -> list[Subject]:
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
    making = Subjects(distilled, source, training, engine, events, teacher)
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
        views = Views(whole.views.settings, whole.views.seed, len(part), task.shape)
        return ReplayedSet(part.images, part.labels, views, lambda shown: teacher.logits(shown)[:, seen], whole.device)

    share = len(seen) / task.num_classes
    num_images, size_bytes = round(subject.num_images * share), round(subject.size_bytes * share)
    return replace(subject, make=make, num_images=num_images, size_bytes=size_bytes)


def _record(shared: _Setting, step: int, subject: Subject, values: Sequence[float], seeds: Sequence[int]) -> Record:
    settings, num_classes = shared.settings, shared.task.num_classes
    seen = seen_classes(num_classes, settings.steps, step, seeds[0])
    part = part_of(subject, seen, shared.task, shared.teacher)
    return Record.of(
        ACCURACY,
        subject.name,
        settings.model,
        values,
        seeds=seeds,
        num_images=part.num_images,
        size_bytes=part.size_bytes,
        group=subject.group,
        labels=subject.labels,
        split=settings.split,
        arrival=Arrival(step + 1, settings.steps, len(seen)),
        protocol={"precision": shared.engine.precision, **dump(subject.settings)},
    )


def _write(shared: _Setting, records: Sequence[Record], seeds: Iterable[int]) -> None:
    """Write the result and log it."""
    for record in records:
        assert record.arrival is not None
        item = Item(record.subject, "student", record.subject, group=record.group, labels=record.labels)
        shared.events.emit(STAGE, "accuracy", **item.fields(), step=record.arrival.step, accuracy=record.mean)
    names, num, steps = shared.task.class_names, shared.task.num_classes, shared.settings.steps
    orders = {seed: [names[label] for label in seen_classes(num, steps, steps - 1, seed).tolist()] for seed in seeds}
    values = {
        "records": [record.to_json() for record in records],
        "orders": orders,
        "hardware": hardware(shared.engine.device),
    }
    write_json(shared.folder / RESULT, values)
