"""Training experts, one by one or in stacks, and none that is there.

    squeeze/expert-0003/           while it is trained: a file of parameters an epoch, and a checkpoint
    squeeze/experts-0000-0004/     the same of a stack: the experts whose number over the size of a stack is the same
    squeeze/at-once.json           what `experts_at_once: auto` measured on a GPU, and chose; never chosen again

A stack is trained whole, though only some of it be asked for or missing, so that each expert is a function of the
seed, its number and the size of a stack, whatever was there before and however many processes share the work.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.data.loading import RealSet, TensorSet
from attar.errors import ConfigError, ResourceError
from attar.items import Item
from attar.models.factory import build
from attar.models.flat import FlatModel
from attar.runtime.checkpoint import read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import read_json, write_json
from attar.runtime.seeding import derive
from attar.squeeze.expert_files import PARAMETERS, ExpertSettings, Making, expert_path, read_expert, write_expert
from attar.squeeze.stacking import Member, fit_stack, why_not
from attar.task import Task
from attar.training.loop import TrainSettings, fit

_CHECKPOINT = "checkpoint.safetensors"
_CHOICE = "at-once.json"
SIZES = (1, 2, 5, 10)
"""Sizes of a stack that are tried; 10, 50 and 100 experts are whole stacks of each."""
GAIN = 1.1
"""How much faster than one by one a stack must be to be chosen."""
STEPS = 20
"""Steps that each size is timed over."""


def make_experts(
    data: RealSet,
    task: Task,
    settings: ExpertSettings,
    *,
    seed: int,
    folder: Path,
    engine: Engine,
    events: Events,
) -> list[str]:
    """Train the experts that are not there yet; returns the names of all their files.

    Raises ArtifactError, before any training, where one that is there was made for another task or with other settings,
    and ConfigError where stacks are asked for and the network or its training cannot be stacked.
    """
    making = Making(settings.model, settings.training, task, seed, engine.precision)
    paths = [expert_path(folder, expert) for expert in range(settings.num_experts)]
    for path in paths:
        if path.exists():
            read_expert(path).require(making)
    work = _Work(data, making, folder, engine, events)
    engine.barrier()  # all have looked before any writes
    size = work.at_once(settings)
    stacks = [range(first, first + size) for first in range(0, len(paths), size)]
    mine = [[expert for expert in stack if expert < len(paths)] for stack in engine.share(stacks)]
    num, done = sum(map(len, mine)), sum(paths[expert].exists() for experts in mine for expert in experts)
    with events.progress("squeeze: experts", num, done) as bar:
        for experts in mine:
            missing = [expert for expert in experts if not paths[expert].exists()]
            if missing:
                work.train_one(missing[0]) if size == 1 else work.train_stack(missing, size)
                bar.advance(len(missing))
    engine.barrier(paths)
    if engine.leads:
        for parts in folder.glob("expert*-*/"):  # of trainings that were stopped at their very end, or begun otherwise
            _clear(parts)
    return [path.name for path in paths]


def fastest(num: int, step_s: Mapping[int, float]) -> int:
    """Size of the stacks that train `num` experts soonest, by the seconds of a step of a stack of each size.

    `step_s` must hold size 1, which is taken unless another is GAIN times as fast.
    """
    total_s = {size: math.ceil(num / size) * seconds for size, seconds in step_s.items()}
    best = min(total_s, key=lambda size: total_s[size])
    return best if total_s[1] >= GAIN * total_s[best] else 1


def measure(data: TensorSet, making: Making, sizes: tuple[int, ...], engine: Engine) -> dict[int, float]:
    """Seconds of a step, by the size of the stack; `data` is an epoch, and what does not fit in memory is left out."""
    training = making.training.model_copy(update={"epochs": 1, "warmup_epochs": 0})
    steps = math.ceil(len(data) / training.batch_for(len(data)))
    found: dict[int, float] = {}
    for size in sizes:
        try:
            for _ in range(2):  # the first time is the warm-up
                models = [build(making.model, making.task, seed=k) for k in range(size)]
                started_s = time.perf_counter()
                if size == 1:
                    fit(models[0], data, training, seed=0, engine=engine)
                else:
                    members = [Member(Item(str(k)), k, model) for k, model in enumerate(models)]
                    fit_stack(members, data, training, engine=engine)
                found[size] = (time.perf_counter() - started_s) / steps
        except ResourceError:
            found.pop(size, None)
            if size == 1:
                raise
            break
    return found


@dataclass(frozen=True)
class _Work:
    """What every expert is trained with."""

    data: RealSet
    making: Making
    folder: Path
    engine: Engine
    events: Events

    @property
    def training(self) -> TrainSettings:
        return self.making.training

    def at_once(self, settings: ExpertSettings) -> int:
        """How many are trained in one computation: as asked, or as `auto` chose."""
        asked = settings.experts_at_once
        if asked == 1 or (asked == "auto" and self.engine.device.type == "cpu"):
            return 1
        if asked != "auto":
            if reason := self._why_not():
                raise ConfigError(
                    f"squeeze.experts_at_once={asked}, but {reason}",
                    expected="networks and settings that one computation can train many of",
                    fix="--set squeeze.experts_at_once=1",
                )
            return asked
        choice = self.folder / _CHOICE
        if self.engine.leads:
            with self.engine.turn():
                if not choice.exists():
                    write_json(choice, self._choose(settings.num_experts))
        self.engine.barrier([choice])
        return int(read_json(choice)["at_once"])

    def train_one(self, expert: int) -> None:
        """Train one expert by itself, resuming from its checkpoint, and store it."""
        path, seed = expert_path(self.folder, expert), self._seed(expert)
        flat = FlatModel(build(self.making.model, self.making.task, seed=seed))
        parts = path.with_suffix("")

        def keep(epoch: int) -> None:
            write_tensors(_part(parts, epoch), {PARAMETERS: flat.vector()})

        if not _part(parts, 0).exists():
            keep(0)
        fitted = fit(
            flat.module,
            self.data,
            self.training,
            seed=seed,
            engine=self.engine,
            events=self.events,
            item=self._item(expert),
            stage="squeeze",
            checkpoint=parts / _CHECKPOINT,
            after_epoch=keep,
        )
        write_expert(path, self._rows(parts, PARAMETERS), self.making, expert, 1, fitted.losses)
        _clear(parts)

    def train_stack(self, missing: list[int], size: int) -> None:
        """Train a whole stack, resuming from its checkpoint, and store those of its experts that are missing."""
        first = missing[0] - missing[0] % size
        parts = self.folder / f"experts-{first:04d}-{first + size - 1:04d}"

        def keep(epoch: int, vectors: list[Tensor]) -> None:
            kept = {f"{expert:04d}": vectors[expert - first] for expert in range(first, first + size)}
            write_tensors(_part(parts, epoch), kept)

        losses = fit_stack(
            [self._member(expert) for expert in range(first, first + size)],
            self.data,
            self.training,
            engine=self.engine,
            events=self.events,
            name=parts.name,
            stage="squeeze",
            checkpoint=parts / _CHECKPOINT,
            after_epoch=keep,
        )
        for expert in missing:
            path, rows = expert_path(self.folder, expert), self._rows(parts, f"{expert:04d}")
            write_expert(path, rows, self.making, expert, size, losses[expert - first])
        _clear(parts)

    def _member(self, expert: int) -> Member:
        seed = self._seed(expert)
        return Member(self._item(expert), seed, build(self.making.model, self.making.task, seed=seed))

    def _item(self, expert: int) -> Item:
        name = expert_path(self.folder, expert).stem
        return Item(name, "expert", "expert", expert, network=self.making.model)

    def _seed(self, expert: int) -> int:
        assert self.making.seed is not None
        return derive(self.making.seed, "expert", expert)

    def _rows(self, parts: Path, name: str) -> Iterator[Tensor]:
        """Parameters (p,) after each epoch, read one by one."""
        return (read_tensors(_part(parts, epoch))[0][name] for epoch in range(self.training.epochs + 1))

    def _why_not(self) -> str | None:
        model = build(self.making.model, self.making.task)
        return why_not(model, self.making.task.shape, self.training, self.engine)

    def _choose(self, num_experts: int) -> dict[str, Any]:
        """Time steps one by one and in stacks, on real images; one by one where there is nothing to gain."""
        reason = "there is one expert" if num_experts == 1 else self._why_not()
        if reason:
            return {"at_once": 1, "why": reason}
        indices = torch.arange(STEPS * self.training.batch_for(len(self.data))) % len(self.data)
        some = TensorSet(self.data.images(indices), self.data.targets(indices))
        with self.events.progress("how many experts at once?", 1) as bar:
            step_s = measure(some, self.making, SIZES, self.engine)
            bar.advance()
        chosen = fastest(num_experts, step_s)
        self.events.say(f"experts: {chosen} at once, the fastest of {', '.join(map(str, step_s))}")
        return {"at_once": chosen, "step_s": {str(size): round(seconds, 5) for size, seconds in step_s.items()}}


def _clear(parts: Path) -> None:
    """Delete what a training kept: the checkpoint first, for without one it would be begun anew."""
    (parts / _CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(parts, ignore_errors=True)  # another shard may clear it too


def _part(parts: Path, epoch: int) -> Path:
    return parts / f"epoch-{epoch:04d}.safetensors"
