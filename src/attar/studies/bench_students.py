"""The students of a bench: what each is trained on, all by one network, schedule and augmentation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch

from attar.artifacts.distilled import load_distilled
from attar.augment.replayed import ReplayedSet
from attar.augment.views import Views, ViewSettings
from attar.config import dump
from attar.data.loading import RealSet, TrainingSet, kept
from attar.evaluation.side_by_side import Handed, Open
from attar.evaluation.students import Students
from attar.evaluation.trials import Source, Subject, Trials, distilled_subject, draw_random, judge_name
from attar.options import Compared
from attar.protocols import protocol
from attar.results.records import Labels
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import sha256
from attar.task import Task
from attar.training.section import TrainSection
from attar.training.soft import Teacher

RANDOM, FULL = "random", "full"
Key = tuple[str, int, Labels]
"""Method, images per class (0: all there are), and labels."""


def keys(asked: Compared) -> list[Key]:
    """Everything that is trained on: random real images, then the methods' sets, for each condition; and all images."""
    methods = dict.fromkeys((RANDOM, *asked.methods))
    found: list[Key] = [(one, ipc, labels) for ipc, labels in product(asked.ipc, asked.labels) for one in methods]
    return list(dict.fromkeys([*found, (FULL, 0, "hard")] if asked.full_epochs else found))


def views_of(name: str, task: Task) -> ViewSettings:
    """What soft labels are of by a protocol; grey images, which often are of signs, are not mirrored."""
    return ViewSettings(**{"flip": task.channels == 3, **protocol(name).sections.get("relabel", {})})


@dataclass(frozen=True)
class Opening:
    """All that the students of a bench follow from.

    Attributes:
        asked: what is compared.
        model: the network that judges.
        training: its schedule and augmentation.
        source: the real images.
        teacher: makes soft labels; None: there are none.
        folder: of the bench, which holds the sets.
    """

    asked: Compared
    model: str
    training: TrainSection
    source: Source
    teacher: Teacher | None
    folder: Path

    def students(self, engine: Engine, events: Events) -> Students:
        """All of them; their subjects are in the order of `keys`."""
        asked, source = self.asked, self.source
        judge = source.test if asked.split == "test" else source.validation
        return Students(
            Trials(source.task, source, engine, events, self.folder / "trials", stage="bench"),
            RealSet(judge, source.task.normalization),
            judge_name(source, asked.split),
            (self.model,),
            tuple(self._subject(key, engine) for key in keys(asked)),
            {},
            range(asked.seeds),
        )

    @property
    def again(self) -> Open:
        """Opens the same students in another process."""
        return replace(self, source=Handed.of(self.source, self.asked.split)).students

    def _subject(self, key: Key, engine: Engine) -> Subject:
        method, _, labels = key
        if method == FULL:
            return self._labelled(self._all(), "hard", engine)
        return self._labelled(self._random(key) if method == RANDOM else self._made(key, engine), labels, engine)

    def _random(self, key: Key) -> Subject:
        """Real images, drawn anew for each seed."""
        _, ipc, _ = key
        task = self.source.task
        real, counts = RealSet(self.source.train, task.normalization), torch.full((task.num_classes,), ipc)

        def draw(seed: int) -> TrainingSet:
            return kept(real, draw_random(real, counts, task, seed))

        num, size_bytes = ipc * task.num_classes, _image_bytes(task, ipc, floats=False)
        return Subject(_named(key), RANDOM, "hard", draw, self.training, num, size_bytes, [RANDOM, ipc])

    def _made(self, key: Key, engine: Engine) -> Subject:
        """The set that a method has made."""
        method, ipc, _ = key
        task = self.source.task
        distilled = load_distilled(self.folder / f"{method}-ipc{ipc}" / "distilled")
        distilled.task.require_same(task, f"the set of {method}", "the source")
        made = distilled_subject(distilled, self.training, "hard", engine, name=_named(key))
        return replace(made, group=method, size_bytes=_image_bytes(task, ipc, floats=not distilled.exact_8bit))

    def _all(self) -> Subject:
        """All real images, for epochs of their own."""
        task, epochs = self.source.task, self.asked.full_epochs
        real = RealSet(self.source.train, task.normalization)
        warmup = min(self.training.warmup_epochs, epochs - 1)
        longer = self.training.model_copy(update={"epochs": epochs, "warmup_epochs": warmup})
        size_bytes = len(real) * math.prod(task.shape)
        return Subject(FULL, FULL, "hard", lambda seed: real, longer, len(real), size_bytes, [FULL, len(real)])

    def _labelled(self, subject: Subject, labels: Labels, engine: Engine) -> Subject:
        """The same images with labels of this kind; counts their bytes, or those of the teacher that makes them."""
        task, teacher = self.source.task, self.teacher
        size_bytes = subject.size_bytes + subject.num_images * (1 if task.num_classes <= 256 else 2)
        if labels == "hard" or teacher is None:
            return replace(subject, size_bytes=size_bytes)
        settings = views_of(self.asked.protocol, task)
        files: Sequence[Path] = tuple(getattr(teacher, "paths", ()))

        def shown(seed: int) -> TrainingSet:
            data = subject.make(seed)
            views = Views(settings, 0, len(data), task.shape, subject.tiles)
            return ReplayedSet(data.images, data.labels, views, teacher.logits, engine.device)

        return replace(
            subject,
            labels="soft",
            make=shown,
            size_bytes=size_bytes + sum(Path(file).stat().st_size for file in files),
            identity=[subject.identity, dump(settings), [sha256(file) for file in files]],
        )


def _named(key: Key) -> str:
    method, ipc, labels = key
    return f"{method}, {ipc} a class, {labels} labels"


def _image_bytes(task: Task, ipc: int, *, floats: bool) -> int:
    """Of so many images per class, as the numbers that they are trained on."""
    return task.num_classes * ipc * math.prod(task.shape) * (4 if floats else 1)
