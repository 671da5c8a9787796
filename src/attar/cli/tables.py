"""Tables of one evaluation for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table

from attar.cli.texts import echo
from attar.results.ddranking import NAMES, Scores, score_text
from attar.results.records import Record
from attar.results.verdict import Words, best_lines, group_words
from attar.visible import visible


def print_records(records: Sequence[Record], verdict: Words) -> None:
    """A row for each record, with its labels and its network where these differ; below the verdict, and any best."""
    best, records = best_lines(records), [record for record in records if not record.best]
    columns: dict[str, list[str]] = {
        "trained on": [record.subject for record in records],
        "labels": [record.labels or "" for record in records],
        "network": [record.model for record in records],
        "images": [f"{record.num_images:,}" for record in records],
        "bytes": [f"{record.size_bytes:,}" for record in records],
        records[0].metric_name.replace("_", " "): [f"{record.score}  (n={record.n})" for record in records],
    }
    if len(set(columns["labels"])) > 1:
        columns["trained on"] = [group_words(record) for record in records]
    for name in ("labels", "network"):
        if len(set(columns[name])) == 1:
            del columns[name]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        left = name in ("trained on", "labels", "network")
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=name != "network")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*map(visible, row))
    console = Console(width=None if sys.stdout.isatty() else 100, markup=False)
    console.print(table)
    for text in (str(verdict), *best):
        console.print(visible(text), highlight=False, markup=False, soft_wrap=not console.is_terminal)


def print_steps(records: Sequence[Record]) -> None:
    """A row for each step, a column for each subject, and the mean over the steps below."""
    subjects = list(dict.fromkeys(record.subject for record in records))
    found = {(arrival.step, record.subject): (record, arrival) for record in records if (arrival := record.arrival)}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "classes", *subjects):
        table.add_column(name, justify="right")
    for step in dict.fromkeys(step for step, _ in found):
        of_step = [found[step, subject] for subject in subjects]
        table.add_row(str(step), str(of_step[0][1].num_classes), *(record.score for record, _ in of_step))
    means = [fmean(record.mean for record in records if record.subject == subject) for subject in subjects]
    table.add_row("mean", "", *(f"{mean:.1f} %" for mean in means), style="bold")
    Console(width=None if sys.stdout.isatty() else 100, markup=False).print(table)
    echo(f"{records[0].model}, n={records[0].n}, accuracy on the classes seen after the last epoch")


def print_scores(found: Sequence[Scores], *, told: bool) -> None:
    """A line for each network with its scores, where they were asked for or nothing is missing."""
    for one in found:
        if told or not one.missing:
            parts = [f"{NAMES[name]} {score_text(name, record)}" for name, record in one.found.items()]
            parts += [f"{NAMES[name]} missing" for name in one.missing]
            echo(f"DD-Ranking, {one.model}: {', '.join(parts)}")
            if one.missing:
                echo(f"not trained on: {'; '.join(one.lacking)}")
