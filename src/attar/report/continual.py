"""Accuracies while classes arrive step by step: distilled images against random real ones."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from attar.report.charts import Chart, Spread, spread_chart
from attar.report.collect import ReportData
from attar.report.headline import trained_on, unbroken
from attar.results.records import Arrival, Labels, Record


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
    measured = [(record, record.arrival) for record in data.continual if record.n and record.arrival]
    if not measured:
        return None
    records = [record for record, _ in measured]
    subjects = {_trained(record): trained_on(record, records) for record in records}
    curve = {
        name: sorted((_spread(*one) for one in measured if _trained(one[0]) == key), key=lambda spread: spread.place)
        for key, name in subjects.items()
    }
    found = {(arrival.step, _trained(record)): record for record, arrival in measured}
    steps = {arrival.step: arrival.num_classes for _, arrival in measured}
    return ContinualView(
        lead=_lead(records, [record for record, arrival in measured if arrival.step == max(steps)]),
        chart=spread_chart("continual", "Accuracy on the classes seen", "classes seen", curve),
        subjects=tuple(subjects.values()),
        rows=tuple(
            Row(step, seen, tuple(found[step, key].score if (step, key) in found else "" for key in subjects))
            for step, seen in sorted(steps.items())
        ),
        means=tuple(f"{fmean(r.mean for r in records if _trained(r) == key):.1f} %" for key in subjects),
    )


def _trained(record: Record) -> tuple[str, Labels | None]:
    return record.group, record.labels


def _spread(record: Record, arrival: Arrival) -> Spread:
    return Spread(arrival.num_classes, record.mean, record.std)


def _lead(records: list[Record], last: list[Record]) -> str:
    ended = {record.group: record for record in last}
    model, num_orders = records[0].model, records[0].n
    orders = f"{num_orders} orders of the classes" if num_orders > 1 else "one order of the classes"
    lead = f"At each step {model} is trained from scratch on the images of all classes seen so far; {orders}."
    if "distilled" in ended and "random" in ended:
        ours, theirs = ended["distilled"], ended["random"]
        lead += f" After the last step: distilled {ours.score}, random real images {theirs.score}."
    return unbroken(lead)
