"""Trials: networks trained from scratch on a subject and tested on real images, each once.

A subject is a set to train on: the distilled images, or what they are compared with. A finished trial is one small
file, so that an interrupted evaluation goes on where it was, and one with more seeds builds on what is there.

    NAME.json           accuracy after the last epoch, and after those on the way that were tested too; and how many
                        images of each class were taken for which
    NAME.safetensors    checkpoint of one that runs, and NAME.tested.json its accuracies on the way
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from attar.artifacts.distilled import Distilled, DistilledSet
from attar.artifacts.images import parts
from attar.data.loading import Content, MemorySplit, RealSet, Split, TensorSet, TrainingSet, few, kept
from attar.errors import DataError
from attar.items import Item
from attar.methods.base import Images
from attar.models.factory import build
from attar.results.by_class import Cells, cells_of, rows_of
from attar.results.records import Labels
from attar.results.records import Split as Judging
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import digest, read_json, sha256, write_json
from attar.runtime.seeding import generator
from attar.runtime.team import Team
from attar.task import Task
from attar.training.distributed import most_processes
from attar.training.loop import TrainSettings, accuracy, confusion, fit
from attar.training.soft import Teacher, labelled_by, soft_set
from attar.training.strategies import Teaches, identity, make_strategy


class Source(Protocol):
    """The real images; see `attar.data.sources`."""

    @property
    def task(self) -> Task:
        """Classes, image shape, normalisation."""

    @property
    def train(self) -> Split:
        """What was distilled."""

    @property
    def validation(self) -> Split:
        """For choosing settings."""

    @property
    def test(self) -> Split:
        """For judging."""

    @property
    def fingerprint(self) -> str:
        """Hash of the images and labels."""

    def content(self, split: Judging) -> Content:
        """What tells the images of a split from others."""


@dataclass(frozen=True)
class Subject:
    """Something to train on: what it is, how to get it for a seed, and what it costs."""

    name: str
    """For a person, and for the names of files."""
    group: str
    """Of what kind the images are; see `attar.results.records.Record`."""
    labels: Labels
    make: Callable[[int], TrainingSet]
    settings: TrainSettings
    """As they stand in records, whatever the images hold; `training` is what follows from both."""
    num_images: int
    size_bytes: int
    identity: Any
    """Plain values that tell its images and labels from those of every other subject, and its teacher."""
    teacher: Teaches | None = None
    """Who teaches, for the strategy kd."""
    augmented: bool = True
    """False: as they are."""
    state: int | None = None
    """Step of recover after which distilled images were as they are; None: after the last."""
    tiles: int = 1
    """How many others, along a side, each image holds."""
    test_every: int = 0
    """Epochs from one test on the way to the next, for the best of them; 0: tested after the last epoch alone."""

    @property
    def training(self) -> TrainSettings:
        """How a network is trained on it: of images that hold others, one is seen at a time."""
        return self.settings.on(self.tiles)

    def student(self, network: str, seed: int, arrival: int | None = None) -> Item:
        """A network that is trained on it, at a step of continual learning where there is one."""
        at = f", step {arrival}" if arrival else ""
        return Item(
            f"{self.name}{at} on {network}/seed {seed}",
            "student",
            self.name,
            network=network,
            group=self.group,
            labels=self.labels,
            augmented=self.augmented,
            state=self.state,
            arrival=arrival,
            seed=seed,
        )


def distilled_subject(
    distilled: Distilled,
    settings: TrainSettings,
    labels: Labels,
    engine: Engine,
    teacher: Teacher | None = None,
    name: str = "distilled",
    state: int | None = None,
) -> Subject:
    """The distilled images with the soft labels that they have, or with their classes."""

    def make(seed: int) -> TrainingSet:
        if labels == "soft":
            return soft_set(distilled, teacher, engine.device)
        return _with_classes(distilled)

    return Subject(
        name=name,
        group="distilled",
        labels=labels,
        make=make,
        settings=settings,
        num_images=len(distilled.labels),
        size_bytes=_bytes_with(distilled, labels),
        state=state,
        tiles=distilled.tiles,
        identity=[_content(distilled.stored), _labels_of(distilled, labels)],
    )


def random_subject(
    distilled: Distilled,
    source: Source,
    settings: TrainSettings,
    engine: Engine,
    teacher: Teacher | None = None,
    name: str = "random",
) -> Subject:
    """Real images drawn anew for each seed, as many of each class as the distilled set has.

    A teacher gives them soft labels of the same kind. Making it raises DataError where a class has too few images.
    """
    real = RealSet(source.train, distilled.task.normalization)
    counts = distilled.labels.bincount(minlength=distilled.task.num_classes)

    def make(seed: int) -> TrainingSet:
        data = kept(real, draw_random(real, counts, distilled.task, seed))
        return data if teacher is None else labelled_by(teacher, data, distilled.views, engine.device)

    size_bytes = _real_bytes(distilled, len(distilled.labels))
    if teacher:
        size_bytes += distilled.sizes["labels"] + distilled.sizes["teacher"]
    return Subject(
        name=name,
        group="random",
        labels="soft" if teacher else "hard",
        make=make,
        settings=settings,
        num_images=len(distilled.labels),
        size_bytes=size_bytes,
        identity=[counts.tolist(), _labels_of(distilled, "soft") if teacher else "hard"],
    )


def full_subject(distilled: Distilled, source: Source, settings: TrainSettings) -> Subject:
    """The whole training split, with its own labels."""
    real = RealSet(source.train, distilled.task.normalization)
    return Subject(
        name="full",
        group="full",
        labels="hard",
        make=lambda seed: real,
        settings=settings,
        num_images=len(real),
        size_bytes=_real_bytes(distilled, len(real)),
        identity=len(real),
    )


@dataclass(frozen=True)
class Watch:
    """Some real images that every training is looked at with on the way, for curves; nothing is chosen by them.

    `name` is that of their split; `points` how often, evenly over the epochs, the last one among them.
    """

    images: TrainingSet
    name: str
    points: int

    def at(self, epoch: int, epochs: int) -> bool:
        """Whether to look after this epoch, from 1, of so many."""
        return epoch * self.points // epochs > (epoch - 1) * self.points // epochs


def judge_name(source: Source, split: Judging, resize_px: int | None = None) -> str:
    """What tells the images that judge from others: their split, the size that they are shown at, a hash of them."""
    shown = f" at {resize_px} px" if resize_px else ""
    return f"{split}{shown} {source.content(split).digest[:16]}"


class Trials:
    """Trains and tests, and keeps what is finished in a folder.

    Args:
        task: of the networks.
        source: its fingerprint is part of what a trial is known by.
        engine: device and precision.
        events: log and progress.
        folder: of the finished trials, and of the checkpoint of the one that runs.
        stage: of the events: who trains.
        watch: whom networks are looked at with on the way; None: not before the last epoch.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        engine: Engine,
        events: Events,
        folder: Path,
        stage: str = "evaluate",
        watch: Watch | None = None,
    ) -> None:
        self.task, self.engine, self.events, self.folder, self.stage = task, engine, events, folder, stage
        self.watch = watch
        self._made_from = source.fingerprint

    def accuracy(
        self,
        model: str,
        subject: Subject,
        seed: int,
        judge: TrainingSet,
        judged_by: str,
        item: Item,
        team: Team | None = None,
    ) -> float:
        """Accuracy in percent, after the last epoch, of network `model` trained on `subject`.

        Args:
            model: name of the network; its weights are drawn by `seed`.
            subject: to train on.
            seed: of weights, order, augmentation and the subject.
            judge: to test on.
            judged_by: what the judge is, as `judge_name` says.
            item: the training, for events, progress and errors.
            team: the processes that train it, all of which call this; None: this one alone. At most as many as
                `most_processes` says, with which the result is that of one to rounding.
        """
        team = team or Team()
        finished, known_by = self._path(model, subject, seed, judge, judged_by)
        if team.tell(finished.exists()):
            return float(read_json(finished)["accuracy"])
        checkpoint = finished.with_suffix(f".{team.num}.safetensors" if team.num > 1 else ".safetensors")
        on_the_way = finished.with_suffix(".tested.json")
        events = self.events if team.leads else Events(quiet=True)
        network = build(model, self.task, seed=seed)
        tested = read_json(on_the_way) if on_the_way.exists() and checkpoint.exists() else {}

        def look(epoch: int) -> None:
            if self.watch and self.watch.at(epoch, subject.settings.epochs):
                seen = {f"{self.watch.name}_accuracy": accuracy(network, self.watch.images, self.engine, team=team)}
                events.emit(self.stage, "watched", **item.fields(), step=epoch, **seen)
            if subject.test_every and epoch % subject.test_every == 0 and epoch < subject.settings.epochs:
                tested[str(epoch)] = accuracy(network, judge, self.engine, team=team)
                if team.leads:
                    write_json(on_the_way, tested)  # before a checkpoint can hold this epoch

        fitted = fit(
            network,
            subject.make(seed),
            subject.training,
            seed=seed,
            engine=self.engine,
            events=events,
            item=item,
            stage=self.stage,
            checkpoint=checkpoint,
            teacher=subject.teacher,
            after_epoch=look if subject.test_every or self.watch else None,
            team=team,
        )
        testing: dict[str, Any] = {"events": events, "name": f"test {item.name}", "team": team}
        counts = confusion(network, judge, self.task.num_classes, self.engine, **testing)
        reached = 100 * int(counts.trace()) / len(judge)
        if team.leads:
            results = {"accuracy": reached, "train_loss": fitted.losses[-1], "made_by": known_by}
            results["confusion"] = rows_of(counts.tolist())
            write_json(finished, results | ({"tested": tested} if subject.test_every else {}))
            checkpoint.unlink(missing_ok=True)
            on_the_way.unlink(missing_ok=True)
        return reached

    def tested(self, model: str, subject: Subject, seed: int, judge: TrainingSet, judged_by: str) -> dict[int, float]:
        """Accuracy after each tested epoch of a finished training, the last one among them; see `accuracy`."""
        found = read_json(self._path(model, subject, seed, judge, judged_by)[0])
        on_the_way = {int(epoch): float(reached) for epoch, reached in found.get("tested", {}).items()}
        return {**on_the_way, subject.settings.epochs: float(found["accuracy"])}

    def cells(self, model: str, subject: Subject, seed: int, judge: TrainingSet, judged_by: str) -> Cells | None:
        """How many images of each class a finished training takes for which; None where that was not counted."""
        found = read_json(self._path(model, subject, seed, judge, judged_by)[0]).get("confusion")
        return None if found is None else cells_of(found)

    def most_processes(self, model: str, subject: Subject) -> int:
        """How many processes may share this training, so that it is that of one to rounding."""
        settings = subject.settings
        strategy = make_strategy(settings, subject.num_images)
        return most_processes(build(model, self.task), strategy)

    def path(self, model: str, subject: Subject, seed: int, judge: TrainingSet, judged_by: str) -> Path:
        """File of a training, which is there once it is finished; see `accuracy`."""
        return self._path(model, subject, seed, judge, judged_by)[0]

    def finished(self, model: str, subject: Subject, seed: int, judge: TrainingSet, judged_by: str) -> float | None:
        """That accuracy where the training is finished, None otherwise; see `accuracy`."""
        path, _ = self._path(model, subject, seed, judge, judged_by)
        return float(read_json(path)["accuracy"]) if path.exists() else None

    def tidy(self) -> None:
        """Remove what trials with other settings left that were never finished."""
        for path in (*self.folder.glob("*.safetensors"), *self.folder.glob("*.tested.json")):
            path.unlink(missing_ok=True)

    def _path(
        self, model: str, subject: Subject, seed: int, judge: TrainingSet, judged_by: str
    ) -> tuple[Path, dict[str, Any]]:
        """Where a finished trial stands, and all that it is known by."""
        known_by = {
            "model": model,
            "subject": subject.name,
            "images": subject.identity,
            "train": identity(subject.training),
            "seed": seed,
            "source": self._made_from,
            "task": self.task.to_json(),
            "judge": [judged_by, len(judge)],
            "precision": self.engine.precision,
            **({"test_every": subject.test_every} if subject.test_every else {}),
        }
        stem = "-".join((_slug(model), _slug(subject.name), f"seed{seed}", digest(known_by)))
        return self.folder / f"{stem}.json", known_by


def _with_classes(distilled: Distilled) -> TrainingSet:
    """The images with their classes: normalised at once where they are few or whitened, else batch by batch."""
    scale, stored = distilled.task.normalization, distilled.stored
    whitens = scale.whitening is not None and distilled.exact_8bit
    if whitens or few(stored.shape):
        return TensorSet(distilled.images, distilled.labels)
    if distilled.exact_8bit:
        return RealSet(MemorySplit(stored[:], distilled.labels), scale)
    return DistilledSet(distilled, distilled.labels)


def draw_random(real: RealSet, counts: Tensor, task: Task, seed: int) -> Tensor:
    """Indices int64 (n,) of random real images, `counts` (classes,) of each; DataError where a class has fewer."""
    picked = []
    for label, count in enumerate(counts.tolist()):
        members = real.indices_of(label)
        if len(members) < count:
            raise DataError(
                f"class {task.class_names[label]!r} has {len(members)} real training images, the distilled set {count}",
                expected="at least as many real images, to compare at the same count",
                fix="a lower --ipc, or leave random out of evaluate.baselines",
            )
        rng = generator(seed, "evaluate", "random", label)
        picked.append(members[torch.randperm(len(members), generator=rng)[:count]])
    return torch.cat(picked)


def _bytes_with(distilled: Distilled, labels: Labels) -> int:
    """What training needs; with hard labels that is the images, what whitens them, and a byte or two for each label."""
    if labels == "soft" or distilled.label_kind == "hard":
        return distilled.sizes["total"]
    per_label = 1 if distilled.task.num_classes <= 256 else 2
    return distilled.sizes["images"] + len(distilled) * per_label + distilled.sizes.get("whitening", 0)


def _real_bytes(distilled: Distilled, num: int) -> int:
    """What training on `num` real images needs: their pixels, and what whitens them too."""
    return num * math.prod(distilled.task.shape) + distilled.sizes.get("whitening", 0)


def _labels_of(distilled: Distilled, labels: Labels) -> Any:
    """What tells the labels of a distilled dataset from others: their values, or who makes which for what views."""
    if labels == "hard":
        return _content(distilled.labels)
    if distilled.soft_labels is not None:
        return _content(distilled.soft_labels)
    files = distilled.label_store.paths if distilled.label_store else distilled.teacher_files
    return [distilled.label_kind, dict(distilled.views or {}), [sha256(path) for path in files]]


def _content(values: Images) -> str:
    """Hash of images, or of the labels of all."""
    digest = hashlib.sha256()
    for part in parts(values):
        digest.update(part.detach().cpu().contiguous().view(-1).numpy().data)
    return digest.hexdigest()[:16]


def _slug(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name)
