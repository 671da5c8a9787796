"""Numbers over steps and epochs, sorted out of the events of a run: what is drawn as lines. Needs no torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attar.items import Item, item_of
from attar.plain import is_number
from attar.results.records import Record

STAGES = ("squeeze", "recover", "relabel", "train", "evaluate")
NOT_METRICS = ("step", "time_s")
UNITS = {"step": "step", "epoch": "epoch", "watched": "epoch"}
"""What a step is, by the event: an epoch may have been trained, or looked at with images that are held back."""
Events = Sequence[tuple[Item, Mapping[str, Any]]]
"""Events, each with what it is of."""


@dataclass(frozen=True)
class Series:
    """One metric of one item (an expert, a student, a chunk) over its steps; finite numbers, steps ascending."""

    item: Item
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """One metric of one stage; `unit` is what a step of it is: `step` or `epoch`; `of` the network, where several."""

    stage: str
    metric: str
    unit: str
    series: tuple[Series, ...]
    of: str = ""


def curves(events: Events) -> tuple[Curve, ...]:
    """Sort the numbers of step and epoch events into curves, stages in the order of the work."""
    found: dict[tuple[str, str, str], dict[Item, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for item, event in events:
        unit, step = UNITS.get(str(event.get("event"))), event.get("step")
        if unit is None or not is_number(step):
            continue
        for metric, value in event.items():
            if metric not in NOT_METRICS and is_number(value):
                found[str(event.get("stage", "")), metric, unit][item][float(step)] = float(value)
    made = [
        Curve(stage, metric, unit, tuple(_series(item, points) for item, points in items.items()))
        for (stage, metric, unit), items in found.items()
    ]
    return tuple(sorted(made, key=lambda curve: STAGES.index(curve.stage) if curve.stage in STAGES else len(STAGES)))


def with_items(events: Sequence[Mapping[str, Any]]) -> Events:
    """Each event with what it is of; those of which that makes no sense are left out, as are lines that hold none."""
    return [(item, event) for event in events if (item := item_of(event))]


def by_network(curve: Curve, *, named: bool = True) -> list[Curve]:
    """Split the trainings of students by the network, which is `named` where there may be several."""
    parts: dict[str, list[Series]] = defaultdict(list)
    for series in curve.series:
        network = series.item.network if series.item.kind == "student" and named else None
        parts[network or ""].append(series)
    return [replace(curve, series=tuple(members), of=network) for network, members in parts.items()]


def of_these_records(events: Events, records: Sequence[Record]) -> Events:
    """Leave out the trainings of other evaluations in the same folder, and the longer tail of one of the same name.

    Those of continual learning and of images on the way, a handful for each step, are left out in any case.
    """
    kept = [(item, event) for item, event in events if item.arrival is None and item.state is None]
    if not records:
        return kept
    last_epoch = {student: _epochs(record) for record in records if not record.best for student in _students(record)}
    return [one for one in kept if one[1].get("stage") != "evaluate" or _belongs(*one, last_epoch)]


Student = tuple[str | None, str | None, str | None, bool, int | None]


def _students(record: Record) -> list[Student]:
    """The trainings behind a record."""
    return [(record.model, record.group, record.labels, record.augmented, seed) for seed in record.seeds]


def _epochs(record: Record) -> float:
    epochs = record.protocol.get("epochs")
    return epochs if is_number(epochs) else math.inf


def _belongs(item: Item, event: Mapping[str, Any], last_epoch: Mapping[Student, float]) -> bool:
    step, student = event.get("step"), (item.network, item.group, item.labels, item.augmented, item.seed)
    return item.kind == "student" and student in last_epoch and not (is_number(step) and step > last_epoch[student])


def _series(item: Item, points: Mapping[float, float]) -> Series:
    steps = sorted(points)
    return Series(item, tuple(steps), tuple(points[step] for step in steps))
