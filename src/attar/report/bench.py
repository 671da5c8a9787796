"""The page of a bench: methods under one protocol, a table for each number of images and kind of labels, pictures."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from attar.errors import ArtifactError
from attar.plain import Count, Number, Text, exact, is_number, listed_problems
from attar.report.compare import signed
from attar.report.downloads import download
from attar.report.formats import binary_size, count, duration, size
from attar.report.page import draw
from attar.results.records import Labels
from attar.runtime.files import read_json, write_text

RESULT, PAGE = "bench.json", "report.html"
PREVIEW_LIMIT_BYTES = 4 << 20
SORTED_LAST = "full"
COLUMNS = (
    *("method", "ipc", "labels", "mean", "std", "n", "points", "low", "high"),
    *("beats_random", "bytes", "seconds", "memory_bytes"),
)
LABELS = {"hard": "class labels", "soft": "soft labels of one teacher"}


@exact
@dataclass(frozen=True)
class Row:
    """One line of the table; `seconds` and `memory_bytes` are of making the set, None where nothing was made or seen.

    `points`, `low` and `high` are the difference to random real images with the same labels and its 95 % interval by
    Welch; `beats_random` says in words what that shows, corrected for the number of comparisons (Holm).
    """

    method: Text
    ipc: Count
    labels: Labels
    mean: Number
    std: Number
    n: Annotated[int, Field(strict=True, ge=1)]
    bytes: Count
    seconds: Number | None
    memory_bytes: Count | None
    points: Number | None
    low: Number | None
    high: Number | None
    beats_random: Text


@dataclass(frozen=True)
class _Line:
    """A row of a table, in words; `bar` is the accuracy in percent of the best of all, for a bar."""

    method: str
    score: str
    n: int
    gain: str
    interval: str
    beats: str
    bytes: str
    made_in: str
    memory: str
    width: float
    spread: tuple[float, float]
    is_random: bool
    best: bool


def write_bench_report(folder: Path, page: Path | None = None) -> Path:
    """Draw the page of a bench's folder from what it keeps, and return its path.

    Raises ArtifactError where bench.json is missing or not one.
    """
    text = render_bench(read_bench(folder), folder)
    page = page or folder / PAGE
    write_text(page, text)
    return page


def read_bench(folder: Path) -> dict[str, Any]:
    """What a bench found, checked; raises ArtifactError where it is not there or damaged."""
    path = folder / RESULT
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no {RESULT}", fix="attar bench SOURCE --out " + str(folder))
    found = read_json(path)
    values: Mapping[str, Any] = found if isinstance(found, dict) else {}
    problem = "" if isinstance(values.get("protocol"), dict) else "protocol is missing"
    try:
        TypeAdapter(list[Row]).validate_python(values.get("rows"))
    except ValidationError as error:
        problem = listed_problems(error)
    if problem:
        raise ArtifactError(
            f"{path} is no result of a bench: {problem}", fix="run attar bench again: finished trainings are kept"
        )
    return dict(values)


def render_bench(found: Mapping[str, Any], folder: Path) -> str:
    """Draw the page; the same files give the same text."""
    rows = [row for row in found["rows"] if row["method"] != SORTED_LAST]
    whole = next((row for row in found["rows"] if row["method"] == SORTED_LAST), None)
    top = max((row["mean"] + row["std"] for row in found["rows"]), default=1.0) or 1.0
    tables = [
        {"title": _title(key), "name": f"ipc-{key[0]}-{key[1]}", "lines": _lines(list(members), top)}
        for key, members in groupby(rows, key=_condition)
    ]
    protocol = found["protocol"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    view = {
        "title": f"{len(methods)} methods on {found.get('source', 'a source')}",
        "kind": "bench of distillation methods",
        "subtitle": [str(found.get("description", ""))],
        "verdicts": _verdicts(rows),
        "tables": tables,
        "file": download(str(found.get("source", "")), "bench", COLUMNS, (_cells(row) for row in found["rows"])),
        "whole": f"{_score(whole)} % (n = {whole['n']})" if whole else "",
        "whole_bytes": size(whole["bytes"]) if whole else "",
        "protocol": {
            "protocol": protocol.get("name"),
            "network": protocol.get("network"),
            "judged by": protocol.get("split"),
            **_of(protocol.get("train")),
        },
        "views": _of(protocol.get("views")),
        "galleries": _galleries(rows, folder),
        "hardware": _of(found.get("hardware")),
        "draw": shlex.join(["attar", "report", str(folder)]),
    }
    return draw("bench.html", view)


def _cells(row: Mapping[str, Any]) -> list[Any]:
    return [row.get(name) for name in COLUMNS]


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each table: which methods are shown to beat random real images, and which are not."""
    sentences = []
    for key, members in groupby(rows, key=_condition):
        others = [row for row in members if row["method"] != "random"]
        won = [row["method"] for row in others if row.get("beats_random") == "yes"]
        lost = [row["method"] for row in others if row.get("beats_random") == "no, worse"]
        open_ = [row["method"] for row in others if row["method"] not in (*won, *lost)]
        parts = [f"{', '.join(won)} beat{'s' * (len(won) == 1)} random real images" if won else ""]
        parts += [f"{', '.join(lost)} {'is' if len(lost) == 1 else 'are'} worse" if lost else ""]
        parts += [f"{', '.join(open_)} {'is' if len(open_) == 1 else 'are'} not shown to differ" if open_ else ""]
        if told := "; ".join(filter(None, parts)):
            sentences.append(f"{_title(key)}: {told}.")
    return sentences


def _lines(members: Sequence[Mapping[str, Any]], top: float) -> list[_Line]:
    best = max(row["mean"] for row in members)
    return [
        _Line(
            method=row["method"],
            score=_score(row),
            n=int(row["n"]),
            gain=signed(row.get("points")),
            interval=_interval(row),
            beats=str(row.get("beats_random") or ""),
            bytes=size(row["bytes"]),
            made_in=duration(row["seconds"]) if is_number(row.get("seconds")) else "",
            memory=binary_size(row["memory_bytes"]) if is_number(row.get("memory_bytes")) else "",
            width=round(100 * row["mean"] / top, 2),
            spread=(_place(row["mean"] - row["std"], top), _place(row["mean"] + row["std"], top)),
            is_random=row["method"] == "random",
            best=row["mean"] == best and len(members) > 1,
        )
        for row in members
    ]


def _place(value: float, top: float) -> float:
    return round(100 * min(max(value, 0.0), top) / top, 2)


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row.get("low"), row.get("high")
    return f"{signed(low)} to {signed(high)}" if is_number(low) and is_number(high) else ""


def _score(row: Mapping[str, Any]) -> str:
    return f"{row['mean']:.1f}\u00a0±\u00a0{row['std']:.1f}" if row["n"] > 1 else f"{row['mean']:.1f}"


def _condition(row: Mapping[str, Any]) -> tuple[int, str]:
    return int(row["ipc"]), str(row["labels"])


def _title(key: tuple[int, str]) -> str:
    ipc, labels = key
    return f"{count(ipc)} image{'s' * (ipc != 1)} a class, {LABELS.get(labels, labels)}"


def _galleries(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, str]]:
    """The preview of each set, as a data URI."""
    found = []
    for method, ipc in dict.fromkeys((row["method"], row["ipc"]) for row in rows):
        path = folder / f"{method}-ipc{ipc}" / "distilled" / "preview.png"
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= PREVIEW_LIMIT_BYTES:
            picture = base64.b64encode(path.read_bytes()).decode()
            title = f"{method}, {count(ipc)} a class"
            found.append({"title": title, "picture": f"data:image/png;base64,{picture}"})
    return found


def _of(values: Any) -> dict[str, Any]:
    return dict(values) if isinstance(values, Mapping) else {}
