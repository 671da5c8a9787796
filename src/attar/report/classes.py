"""Accuracy class by class and what is taken for what, of the best set beside random real images. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attar.report.collect import ReportData
from attar.report.formats import count
from attar.report.headline import accuracies, group_title, trained_on
from attar.results.by_class import ByClass
from attar.results.records import Record
from attar.results.verdict import pairs

MOST_ROWS = 40
"""Classes of a table; of more, the ENDS best and the ENDS worst are shown."""
ENDS = 10
MOST_SQUARE = 20
"""Classes of a confusion matrix on the page; of more, the pairs that are confused most are shown."""
MOST_PAIRS = 10
HEAT = 9
"""Steps of the matrix' colour."""


@dataclass(frozen=True)
class Square:
    """A cell of a confusion matrix: percent of the class's images, in words, and how strong its colour is."""

    text: str
    heat: int
    told: str
    right: bool


@dataclass(frozen=True)
class Confused:
    """A class that is taken for another: in percent of its images."""

    true: str
    taken_for: str
    percent: str


@dataclass(frozen=True)
class SetView:
    """One set that networks were trained on: its matrix where classes are few, else what is confused most."""

    name: str
    ours: bool
    matrix: tuple[tuple[str, tuple[Square, ...]], ...]
    confused: tuple[Confused, ...]


@dataclass(frozen=True)
class Line:
    """A class: its percents, one for each set, None where no image judged; a `gap` stands for classes left out."""

    name: str
    percents: tuple[float | None, ...]
    ahead: str = ""
    gap: bool = False


@dataclass(frozen=True)
class ClassesView:
    """Lines of the table, the sets, and which network it is."""

    model: str
    note: str
    sets: tuple[SetView, ...]
    lines: tuple[Line, ...]
    names: tuple[str, ...]
    counted: tuple[ByClass, ...]
    """Of the sets, all that was counted."""


def classes_view(data: ReportData) -> ClassesView | None:
    """Lay out the first network's accuracies by class; None where they were not counted."""
    measured = accuracies(data.records)
    chosen = [(record, found) for record in _chosen(measured) if (found := _counted(data, record))]
    chosen = [one for one in chosen if one[1].num_classes == chosen[0][1].num_classes]
    if not chosen:
        return None
    names = tuple(data.class_name(label) for label in range(chosen[0][1].num_classes))
    counted = tuple(found for _, found in chosen)
    titles = [trained_on(record, [one for one, _ in chosen]) for record, _ in chosen]
    sets = [_set(title, found, names) for title, found in zip(titles, counted, strict=True)]
    lines = _lines(counted, names)
    return ClassesView(
        model=chosen[0][0].model,
        note=_note(counted, [record for record, _ in chosen], len(lines)),
        sets=tuple(sets),
        lines=lines,
        names=names,
        counted=counted,
    )


def _chosen(measured: Sequence[Record]) -> list[Record]:
    """Of the first network: the best distilled set, random images labelled alike, and a rival better than both."""
    own = [one for one in measured if one.model == measured[0].model and one.augmented]
    compared = pairs(own)
    if not compared:
        return []
    pair = max(compared, key=lambda pair: pair.distilled.mean)
    found = [pair.distilled, *([pair.random] if pair.random else [])]
    rivals = [one for one in own if one.group not in ("distilled", "random", "full")]
    best = max(rivals, key=lambda one: one.mean, default=None)
    return [best, *found] if best and best.mean > max(one.mean for one in found) else found


def _counted(data: ReportData, record: Record) -> ByClass | None:
    return next((one for one in data.by_class if one.is_of(record)), None)


def _set(title: str, found: ByClass, names: Sequence[str]) -> SetView:
    square = found.whole and found.num_classes <= MOST_SQUARE
    return SetView(
        name=title,
        ours=found.group == "distilled",
        matrix=_matrix(found, names) if square else (),
        confused=() if square else tuple(_pair(found, cell, names) for cell in found.confused[:MOST_PAIRS]),
    )


def _pair(found: ByClass, cell: tuple[int, int, int], names: Sequence[str]) -> Confused:
    true, other, num = cell
    return Confused(names[true], names[other], f"{100 * num / found.num[true]:.0f} %")


def _matrix(found: ByClass, names: Sequence[str]) -> tuple[tuple[str, tuple[Square, ...]], ...]:
    cells = {(true, other): num for true, other, num in found.confused}
    cells |= {(label, label): num for label, num in enumerate(found.right)}
    labels = range(found.num_classes)
    return tuple((names[true], tuple(_square(found, cells, true, other, names) for other in labels)) for true in labels)


def _square(found: ByClass, cells: dict[tuple[int, int], int], true: int, other: int, names: Sequence[str]) -> Square:
    num, of = cells.get((true, other), 0), found.num[true]
    share = num / of if of else 0.0
    told = f"{names[true]} taken for {names[other]}: {count(num)} of {count(of)}"
    return Square(f"{100 * share:.0f}" if num else "", round(HEAT * share + 0.4) if num else 0, told, true == other)


def _lines(counted: Sequence[ByClass], names: Sequence[str]) -> tuple[Line, ...]:
    """Classes in their order; of many, those that the first set does best on and worst, best first."""
    labels = [*range(len(names))]
    if len(labels) <= MOST_ROWS:
        return tuple(_line(counted, label, names) for label in labels)
    known = [label for label in labels if counted[0].percent(label) is not None]
    known.sort(key=lambda label: -(counted[0].percent(label) or 0.0))
    best, worst = ([_line(counted, label, names) for label in part] for part in (known[:ENDS], known[-ENDS:]))
    gap = Line(f"{count(len(names) - 2 * ENDS)} more classes", (), gap=True)
    return (*best, gap, *worst)


def _line(counted: Sequence[ByClass], label: int, names: Sequence[str]) -> Line:
    percents = tuple(one.percent(label) for one in counted)
    own = next((p for p, one in zip(percents, counted, strict=True) if one.group == "distilled"), None)
    random = next((p for p, one in zip(percents, counted, strict=True) if one.group == "random"), None)
    ahead = "" if own is None or random is None else f"{own - random:+.1f}".replace("-", "−")
    return Line(names[label], percents, ahead)


def _note(counted: Sequence[ByClass], records: Sequence[Record], num_lines: int) -> str:
    shown = max(counted[0].num)
    each = f"up to {count(shown // max(1, counted[0].seeds))} judge each"
    seeds = f", {counted[0].seeds} networks together" if counted[0].seeds > 1 else ""
    part = "" if num_lines == counted[0].num_classes else f" The {ENDS} best and the {ENDS} worst are shown."
    best = records[0].group
    chosen = f" {group_title(best)} does best here." if best not in ("distilled", "random") else ""
    return f"Percent of each class’s {records[0].split or 'test'} images; {each}{seeds}.{part}{chosen}"
