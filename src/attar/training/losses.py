"""Losses of a running training, and what is said when it diverges."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from attar.errors import DivergedError
from attar.runtime.events import Progress
from attar.runtime.team import Team
from attar.training.settings import TrainSettings

_READ_EVERY_S = 0.1
_READ_EVERY_STEPS = 10
"""Of several processes, which must read at the same step: so a loss that is not finite stops all of them there."""


class Losses:
    """Losses of the steps, read from the device now and then, since reading waits for it.

    Of several processes each takes its own, and reads the mean of all.
    """

    def __init__(self, name: str, settings: TrainSettings, team: Team) -> None:
        self.means: list[float] = []
        self.num_finished = 0
        """Finished epochs."""
        self._name, self._settings, self._team = name, settings, team
        self._waiting: list[tuple[int, int, int, Tensor]] = []
        self._num_seen = 0
        self._bar: Progress | None = None
        self._num_shown = 0
        self._read_s = time.monotonic()

    def show_on(self, bar: Progress, num_finished: int) -> None:
        """Advance this bar whenever losses are read; `num_finished` epochs are on it already."""
        self._bar, self._num_shown, self.num_finished = bar, num_finished, num_finished

    def add(self, epoch: int, step: int, num: int, loss: Tensor) -> None:
        """Take the mean loss of `num` images, a scalar on any device; of several processes, a summand of their mean."""
        self._waiting.append((epoch, step, num, loss))
        late = time.monotonic() - self._read_s >= _READ_EVERY_S
        if late if self._team.num == 1 else len(self._waiting) >= _READ_EVERY_STEPS:
            self.read()

    def read(self) -> None:
        """Read what waits into the epochs' means; raises DivergedError at the first that is not finite."""
        if not self._waiting:
            return
        values = (self._team.total(torch.stack([loss for *_, loss in self._waiting])) / self._team.num).tolist()
        for (epoch, step, num, _), value in zip(self._waiting, values, strict=True):
            if not math.isfinite(value):
                what = f"the loss is {value} at epoch {epoch + 1}, step {step + 1}"
                raise diverged(self._name, what, self._settings)
            self._take(epoch, num, value)
        self._waiting.clear()
        self._read_s = time.monotonic()
        if self._bar is not None:
            self._bar.advance(self.num_finished - self._num_shown, loss=self.means[-1])
            self._num_shown = self.num_finished

    def _take(self, epoch: int, num: int, value: float) -> None:
        if epoch == len(self.means):
            self.means.append(0.0)
            self._num_seen = 0
        self._num_seen += num
        self.means[epoch] += (value - self.means[epoch]) * num / self._num_seen


def diverged(name: str, what: str, settings: TrainSettings) -> DivergedError:
    """The error for a training that has left the finite numbers."""
    return DivergedError(
        f"training {name} has diverged: {what}",
        expected="a finite number",
        fix=f"lower learning_rate, for example --set train.learning_rate={settings.learning_rate / 3:.2g}",
    )
