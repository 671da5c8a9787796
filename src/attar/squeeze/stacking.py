"""Several networks of one kind trained in one computation: their parameters stacked, the forward pass under `vmap`.

    θ (k, ...)     k networks, each from its own initialisation
    x (k, b, ...)  a batch for each, in its own order and under its own augmentation
    Σ_k loss(f_θk(x_k), y_k) is differentiated once, and one optimiser steps all parameters, value by value

Each network is the function of (its seed, settings) that `training.loop.fit` computes for it alone, but for rounding:
kernels for k networks may add in another order than those for one. What the other networks of a stack are does not
reach it, so it depends on k and not on its company.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from attar.augment.operations import Augmentation
from attar.config import dump
from attar.data.loading import TensorSet, TrainingSet, batches, plainly
from attar.errors import DivergedError
from attar.items import Item
from attar.runtime.checkpoint import prefixed, read_tensors, unprefixed, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.memory import enough_memory
from attar.runtime.seeding import generator
from attar.training.loop import CHECKPOINT_EVERY_S, MAX_EVENTS, TrainSettings, require_made_by
from attar.training.optimizers import give_state, make_optimizer, take_state
from attar.training.section import TrainSection
from attar.training.settings import learning_rate
from attar.training.strategies import make_strategy

HANDLED = frozenset(
    {
        "epochs",
        "batch_size",
        "optimizer",
        "learning_rate",
        "momentum",
        "nesterov",
        "weight_decay",
        "schedule",
        "milestones",
        "warmup_epochs",
        "augment",
        "augment_mode",
        "augment_per",
        "label_smoothing",
        "temperature",
        "temperature_squared",
    }
)
"""Settings of a training that a stack heeds, or that mean nothing for classes as labels; others must be as they are by
default."""
_ELEMENTWISE = ("sgd", "adam", "adamw")
"""Optimisers that step value by value; others may look at whole layers, and would see those of all networks as one."""


@dataclass(frozen=True)
class Member:
    """One network of a stack: what its events are of, and its seed."""

    item: Item
    seed: int
    model: nn.Module


def unheeded(settings: TrainSettings) -> str | None:
    """The first setting that a stack would not heed, as `name=value`; None where there is none."""
    if settings.optimizer not in _ELEMENTWISE:
        return f"optimizer={settings.optimizer}"
    for name, field in TrainSection.model_fields.items():
        value = getattr(settings, name)
        if name not in HANDLED and value != field.get_default(call_default_factory=True):
            return f"{name}={value}"
    return None


def why_not(model: nn.Module, shape: tuple[int, int, int], settings: TrainSettings, engine: Engine) -> str | None:
    """Why networks like this one cannot be trained in a stack, in a few words; None where they can.

    Two copies are tried on black images of `shape` (c, h, w), on the engine's device.
    """
    if setting := unheeded(settings):
        return f"{setting} is for one network at a time"
    if engine.precision == "16-mixed":
        return "the losses of a stack are not scaled as 16-mixed needs"
    if any(True for _ in model.buffers()):
        return "the network keeps state beside its parameters"
    images = torch.zeros(2, 2, *shape, device=engine.device)
    try:
        with warnings.catch_warnings():
            # torch warns of what it would do one by one, and of things that don't matter, such as a GPU's first product
            warnings.filterwarnings("error", "There is a performance drop")
            stack = _Networks([model, model], engine)
            stack.logits(images).sum().backward()
    except (RuntimeError, Warning) as error:
        return f"torch cannot stack it: {str(error).strip().splitlines()[0]}"
    return None


def fit_stack(
    members: Sequence[Member],
    data: TrainingSet,
    settings: TrainSettings,
    *,
    engine: Engine,
    events: Events | None = None,
    name: str = "stack",
    stage: str = "train",
    checkpoint: Path | None = None,
    after_epoch: Callable[[int, list[Tensor]], None] | None = None,
) -> list[tuple[float, ...]]:
    """Train networks side by side; returns the mean training losses of each epoch, for each of them.

    Args:
        members: the networks; their own parameters stay as they are.
        data: images and classes.
        settings: of each training; `why_not` says what is left out.
        engine: device and precision.
        events: log of `epoch` events of each network, and progress; None for neither.
        name: names the stack in progress.
        stage: of the events.
        checkpoint: file written about every 20 s, after the last epoch, and resumed from where it exists.
        after_epoch: called with the number of finished epochs and the parameters (p,) of each network on the CPU,
            before a checkpoint can hold them; 0 and the initialisations first.

    Raises DivergedError, naming the network, ResourceError where memory does not suffice, ArtifactError where the
    checkpoint is another training's.
    """
    training = _Stack(members, data, settings, engine, events or Events(quiet=True), name, stage, checkpoint)
    work = f"training {len(members)} networks at once with batches of {settings.batch_for(len(data))}"
    with enough_memory(work, "lower squeeze.experts_at_once or squeeze.batch_size"):
        training.run(after_epoch)
    return [tuple(losses) for losses in training.losses]


class _Networks:
    """Parameters of k networks of one kind, stacked, and their logits."""

    def __init__(self, models: Sequence[nn.Module], engine: Engine) -> None:
        stacked, _ = stack_module_state(list(models))
        self.parameters: dict[str, Tensor] = {
            name: nn.Parameter(value.detach().to(engine.device)) for name, value in stacked.items()
        }
        self._module = models[0]

    def logits(self, images: Tensor) -> Tensor:
        """Logits (k, b, classes) for a batch each: (k, b, c, h, w)."""

        def forward(parameters: dict[str, Tensor], batch: Tensor) -> Tensor:
            logits: Tensor = functional_call(self._module, parameters, (batch,))
            return logits

        found: Tensor = vmap(forward)(self.parameters, images)
        return found

    @torch.no_grad()
    def vectors(self) -> list[Tensor]:
        """Parameters (p,) of each network, on the CPU."""
        rows = torch.cat([value.detach().flatten(1) for value in self.parameters.values()], 1)
        return list(rows.cpu())


class _Stack:
    def __init__(
        self,
        members: Sequence[Member],
        data: TrainingSet,
        settings: TrainSettings,
        engine: Engine,
        events: Events,
        name: str,
        stage: str,
        checkpoint: Path | None,
    ) -> None:
        self.members, self.data, self.settings, self.engine = members, data, settings, engine
        self.events, self.name, self.stage, self.checkpoint = events, name, stage, checkpoint
        self.networks = _Networks([member.model.train() for member in members], engine)
        self.optimizer = make_optimizer(nn.ParameterList(self.networks.parameters.values()), settings)
        self.augmentation = Augmentation(settings.augment, settings.augment_mode)
        self.strategy = make_strategy(settings, len(data))
        self.losses: list[list[float]] = [[] for _ in members]
        self.epoch = 0

    def run(self, after_epoch: Callable[[int, list[Tensor]], None] | None) -> None:
        self._resume()
        if self.epoch == 0 and after_epoch is not None:
            after_epoch(0, self.networks.vectors())
        saved_s = time.monotonic()
        with self.events.progress(self.name, self.settings.epochs, self.epoch) as bar:
            while self.epoch < self.settings.epochs:
                self._train_epoch()
                self._require_finite()
                self._report()
                bar.advance(1, loss=sum(losses[-1] for losses in self.losses) / len(self.losses))
                if after_epoch is not None:
                    after_epoch(self.epoch, self.networks.vectors())
                if self.epoch == self.settings.epochs or time.monotonic() - saved_s >= CHECKPOINT_EVERY_S:
                    self._save()
                    saved_s = time.monotonic()

    def _train_epoch(self) -> None:
        orders = [
            self.strategy.batches(self.epoch, generator(member.seed, "train", "order", self.epoch))
            for member in self.members
        ]
        # each network's batch after the other's
        together = [torch.cat([part.indices for part in parts]) for parts in zip(*orders, strict=True)]
        prefetch = 0 if isinstance(self.data, TensorSet) else 2
        total = torch.zeros(len(self.members), device=self.engine.device)
        for step, (_, images, targets) in enumerate(batches(plainly(self.data), together, prefetch=prefetch)):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.settings, self.epoch + step / len(together))
            losses = self._losses(self._views(images, step), targets.to(self.engine.device))
            self.optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()
            self.optimizer.step()
            total += losses.detach() * (len(targets) // len(self.members))
        self.epoch += 1
        for known, mean in zip(self.losses, (total / len(self.data)).tolist(), strict=True):
            known.append(mean)

    def _views(self, images: Tensor, step: int) -> Tensor:
        """Each network's batch (k, b, c, h, w) under its own augmentation, of images (k b, c, h, w)."""
        shape = (images.shape[1], images.shape[2], images.shape[3])
        views = []
        for member, batch in zip(self.members, images.to(self.engine.device).chunk(len(self.members)), strict=True):
            rng = generator(member.seed, "train", "augment", self.epoch, step, 0)
            drawn = self.augmentation.draw(rng, len(batch), shape, self.settings.augment_per)
            views.append(self.augmentation.apply(batch, drawn))
        return torch.stack(views)

    def _losses(self, images: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy (k,) of each network on its batch."""
        with self.engine.autocast():
            logits = self.networks.logits(images).float()
        smoothing = self.settings.label_smoothing
        each = F.cross_entropy(logits.flatten(0, 1), targets, label_smoothing=smoothing, reduction="none")
        return each.view(len(self.members), -1).mean(1)

    def _require_finite(self) -> None:
        with torch.no_grad():
            finite = torch.stack([value.isfinite().flatten(1).all(1) for value in self.networks.parameters.values()])
        for member, losses, sound in zip(self.members, self.losses, finite.all(0).tolist(), strict=True):
            if not (sound and math.isfinite(losses[-1])):
                raise DivergedError(
                    f"training {member.item.name} has diverged: the loss of epoch {self.epoch} is {losses[-1]}"
                    + ("" if sound else ", and a weight is no longer finite"),
                    expected="a finite number",
                    fix=f"lower the rate, for example --set {self.stage}.learning_rate="
                    f"{self.settings.learning_rate / 3:.2g}",
                )

    def _report(self) -> None:
        every = math.ceil(self.settings.epochs / MAX_EVENTS)
        if self.epoch % every and self.epoch != self.settings.epochs:
            return
        rate = self.optimizer.param_groups[0]["lr"]
        for member, losses in zip(self.members, self.losses, strict=True):
            at = {**member.item.fields(), "step": self.epoch}
            self.events.emit(self.stage, "epoch", **at, loss=losses[-1], learning_rate=rate)

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        moments, counted = take_state(self.optimizer)
        tensors = prefixed("model.", self.networks.parameters) | prefixed("optimizer.", moments)
        note = {"made_by": self._made_by(), "epoch": self.epoch, "losses": self.losses, "optimizer": counted}
        write_tensors(self.checkpoint, tensors, note)

    def _resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        tensors, note = read_tensors(self.checkpoint)
        require_made_by(self.checkpoint, note, self._made_by())
        with torch.no_grad():
            for name, value in self.networks.parameters.items():
                value.copy_(tensors[f"model.{name}"])
        give_state(self.optimizer, unprefixed(tensors, "optimizer."), note["optimizer"])
        self.epoch, self.losses = int(note["epoch"]), [list(losses) for losses in note["losses"]]

    def _made_by(self) -> dict[str, Any]:
        seeds = [member.seed for member in self.members]
        return {"train": dump(self.settings), "seeds": seeds, "num_images": len(self.data)}
