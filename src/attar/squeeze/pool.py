"""Knowledge of the kind `pool`: weak networks, each with the real images' statistics under it.

    prior   what a training was after some of its epochs
    post    a trained network, and copies of it with fewer channels, each trained for a little longer

    squeeze/member-00-epoch-0005.safetensors     network 0 (squeeze.model) after epoch 5, or
    squeeze/member-00-pruned-0300.safetensors    ... without 30 % of its channels; 0000 is the trained network
    squeeze/statistics-member-00-*.safetensors   see `real_statistics.py`

A member's file is that of a teacher's network (`teachers.py`), and may be opened as one; `pruned` in its metadata says
what was cut. Each file is a function of the seed and its name. Members count from the weakest to the strongest: by
epoch, or by what is left of the channels; networks of the same age by their place in the settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from attar.data.loading import RealSet
from attar.data.sources import Source
from attar.errors import ArtifactError
from attar.items import Item
from attar.marks import Mark
from attar.methods.base import Member
from attar.models.factory import build
from attar.options import PoolKind
from attar.runtime.checkpoint import read_note
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.seeding import derive
from attar.squeeze.knowledge import Knowledge, Members
from attar.squeeze.pruning import prune, require_prunable
from attar.squeeze.real_statistics import BATCH, Measuring, measure, read_statistics, statistics_paths
from attar.squeeze.rehearsal import Estimate, Rehearsal
from attar.squeeze.teacher_files import TrainedTeacher, chosen, open_network
from attar.squeeze.teachers import ONE_EPOCH, STAND_IN_IMAGES, Making, TeacherSettings, require_weights
from attar.task import Task
from attar.training.loop import TrainSettings, fit
from attar.training.section import TrainSection

_ENDING = ".safetensors"


class PoolSettings(TeacherSettings, PoolKind):
    """How a pool of weak networks is made, and its statistics measured."""

    changed = {**TeacherSettings.changed, "epochs": 15}

    num_members: int = Field(6, ge=1)
    """How many members a training of the kind prior yields, from evenly spaced epochs; the last epoch is one of
    them."""
    member_epochs: Annotated[tuple[int, ...], Mark.GROWS] = ()
    """The epochs themselves, instead of num_members, such as [1, 2, 4, 8]; the training still runs to `epochs`."""
    ratios: Annotated[tuple[float, ...], Mark.GROWS] = (0.2, 0.35, 0.5, 0.65, 0.8)
    """Fraction of each layer's channels that is pruned away, one copy of the kind post for each."""
    tune_epochs: int = Field(2, ge=0)
    """Epochs that each copy is trained for: as the network was, but at tune_learning_rate and along a cosine."""
    tune_learning_rate: float = Field(0.01, gt=0, allow_inf_nan=False)
    """Learning rate of that training."""
    statistics_min_scale: float = Field(1.0, gt=0, le=1)
    """Which views of the real images the statistics are measured on. 1: whole images; below: one random crop of each,
    of at least this fraction of its area, as recovery sees synthetic ones."""
    members_in_memory: Annotated[int, Mark.HOW] = Field(default=0, ge=0)
    """How many members stay loaded while images are recovered; the others are read when their turn comes. 0: all."""

    @field_validator("member_epochs", "ratios")
    @classmethod
    def _ascending(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if list(values) != sorted(set(values)):
            raise ValueError("name each once, in ascending order")
        return values

    @field_validator("ratios")
    @classmethod
    def _parts(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.001 <= ratio < 1 for ratio in ratios):
            raise ValueError("parts are above 0 and below 1; the whole network is a member anyway")
        return ratios

    @model_validator(mode="after")
    def _can_be_made(self) -> Self:
        if self.pool == "prior" and self.weights is not None:
            raise ValueError("weights have no early epochs: leave them out to train here, or set squeeze.pool=post")
        if self.pool == "prior" and not all(1 <= epoch <= self.epochs for epoch in self.member_epochs):
            raise ValueError(f"member_epochs are epochs of the training: 1 to {self.epochs}")
        if self.pool == "prior" and not self.member_epochs and self.num_members > self.epochs:
            raise ValueError(f"a training of {self.epochs} epochs cannot leave {self.num_members} members")
        return self

    @property
    def num_networks(self) -> int:
        """How many members the pool has."""
        return len(members(self))


@dataclass(frozen=True)
class Place:
    """One member: which network, after which epoch of its training or without which part of its channels."""

    network: int
    epoch: int | None = None
    ratio: float | None = None

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        made = f"epoch-{self.epoch:04d}" if self.ratio is None else f"pruned-{round(10_000 * self.ratio):04d}"
        return f"member-{self.network:02d}-{made}"


def members(settings: PoolSettings) -> list[Place]:
    """Every member, the weakest first."""
    networks = range(len(settings.models))
    if settings.pool == "post":
        return [Place(k, ratio=ratio) for ratio in (*reversed(settings.ratios), 0.0) for k in networks]
    num = settings.num_members
    even = [round(settings.epochs * j / num) for j in range(1, num + 1)]
    return [Place(k, epoch=epoch) for epoch in settings.member_epochs or even for k in networks]


def make_pool(
    data: RealSet,
    validation: RealSet,
    task: Task,
    settings: PoolSettings,
    *,
    seed: int,
    folder: Path,
    engine: Engine,
    events: Events,
) -> list[str]:
    """Make the members that are not there yet, and measure those that were not; returns the names of all files.

    Several processes share trainings, then copies, then measurements.

    Raises ConfigError, before any training, where a network cannot be built or pruned, and DataError where foreign
    weights number the classes in another order than the source.
    """
    for model in settings.models:
        build(model, task)
        if settings.pool == "post" and settings.ratios:
            require_prunable(model, task, max(settings.ratios))
    work = _Work(Making(data, validation, task, settings, seed, folder, engine, events), settings)
    places = members(settings)
    for k in engine.share(range(len(settings.models))):
        work.train(k, [place for place in places if place.network == k])
    engine.barrier(folder / (place.name + _ENDING) for place in places if not place.ratio)
    for place in engine.share([place for place in places if place.ratio]):
        work.cut(place)
    engine.barrier(folder / (place.name + _ENDING) for place in places)
    work.measure(engine.share(places))
    files = [statistics_paths(folder, place.name) for place in places]
    engine.barrier(whole for whole, _ in files)
    return [*(place.name + _ENDING for place in places), *(path.name for pair in files for path in pair)]


class TrainedPool:
    """A pool read from its files, its members opened when they are asked for; as a teacher it is all of them.

    Args:
        folder: of the stage.
        task: what it will be asked; ArtifactError where class order or image shape disagree.
        settings: that made it.
        engine: the device.
    """

    def __init__(self, folder: Path, task: Task, settings: PoolSettings, engine: Engine) -> None:
        self._folder, self._task, self._engine = folder, task, engine
        self._names = [place.name for place in members(settings)]
        self.paths = [folder / f"{name}{_ENDING}" for name in self._names]
        """Files of the members, the weakest first."""
        if missing := [path for path in self.paths if not path.is_file()]:
            raise ArtifactError(f"{missing[0]} is missing", fix="run the command that makes it again")
        self.num_members = len(self.paths)
        self.num_in_memory = settings.members_in_memory or self.num_members

    def member(self, k: int, classes: bool = False) -> Member:
        """Open member `k` anew, with class-wise statistics where they are asked for."""
        device = self._engine.device
        model = open_network(self.paths[k], self._task).whole.to(device)
        return Member(model, read_statistics(self._folder, self._names[k], model, device, classes))

    @cached_property
    def _all(self) -> TrainedTeacher:
        return TrainedTeacher(sorted(self.paths), self._task, self._engine)

    @cached_property
    def _strongest(self) -> TrainedTeacher:
        return self.only("strongest")

    @property
    def model(self) -> nn.Module:
        """The strongest member, by validation accuracy."""
        return self._strongest.model

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """All members' networks, opened together when first asked for."""
        return self._all.models

    def all_classes(self) -> nn.Module:
        """The strongest member."""
        return self._strongest.all_classes()

    def features(self, images: Tensor) -> Tensor:
        """Input (b, d) of the strongest member's last linear layer for normalised images (b, c, h, w)."""
        return self._strongest.features(images)

    def logits(self, images: Tensor) -> Tensor:
        """Mean of all members' logits (b, classes), float32, for normalised images (b, c, h, w)."""
        return self._all.logits(images)

    def soft_labels(self, images: Tensor) -> Tensor:
        """Probabilities (b, classes) for normalised images (b, c, h, w): softmax of `logits`."""
        return self._all.soft_labels(images)

    def only(self, members: Literal["strongest"] | Sequence[int]) -> TrainedTeacher:
        """The teacher that some of the members make: by number, 0 the weakest, or the strongest."""
        return TrainedTeacher(sorted(chosen(self.paths, members)), self._task, self._engine)

    def save_to(self, folder: Path) -> list[str]:
        """Copy the networks into another folder; returns their names there."""
        return self._all.save_to(folder)


class PoolKnowledge(Knowledge[PoolSettings, TrainedPool]):
    """Weak networks with the real images' statistics under each."""

    name = "pool"
    turn = 1
    Settings = PoolSettings

    def make(
        self, source: Source, settings: PoolSettings, *, seed: int, folder: Path, engine: Engine, events: Events
    ) -> list[str]:
        """Train, prune and measure; see `make_pool`."""
        data, validation = (RealSet(split, source.task.normalization) for split in (source.train, source.validation))
        return make_pool(
            data, validation, source.task, settings, seed=seed, folder=folder, engine=engine, events=events
        )

    def open(self, settings: PoolSettings, task: Task, folder: Path, engine: Engine) -> TrainedPool:
        """The members, each read when it is asked for."""
        return TrainedPool(folder, task, settings, engine)

    def stand_in(self, settings: PoolSettings, labels: Tensor, num_classes: int) -> tuple[PoolSettings, Tensor]:
        """As many members, each after one epoch more on a few images."""
        require_weights(settings)
        num = settings.num_networks // len(settings.models)
        changes = {**ONE_EPOCH, "pool": "prior", "epochs": num, "num_members": num, "member_epochs": ()}
        return settings.model_copy(update=changes), torch.arange(min(STAND_IN_IMAGES, len(labels)))

    def rehearse(self, settings: PoolSettings, rehearsal: Rehearsal) -> list[Estimate]:
        """Trainings, copies that are trained again, and a look at all real images under each member."""
        estimates: list[Estimate] = []
        size = rehearsal.num_bytes // max(1, settings.num_networks)
        num = settings.num_networks // len(settings.models)
        num_copies = len(settings.ratios) if settings.pool == "post" else 0
        for k, model in enumerate(settings.models):
            stage = f"squeeze {model}" if settings.more_models else "squeeze"
            epochs = 0 if k == 0 and settings.weights else settings.epochs
            steps, tuned = (rehearsal.real_steps(settings, n) for n in (epochs, num_copies * settings.tune_epochs))
            unit_s = rehearsal.real_step_s(settings, model)
            disk = num * size if steps + tuned else 0
            estimates.append(Estimate(stage, "training steps", steps, unit_s, disk, "network", (k,)))
            mine = range(k, k + num_copies * len(settings.models), len(settings.models))
            if tuned:
                copies = "pruning", mine
                estimates.append(Estimate(f"{stage}: copies", "training steps", tuned, unit_s, 0, *copies))
            estimates += rehearsal.validated(stage, model, num, items="network", places=(k,))
            mine = range(k, k + num * len(settings.models), len(settings.models))
            batches = num * math.ceil(len(rehearsal.source.train) / BATCH)
            looked_s = _measured_s(rehearsal, model)
            of_all = f"{stage}: statistics", "batches", batches, looked_s, 0, "member"
            estimates.append(Estimate(*of_all, mine, fixed=True))
        return estimates

    def labeller(self, opened: TrainedPool, members: Members) -> TrainedPool | TrainedTeacher:
        """The members that are asked for, by the mean of their logits."""
        return opened if members == "all" else opened.only(members)

    def num_labellers(self, settings: PoolSettings) -> int:
        """Each of the members."""
        return settings.num_networks

    def networks(self, settings: PoolSettings) -> tuple[str, ...]:
        """squeeze.model and squeeze.more_models, each of which leaves members."""
        return settings.models

    def meant_by(self, given: Mapping[str, Any]) -> str | None:
        """Where its members come from."""
        return "it is the method that squeezes a pool" if given.get("pool") else None


def _measured_s(rehearsal: Rehearsal, model: str) -> float:
    """Seconds to measure the statistics of a batch of real images under a network."""
    task, device = rehearsal.source.task, rehearsal.engine.device
    network = build(model, task).to(device)
    some = rehearsal.source.train.labels.argsort(stable=True)[:BATCH]
    labels = rehearsal.source.train.labels[some].to(device)

    def measure_some(batches: int) -> None:
        measuring = Measuring(network, task.num_classes)
        for _ in range(batches):
            measuring.add(rehearsal.real.images(some).to(device), labels)

    return rehearsal.unit_s(measure_some)


@dataclass(frozen=True)
class _Work:
    """What every member is made with."""

    making: Making
    settings: PoolSettings

    def train(self, k: int, places: Sequence[Place]) -> None:
        """Train network `k`, or take its weights, and store what is not there of its members that are not cut."""
        whole = [place for place in places if not place.ratio]
        missing = {place.epoch: place for place in whole if not self._path(place).exists()}
        if not missing:
            return
        model_name = self.settings.models[k]
        if self.settings.pool == "prior":
            self._train_prior(k, model_name, missing)
        elif k == 0 and self.settings.weights:
            self.making.adopt(whole[0].name + _ENDING, model_name)
        else:
            self.making.train(whole[0].name + _ENDING, model_name, k)

    def _train_prior(self, k: int, model_name: str, missing: Mapping[int | None, Place]) -> None:
        name = f"training-{k:02d}{_ENDING}"
        checkpoint = self.making.checkpoint(name)
        wanted = [epoch for epoch in missing if epoch is not None]
        if checkpoint.exists() and int(read_note(checkpoint)["epoch"]) >= min(wanted):
            checkpoint.unlink()  # it lies behind an epoch that was added, or whose file is lost

        def keep(model: nn.Module, epoch: int) -> None:
            if epoch in missing and not self._path(missing[epoch]).exists():
                note = {"weights": None, "epoch": epoch}
                self.making.write(missing[epoch].name + _ENDING, model_name, model, self.making.accuracy(model), note)

        self.making.fit(name, model_name, k, keep)
        checkpoint.unlink(missing_ok=True)

    def cut(self, place: Place) -> None:
        """Prune the trained network, train what is left a little, and store it."""
        if self._path(place).exists():
            return
        assert place.ratio is not None
        making = self.making
        opened = open_network(self._path(Place(place.network, ratio=0.0)), making.task)
        model = prune(opened.whole, place.ratio, making.task)
        network = model if opened.whole is opened.network else list(model.children())[-1]
        file, model_name = place.name + _ENDING, self.settings.models[place.network]
        if self.settings.tune_epochs:
            fit(
                model,
                making.data,
                self._tuning,
                seed=derive(making.seed, "pruned", place.name),
                engine=making.engine,
                events=making.events,
                item=self._item(place),
                stage="squeeze",
                checkpoint=making.checkpoint(file),
            )
        note = {key: opened.note[key] for key in ("weights", "normalization", "renormalization") if key in opened.note}
        accuracy = making.accuracy(model.to(making.engine.device))
        making.write(file, model_name, network, accuracy, {**note, "pruned": {"ratio": place.ratio}})
        making.checkpoint(file).unlink(missing_ok=True)

    def _item(self, place: Place) -> Item:
        family = f"member-{place.network:02d}-pruned"
        return Item(place.name, "member", family, place.network, network=self.settings.models[place.network])

    @property
    def _tuning(self) -> TrainSettings:
        changes: dict[str, Any] = {
            "epochs": self.settings.tune_epochs,
            "learning_rate": self.settings.tune_learning_rate,
            "schedule": "cosine",
            "warmup_epochs": 0,
            "milestones": (0.5,),
        }
        return TrainSection(**{**self.making.training.model_dump(), **changes})

    def measure(self, places: Sequence[Place]) -> None:
        """Measure the real images under those of these members for which it was not done."""
        making = self.making
        names = [place.name for place in places if not statistics_paths(making.folder, place.name)[0].exists()]
        if not names:
            return
        models = {
            name: open_network(making.folder / f"{name}{_ENDING}", making.task).whole.to(making.engine.device)
            for name in names
        }
        measure(
            making.data,
            models,
            making.task.num_classes,
            min_scale=self.settings.statistics_min_scale,
            seed=derive(making.seed, "statistics"),
            folder=making.folder,
            engine=making.engine,
            events=making.events,
        )

    def _path(self, place: Place) -> Path:
        return self.making.folder / f"{place.name}{_ENDING}"
