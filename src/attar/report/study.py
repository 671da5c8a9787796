"""The page of a study: differences to the baseline, accuracy by wrong labels, every number. Needs no torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from attar.errors import ArtifactError, naming
from attar.plain import is_number
from attar.report.axes import Axis, axis_of
from attar.report.charts import Chart, Spread, spread_chart
from attar.report.collect import mapping
from attar.report.downloads import Cell, download
from attar.report.formats import count, setting
from attar.report.headline import unbroken, unbroken_words
from attar.report.page import draw
from attar.results.records import Record, read_records
from attar.results.significance import MEANING, Contrast, cell_of, place, signed, to_baseline
from attar.results.verdict import Words
from attar.runtime.files import read_json, write_text

RESULT, PAGE = "study.json", "report.html"
AXES = ("precision", "label_noise", "strategy")
"""Of a record's protocol, what stands elsewhere on the page."""
PARTS = {"about": str, "baseline": str, "held_equal": str, "hardware": Mapping, "settings": Mapping}
"""Of study.json, what the page is drawn from, beside the records."""

COLUMNS = (
    *("strategy", "variant", "wrong labels", "network", "mean", "std", "n", "images seen"),
    *("ahead of the baseline", "low", "high", "verdict"),
)


@dataclass(frozen=True)
class Row:
    """A line of the figure of differences; places are percents of its axis."""

    name: str
    seen: str
    """How many times the images that the baseline's training sees, where they are not as many."""
    points: str
    interval: str
    verdict: str
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Group:
    """Differences that are measured from one baseline training: of one variant and part of wrong labels."""

    title: str
    baseline: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Forest:
    """All differences of one network."""

    model: str
    axis: Axis
    zero: float
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    model: str
    name: str
    variant: str
    noise: str
    seen: str
    epochs: str
    score: str
    n: int
    points: str
    interval: str
    verdict: str
    baseline: bool


def write_study_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a study that is finished, by default to report.html in its folder, and return its path."""
    path = out or folder / PAGE
    write_text(path, render_study(read_json(folder / RESULT), folder))
    return path


def _checked(values: Any, path: Path) -> Mapping[str, Any]:
    """What study.json says, with `records` read; raises ArtifactError where parts are missing or make no sense."""
    records = read_records(path, values)
    values = mapping(values)
    odd = [name for name, kind in PARTS.items() if not isinstance(values.get(name), kind)]
    odd += [] if records and all(map(_is_of_study, records)) else ["records"]
    if odd:
        raise ArtifactError(
            f"{path} makes no sense: {odd[0]}",
            expected="what `attar study` wrote",
            fix="run the study again: what is finished is kept",
        )
    with naming(path):
        return {**values, "records": records, "summary": Words.from_json(values.get("summary"))}


def _is_of_study(record: Record) -> bool:
    return record.n > 0 and record.cell is not None and is_number(record.protocol.get("epochs"))


def render_study(values: Any, folder: Path) -> str:
    """Draw the page from what study.json says; the same values give the same text."""
    values = _checked(values, folder / RESULT)
    records = values["records"]
    baseline = str(values["baseline"])
    compared = to_baseline(records, baseline)
    rows = lines(records, compared, baseline)
    found = {id(contrast.record): contrast for contrast in compared}
    summary = unbroken_words(values["summary"])
    view = {
        "title": values["about"] or f"Training strategies on {_name(values)}",
        "kind": "study of training strategies",
        "subtitle": _subtitle(values, records),
        "sentences": summary.sentences,
        "points": summary.points,
        "baseline": baseline,
        "held_equal": values["held_equal"],
        "meaning": MEANING,
        "forests": forests(compared),
        "charts": noise_charts(records),
        "rows": rows,
        "file": download(_name(values), "trainings", COLUMNS, (_cells(record, found) for record in records)),
        "differing": [key for key in ("variant", "noise", "model") if len({getattr(row, key) for row in rows}) > 1],
        "common": _common(records),
        "sets": _sets(values),
        "hardware": {str(key): value for key, value in mapping(values["hardware"]).items()},
        "tested_on": records[0].tested_on,
        "command_line": shlex.join(["attar", "study", str(folder / "study.yaml"), "--out", str(folder)]),
    }
    return draw("study.html", view)


def forests(compared: Sequence[Contrast]) -> list[Forest]:
    """The differences of each network on one axis, those of one variant and part of wrong labels together."""
    made = []
    for model in dict.fromkeys(contrast.record.model for contrast in compared):
        mine = [contrast for contrast in compared if contrast.record.model == model]
        ends = [end for c in mine for end in (c.points, c.low, c.high) if end is not None]
        axis = axis_of([*ends, 0.0])
        groups = [list(members) for _, members in groupby(mine, lambda contrast: place(contrast.record))]
        made.append(Forest(model, axis, axis.place(0.0), tuple(_group(members, axis) for members in groups)))
    return made


def noise_charts(records: Sequence[Record]) -> list[Chart]:
    """Accuracy by the part of wrong labels, for each network and variant that was trained with several."""
    charts = []
    placed = [(record, cell_of(record)) for record in records]
    for model, variant in dict.fromkeys((record.model, own.variant) for record, own in placed):
        lines: dict[str, list[Spread]] = {}
        for record, own in placed:
            if (record.model, own.variant) == (model, variant):
                lines.setdefault(own.strategy, []).append(Spread(100 * own.label_noise, record.mean, record.std))
        several = {name: sorted(spreads, key=lambda s: s.place) for name, spreads in lines.items() if len(spreads) > 1}
        if several:
            title = f"Accuracy by wrong labels, {variant}"
            charts.append(spread_chart(model, title, "% of the training labels wrong", several))
    return charts


def lines(records: Sequence[Record], compared: Sequence[Contrast], baseline: str) -> list[Line]:
    """Every record, with its difference to the baseline."""
    found = {id(contrast.record): contrast for contrast in compared}
    return [_line(record, found.get(id(record)), baseline) for record in records]


def noise_text(noise: float) -> str:
    """`40 %`, or nothing."""
    return f"{100 * noise:g}\u00a0%" if noise else "none"


def _cells(record: Record, found: Mapping[int, Contrast]) -> list[Cell]:
    own, contrast = cell_of(record), found.get(id(record))
    told: list[Cell] = [own.strategy, own.variant, own.label_noise, record.model, record.mean]
    told += [record.std if record.n > 1 else None, record.n, own.images_seen]
    return told + ([contrast.points, contrast.low, contrast.high, contrast.verdict] if contrast else [None] * 4)


def _group(members: Sequence[Contrast], axis: Axis) -> Group:
    first = members[0]
    own = cell_of(first.record)
    wrong = f", {noise_text(own.label_noise)} of the labels wrong" if own.label_noise else ""
    rows = tuple(
        Row(
            name=cell_of(contrast.record).strategy,
            seen=_times(cell_of(contrast.record).images_seen, cell_of(contrast.baseline).images_seen),
            points=signed(contrast.points),
            interval=contrast.interval,
            verdict=contrast.verdict,
            mean=axis.place(contrast.points),
            low=None if contrast.low is None else axis.place(contrast.low),
            high=None if contrast.high is None else axis.place(contrast.high),
        )
        for contrast in members
    )
    return Group(f"{own.variant}{wrong}", f"{cell_of(first.baseline).strategy} {unbroken(first.baseline.score)}", rows)


def _times(seen: int, of_baseline: int) -> str:
    return "" if seen == of_baseline else f"{seen / of_baseline:.2g}\u00d7 the images seen"


def _line(record: Record, contrast: Contrast | None, baseline: str) -> Line:
    own = cell_of(record)
    return Line(
        model=record.model,
        name=own.strategy,
        variant=own.variant,
        noise=noise_text(own.label_noise),
        seen=count(own.images_seen),
        epochs=count(record.protocol["epochs"]),
        score=unbroken(record.spread),
        n=record.n,
        points=signed(contrast.points) if contrast else "",
        interval=contrast.interval if contrast else "",
        verdict=contrast.verdict if contrast else "",
        baseline=own.strategy == baseline,
    )


def _subtitle(values: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    num = sum(record.n for record in records)
    images = f"{count(records[0].num_images)} training images"
    return [
        _name(values),
        images,
        ", ".join(dict.fromkeys(record.model for record in records)),
        f"{count(num)} trainings",
    ]


def _name(values: Mapping[str, Any]) -> str:
    """Of what was trained on, without the place where it lies."""
    data = mapping(mapping(values["settings"]).get("data"))
    return str(data.get("distilled") or data.get("source", "")).rstrip("/").rsplit("/", 1)[-1]


def _common(records: Sequence[Record]) -> dict[str, str]:
    """Train settings that all trainings have."""
    first = records[0].protocol
    return {
        key: setting(value)
        for key, value in first.items()
        if key not in AXES and all(record.protocol.get(key) == value for record in records)
    }


def _sets(values: Mapping[str, Any]) -> dict[str, str]:
    """The named sets of train settings, where they set something."""
    settings = mapping(values["settings"])
    sets = {**mapping(settings.get("strategies")), **mapping(settings.get("variants"))}
    return {str(name): setting(own) for name, own in sets.items() if own}
