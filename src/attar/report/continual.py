"""Accuracies while classes arrive step by step: distilled images against random real ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from attar.report.charts import Chart, Spread, spread_chart
from attar.report.collect import ReportData
from attar.report.headline import trained_on, unbroken
from attar.results.records import Record


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
    records = _of_steps(data.continual)
    if not records:
        return None
    subjects = {(r.group, r.labels): trained_on(r, records) for r in records}
    named = {name: [r for r in records if (r.group, r.labels) == key] for key, name in subjects.items()}
    return _laid_out(named, _lead(records))


def continual_views(runs: Mapping[str, Sequence[Record]]) -> tuple[ContinualView, ...]:
    """Lay out the steps of several runs, by their names: those of the same steps, network, labels, orders and training
    together, where there are several. Random real images have one line, as long as their accuracies are the same."""
    alike: dict[str, dict[str, list[Record]]] = {}
    for name, found in runs.items():
        for record in _of_steps(found):
            alike.setdefault(_conditions(record), {}).setdefault(name, []).append(record)
    made: list[ContinualView] = []
    for members in alike.values():
        ours = {name: [r for r in found if r.group == "distilled"] for name, found in members.items()}
        others = {name: [r for r in found if r.group == "random"] for name, found in members.items()}
        others = {name: found for name, found in others.items() if found}
        if sum(map(bool, ours.values())) < 2:
            continue
        if len({tuple(r.values for r in found) for found in others.values()}) == 1:
            random = {"random real images": next(iter(others.values()))}
        else:
            random = {f"random real images, as for {name}": found for name, found in others.items()}
        first = next(filter(None, ours.values()))[0]
        assert first.arrival
        lead = f"{first.model} is trained from scratch at each of {first.arrival.num_steps} steps, with {first.labels} "
        lead += f"labels; {_orders(first.n)}."
        made.append(_laid_out({name: found for name, found in {**ours, **random}.items() if found}, lead))
    return tuple(made)


def _of_steps(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.n and record.arrival]


def _conditions(record: Record) -> str:
    assert record.arrival
    steps, training = record.arrival.num_steps, sorted(record.protocol.items())
    return repr((steps, record.model, record.split, record.labels, record.seeds, training))


def _laid_out(named: Mapping[str, Sequence[Record]], lead: str) -> ContinualView:
    placed = {name: {r.arrival.step: r for r in found if r.arrival} for name, found in named.items()}
    classes = {r.arrival.step: r.arrival.num_classes for found in named.values() for r in found if r.arrival}
    curve = {
        name: [Spread(classes[step], record.mean, record.std) for step, record in sorted(found.items())]
        for name, found in placed.items()
    }
    return ContinualView(
        lead=lead,
        chart=spread_chart("continual", "Accuracy on the classes seen", "classes seen", curve),
        subjects=tuple(named),
        rows=tuple(
            Row(step, seen, tuple(found[step].score if step in found else "" for found in placed.values()))
            for step, seen in sorted(classes.items())
        ),
        means=tuple(f"{fmean(record.mean for record in found):.1f} %" for found in named.values()),
    )


def _lead(records: Sequence[Record]) -> str:
    last = max(record.arrival.step for record in records if record.arrival)
    ended = {record.group: record for record in records if record.arrival and record.arrival.step == last}
    lead = f"At each step {records[0].model} is trained from scratch on the images of all classes seen so far; "
    lead += f"{_orders(records[0].n)}."
    if "distilled" in ended and "random" in ended:
        ours, theirs = ended["distilled"], ended["random"]
        lead += f" After the last step: distilled {ours.score}, random real images {theirs.score}."
    return unbroken(lead)


def _orders(num: int) -> str:
    return f"{num} orders of the classes" if num > 1 else "one order of the classes"
