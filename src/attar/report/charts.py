"""Where the lines, ticks and dots of the page's charts lie.

The charts are inline SVG, drawn by the template from the places worked out here, and not matplotlib's: such
a figure takes its colours from the page (dark mode, print), its text keeps its size on a phone while its
width follows the column, and the step that the animation shows can be marked in it. Round tick values are
matplotlib's locator's. Horizontal and vertical places are in percent of the plot, from its upper left corner.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from attar.records import Record
from attar.report.collect import Curve, Series

MOST_POINTS = 90
MOST_MEMBERS = 24
LOG_RATIOS = 30.0, 1e15
TONES = 4
Points = list[tuple[float, float]]


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


@dataclass(frozen=True)
class Line:
    """A path in the units of a 1000 x 1000 box; `kind` is `main`, `member` or `band`, `tone` its colour's number."""

    path: str
    kind: str
    tone: int


@dataclass(frozen=True)
class Chart:
    """One plot with its legend, a sentence for those who don't see it, and the values for the pointer as JSON."""

    stage: str
    title: str
    x: Axis
    y: Axis
    unit: str
    lines: tuple[Line, ...]
    legend: tuple[tuple[int, str], ...]
    summary: str
    readout: str


@dataclass(frozen=True)
class Bar:
    """One row of the comparison: places of the mean, of the ends of mean ± std and of each single value."""

    record: Record
    mean: float
    low: float
    high: float
    values: tuple[float, ...]


def chart(curve: Curve) -> Chart:
    """Lay out one metric: items that differ by a number only share a tone, thin, with their mean on top."""
    groups: dict[str, list[Series]] = defaultdict(list)
    for series in curve.series:
        groups[_group(series.item)].append(series)
    mains = {name: _mean(members) for name, members in groups.items()}
    x = _axis([step for series in curve.series for step in series.steps], whole=True)
    y = _axis([value for series in curve.series for value in series.values])
    lines = [line for tone, members in enumerate(groups.values()) for line in _context(members, tone % TONES, x, y)]
    lines += [Line(_path(points, x, y), "main", tone % TONES) for tone, points in enumerate(mains.values())]
    return Chart(
        stage=curve.stage,
        title=curve.metric.replace("_", " "),
        x=x,
        y=y,
        unit=curve.unit,
        lines=tuple(lines),
        legend=tuple((tone % TONES, _legend(name, groups[name])) for tone, name in enumerate(groups)),
        summary=_summary(curve, mains),
        readout=_readout(curve, mains, x),
    )


def comparison(records: Sequence[Record]) -> tuple[Axis, tuple[Bar, ...]]:
    """Lay out accuracies in percent as dots with their spread, on an axis from 0 to at most 100."""
    highest = max(max(r.mean + r.std, *r.values) for r in records)
    top = min(100.0, _ticks(0, highest)[-1])
    axis = Axis(0, top, tuple(Tick(100 * v / top, f"{v:g}") for v in _ticks(0, top) if 0 <= v <= top))
    return axis, tuple(_bar(record, axis) for record in records)


def _bar(record: Record, axis: Axis) -> Bar:
    mean, low, high, *values = (
        round(min(100.0, max(0.0, axis.place(value))), 3)
        for value in (record.mean, record.mean - record.std, record.mean + record.std, *record.values)
    )
    return Bar(record, mean, low, high, tuple(values))


def _group(item: str) -> str:
    """`expert-0003` -> `expert`, `distilled/seed 1` -> `distilled`; `convnet-d3-w128` and `resnet-18` stay."""
    return re.sub(r"((^|[\s/:#])((seed|run)[\s=:]*)?\d+|-\d{4,})$", "", item)


def _mean(members: Sequence[Series]) -> Points:
    """Mean over the members at each step that any of them has, thinned by averaging neighbours."""
    values: dict[float, list[float]] = defaultdict(list)
    for series in members:
        for step, value in zip(series.steps, series.values, strict=True):
            values[step].append(value)
    points = [(step, statistics.fmean(values[step])) for step in sorted(values)]
    return [(statistics.fmean(x), statistics.fmean(y)) for x, y in (zip(*p, strict=True) for p in _buckets(points))]


def _context(members: Sequence[Series], tone: int, x: Axis, y: Axis) -> list[Line]:
    """What lies behind a main line: every member, or the range that thinning one series hid."""
    if len(members) > 1:
        shown = members[:: -(-len(members) // MOST_MEMBERS)]
        return [Line(_path(_mean([series]), x, y), "member", tone) for series in shown]
    points = list(zip(members[0].steps, members[0].values, strict=True))
    if len(points) <= MOST_POINTS:
        return []
    parts = _buckets(points)
    steps = [statistics.fmean(step for step, _ in part) for part in parts]
    upper = [(step, max(v for _, v in part)) for step, part in zip(steps, parts, strict=True)]
    lower = [(step, min(v for _, v in part)) for step, part in zip(steps, parts, strict=True)]
    return [Line(_path(upper + lower[::-1], x, y) + "Z", "band", tone)]


def _buckets(points: Points) -> list[Points]:
    if len(points) <= MOST_POINTS:
        return [[point] for point in points]
    edges = [round(i * len(points) / MOST_POINTS) for i in range(MOST_POINTS + 1)]
    return [points[a:b] for a, b in itertools.pairwise(edges)]


def _path(points: Points, x: Axis, y: Axis) -> str:
    places = [f"{10 * x.place(step):.1f} {1000 - 10 * y.place(value):.1f}" for step, value in points]
    if len(places) == 1:
        places.append(places[0])  # a round cap makes it a dot
    return "M" + "L".join(places)


def _axis(values: Sequence[float], *, whole: bool = False) -> Axis:
    low, high = min(values), max(values)
    log = not whole and low > 0 and LOG_RATIOS[0] < high / low < LOG_RATIOS[1]
    if low == high:
        low, high = (low - 1, high + 1) if whole else (low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10)
    elif log:
        low, high = low / (high / low) ** 0.04, high * (high / low) ** 0.04
    elif whole:
        low = 0.0 if 0 <= low <= 0.05 * high else low
    else:
        low, high = (0.0 if 0 <= low < 0.4 * high else low - 0.06 * (high - low)), high + 0.06 * (high - low)
    marks = _log_ticks(low, high) if log else _ticks(low, high, whole=whole)
    ticks = [Tick(round(_share(v, low, high, log), 3), _number(v)) for v in marks if low <= v <= high]
    return Axis(low, high, tuple(ticks), log)


def _share(value: float, low: float, high: float, log: bool) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return 100 * (value - low) / (high - low)


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(v) for v in MaxNLocator(4, integer=whole, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    stride = max(1, len(decades) // 5)
    inside = [10.0**k for k in decades[::stride] if low <= 10.0**k <= high]
    return inside if len(inside) > 2 else [m * 10.0**k for k in decades for m in (1, 3)]


def _number(value: float) -> str:
    if abs(value) >= 1e4 and value % 1000 == 0 and abs(value) < 1e6:
        return f"{value / 1000:g}k"
    return f"{value:.4g}".replace("-", "−")


def _legend(name: str, members: Sequence[Series]) -> str:
    if len(members) == 1:
        return members[0].item
    return f"{name}: mean of {len(members)}" if name else f"mean of {len(members)}"


def _summary(curve: Curve, mains: dict[str, Points]) -> str:
    parts = [
        f"{name + ' ' if name else ''}from {points[0][1]:.4g} at {curve.unit} {points[0][0]:g} "
        f"to {points[-1][1]:.4g} at {curve.unit} {points[-1][0]:g}"
        for name, points in mains.items()
    ]
    return f"{curve.metric.replace('_', ' ')}: {'; '.join(parts)}"


def _readout(curve: Curve, mains: dict[str, Points], x: Axis) -> str:
    series = [
        {"name": name, "points": [[round(step, 1), float(f"{value:.4g}")] for step, value in points]}
        for name, points in mains.items()
    ]
    return json.dumps({"unit": curve.unit, "low": x.low, "high": x.high, "series": series})
