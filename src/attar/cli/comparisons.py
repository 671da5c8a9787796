"""Tables of several runs for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from attar.report.compare import RowView, group_view
from attar.report.formats import binary_size, roughly
from attar.report.several import Group, Row, rows
from attar.report.study import noise_text
from attar.results.significance import MEANING, cell_of, signed
from attar.visible import visible

if TYPE_CHECKING:
    from attar.studies.bench import BenchResult
    from attar.studies.result import StudyResult

COLUMNS = ("run", "method", "ipc", "labels", "network", "distilled", "random real", "ahead", "bytes", "made in")
WORDS = ("run", "method", "labels", "network")


def print_comparison(groups: Sequence[Group]) -> None:
    """A table for each group of runs that may be compared, under what sets it apart from the first."""
    console = Console(width=None if sys.stdout.isatty() else 120, markup=False)
    for group in groups:
        view = group_view(group)
        console.print(visible(f"{view.title}; {view.lead}"), highlight=False, markup=False, style="bold")
        if view.because:
            because = visible("; ".join(view.because))
            console.print(f"not comparable with the first: {because}", highlight=False, markup=False)
        if view.alike:
            console.print("to judge as the first was judged, and compare:", highlight=False)
            for line in view.alike:
                console.print(f"  {visible(line)}", highlight=False, markup=False, soft_wrap=True)
        console.print(_table(view.rows))
        for model in dict.fromkeys(row.model for row in view.rows if row.full):
            whole = " and ".join(dict.fromkeys(row.full for row in view.rows if row.model == model and row.full))
            console.print(visible(f"whole training set, {model}: {whole}"), highlight=False, markup=False)
        console.print()
    if any(row.best for group in groups for row in group_view(group).rows):
        console.print("* the best of its network, labels and ipc; accuracies in percent", highlight=False, markup=False)


def comparison_json(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Plain values of the groups and their rows."""
    return [
        {"because": list(group.because), "alike": list(group.alike), "rows": [_plain(row) for row in rows(group)]}
        for group in groups
    ]


def print_study(result: StudyResult) -> None:
    """A line for each record of a study with its difference to the baseline, and what they say."""
    console = Console(width=None if sys.stdout.isatty() else 140, markup=False)
    found = {id(contrast.record): contrast for contrast in result.contrasts}
    made = [(record, found.get(id(record))) for record in result.records]
    places = [cell_of(record) for record in result.records]
    cells = {
        "strategy": [place.strategy for place in places],
        "variant": [place.variant for place in places],
        "network": [record.model for record, _ in made],
        "wrong labels": [noise_text(place.label_noise) for place in places],
        "images seen": [f"{place.images_seen:,}" for place in places],
        result.records[0].metric_name.replace("_", " "): [f"{record.score} (n={record.n})" for record, _ in made],
        "difference": [signed(contrast.points) if contrast else "" for _, contrast in made],
        "95 %": [contrast.interval if contrast else "" for _, contrast in made],
        "verdict": [contrast.verdict if contrast else "" for _, contrast in made],
    }
    console.print(_drawn(cells, ("strategy", "variant", "network", "verdict"), ("variant", "network", "wrong labels")))
    lines = [str(result.summary), MEANING if result.contrasts else "", result.held_equal]
    for line in filter(None, lines):
        console.print(visible(line), highlight=False, markup=False, soft_wrap=not console.is_terminal)
    console.print(f"report: {result.report}", highlight=False, markup=False, soft_wrap=True)


def study_json(result: StudyResult) -> dict[str, Any]:
    """Plain values of a study's result."""
    return {
        "study": str(result.path),
        "records": [record.to_json() for record in result.records],
        "contrasts": [contrast.to_json() for contrast in result.contrasts],
        "summary": result.summary.to_json(),
        "held_equal": result.held_equal,
        "report": str(result.report) if result.report else None,
    }


def _table(found: Sequence[RowView]) -> Table:
    cells = {
        "run": [row.name for row in found],
        "method": [row.method for row in found],
        "ipc": [row.ipc for row in found],
        "labels": [row.labels for row in found],
        "network": [row.model for row in found],
        "distilled": [f"{row.distilled} (n={row.n}){' *' if row.best else '  '}" for row in found],
        "random real": [row.random for row in found],
        "ahead": [row.gain for row in found],
        "bytes": [row.bytes for row in found],
        "made in": [row.made_in for row in found],
    }
    return _drawn(cells, WORDS, ("labels", "network"))


def _drawn(cells: dict[str, list[str]], left: Sequence[str], dropped: Sequence[str]) -> Table:
    """A table of these columns, words to the `left`; those to be `dropped` stay where their cells differ."""
    kept = {name: values for name, values in cells.items() if name not in dropped or len(set(values)) > 1}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in kept:
        words = name in left
        table.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in zip(*kept.values(), strict=True):
        table.add_row(*map(visible, row))
    return table


def _plain(row: Row) -> dict[str, Any]:
    judged, random = row.judged, row.pair.random
    return {
        "run": judged.name,
        "path": str(judged.path),
        "method": judged.method,
        "source": judged.source,
        "ipc": judged.ipc,
        "labels": row.pair.labels,
        "model": row.ours.model,
        "distilled": row.ours.to_json(),
        "random": random.to_json() if random is not None and row.pair.labelled_alike else None,
        "full": row.full.to_json() if row.full else None,
        "gain": row.gain,
        "size_bytes": row.ours.size_bytes,
        "sizes": dict(judged.sizes),
        "made_in_s": judged.wall_s,
        "hardware": judged.hardware,
    }


def print_bench(result: BenchResult) -> None:
    """A row for each set, by images per class and labels; below them all real images, and the page."""
    console = Console(width=None if sys.stdout.isatty() else 140, markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("ipc", "labels", "method"):
        table.add_column(name, justify="right" if name == "ipc" else "left")
    for name in ("accuracy", "ahead", "95 %", "beats random?", "bytes", "made in", "memory"):
        table.add_column(name, justify="left" if name == "beats random?" else "right")
    before: tuple[int, str] | None = None
    for row in result.rows:
        if not row.ipc:
            continue
        if before not in (None, (row.ipc, row.labels)):
            table.add_row()
        before = (row.ipc, row.labels)
        interval = "" if row.low is None or row.high is None else f"{signed(row.low)} to {signed(row.high)}"
        table.add_row(
            str(row.ipc),
            row.labels,
            row.method,
            f"{row.mean:.1f} ± {row.std:.1f} (n={row.n})" if row.n > 1 else f"{row.mean:.1f}",
            "" if row.points is None else signed(row.points),
            interval,
            row.beats_random,
            f"{row.bytes:,}",
            "" if row.seconds is None else roughly(row.seconds),
            "" if row.memory_bytes is None else binary_size(row.memory_bytes),
        )
    console.print(table)
    for row in result.rows:
        if not row.ipc:
            console.print(f"all real images: {row.mean:.1f} ± {row.std:.1f} %, {row.bytes:,} bytes", highlight=False)
    network = result.protocol["network"]
    told = (
        f"protocol {result.protocol['name']}; {network}, {result.protocol['split']} split, last epoch; "
        "beats random: Welch's t test at 5 %, Holm-corrected"
    )
    console.print(visible(told), highlight=False, soft_wrap=not console.is_terminal)
    if result.report:
        console.print(f"report: {result.report}", highlight=False, soft_wrap=True)


def bench_json(result: BenchResult) -> dict[str, Any]:
    """Plain values of a bench."""
    rows = [asdict(row) for row in result.rows]
    return {"rows": rows, "protocol": dict(result.protocol), "report": str(result.report) if result.report else None}
