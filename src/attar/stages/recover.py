"""Recover: synthetic images are made, and optimised in a loop where the method has a step for it.

    recover/synthetic-00000.safetensors            a chunk of images, as the method hands it over
    recover/snapshots/step-00000300.safetensors    uint8 pixels of the first chunk on the way, for pictures
    recover/states/step-00000300.safetensors       all images on the way, as the method would hand them over
    recover/checkpoint-00000.safetensors           only while its chunk is being made

A method whose images do not hear of each other is optimised chunk by chunk. A chunk is a function of the seed
and its number alone, so that it is the same bits whichever process makes it, and when. Where images hear of each other
several processes take each step together: they share its draws, and all go on with the mean of the gradients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal

import torch
from pydantic import Field
from torch import Tensor

from attar.artifacts.description import IMAGE_LIMIT
from attar.artifacts.recovered import chunk_name, state_name, write_chunk
from attar.config import Config
from attar.errors import ArtifactError, ConfigError, DivergedError
from attar.items import chunk_item
from attar.methods.base import KnowledgeT, Method, Optimised, RealImages, Selector, Synthetic
from attar.runtime.checkpoint import prefixed, read_tensors, unprefixed, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events, Progress
from attar.runtime.seeding import generator
from attar.runtime.team import Team, team
from attar.task import Task
from attar.training.averaging import Average
from attar.training.optimizers import uncompiled

CHECKPOINT_EVERY_S = 10.0
_CHECK_EVERY = 20
"""On a GPU, steps between two looks at whether all is finite: looking waits for the device."""
DOUBT_AFTER = 50
"""Steps in a row that a method has doubts about before a person is told."""
MAX_EVENTS = 400
SNAPSHOT_IMAGES = 100


class RecoverSettings(Config):
    """The optimisation of the synthetic images."""

    iterations: int = Field(1000, ge=0)
    """Optimiser steps; 0 leaves the images as the method initialised them."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Optimiser of the images and of anything else that is learnt; the learning rates are the method's own settings."""
    momentum: float = Field(0.5, ge=0, lt=1)
    """Momentum of sgd, or the first beta of adam."""
    second_beta: float = Field(0.999, ge=0, lt=1)
    """Second beta of adam, the decay of the squared gradients. The published code of sre2l and CDA has 0.9, and so do
    the defaults of sre2l and teddy."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of everything that is learnt: decoupled with adam (AdamW), part of the gradient with sgd. Images
    decay towards the mean pixel, and what cim adds to its images towards 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How learning rates change over the iterations: not at all, or down to 0 along a cosine."""
    chunk_size: int = Field(100, ge=1)
    """How many images, of as many different classes as fit, are optimised together by methods that work chunk by chunk
    (sre2l, teddy, fadrm, rded, cim). A larger chunk takes more memory and has steadier statistics. tesla, mtt, dm and
    ncfm take all images at once."""
    num_snapshots: int = Field(30, ge=0)
    """How many intermediate states of the first images are kept, evenly spaced, for the animation in the report."""
    num_states: int = Field(0, ge=0)
    """How many intermediate states of all images are kept, evenly spaced and in their final form, so that
    evaluate.best_over_run can judge them; for methods that optimise all images together (tesla, mtt, dm, ncfm)."""
    draws_per_step: int = Field(1, ge=1)
    """Gradients averaged in each step, every one with its own random choices: a stretch of an expert's training (tesla,
    mtt), an augmentation of the images (sre2l). More make a step steadier and proportionally slower; tesla, mtt, dm and
    ncfm share them among processes, and the images don't depend on how many processes there are."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay per step of a moving average of the images and of anything else that is learnt (step size, label logits),
    which becomes the result; 0: no average, the last step is the result. 0.99 to 0.999 smooths a noisy end."""


def chunks(method: Method, settings: RecoverSettings) -> list[Tensor]:
    """Places int64 (b,) of the images of every chunk, in the order of `method.labels()`; the last may be short."""
    places = torch.arange(len(method.labels()))
    return list(places.split(settings.chunk_size)) if method.separable else [places]


def recover(
    method: Selector[Any, KnowledgeT],
    real: RealImages,
    knowledge: KnowledgeT,
    settings: RecoverSettings,
    *,
    seed: int,
    folder: Path,
    engine: Engine,
    events: Events,
) -> list[str]:
    """Make what is not there yet, each chunk from its checkpoint where there is one; returns the stage's files.

    With several processes each makes its share of the chunks, or they take the steps of a single one together, and all
    wait for the last. Raises ConfigError where a method that optimises nothing is asked for iterations, and
    DivergedError at the first loss or gradient that is not finite, or where values have left
    any sense; the checkpoint stays at the last good state.
    """
    if settings.iterations and not isinstance(method, Optimised):
        raise ConfigError(f"{method.name} does not optimise its images", expected="recover.iterations=0")
    parts = chunks(method, settings)
    names = [chunk_name(k) for k in range(len(parts))]
    members = _together(method, settings, engine, events)
    with nullcontext(True) if method.separable else engine.processes.claim("images") as ours:
        made_together = list(range(len(parts))) if members and ours else []
        mine = engine.share(range(len(parts))) if method.separable else made_together
        missing = [k for k in mine if not (folder / names[k]).exists()]
        if members:
            members.require_same(len(missing), "how many chunks of images are missing")
        per_chunk = settings.iterations if isinstance(method, Optimised) else 1
        with events.progress(
            f"recover: {method.name}", len(mine) * per_chunk, (len(mine) - len(missing)) * per_chunk
        ) as bar:
            for k in missing:
                state = _begin(method, parts[k], real, knowledge, seed, engine)
                if not isinstance(method, Optimised):
                    if k == 0 and settings.num_snapshots:
                        _write_snapshot(folder, 0, state.variables["images"], state.labels, method.task)
                    write_chunk(folder / names[k], method.finish(state, knowledge))
                    bar.advance()
                    continue
                place = k, len(parts), folder
                loop = _Loop(method, state, real, knowledge, settings, seed, *place, engine, events, members)
                loop.run(bar)
                if loop.leads:
                    write_chunk(folder / names[k], method.finish(loop.result(), knowledge))
                    loop.checkpoint.unlink(missing_ok=True)
    engine.barrier(folder / name for name in names)
    kept = sorted(snapshot_steps(settings))
    states = [] if method.separable else sorted(state_steps(settings))
    return [*names, *map(_snapshot_name, kept), *map(state_name, states)]


def snapshot_steps(settings: RecoverSettings) -> set[int]:
    """Steps after which the first chunk is pictured; 0 is the start."""
    last = settings.iterations
    frames = min(settings.num_snapshots, last + 1)
    return {round(k * last / max(frames - 1, 1)) for k in range(frames)}


def state_steps(settings: RecoverSettings) -> set[int]:
    """Steps after which all images are kept as they are; neither the start nor the end."""
    parts = settings.num_states + 1
    return {round(k * settings.iterations / parts) for k in range(1, parts)} - {0, settings.iterations}


def turn_steps(method: Optimised[Any, Any], settings: RecoverSettings) -> dict[int, int]:
    """Steps after which the method turns to something else, and the number of the turn."""
    steps = {round(part * settings.iterations): k for k, part in enumerate(method.turns())}
    return {step: k for step, k in steps.items() if 0 < step < settings.iterations}


def _together(method: Method, settings: RecoverSettings, engine: Engine, events: Events) -> Team | None:
    """Who takes steps together: this process alone where chunks are shared; None where it has nothing to do."""
    if method.separable:
        return Team()
    processes, draws = engine.processes, settings.draws_per_step
    if processes.apart:
        return Team()
    if not isinstance(method, Optimised):
        return Team() if processes.rank == 0 else None
    if idle := max(0, processes.num - draws):
        events.say(
            f"{idle} of {processes.num} processes wait while images are recovered: a step of {method.name} has "
            f"{draws} draw{'s' * (draws > 1)} to share; --set recover.draws_per_step={processes.num} gives each one"
        )
    return team(processes, min(draws, processes.num))


def _begin(
    method: Selector[Any, KnowledgeT],
    picked: Tensor,
    real: RealImages,
    knowledge: KnowledgeT,
    seed: int,
    engine: Engine,
) -> Synthetic:
    state = method.init(picked, real, knowledge, partial(generator, seed, "recover", "init"))
    variables, fixed = (
        {name: value.to(engine.device) for name, value in tensors.items()} for tensors in (state.variables, state.fixed)
    )
    return Synthetic(state.labels.to(engine.device), variables, fixed)


class _Loop(Generic[KnowledgeT]):
    """One chunk, from its start or its checkpoint to its last step."""

    def __init__(
        self,
        method: Optimised[Any, KnowledgeT],
        synthetic: Synthetic,
        real: RealImages,
        knowledge: KnowledgeT,
        settings: RecoverSettings,
        seed: int,
        chunk: int,
        num_chunks: int,
        folder: Path,
        engine: Engine,
        events: Events,
        members: Team | None = None,
    ) -> None:
        self.method, self.synthetic, self.real, self.knowledge = method, synthetic, real, knowledge
        self.settings, self.seed, self.chunk, self.folder = settings, seed, chunk, folder
        self.engine, self.events, self.team = engine, events, members or Team()
        self.checkpoint = folder / f"checkpoint-{chunk:05d}.safetensors"
        self.rates = method.learning_rates()
        self.turns = turn_steps(method, settings)
        self._begin_anew()
        self.snapshots = snapshot_steps(settings) if chunk == 0 else set()
        self.states = set() if method.separable else state_steps(settings)
        self.event_every = max(1, math.ceil(settings.iterations * min(num_chunks, 20) / MAX_EVENTS))
        self.item = chunk_item(chunk).fields() if method.separable else {}
        self.careful = engine.device.type == "cpu" or not method.separable
        """Look at every step whether all is finite, before it is taken."""
        self.num_doubts = 0

    @property
    def leads(self) -> bool:
        """Whether this process writes what those make that take these steps together."""
        return self.team.leads

    def result(self) -> Synthetic:
        """The state that is handed over: the last one, or the average where one is asked for."""
        now = self.synthetic
        return Synthetic(now.labels, {**now.variables, **self.average.state()}, now.fixed, now.taken)

    def _begin_anew(self) -> None:
        """A new optimiser, and a new average, of the variables as they are."""
        variables = self.synthetic.variables
        self.optimizer = _optimizer(variables, self.rates, self.settings, self.method.momenta())
        self.average = Average(variables, self.settings.ema)

    def run(self, bar: Progress) -> None:
        step = self._resume()
        self.team.require_same(step, "the step to go on at")
        self._snapshot(step)
        saved_s = time.monotonic()
        total = self.settings.iterations
        bar.advance(step)
        waiting = 0
        if step < total and (said := self.method.slow_start()):
            self.events.say(f"recover: {said}")
        while step < total:
            gradients, metrics = self._step(step)
            step, waiting = step + 1, waiting + 1
            due = time.monotonic() - saved_s > CHECKPOINT_EVERY_S
            report = step % self.event_every == 0 or step == total
            if self.careful or due or report or step % _CHECK_EVERY == 0:
                read = {name: float(value) for name, value in metrics.items()}
                if not self.careful:
                    self._require_finite(step, gradients, read)
                    self._require_in_range(step, {})
                bar.advance(waiting, **read)
                waiting = 0
                self._doubt(step, read)
                if report and self.leads:
                    self.events.emit("recover", "step", **self.item, step=step, **read)
            self._snapshot(step)
            if due:
                self._save(step, self._state())
                saved_s = time.monotonic()

    def _step(self, step: int) -> tuple[dict[str, Tensor], Mapping[str, float | Tensor]]:
        self.synthetic.taken = step
        gradients, metrics = self._gradient(step)
        before = {}
        if self.careful:
            self._require_finite(step, gradients, {name: float(value) for name, value in metrics.items()})
            before = {name: value.clone() for name, value in self._state().items()}
        factor = _schedule(self.settings.schedule, step, self.settings.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rates[group["name"]] * factor
        for name, value in self.synthetic.variables.items():
            value.grad = gradients.get(name)
        self.optimizer.step()
        self.method.project(self.synthetic)
        if self.careful:
            self._require_in_range(step, before)
        self.average.update()
        self._turn(step + 1)
        return gradients, metrics

    def _gradient(self, step: int) -> tuple[dict[str, Tensor], Mapping[str, float | Tensor]]:
        """One draw's gradients and metrics, or the mean of several."""
        if self.settings.draws_per_step == 1:
            return self._draw(step, 0)

        def packed(k: int) -> dict[str, Tensor]:
            gradients, metrics = self._draw(step, k)
            scalars = {name: torch.as_tensor(value).float() for name, value in metrics.items()}
            return prefixed("gradient.", gradients) | prefixed("metric.", scalars)

        found = self.team.mean(packed, self.settings.draws_per_step)
        return unprefixed(found, "gradient."), unprefixed(found, "metric.")

    def _turn(self, step: int) -> None:
        """What the method does after so many steps, where it does anything."""
        if step in self.turns:
            with torch.no_grad():
                self.method.turn(self.synthetic, self.turns[step])
            self._begin_anew()

    def _draw(self, step: int, k: int) -> tuple[dict[str, Tensor], Mapping[str, float | Tensor]]:
        picked = torch.arange(len(self.synthetic.labels), device=self.synthetic.labels.device)
        rng, done = self._generator(step, k), step / self.settings.iterations
        with self.engine.autocast() if self.method.mixed_precision else nullcontext():
            return self.method.gradient(self.synthetic, picked, self.real, self.knowledge, rng, done)

    def _generator(self, step: int, k: int) -> torch.Generator:
        draw = ("draw", k) if k else ()  # the first is what a single one would be
        if not self.method.separable:
            return generator(self.seed, "recover", "step", step, *draw)
        return generator(self.seed, "recover", "chunk", self.chunk, "step", step, *draw)

    def _require_finite(self, step: int, gradients: Mapping[str, Tensor], metrics: Mapping[str, float]) -> None:
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        bad += [f"gradient of {name}" for name, value in gradients.items() if not bool(value.isfinite().all())]
        if not bad:
            return
        raise self._diverged(
            step,
            f"{' and '.join(bad)} is no longer a finite number",
            "finite losses and gradients",
            self._state() if self.careful else {},
            num_taken=step,
        )

    def _require_in_range(self, step: int, before: Mapping[str, Tensor]) -> None:
        """A method that normalises its networks stays finite long after its images have left any sense."""
        with torch.no_grad():
            images = self.method.decode(self.synthetic)
        most = float(images.abs().max()) if images.numel() else 0.0
        if not most <= IMAGE_LIMIT:
            expected = f"normalised values within -{IMAGE_LIMIT:g}..{IMAGE_LIMIT:g}; real images stay within about 3"
            raise self._diverged(step, f"image values reach {most:.3g}", expected, before, step + 1)
        for name, (low, high) in self.method.limits().items():
            value = self.synthetic.variables[name].detach()
            if not bool(((value >= low) & (value <= high)).all()):
                found = f"{name} reaches {float(value.min()):.3g}..{float(value.max()):.3g}"
                raise self._diverged(step, found, f"values within {low:.3g}..{high:.3g}", before, step + 1)

    def _diverged(
        self, step: int, found: str, expected: str, good: Mapping[str, Tensor], num_taken: int
    ) -> DivergedError:
        """The error to raise, `num_taken` steps after the start; `good`, a state that is worth keeping, is kept."""
        if good:
            self._save(step, good)
            self.team.require_same(step, "the step that went wrong")  # none leaves before it is on disk
        lower = " ".join(f"--set {setting}" for setting in self.method.calmer(self.synthetic, num_taken))
        fix = f"lower the learning rates and do this stage again: {lower} --redo recover"
        kept = f"; the last good state is kept in {self.checkpoint}" if self.checkpoint.exists() else ""
        return DivergedError(f"{found} at step {step} of {self.settings.iterations}", expected=expected, fix=fix + kept)

    def _doubt(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tell, once, what the method has held against many steps in a row."""
        doubts = self.method.doubts(metrics)
        self.num_doubts = self.num_doubts + 1 if doubts else 0
        if self.num_doubts == DOUBT_AFTER and self.leads:
            self.events.say(f"warning: {doubts}")
            self.events.emit("recover", "warning", **self.item, step=step, message=doubts)

    def _state(self) -> dict[str, Tensor]:
        """All that a resumed run needs to know, by name; the tensors are those in use."""
        tensors = prefixed("variable.", self.synthetic.variables) | prefixed("average.", self.average.state())
        for name, value in self.synthetic.variables.items():
            for key, state in self.optimizer.state.get(value, {}).items():
                if state is not None:
                    tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(state)
        return tensors

    def _save(self, step: int, state: Mapping[str, Tensor]) -> None:
        if self.leads:
            write_tensors(self.checkpoint, state, {"step": step})

    def _resume(self) -> int:
        if not self.checkpoint.exists():
            return 0
        tensors, note = read_tensors(self.checkpoint)
        for name, value in self.synthetic.variables.items():
            saved = tensors.get(f"variable.{name}")
            if saved is None or (saved.shape != value.shape and not self.turns):
                raise ArtifactError(
                    f"{self.checkpoint} does not fit this run: variable {name!r}",
                    fix="start over with --fresh",
                )
            self.synthetic.variables[name] = saved.to(value)
        self._begin_anew()
        for name, value in self.synthetic.variables.items():
            if state := unprefixed(tensors, f"optimizer.{name}."):
                self.optimizer.state[value] = {
                    key: t if key == "step" else t.to(value.device) for key, t in state.items()
                }
        step = int(note["step"])
        if self.average.state():
            since = max((turn for turn in self.turns if turn <= step), default=0)
            self.average.restore(unprefixed(tensors, "average."), step - since)
        self.events.say(f"recover: going on at step {step} of {self.settings.iterations}")
        return step

    def _snapshot(self, step: int) -> None:
        if step in self.snapshots and self.leads:
            with torch.no_grad():
                images = self.method.decode(self.result())
            _write_snapshot(self.folder, step, images, self.synthetic.labels, self.method.task)
        if step in self.states and self.leads:
            write_chunk(self.folder / state_name(step), self.method.finish(self.result(), self.knowledge))


def _write_snapshot(folder: Path, step: int, images: Tensor, labels: Tensor, task: Task) -> None:
    """Keep up to 100 of the images (n, c, h, w), as uint8 pixels (k, h, w, c), the first of every class first."""
    shown = images[:SNAPSHOT_IMAGES].detach().float().cpu()
    pixels = task.normalization.pixels(shown).clamp(0, 1).mul(255).round().byte()
    note = {"step": step, "labels": labels[:SNAPSHOT_IMAGES].tolist()}
    write_tensors(folder / _snapshot_name(step), {"pixels": pixels.permute(0, 2, 3, 1)}, note)


def _snapshot_name(step: int) -> str:
    return f"snapshots/step-{step:08d}.safetensors"


def _optimizer(
    variables: Mapping[str, Tensor],
    rates: Mapping[str, float],
    settings: RecoverSettings,
    momenta: Mapping[str, float],
) -> torch.optim.Optimizer:
    groups = [
        {"params": [value], "lr": rates[name], "name": name} for name, value in variables.items() if name in rates
    ]
    decay = settings.weight_decay
    if settings.optimizer == "adam":
        kind = uncompiled(torch.optim.AdamW if decay else torch.optim.Adam)
        return kind(groups, betas=(settings.momentum, settings.second_beta), weight_decay=decay)
    for group in groups:
        group["momentum"] = momenta.get(str(group["name"]), settings.momentum)
    return uncompiled(torch.optim.SGD)(groups, weight_decay=decay)


def _schedule(name: str, step: int, total: int) -> float:
    return (1 + math.cos(math.pi * step / total)) / 2 if name == "cosine" else 1.0
