"""One page over several runs: a table and figures for those that may be compared, and why others stand apart."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attar.report.charts import Chart
from attar.report.continual import ContinualView, continual_views
from attar.report.downloads import Cell, Download, download
from attar.report.formats import duration, size
from attar.report.lineup import Pictures, Shown, pictures, read_shown
from attar.report.page import draw
from attar.report.scaling import scaling_charts
from attar.report.several import Group, Judged, Row, grouped, rows
from attar.results.records import Labels
from attar.runtime.files import write_text

PAGE = "comparison.html"
PARTS = ("run", "images", "labels", "teacher", "whitening", "total")
COLUMNS = (
    *("run", "method", "ipc", "labels", "network"),
    *(f"{who} {what}" for who in ("distilled", "random", "whole set") for what in ("mean", "std", "n")),
    *("ahead", "bytes", "seconds"),
)


@dataclass(frozen=True)
class RowView:
    """A row of the table, in words; `best`: of its network, labels and images per class in its group."""

    name: str
    method: str
    ipc: str
    labels: str
    model: str
    distilled: str
    n: int
    random: str
    gain: str
    full: str
    bytes: str
    made_in: str
    best: bool


@dataclass(frozen=True)
class GroupView:
    """Runs that may be compared."""

    title: str
    lead: str
    because: tuple[str, ...]
    alike: tuple[str, ...]
    """The commands after which they can be compared with the first group."""
    rows: tuple[RowView, ...]
    charts: tuple[Chart, ...]
    arriving: tuple[ContinualView, ...] = ()
    """Of runs whose classes arrived step by step."""
    pictures: Pictures | None = None
    file: Download | None = None
    """The table in full."""


@dataclass(frozen=True)
class RunView:
    """What a run weighs, what it took, and how it is made again."""

    name: str
    images: str
    labels: str
    teacher: str
    total: str
    made_in: str
    hardware: str
    command: str


def write_comparison(judged: Sequence[Judged], out: Path) -> Path:
    """Write the page, with the images of the sets that still are where they were, and return its path."""
    write_text(out, render_comparison(judged, out, read_shown(judged)))
    return out


def render_comparison(
    judged: Sequence[Judged], out: Path = Path(PAGE), shown: Mapping[str, Shown] | None = None
) -> str:
    """Draw the page; the same evaluations, with the same images `shown` by their names, give the same text."""
    groups = [
        replace(group_view(group), pictures=pictures(group, shown or {}), file=_file(group, number))
        for number, group in enumerate(grouped(judged), 1)
    ]
    methods = dict.fromkeys(one.method for one in judged)
    sources = dict.fromkeys(one.source for one in judged if one.source)
    view = {
        "title": f"{len(judged)} runs compared",
        "kind": "comparison of distilled datasets",
        "subtitle": [part for part in (", ".join(sources), ", ".join(methods)) if part],
        "groups": groups,
        "runs": [_run(one) for one in judged],
        "runs_file": download("comparison", "runs", [*PARTS, "seconds"], map(_weight, judged)),
        "draw": shlex.join(["attar", "compare", *(str(one.path) for one in judged), "--out", str(out.parent)]),
    }
    return draw("compare.html", view)


def group_view(group: Group) -> GroupView:
    """Lay out one group."""
    made = rows(group)
    first = group.members[0]
    return GroupView(
        title=_title(group),
        lead=f"{first.conditions['real images'].text} to distill; {first.conditions['tested_on'].text}."
        if "tested_on" in first.conditions
        else "",
        because=group.because,
        alike=group.alike,
        rows=tuple(_row(row, made) for row in made),
        charts=scaling_charts(made),
        arriving=continual_views({one.name: one.arriving for one in group.members}),
    )


def _file(group: Group, number: int) -> Download:
    return download("comparison", f"accuracies-{number}", COLUMNS, map(_cells, rows(group)))


def _cells(row: Row) -> list[Cell]:
    random = row.pair.random if row.pair.labelled_alike else None
    judged, own = row.judged, row.ours
    told: list[Cell] = [judged.name, judged.method, judged.ipc, row.pair.labels, own.model]
    for record in (own, random, row.full):
        told += [record.mean, record.std if record.n > 1 else None, record.n] if record else [None] * 3
    return [*told, row.gain, own.size_bytes, judged.wall_s]


def _weight(one: Judged) -> list[Cell]:
    return [one.name, *(one.sizes.get(part) for part in PARTS[1:]), one.wall_s]


def _title(group: Group) -> str:
    sources = dict.fromkeys(one.source for one in group.members if one.source)
    what = group.members[0].conditions["classes and size"].text
    return f"{', '.join(sources)}: {what}" if sources else what


def _row(row: Row, others: Sequence[Row]) -> RowView:
    ours = row.ours
    random = row.pair.random if row.pair.labelled_alike else None
    rivals = [other.ours.mean for other in others if _like(other) == _like(row)]
    return RowView(
        name=row.judged.name,
        method=row.judged.method,
        ipc=f"{row.judged.ipc:g}",
        labels=row.pair.labels or "",
        model=ours.model,
        distilled=_score(ours.mean, ours.std, ours.n),
        n=ours.n,
        random=_score(random.mean, random.std, random.n) if random else "",
        gain=signed(row.gain),
        full=_score(row.full.mean, row.full.std, row.full.n) if row.full else "",
        bytes=size(ours.size_bytes),
        made_in=_made_in(row.judged),
        best=len(rivals) > 1 and ours.mean == max(rivals),
    )


def _like(row: Row) -> tuple[str, Labels | None, float]:
    return row.ours.model, row.pair.labels, row.judged.ipc


def signed(points: float | None) -> str:
    """`+5.3`, `−8.0`; empty where nothing was compared."""
    return "" if points is None else f"{points:+.1f}".replace("-", "−")


def _score(mean: float, std: float, n: int) -> str:
    return f"{mean:.1f}\u00a0±\u00a0{std:.1f}" if n > 1 else f"{mean:.1f}"


def _made_in(judged: Judged) -> str:
    return "" if judged.wall_s is None else duration(judged.wall_s)


def _run(one: Judged) -> RunView:
    sizes = {
        name: size(one.sizes[name]) if name in one.sizes else "" for name in ("images", "labels", "teacher", "total")
    }
    return RunView(name=one.name, **sizes, made_in=_made_in(one), hardware=one.hardware, command=one.command)
