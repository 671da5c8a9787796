"""Accuracies while classes arrive step by step: distilled images against random real ones."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from attar.records import Record, is_number
from attar.report.charts import Chart, Spread, spread_chart
from attar.report.collect import ReportData
from attar.report.headline import subject, unbroken
from attar.verdict import base


@dataclass(frozen=True)
class Row:
    """One step: how many classes had arrived, and the score of each subject, empty where it was not measured."""

    step: int
    num_classes: int
    scores: tuple[str, ...]


@dataclass(frozen=True)
class ContinualView:
    """The curve, its numbers, and what they are in words."""

    lead: str
    chart: Chart
    subjects: tuple[str, ...]
    rows: tuple[Row, ...]
    means: tuple[str, ...]
    """Of each subject over the steps."""


def continual_view(data: ReportData) -> ContinualView | None:
    """Lay out the steps; None where there are none."""
    records = [r for r in data.continual if r.n and all(is_number(r.protocol.get(k)) for k in ("step", "classes_seen"))]
    if not records:
        return None
    subjects = {record.subject: subject(record.subject) for record in records}
    curve = {
        name: sorted((_spread(r) for r in records if r.subject == key), key=lambda spread: spread.place)
        for key, name in subjects.items()
    }
    found = {(r.protocol["step"], r.subject): r for r in records}
    steps = {r.protocol["step"]: r.protocol["classes_seen"] for r in records}
    return ContinualView(
        lead=_lead(records, max(steps)),
        chart=spread_chart("continual", "Accuracy on the classes seen", "classes seen", curve),
        subjects=tuple(subjects.values()),
        rows=tuple(
            Row(step, seen, tuple(found[step, key].score if (step, key) in found else "" for key in subjects))
            for step, seen in sorted(steps.items())
        ),
        means=tuple(f"{fmean(r.mean for r in records if r.subject == key):.1f} %" for key in subjects),
    )


def _spread(record: Record) -> Spread:
    return Spread(record.protocol["classes_seen"], record.mean, record.std)


def _lead(records: list[Record], last: int) -> str:
    ended = {base(record.subject): record for record in records if record.protocol["step"] == last}
    model, num_orders = records[0].model, records[0].n
    orders = f"{num_orders} orders of the classes" if num_orders > 1 else "one order of the classes"
    lead = f"At each step {model} is trained from scratch on the images of all classes seen so far; {orders}."
    if "distilled" in ended and "random" in ended:
        ours, theirs = ended["distilled"], ended["random"]
        lead += f" After the last step: distilled {ours.score}, random real images {theirs.score}."
    return unbroken(lead)
