"""Recover: the loop that optimises synthetic images; the method owns the step.

recover/synthetic.safetensors              what the method hands over
recover/snapshots/step-00000300.safetensors    uint8 pixels on the way, for pictures
recover/checkpoint.safetensors             only while the stage runs
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.artifacts.description import IMAGE_LIMIT
from attar.config import Config, dump
from attar.errors import ArtifactError, DivergedError
from attar.methods.base import Distillate, Method, RealImages, Synthetic
from attar.runtime.checkpoint import read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.seeding import generator
from attar.task import Task

RESULT = "synthetic.safetensors"
CHECKPOINT = "checkpoint.safetensors"
CHECKPOINT_EVERY_S = 10.0
MAX_EVENTS = 400
SNAPSHOT_IMAGES = 100


class RecoverSettings(Config):
    """The optimisation of the synthetic images."""

    iterations: int = Field(1000, ge=0)
    """Steps of the optimiser; 0 leaves the images as the method began them."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the images and of whatever else is learnt; the rates are the method's own settings."""
    momentum: float = Field(0.5, ge=0, lt=1)
    """Momentum of sgd, first beta of adam."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rates over the iterations: as they are, or down to 0 along a cosine."""
    num_snapshots: int = Field(30, ge=0)
    """Pictures kept on the way, evenly spread, for the animation in the report."""


def recover(
    method: Method,
    real: RealImages,
    knowledge: Any,
    settings: RecoverSettings,
    *,
    seed: int,
    folder: Path,
    engine: Engine,
    events: Events,
) -> list[str]:
    """Optimise, from the checkpoint where there is one, and write the result; returns its files.

    Raises DivergedError at the first loss or gradient that is not finite; the checkpoint stays at the
    last good state.
    """
    synthetic = method.init(real, knowledge, generator(seed, "recover", "init"))
    synthetic = Synthetic(
        synthetic.labels.to(engine.device),
        {name: value.to(engine.device) for name, value in synthetic.variables.items()},
    )
    loop = _Loop(method, synthetic, knowledge, settings, seed, folder, events)
    loop.run()
    write_distillate(folder / RESULT, method.finish(synthetic, knowledge))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return [RESULT, *loop.snapshots]


def write_distillate(path: Path, distillate: Distillate) -> None:
    """Store what a method handed over."""
    tensors = {"images": distillate.images, "labels": distillate.labels}
    if distillate.soft_labels is not None:
        tensors["soft_labels"] = distillate.soft_labels
    note = {"learning_rate": distillate.learning_rate, "exact_8bit": distillate.exact_8bit}
    write_tensors(path, tensors, note)


def read_distillate(path: Path) -> Distillate:
    """Read what `write_distillate` stored."""
    tensors, note = read_tensors(path)
    return Distillate(
        tensors["images"],
        tensors["labels"],
        tensors.get("soft_labels"),
        note["learning_rate"],
        note["exact_8bit"],
    )


class _Loop:
    def __init__(
        self,
        method: Method,
        synthetic: Synthetic,
        knowledge: Any,
        settings: RecoverSettings,
        seed: int,
        folder: Path,
        events: Events,
    ) -> None:
        self.method, self.synthetic, self.knowledge = method, synthetic, knowledge
        self.settings, self.seed, self.folder, self.events = settings, seed, folder, events
        self.rates = method.learning_rates()
        self.optimizer = _optimizer(synthetic.variables, self.rates, settings)
        frames = min(settings.num_snapshots, settings.iterations + 1)
        last = settings.iterations
        self.snapshot_steps = {round(k * last / max(frames - 1, 1)) for k in range(frames)}
        self.snapshots = [_snapshot_name(step) for step in sorted(self.snapshot_steps)]
        self.event_every = max(1, math.ceil(last / MAX_EVENTS))

    def run(self) -> None:
        step = self._resume()
        self._snapshot(step)
        saved_s = time.monotonic()
        total = self.settings.iterations
        if step < total:
            with self.events.progress(f"recover: {self.method.name}", total, step) as bar:
                while step < total:
                    metrics = self._step(step)
                    step += 1
                    bar.advance(**metrics)
                    if step % self.event_every == 0 or step == total:
                        self.events.emit("recover", "step", step=step, **metrics)
                    self._snapshot(step)
                    if time.monotonic() - saved_s > CHECKPOINT_EVERY_S:
                        self._save(step)
                        saved_s = time.monotonic()

    def _step(self, step: int) -> dict[str, float]:
        picked = torch.arange(len(self.synthetic.labels), device=self.synthetic.labels.device)
        rng = generator(self.seed, "recover", "step", step)
        gradients, metrics = self.method.gradient(self.synthetic, picked, self.knowledge, rng)
        self._require_finite(step, gradients, metrics)
        factor = _schedule(self.settings.schedule, step, self.settings.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[group["name"]] * factor
        for name, value in self.synthetic.variables.items():
            value.grad = gradients.get(name)
        self.optimizer.step()
        self.method.project(self.synthetic)
        self._require_in_range(step)
        return metrics

    def _require_finite(self, step: int, gradients: Mapping[str, Tensor], metrics: Mapping[str, float]) -> None:
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        bad += [f"gradient of {name}" for name, value in gradients.items() if not bool(value.isfinite().all())]
        if not bad:
            return
        self._save(step)
        raise DivergedError(
            f"{' and '.join(bad)} is no longer a finite number at step {step} of {self.settings.iterations}",
            expected="finite losses and gradients",
            fix=f"{self._lower_rates()}; the state before this step is kept in {self.folder / CHECKPOINT}",
        )

    def _require_in_range(self, step: int) -> None:
        """A method that normalises its networks stays finite long after its images have left any sense."""
        images = self.synthetic.variables["images"].detach()
        most = float(images.abs().max()) if images.numel() else 0.0
        if not most <= IMAGE_LIMIT:
            raise DivergedError(
                f"image values reach {most:.3g} at step {step} of {self.settings.iterations}",
                expected=f"normalised values within -{IMAGE_LIMIT:g}..{IMAGE_LIMIT:g}; real images stay within about 3",
                fix=self._lower_rates(),
            )

    def _lower_rates(self) -> str:
        used = {self.rates.get(name) for name in self.synthetic.variables}
        rates = {key: rate for key, rate in dump(self.method.settings).items() if key.startswith("lr_") and rate}
        lower = [f"--set method.{key}={rate / 3:g}" for key, rate in rates.items() if rate in used]
        return f"lower the learning rates and do this stage again: {' '.join(lower)} --redo recover"

    def _save(self, step: int) -> None:
        tensors = {f"variable.{name}": value for name, value in self.synthetic.variables.items()}
        for name, value in self.synthetic.variables.items():
            for key, state in self.optimizer.state.get(value, {}).items():
                if state is not None:
                    tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(state)
        write_tensors(self.folder / CHECKPOINT, tensors, {"step": step})

    def _resume(self) -> int:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return 0
        tensors, note = read_tensors(path)
        for name, value in self.synthetic.variables.items():
            saved = tensors.get(f"variable.{name}")
            if saved is None or saved.shape != value.shape:
                raise ArtifactError(f"{path} does not fit this run: {name} differs", fix="start over with --fresh")
            value.data.copy_(saved)
            prefix = f"optimizer.{name}."
            state = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            if state:
                self.optimizer.state[value] = {
                    key: t.to(value.device) if key != "step" else t for key, t in state.items()
                }
        step = int(note["step"])
        self.events.say(f"recover: going on at step {step} of {self.settings.iterations}")
        return step

    def _snapshot(self, step: int) -> None:
        if step in self.snapshot_steps:
            write_snapshot(self.folder, step, self.synthetic, self.method.task)


def write_snapshot(folder: Path, step: int, synthetic: Synthetic, task: Task) -> None:
    """Keep up to 100 images, as uint8 pixels (k, h, w, c), the first of every class first."""
    images = synthetic.variables["images"][:SNAPSHOT_IMAGES].detach()
    pixels = task.normalization.pixels(images.float().cpu()).clamp(0, 1).mul(255).round().byte()
    note = {"step": step, "labels": synthetic.labels[:SNAPSHOT_IMAGES].tolist()}
    write_tensors(folder / _snapshot_name(step), {"pixels": pixels.permute(0, 2, 3, 1)}, note)


def _snapshot_name(step: int) -> str:
    return f"snapshots/step-{step:08d}.safetensors"


def _optimizer(
    variables: Mapping[str, Tensor], rates: Mapping[str, float], settings: RecoverSettings
) -> torch.optim.Optimizer:
    groups = [
        {"params": [value], "lr": rates[name], "name": name} for name, value in variables.items() if name in rates
    ]
    if not groups:
        groups = [{"params": [torch.zeros(())], "lr": 0.0, "name": "nothing"}]
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, betas=(settings.momentum, 0.999))
    return torch.optim.SGD(groups, momentum=settings.momentum)


def _schedule(name: str, step: int, total: int) -> float:
    return (1 + math.cos(math.pi * step / total)) / 2 if name == "cosine" else 1.0
