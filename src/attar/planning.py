"""Plan: hours, memory and disk before they are spent, from a rehearsal of the real stages.

Each stage is run on this machine at the real image size, batch size and network, first for one unit of its work and
then for some more; the difference gives the time of a unit, free of start-up, and the settings say how many there
will be.
"""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attar.config import Config
from attar.data.loading import RealSet, SubsetSplit, TensorSet, TrainingSet
from attar.data.sources import Source
from attar.models.catalog import build
from attar.recover import RecoverSettings, recover
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.settings import Settings
from attar.squeeze import open_knowledge, squeeze
from attar.training.loop import TrainSettings, fit

MEASURE_S, MOST = 0.5, 200


@dataclass(frozen=True)
class Estimate:
    """What a stage will cost: `units` of work (named by `unit`) at `unit_s` seconds each, and bytes on disk."""

    stage: str
    unit: str
    units: int
    unit_s: float
    disk_bytes: int

    @property
    def total_s(self) -> float:
        """Seconds for the whole stage."""
        return self.units * self.unit_s


@dataclass(frozen=True)
class Plan:
    """Estimates of all stages, and the most memory that the rehearsal held."""

    estimates: tuple[Estimate, ...]
    memory_bytes: int

    @property
    def total_s(self) -> float:
        """Seconds for the whole run."""
        return sum(estimate.total_s for estimate in self.estimates)

    @property
    def disk_bytes(self) -> int:
        """Bytes that the run folder will take."""
        return sum(estimate.disk_bytes for estimate in self.estimates)


def plan(settings: Settings, source: Source, engine: Engine) -> Plan:
    """Rehearse every stage of these settings (networks resolved) in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="attar-plan-") as folder:
        rehearsal = _Rehearsal(settings, source, engine, Path(folder))
        squeezed = rehearsal.squeeze()
        estimates = [*squeezed, rehearsal.recover(), *rehearsal.evaluate()]
    return Plan(tuple(estimates), _peak_memory(engine))


@dataclass(frozen=True)
class _Rehearsal:
    settings: Settings
    source: Source
    engine: Engine
    folder: Path

    def squeeze(self) -> list[Estimate]:
        """One short training on a few batches; what it leaves serves the rehearsal of recover."""
        section = self.settings.sections["squeeze"]
        if not isinstance(section, TrainSettings):
            return []
        steps = math.ceil(len(self.source.train) / section.batch_size)
        networks = getattr(section, "num_experts", 1)
        model = build(section.model, self.source.task)  # type: ignore[attr-defined]
        real = RealSet(self.source.train, self.source.task.normalization)
        unit_s = self._step_s(section, model, real)
        self._squeeze_for_recover(section)
        written = sum(path.stat().st_size for path in self._squeezed.rglob("*") if path.is_file())
        return [Estimate("squeeze", "training steps", networks * section.epochs * steps, unit_s, written * networks)]

    def recover(self) -> Estimate:
        """One iteration, then a few more."""
        settings, run = self.settings.recover, self.settings.run
        method = self.settings.method(self.settings.sections["method"], self.source.task, run.ipc)
        image_bytes = 4 * self.source.task.num_classes * run.ipc * math.prod(self.source.task.shape)
        if settings.iterations == 0:
            return Estimate("recover", "iterations", 0, 0.0, image_bytes)
        knowledge = open_knowledge(self._short(), self.source.task, self._squeezed, self.engine)

        def iterate(num: int) -> None:
            recover(
                method,
                RealSet(self.source.train, self.source.task.normalization),
                knowledge,
                RecoverSettings(**{**settings.model_dump(), "iterations": num, "num_snapshots": 0}),
                seed=run.seed,
                folder=self.folder / f"recover-{num}",
                engine=self.engine,
                events=Events(quiet=True),
            )

        disk = image_bytes * (1 + settings.num_snapshots // 4)
        return Estimate("recover", "iterations", settings.iterations, _unit_s(iterate), disk)

    def evaluate(self) -> list[Estimate]:
        """A student on as many images as the distilled set has, and one on real ones."""
        judging, training = self.settings.evaluate, self.settings.train
        task, num = self.source.task, self.source.task.num_classes * self.settings.run.ipc
        small = TensorSet(torch.zeros(num, *task.shape), torch.arange(num) % task.num_classes)
        real = RealSet(self.source.train, task.normalization)
        estimates = []
        for name in judging.models:
            model = build(name, task)
            steps = training.epochs * math.ceil(num / training.batch_size)
            trainings = judging.seeds * (1 + ("random" in judging.baselines))
            unit_s = self._step_s(training, model, small)
            estimates.append(Estimate(f"evaluate {name}", "training steps", trainings * steps, unit_s, 0))
            if "full" in judging.baselines:
                steps = judging.seeds * judging.full_epochs * math.ceil(len(real) / training.batch_size)
                full_s = self._step_s(training, model, real)
                estimates.append(Estimate(f"evaluate {name} on all", "training steps", steps, full_s, 0))
        return estimates

    @property
    def _squeezed(self) -> Path:
        return self.folder / "squeeze"

    def _short(self) -> Config:
        """The squeeze section for one network."""
        section = self.settings.sections["squeeze"]
        return section.model_copy(update={"num_experts": 1}) if hasattr(section, "num_experts") else section

    def _squeeze_for_recover(self, section: TrainSettings) -> None:
        few = torch.cat([(self.source.train.labels == c).nonzero()[:1, 0] for c in range(self.source.task.num_classes)])
        tiny = replace(self.source, train=SubsetSplit(self.source.train, few))
        short = section.model_copy(update={"num_experts": 1}) if hasattr(section, "num_experts") else section
        squeeze(tiny, short, seed=0, folder=self._squeezed, engine=self.engine, events=Events(quiet=True))

    def _step_s(self, settings: TrainSettings, model: torch.nn.Module, data: TrainingSet) -> float:
        """Seconds of one training step on a full batch."""
        batch = min(settings.batch_size, len(data))

        def train(num: int) -> None:
            few = _First(data, batch * num)
            kept = settings.model_dump(include=set(TrainSettings.model_fields))
            once = {**kept, "epochs": 1, "warmup_epochs": 0, "batch_size": batch}
            fit(model, few, TrainSettings(**once), seed=0, engine=self.engine)

        return _unit_s(train)


class _First:
    """The first `num` images of a training set, repeated where it has fewer."""

    def __init__(self, data: TrainingSet, num: int) -> None:
        self._data, self._indices = data, torch.arange(num) % len(data)
        self.labels = data.labels[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        return self._data.images(self._indices[indices])

    def targets(self, indices: torch.Tensor) -> torch.Tensor:
        return self._data.targets(self._indices[indices])


def _unit_s(work: Callable[[int], Any]) -> float:
    """Seconds of one unit: a warm-up, one unit, then as many more as fill half a second; fixed costs cancel."""
    work(1)
    one_s = _timed(work, 1)
    more = min(MOST, max(3, math.ceil(MEASURE_S / one_s)))
    all_s = _timed(work, 1 + more)
    return max((all_s - one_s) / more, all_s / (10 * (1 + more)))


def _timed(work: Callable[[int], Any], num: int) -> float:
    started_s = time.perf_counter()
    work(num)
    return time.perf_counter() - started_s


def _peak_memory(engine: Engine) -> int:
    if engine.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(engine.device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
