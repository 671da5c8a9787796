"""Accuracy as a function of images per class and of bytes: what several evaluations come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from attar.report.axes import Axis, axis_of, log_axis
from attar.report.charts import TONES, Chart, Line, Spread, summary_of
from attar.report.formats import size
from attar.report.headline import unbroken
from attar.report.several import Row
from attar.results.records import Record

MOST_MARKS = 6
STRIDE, NEAR, MOST_MOVED = 2.6, 4.0, 16.0
"""Percent of the plot: between points that are moved apart and what counts as one place, the height of a dot, and the
width that points of one place take at most."""
COLOURS = (0, 4, 5, 3)
LEVEL = 2 + 2 * TONES
"""Colour and dashes of the whole training set."""


@dataclass(frozen=True)
class _Series:
    """A line of a chart: distilled sets, by the name of their line, or random real images.

    `labelled_as` is the line of the sets whose teacher labelled random images; None: with hard labels, or distilled.
    """

    distilled: str | None
    labelled_as: str | None = None

    def __str__(self) -> str:
        like = f", labelled as {self.labelled_as}" if self.labelled_as is not None else ""
        return f"random real images{like}" if self.distilled is None else self.distilled


Points = Mapping[_Series, Sequence[Spread]]
Moved = Mapping[tuple[_Series, Spread], float]


def scaling_charts(rows: Sequence[Row]) -> tuple[Chart, ...]:
    """Charts for each network and kind of labels: over images per class, where these differ, and over bytes.

    A line joins the sets of one method, where no two of them have as many images; the whole training set is a level.
    """
    made: list[Chart] = []
    for model, labels in dict.fromkeys((row.ours.model, row.pair.labels) for row in rows):
        members = [row for row in rows if (row.ours.model, row.pair.labels) == (model, labels)]
        of = f"{model}, {labels} labels" if labels else model
        if len({row.judged.ipc for row in members}) > 1:
            made.append(_chart("Accuracy by images per class", "images per class", of, members, _by_ipc, "{:g}".format))
        if len(members) > 1:
            made.append(_chart("Accuracy by bytes", "images, labels and teacher", of, members, _by_bytes, _whole_size))
    return tuple(made)


def series_names(rows: Sequence[Row]) -> dict[str, str]:
    """The line that each evaluation, by its name, is on: its method's, or one of its own where ipc does not differ."""
    by_method: dict[str, list[float]] = {}
    for row in {row.judged.name: row for row in rows}.values():
        by_method.setdefault(row.judged.method, []).append(row.judged.ipc)
    apart = {method for method, ipcs in by_method.items() if len(set(ipcs)) < len(ipcs)}
    return {row.judged.name: row.judged.name if row.judged.method in apart else row.judged.method for row in rows}


def _by_ipc(row: Row, record: Record) -> float:
    return row.judged.ipc


def _by_bytes(row: Row, record: Record) -> float:
    return record.size_bytes


def _whole_size(num_bytes: float) -> str:
    """`1.0 kB` is `1 kB` below a tick."""
    return size(num_bytes).replace(".0 ", " ")


def _chart(
    title: str,
    unit: str,
    of: str,
    rows: Sequence[Row],
    place: Callable[[Row, Record], float],
    text: Callable[[float], str],
) -> Chart:
    points = _points(rows, place)
    level = next((row.full for row in rows if row.full), None)
    every = [spread for spreads in points.values() for spread in spreads]
    xs = sorted({spread.place for spread in every})
    x = log_axis(xs, text, xs if place is _by_ipc and len(xs) <= MOST_MARKS else ())
    ends = [spread.mean + sign * spread.std for spread in every for sign in (-1, 1)]
    y = axis_of([*ends, *([level.mean] if level else [])])
    tones = _tones(points)
    moved = _apart(points, x, y)
    lines = [line for one, spreads in points.items() for line in _lines(one, spreads, moved, tones[one], x, y)]
    legend = [(tones[one], str(one)) for one in points]
    if level:
        lines.insert(0, Line(f"M0 {1000 - 10 * y.place(level.mean):.1f}H1000", "main", LEVEL))
        legend.append((LEVEL, f"whole training set, {unbroken(level.score)}"))
    means = {str(one): [(s.place, s.mean) for s in spreads] for one, spreads in points.items()}
    return Chart(
        stage="scaling",
        title=title,
        of=of,
        x=x,
        y=y,
        unit=unit,
        lines=tuple(lines),
        legend=tuple(legend),
        summary=summary_of(title, unit, means),
        readout="",
        note="points that coincide stand side by side" if any(moved.values()) else "",
    )


def _tones(found: Iterable[_Series]) -> dict[_Series, int]:
    """A colour for each line of distilled sets; random images that were labelled as they are have it too, dashed."""
    tones: dict[_Series, int] = {}
    for one in found:
        if one.labelled_as is not None:
            tones[one] = tones[_Series(one.labelled_as)] % TONES + TONES
        elif one.distilled is None:
            tones[one] = 1
        else:
            num = len(tones)
            tones[one] = COLOURS[num % len(COLOURS)] + TONES * (num // len(COLOURS))
    return tones


def _points(rows: Sequence[Row], place: Callable[[Row, Record], float]) -> Points:
    """The distilled sets' series, then those of random images; places ascending.

    Random images with soft labels go with the teacher that labelled them; with hard ones they are the same for all.
    """
    names = series_names(rows)
    found: dict[_Series, list[Spread]] = {}
    for row in rows:
        found.setdefault(_Series(names[row.judged.name]), []).append(_spread(place(row, row.ours), row.ours))
    for row in rows:
        random = row.pair.random
        if random is not None and row.pair.labelled_alike:
            like = names[row.judged.name] if row.pair.labels == "soft" else None
            found.setdefault(_Series(None, like), []).append(_spread(place(row, random), random))
    return {one: _merged(spreads) for one, spreads in found.items()}


def _spread(place: float, record: Record) -> Spread:
    return Spread(place, record.mean, record.std)


def _merged(spreads: Iterable[Spread]) -> list[Spread]:
    """Ascending, each once: what was measured twice to the same end is one point, all else stays apart."""
    return sorted(dict.fromkeys(spreads), key=lambda spread: (spread.place, spread.mean))


def _apart(points: Points, x: Axis, y: Axis) -> dict[tuple[_Series, Spread], float]:
    """How far points are moved sideways that would hide each other, in percent of the plot's width."""
    placed = [(one, spread) for one, spreads in points.items() for spread in spreads]
    clusters: list[list[tuple[_Series, Spread]]] = []
    for point in placed:
        near = [members for members in clusters if any(_coincide(point[1], other, x, y) for _, other in members)]
        clusters = [members for members in clusters if members not in near]
        clusters.append([*(member for members in near for member in members), point])
    moved: dict[tuple[_Series, Spread], float] = {}
    for members in clusters:
        stride = min(STRIDE, MOST_MOVED / len(members))
        moved |= {point: stride * (rank - (len(members) - 1) / 2) for rank, point in enumerate(members)}
    return moved


def _coincide(one: Spread, other: Spread, x: Axis, y: Axis) -> bool:
    """Whether dots or bars of two points would lie on each other."""
    (low, high), (other_low, other_high) = (
        (y.place(spread.mean - spread.std) - NEAR / 2, y.place(spread.mean + spread.std) + NEAR / 2)
        for spread in (one, other)
    )
    return abs(x.place(one.place) - x.place(other.place)) < STRIDE and low < other_high and other_low < high


def _lines(one: _Series, spreads: Sequence[Spread], moved: Moved, tone: int, x: Axis, y: Axis) -> list[Line]:
    """A line through the means, a bar of one standard deviation to each side of each, and a dot on it."""
    places = [
        (10 * min(100.0, max(0.0, x.place(s.place) + moved[one, s])), 1000 - 10 * y.place(s.mean)) for s in spreads
    ]
    bars = "".join(
        f"M{at:.1f} {1000 - 10 * y.place(s.mean - s.std):.1f}V{1000 - 10 * y.place(s.mean + s.std):.1f}"
        for s, (at, _) in zip(spreads, places, strict=True)
        if s.std
    )
    dots = "".join(f"M{at:.1f} {high:.1f}h0" for at, high in places)
    joined = "M" + "L".join(f"{at:.1f} {high:.1f}" for at, high in places)
    made = [Line(joined, "main", tone)] if len(places) > 1 else []
    return [*([Line(bars, "whisker", tone)] if bars else []), *made, Line(dots, "dot", tone)]
