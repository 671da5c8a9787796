"""Numbers over steps and epochs, sorted out of the events of a run: what is drawn as lines. Needs no torch."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attar.records import Record, is_number

STAGES = ("squeeze", "recover", "relabel", "train", "evaluate")
NOT_METRICS = ("step", "time_s", "item")


@dataclass(frozen=True)
class Series:
    """One metric of one item (an expert, a seed, a chunk) over its steps; finite numbers, steps ascending."""

    item: str
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


def curves(events: Sequence[Mapping[str, Any]]) -> tuple[Curve, ...]:
    """Sort the numbers of step and epoch events into curves, stages in the order of the work."""
    found: dict[tuple[str, str, str], dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for event in events:
        unit, step = str(event.get("event")), event.get("step")
        if unit not in ("step", "epoch") or not is_number(step):
            continue
        for metric, value in event.items():
            if metric not in NOT_METRICS and is_number(value):
                key = (str(event.get("stage", "")), metric, unit)
                found[key][_item(event)][float(step)] = float(value)
    made = [
        Curve(stage, metric, unit, tuple(_series(item, points) for item, points in items.items()))
        for (stage, metric, unit), items in found.items()
    ]
    return tuple(sorted(made, key=lambda curve: STAGES.index(curve.stage) if curve.stage in STAGES else len(STAGES)))


def by_network(curve: Curve) -> list[Curve]:
    """Split the trainings of an evaluation, `SUBJECT on NETWORK/seed N`, by the network."""
    parts: dict[str, list[Series]] = defaultdict(list)
    for series in curve.series:
        found = re.fullmatch(r"(.+) on (.+)(/seed \d+)", series.item)
        network, item = (found[2], found[1] + found[3]) if found else ("", series.item)
        parts[network].append(replace(series, item=item))
    return [replace(curve, series=tuple(members), of=network) for network, members in parts.items()]


def of_these_records(events: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> list[Mapping[str, Any]]:
    """Leave out the trainings of other evaluations in the same folder, and the longer tail of one of the same name.

    Those of continual learning, a handful for each step, are left out in any case: its result is a curve of its own.
    Where one network was judged its name is left out; older logs never had it.
    """
    kept = [event for event in events if not re.search(r", step \d+( on .+)?/seed \d+$", str(event.get("item")))]
    if not records:
        return kept
    models = {record.model for record in records}
    last_epoch = {item: _epochs(record) for record in records for item in _items(record)}
    if len(models) == 1:
        kept = [_without_network(event, *models) for event in kept]
        last_epoch = {item.replace(_on(*models), "/"): last for item, last in last_epoch.items()}
    return [event for event in kept if event.get("stage") != "evaluate" or _belongs(event, last_epoch)]


def _without_network(event: Mapping[str, Any], model: str) -> Mapping[str, Any]:
    if event.get("stage") != "evaluate":
        return event
    return {**event, "item": str(event.get("item")).replace(_on(model), "/")}


def _on(model: str) -> str:
    return f" on {model}/"


def _item(event: Mapping[str, Any]) -> str:
    """Items of recover that are numbers are chunks of images."""
    item = event.get("item")
    if item is None:
        return ""
    return f"chunk {item}" if event.get("stage") == "recover" and is_number(item) else str(item)


def _items(record: Record) -> list[str]:
    """What `evaluate` calls the trainings behind a record."""
    return [f"{record.subject}{_on(record.model)}seed {seed}" for seed in record.seeds]


def _epochs(record: Record) -> float:
    epochs = record.protocol.get("epochs")
    return epochs if is_number(epochs) else math.inf


def _belongs(event: Mapping[str, Any], last_epoch: Mapping[str, float]) -> bool:
    step, item = event.get("step"), str(event.get("item"))
    return item in last_epoch and not (is_number(step) and step > last_epoch[item])


def _series(item: str, points: Mapping[float, float]) -> Series:
    steps = sorted(points)
    return Series(item, tuple(steps), tuple(points[step] for step in steps))
