"""What the recovery of each chunk of images came to: the terms of its loss at its last step."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from attar.items import Item
from attar.report.collect import ReportData
from attar.report.curves import Curve
from attar.report.formats import count

MOST_CHUNKS = 12
TERMS = ("classification", "statistics", "confidence", "loss")


@dataclass(frozen=True)
class Row:
    """A chunk, or what is said of all of them; the values are those of the columns."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Terms:
    """A table of last values, chunk by chunk or in sum."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str


@dataclass(frozen=True)
class _Chunk:
    item: Item
    step: float
    values: tuple[float, ...]


def terms(data: ReportData) -> Terms | None:
    """Table of each chunk's last terms, of many chunks their mean, ends and the worst; None where none was reported."""
    curves = {curve.metric: curve for curve in data.curves if curve.stage == "recover" and curve.unit == "step"}
    columns = tuple(name for name in TERMS if name in curves and _in_chunks(curves[name]))
    if "classification" not in columns or "statistics" not in columns:
        return None
    chunks = _chunks([curves[name] for name in columns])
    num = f"{count(len(chunks))} chunk{'s' if len(chunks) != 1 else ''} of images"
    note = (
        f"At the last step of {'each of ' if len(chunks) > 1 else ''}{num}{_unfinished(chunks)}.{_weight(data, chunks)}"
    )
    if len(chunks) <= MOST_CHUNKS:
        rows = [_row(chunk.item.name, chunk.values) for chunk in chunks]
        return Terms(columns, (*rows, *(_rows_of_all(chunks, {"mean": statistics.fmean}) if rows[1:] else ())), note)
    rows = _rows_of_all(chunks, {"mean": statistics.fmean, "least": min, "greatest": max})
    by = "loss" if "loss" in columns else "classification"
    worst = max(chunks, key=lambda chunk: chunk.values[columns.index(by)])
    return Terms(columns, (*rows, _row(f"{worst.item.name}, of the greatest {by}", worst.values)), note)


def _in_chunks(curve: Curve) -> bool:
    return all(series.item.kind == "chunk" for series in curve.series)


def _chunks(curves: Sequence[Curve]) -> list[_Chunk]:
    """Chunks that have all the metrics, in their order."""
    found = [{series.item: series for series in curve.series} for curve in curves]
    items = [item for item in found[0] if all(item in of for of in found)]
    chunks = [_Chunk(item, found[0][item].steps[-1], tuple(of[item].values[-1] for of in found)) for item in items]
    return sorted(chunks, key=lambda chunk: chunk.item.number or 0)


def _row(name: str, values: Sequence[float]) -> Row:
    return Row(name, tuple(f"{value:.4g}" for value in values))


def _rows_of_all(chunks: Sequence[_Chunk], sums: Mapping[str, Callable[[list[float]], float]]) -> list[Row]:
    columns = [list(values) for values in zip(*(chunk.values for chunk in chunks), strict=True)]
    return [_row(name, [of(values) for values in columns]) for name, of in sums.items()]


def _unfinished(chunks: Sequence[_Chunk]) -> str:
    last = max(chunk.step for chunk in chunks)
    num = sum(chunk.step < last for chunk in chunks)
    return f", {count(num)} of which had not come to step {count(round(last))}" if num else ""


def _weight(data: ReportData, chunks: Sequence[_Chunk]) -> str:
    """The weight that the statistics had, where the loss is made of these two terms alone."""
    method = data.settings.get("method", {})
    if len(chunks[0].values) < len(TERMS) or any(method.get(name) for name in ("alpha_tv", "alpha_l2")):
        return ""
    weights = [(loss - classification) / by for classification, by, _, loss in (c.values for c in chunks) if by > 0]
    if not weights or max(weights) - min(weights) > 0.01 * abs(weights[0]):
        return ""
    return f" The loss is classification + {weights[0]:.3g} × statistics."
