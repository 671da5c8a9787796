"""The page's tables as files, with numbers in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attar.report.classes import ClassesView
from attar.report.collect import ReportData
from attar.report.continual import ContinualView
from attar.report.curves import Curve
from attar.report.downloads import Cell, Download, download
from attar.report.recovery import Terms
from attar.report.scores import ScoresView
from attar.results.records import Record

RECORD = ("trained on", "group", "labels", "augmented", "network", "metric", "mean", "std", "n", "images", "bytes")


def measurements(of: str, records: Sequence[Record]) -> Download:
    """Every record, a column for each of its values."""
    most = max((record.n for record in records), default=0)
    columns = [*RECORD, *(f"value {number + 1}" for number in range(most))]
    return download(of, "measurements", columns, (_record(record, most) for record in records))


def classes(of: str, view: ClassesView) -> Download:
    """Accuracy by class in percent, and how many images judged, for each set."""
    columns = ["class", *(f"{one.name}, {what}" for one in view.sets for what in ("percent", "images", "right"))]

    def rows() -> Iterator[list[Cell]]:
        for label, name in enumerate(view.names):
            counts = ((one.percent(label), one.num[label], one.right[label]) for one in view.counted)
            yield [name, *(cell for part in counts for cell in part)]

    return download(of, "classes", columns, rows())


def confusion(of: str, view: ClassesView) -> Download:
    """Which class was taken for which, how often, for each set; of many classes the pairs that were most."""

    def rows() -> Iterator[list[Cell]]:
        for one, counted in zip(view.sets, view.counted, strict=True):
            right = ((label, label, num) for label, num in enumerate(counted.right) if num)
            for true, other, num in sorted([*right, *counted.confused]):
                yield [one.name, view.names[true], view.names[other], num, counted.num[true]]

    return download(of, "confusion", ["trained on", "class", "taken for", "images", "of"], rows())


def sizes(of: str, parts: Sequence[tuple[str, int, float]]) -> Download:
    """Bytes of each part."""
    return download(of, "sizes", ["part", "bytes"], ([name, num] for name, num, _ in parts))


def scores(of: str, view: ScoresView) -> Download:
    """The scores of each network, as they stand on the page."""
    return download(of, "scores", ["network", *view.columns], ([model, *values] for model, values in view.rows))


def steps(of: str, view: ContinualView) -> Download:
    """Accuracies as classes arrive, as they stand on the page."""
    columns = ["step", "classes", *view.subjects]
    return download(of, "steps", columns, ([row.step, row.num_classes, *row.scores] for row in view.rows))


def last_terms(of: str, view: Terms) -> Download:
    """The last terms of each chunk, as they stand on the page."""
    return download(of, "terms", ["chunk", *view.columns], ([row.name, *row.values] for row in view.rows))


def curves(of: str, found: Sequence[Curve]) -> Download:
    """Every number over steps and epochs."""

    def rows() -> Iterator[list[Cell]]:
        for curve in found:
            for series in curve.series:
                for step, value in zip(series.steps, series.values, strict=True):
                    yield [curve.stage, curve.metric, series.item.name, curve.unit, step, value]

    return download(of, "curves", ["stage", "metric", "of", "unit", "at", "value"], rows())


def page_tables(
    of: str,
    data: ReportData,
    *,
    classes_of: ClassesView | None,
    terms: Terms | None,
    scores_of: ScoresView | None,
    continual: ContinualView | None,
    parts: Sequence[tuple[str, int, float]],
) -> dict[str, Download]:
    """The files of a page, by the name of the table; of tables that are there."""
    found: dict[str, Download | None] = {
        "measurements": measurements(of, data.records) if data.records else None,
        "classes": classes(of, classes_of) if classes_of else None,
        "confusion": confusion(of, classes_of) if classes_of else None,
        "sizes": sizes(of, parts) if parts else None,
        "scores": scores(of, scores_of) if scores_of else None,
        "steps": steps(of, continual) if continual else None,
        "terms": last_terms(of, terms) if terms else None,
        "curves": curves(of, evaluated) if (evaluated := [c for c in data.curves if c.stage == "evaluate"]) else None,
    }
    return {name: made for name, made in found.items() if made}


def _record(record: Record, most: int) -> list[Cell]:
    own: list[Cell] = [
        record.subject,
        record.group,
        record.labels,
        "yes" if record.augmented else "no",
        record.model,
        record.metric_name,
        record.mean,
        record.std if record.n > 1 else None,
        record.n,
        record.num_images,
        record.size_bytes,
    ]
    return [*own, *record.values, *[None] * (most - record.n)]
