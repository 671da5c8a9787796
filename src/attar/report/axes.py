"""Axes of the page's charts: which stretch of values, which ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from attar.results.records import Record

LOG_RATIOS = 30.0, 1e15
EDGE = 4.0
"""Percent of a logarithmic axis at each end that a tick's text would not fit beside."""


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    place: float
    text: str


@dataclass(frozen=True)
class Axis:
    """The stretch of values that a plot's side shows."""

    low: float
    high: float
    ticks: tuple[Tick, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Percent of the way from `low` to `high`."""
        return _share(value, self.low, self.high, self.log)


def axis_of(values: Sequence[float], *, whole: bool = False) -> Axis:
    """An axis that shows all values with a little room; logarithmic where they are positive and far apart.

    `whole` is for counts such as steps, without room and with whole ticks only.
    """
    low, high = min(values), max(values)
    log = not whole and low > 0 and LOG_RATIOS[0] < high / low < LOG_RATIOS[1]
    if low == high:
        room = max(1.0, abs(low) / 1e12)
        low, high = (low - room, high + room) if whole else (low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10)
    elif log:
        low, high = low / (high / low) ** 0.04, high * (high / low) ** 0.04
    elif whole:
        low = 0.0 if 0 <= low <= 0.05 * high else low
    else:
        low, high = (0.0 if 0 <= low < 0.4 * high else low - 0.06 * (high - low)), high + 0.06 * (high - low)
    marks = _log_ticks(low, high) if log else _ticks(low, high, whole=whole)
    ticks = [Tick(round(_share(v, low, high, log), 3), _number(v)) for v in marks if low <= v <= high]
    return Axis(low, high, tuple(ticks), log)


def log_axis(values: Sequence[float], text: Callable[[float], str], marks: Sequence[float] = ()) -> Axis:
    """A logarithmic axis with room to each side; ticks at `marks`, or else at round numbers, as `text` has them."""
    low, high = min(values), max(values)
    room = max(1.25, (high / low) ** 0.06)
    low, high = low / room, high * room
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = max(1, len(decades) // 5)
    round_ones = [m * 10.0**k for k in decades[::stride] for m in ((1, 2, 5) if len(decades) < 4 else (1,))]

    def fitting(candidates: Sequence[float]) -> list[Tick]:
        places = [(_share(value, low, high, True), value) for value in candidates if value > 0]
        return [Tick(round(at, 3), text(value)) for at, value in places if EDGE <= at <= 100 - EDGE]

    ticks = fitting(marks) or fitting(round_ones)
    if len(ticks) < 2 and not marks:
        ticks = fitting(_ticks(low, high))
    return Axis(low, high, tuple(ticks), log=True)


def accuracy_axis(records: Sequence[Record]) -> Axis:
    """An axis for accuracies in percent, from 0 to at most 100."""
    highest = max(max(r.mean + r.std, *r.values) for r in records)
    top = min(100.0, _ticks(0, highest or 1)[-1])
    return Axis(0, top, tuple(Tick(100 * v / top, f"{v:g}") for v in _ticks(0, top) if 0 <= v <= top))


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return 100 * (value - low) / (high - low)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Multiples of a round step, from `low` or just below to `high` or just above: at most four steps between these."""
    least = (high - low) / 4
    decade = 10.0 ** math.floor(math.log10(least))
    steps = [times * decade for times in (1, 2, 2.5, 5, 10) if times * decade > least * (1 - 1e-9)]
    step = next(max(1, step) for step in steps if step <= 1 or step.is_integer()) if whole else steps[0]
    return [step * n for n in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = max(1, len(decades) // 5)
    inside = [10.0**k for k in decades[::stride] if low <= 10.0**k <= high]
    return inside if len(inside) > 2 else [m * 10.0**k for k in decades for m in (1, 3)]


def _number(value: float) -> str:
    if abs(value) >= 1e4 and value % 1000 == 0 and abs(value) < 1e6:
        return f"{value / 1000:g}k"
    return f"{value:.4g}".replace("-", "−")
