"""Where the lines, ticks and dots of the page's charts lie.

The charts are inline SVG, drawn by the template from the places worked out here, and not matplotlib's: such
a figure takes its colours from the page (dark mode, print), its text keeps its size on a phone while its
width follows the column, and the step that the animation shows can be marked in it. Horizontal and vertical
places are in percent of the plot, from its upper left corner.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from attar.items import Item
from attar.report.axes import Axis, axis_of
from attar.report.curves import Curve, Series
from attar.results.records import Record

MOST_POINTS = 90
MOST_MEMBERS = 12
TONES = 6
GROUP_TONES = {"distilled": 0, "random": 1, "full": 2, "herding": 4, "kcenter": 5, "kmeans": 3}
"""A colour for each kind of images that networks are trained on, the same in every chart."""
TITLES = {
    "classification": "classification loss",
    "statistics": "BatchNorm statistics loss",
    "confidence": "teacher’s confidence",
    "validation_accuracy": "validation accuracy, percent",
}
Points = list[tuple[float, float]]
T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """A path in the units of a 1000 x 1000 box; `kind` is `main`, `member` or `band`, `tone` its group's number."""

    path: str
    kind: str
    tone: int


@dataclass(frozen=True)
class Chart:
    """One plot with its legend, a sentence for those who don't see it, and the values for the pointer as JSON."""

    stage: str
    title: str
    of: str
    x: Axis
    y: Axis
    unit: str
    lines: tuple[Line, ...]
    legend: tuple[tuple[int, str], ...]
    summary: str
    readout: str
    note: str = ""
    """What the lines are, where that is true of all of them."""
    metric: str = ""
    """What was measured, by its name."""


@dataclass(frozen=True)
class Spread:
    """The mean of something at a place of the x axis, and one standard deviation to each side."""

    place: float
    mean: float
    std: float


@dataclass(frozen=True)
class Bar:
    """One row of the comparison: what it is of, places of the mean, of the ends of mean ± std and of each value."""

    name: str
    record: Record
    mean: float
    low: float
    high: float
    values: tuple[float, ...]


def chart(curve: Curve) -> Chart:
    """Lay out one metric: items that differ by a number only share a tone under their mean.

    Few such members are drawn thin behind it, of more than MOST_MEMBERS the range is.
    """
    groups: dict[str, list[Series]] = defaultdict(list)
    for series in curve.series:
        groups[_family(series.item)].append(series)
    mains = {name: _mean(members) for name, members in groups.items()}
    x = axis_of([step for series in curve.series for step in series.steps], whole=True)
    y = axis_of([value for series in curve.series for value in series.values])
    tones = _tones(curve.stage, {name: members[0].item for name, members in groups.items()})
    lines = [line for name, members in groups.items() for line in _context(members, tones[name], x, y)]
    lines += [Line(_path(points, x, y), "main", tones[name]) for name, points in mains.items()]
    nums = {len(members) for members in groups.values()}
    alike = nums.pop() if len(groups) > 1 and len(nums) == 1 and max(nums) > 1 else 0
    title = TITLES.get(curve.metric, curve.metric.replace("_", " "))
    return Chart(
        stage=curve.stage,
        title=title,
        of=curve.of,
        x=x,
        y=y,
        unit=curve.unit,
        lines=tuple(lines),
        legend=tuple((tones[name], name if alike else _legend(name, groups[name])) for name in groups),
        summary=summary_of(title, curve.unit, mains),
        readout=_readout(curve.unit, mains, x),
        note=f"means of {alike}" if alike else "",
        metric=curve.metric,
    )


def spread_chart(stage: str, title: str, unit: str, groups: Mapping[str, Sequence[Spread]]) -> Chart:
    """Lay out means over a few places, with a band of one standard deviation to each side."""
    every = [spread for spreads in groups.values() for spread in spreads]
    x = axis_of([spread.place for spread in every], whole=True)
    y = axis_of([spread.mean + sign * spread.std for spread in every for sign in (-1, 1)])
    mains = {name: [(spread.place, spread.mean) for spread in spreads] for name, spreads in groups.items()}
    bands = [
        _band([(s.place, s.mean - s.std, s.mean + s.std) for s in spreads], tone, x, y)
        for tone, spreads in enumerate(groups.values())
        if any(spread.std for spread in spreads)
    ]
    return Chart(
        stage=stage,
        title=title,
        of="",
        x=x,
        y=y,
        unit=unit,
        lines=(*bands, *(Line(_path(points, x, y), "main", tone) for tone, points in enumerate(mains.values()))),
        legend=tuple(enumerate(groups)),
        summary=summary_of(title, unit, mains),
        readout=_readout(unit, mains, x),
    )


def bars(records: Sequence[Record], axis: Axis, names: Sequence[str]) -> tuple[Bar, ...]:
    """Lay out accuracies, under these names, as dots with their spread."""
    return tuple(_bar(name, record, axis) for name, record in zip(names, records, strict=True))


def _bar(name: str, record: Record, axis: Axis) -> Bar:
    mean, low, high, *values = (
        round(min(100.0, max(0.0, axis.place(value))), 3)
        for value in (record.mean, record.mean - record.std, record.mean + record.std, *record.values)
    )
    return Bar(name, record, mean, low, high, tuple(values))


def _family(item: Item) -> str:
    return item.family or item.name


def _tones(stage: str, found: Mapping[str, Item]) -> dict[str, int]:
    """Number of colour and dashes of each family; in an evaluation the colour tells the images, dashes their labels."""
    if stage != "evaluate":
        return {name: tone for tone, name in enumerate(found)}
    tones: dict[str, int] = {}
    free = [tone for tone in range(TONES) if tone not in GROUP_TONES.values()]
    first: dict[str | None, str | None] = {}
    for name, item in found.items():
        colour = GROUP_TONES.get(item.group or "", free[0] if free else len(tones) % TONES)
        other_labels = item.labels != first.setdefault(item.group, item.labels)
        dashes = 2 if not item.augmented else 1 if other_labels else 0
        tones[name] = colour + TONES * dashes
    return tones


def _by_step(members: Sequence[Series]) -> list[tuple[float, list[float]]]:
    values: dict[float, list[float]] = defaultdict(list)
    for series in members:
        for step, value in zip(series.steps, series.values, strict=True):
            values[step].append(value)
    return sorted(values.items())


def _mean(members: Sequence[Series]) -> Points:
    """Mean over the members at each step that any of them has, thinned by averaging neighbours."""
    points = [(step, statistics.fmean(values)) for step, values in _by_step(members)]
    return [(statistics.fmean(x), statistics.fmean(y)) for x, y in (zip(*p, strict=True) for p in _buckets(points))]


def _context(members: Sequence[Series], tone: int, x: Axis, y: Axis) -> list[Line]:
    """What lies behind a main line: every one of a few members, or the range of many, or what thinning hid."""
    if 1 < len(members) <= MOST_MEMBERS:
        return [Line(_path(_mean([series]), x, y), "member", tone) for series in members]
    found = _by_step(members)
    if len(members) == 1 and len(found) <= MOST_POINTS:
        return []
    ends = []
    for part in _buckets(found):
        values = [value for _, at_step in part for value in at_step]
        ends.append((statistics.fmean(step for step, _ in part), min(values), max(values)))
    return [_band(ends, tone, x, y)]


def _band(ends: Sequence[tuple[float, float, float]], tone: int, x: Axis, y: Axis) -> Line:
    """The area between the lows and the highs of (step, low, high)."""
    upper = [(step, high) for step, _, high in ends]
    lower = [(step, low) for step, low, _ in ends]
    return Line(_path(upper + lower[::-1], x, y) + "Z", "band", tone)


def _buckets(points: Sequence[T]) -> list[Sequence[T]]:
    if len(points) <= MOST_POINTS:
        return [[point] for point in points]
    edges = [round(i * len(points) / MOST_POINTS) for i in range(MOST_POINTS + 1)]
    return [points[a:b] for a, b in itertools.pairwise(edges)]


def _path(points: Points, x: Axis, y: Axis) -> str:
    places = [f"{10 * x.place(step):.1f} {1000 - 10 * y.place(value):.1f}" for step, value in points]
    if len(places) == 1:
        places.append(places[0])  # a round cap makes it a dot
    return "M" + "L".join(places)


def _legend(name: str, members: Sequence[Series]) -> str:
    if len(members) == 1:
        return members[0].item.short_name
    mean = f"mean of {len(members)}{' and their range' if len(members) > MOST_MEMBERS else ''}"
    return f"{name}: {mean}" if name else mean


def summary_of(title: str, unit: str, mains: Mapping[str, Points]) -> str:
    """What a chart shows, in words: where each line begins and ends."""
    parts = [
        f"{name + ' ' if name else ''}from {points[0][1]:.4g} at {unit} {points[0][0]:g} "
        f"to {points[-1][1]:.4g} at {unit} {points[-1][0]:g}"
        for name, points in mains.items()
    ]
    return f"{title}: {'; '.join(parts)}"


def _readout(unit: str, mains: Mapping[str, Points], x: Axis) -> str:
    series = [
        {"name": name, "points": [[round(step, 1), float(f"{value:.4g}")] for step, value in points]}
        for name, points in mains.items()
    ]
    return json.dumps({"unit": unit, "low": x.low, "high": x.high, "series": series})
