"""What a plan is made of: seconds of a unit of work, measured by doing a few, and how many units there will be.

A kind of knowledge says with these what squeezing it will cost; `attar.run.planning` does so for the other stages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.data.loading import RealSet, TrainingSet
from attar.data.sources import Source
from attar.models.factory import build
from attar.runtime.engine import Engine
from attar.training.loop import TESTED, TrainSettings, accuracy, fit
from attar.training.section import TrainSection
from attar.training.strategies import num_batches

MEASURE_S, MOST = 0.5, 200
BRIEF_S = 0.1
"""A brief rehearsal measures a unit that takes longer once."""
FEW_BATCHES = 8
_LONG_S = 2.0
"""A unit that takes longer is measured over two more, not three."""
_VERY_LONG_S = 15.0
"""A unit that takes longer is measured over one more; by a brief rehearsal as a warm-up alone."""


EVERYWHERE = "done by every process"
"""Of what is no item that processes share."""


@dataclass(frozen=True)
class Estimate:
    """What a stage will cost: `units` of work (named by `unit`) at `unit_s` seconds each, and bytes on disk."""

    stage: str
    unit: str
    units: int
    unit_s: float
    disk_bytes: int
    items: str = ""
    """What a piece is called that processes share, such as "chunk"; EVERYWHERE: each does it all; empty: one of
    them does."""
    places: Sequence[int] = (0,)
    """Numbers of the pieces, of equal size, in the order in which processes take them; estimates of one stage whose
    items have one name speak of the same pieces."""
    fixed: bool = False
    """Whether it takes as long where iterations or epochs are cut."""

    @property
    def total_s(self) -> float:
        """Seconds for the whole stage."""
        return self.units * self.unit_s

    @property
    def part(self) -> str:
        """Of a run: start, squeeze, recover, relabel, evaluate or report."""
        first = self.stage.split()[0].rstrip(":")
        return "recover" if first == "begin" else first


@dataclass(frozen=True)
class Rehearsal:
    """Measures work on this machine, at the real image size, batch size and network."""

    source: Source
    engine: Engine
    folder: Path
    """Where knowledge was squeezed from a few images, in place of the real one."""
    brief: bool = False
    """Whether a unit that is not quick is measured by itself, with what it takes to begin."""

    @property
    def real(self) -> RealSet:
        """The real training images, normalised."""
        return RealSet(self.source.train, self.source.task.normalization)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files of the knowledge in `folder`."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def unit_s(self, work: Callable[[int], Any], most: int = MOST) -> float:
        """Seconds of one unit: a warm-up, one unit, then as many more as fill half a second; fixed costs cancel.

        `work(n)` does n units, at most `most` of them.
        """
        warming_s = self._timed(work, 1)
        if self.brief and warming_s > _VERY_LONG_S:
            return warming_s
        one_s = self._timed(work, 1)
        if self.brief and one_s > BRIEF_S:
            return one_s
        fewest = 3 if one_s < _LONG_S else 2 if one_s < _VERY_LONG_S else 1
        more = min(most - 1, MOST, max(fewest, math.ceil(MEASURE_S / one_s)))
        all_s = self._timed(work, 1 + more)
        return max((all_s - one_s) / more, all_s / (10 * (1 + more)))

    def step_s(
        self,
        settings: TrainSettings,
        model: str,
        make: Callable[[int], TrainingSet],
        batch: int,
        num: int | None = None,
    ) -> float:
        """Seconds of a training step of the network `model`; `make(n)` gives n images, in batches of `batch`.

        `num` is how many an epoch has: of few batches whole epochs are measured, as what lies between two counts too.
        """
        kept = settings.model_dump(include=set(TrainSection.model_fields))
        once = TrainSection(**{**kept, "epochs": 1, "warmup_epochs": 0, "batch_size": batch})
        network = build(model, self.source.task)
        if num is not None and (steps := num_batches(once, num)) <= FEW_BATCHES:
            data = make(num)

            def train(epochs: int) -> None:
                fit(network, data, once.model_copy(update={"epochs": epochs}), seed=0, engine=self.engine)

            return self.unit_s(train) / steps
        each_s = self.unit_s(lambda n: fit(network, make(batch * n), once, seed=0, engine=self.engine))
        return each_s / num_batches(once, batch)

    def real_step_s(self, settings: TrainSettings, model: str) -> float:
        """Seconds of a training step on real images."""
        batch = min(settings.batch_for(len(self.source.train)), len(self.source.train))
        return self.step_s(settings, model, partial(First, self.real), batch)

    def tested_s(self, model: str, images: TrainingSet) -> float:
        """Seconds to test a network on one of these images, in batches as they are tested."""
        network, batch = build(model, self.source.task), min(TESTED, len(images))

        def test(num: int) -> None:
            accuracy(network, First(images, batch * num), self.engine, batch)

        return self.unit_s(test) / batch

    def validated(self, stage: str, model: str, num: int, *, items: str, places: Sequence[int]) -> list[Estimate]:
        """What it takes to test `num` networks on the validation images; nothing where there are none."""
        images = RealSet(self.source.validation, self.source.task.normalization)
        if not len(images):
            return []
        shared: dict[str, Any] = {"items": items, "places": places, "fixed": True}
        each_s = self.tested_s(model, images)
        return [Estimate(f"{stage}: validation", "images", num * len(images), each_s, 0, **shared)]

    def real_steps(self, settings: TrainSettings, epochs: int) -> int:
        """How many steps these epochs on all real images are."""
        return epochs * num_batches(settings, len(self.source.train))

    def _timed(self, work: Callable[[int], Any], num: int) -> float:
        """Seconds until the work is done, on the device too."""
        self.engine.wait()
        started_s = time.perf_counter()
        work(num)
        self.engine.wait()
        return time.perf_counter() - started_s


class First:
    """The first `num` images of a training set, repeated where it has fewer."""

    def __init__(self, data: TrainingSet, num: int) -> None:
        self._data, self._indices = data, torch.arange(num) % len(data)
        self.labels = data.labels[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def images(self, indices: Tensor) -> Tensor:
        """Images (b, c, h, w) of these indices (b,)."""
        return self._data.images(self._indices[indices])

    def targets(self, indices: Tensor) -> Tensor:
        """Their classes or probabilities, as the training set gives them."""
        return self._data.targets(self._indices[indices])
