"""Read a run folder into plain values for the report. Needs no torch.

What is missing is left out, so that an interrupted run gets a report of what is there; a file that is
there but damaged is an error that names it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from attar.errors import ArtifactError
from attar.records import Record
from attar.report.pictures import Film, Gallery, last_frame, read_film, read_gallery
from attar.runtime.events import read_events
from attar.runtime.files import read_json

STAGES = ("squeeze", "recover", "relabel", "train", "evaluate")


@dataclass(frozen=True)
class Series:
    """One metric of one item (an expert, a seed) over its steps; finite numbers, steps ascending."""

    item: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """One metric of one stage; `unit` is what a step of it is: `step` or `epoch`."""

    stage: str
    metric: str
    unit: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Stage:
    """What a stage's manifest says; `wall_s` is None where it doesn't."""

    name: str
    complete: bool
    wall_s: float | None
    hardware: Mapping[str, Any]
    versions: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class ReportData:
    """All that the page is drawn from."""

    run: str
    """The run folder as the person wrote it."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    why: str = ""
    stages: tuple[Stage, ...] = ()
    curves: tuple[Curve, ...] = ()
    gallery: Gallery | None = None
    film: Film | None = None
    records: tuple[Record, ...] = ()
    verdict: str = ""
    sizes_bytes: Mapping[str, int] = field(default_factory=dict)
    description: Mapping[str, Any] = field(default_factory=dict)
    """What `distilled/attar.json` says."""

    def class_name(self, label: int) -> str:
        """Name of a class, or its number where the names aren't known."""
        return self.class_names[label] if 0 <= label < len(self.class_names) else f"class {label}"


def collect(run: Path) -> ReportData:
    """Read what is there of a run folder.

    Raises:
        ArtifactError: the folder is missing or holds nothing of a run, or one of its files is damaged.
    """
    if not any((run / name).exists() for name in ("config.yaml", "events.jsonl", "distilled")):
        raise ArtifactError(
            f"{run} is not a run folder" if run.is_dir() else f"there is no folder {run}",
            expected="a folder that `attar distill` wrote, with config.yaml in it",
            fix="give the folder that was named after --out",
        )
    events = read_events(run / "events.jsonl")
    description = _mapping(_json_if_there(run / "distilled" / "attar.json"))
    evaluation = _mapping(_json_if_there(run / "evaluation.json"))
    records = tuple(Record.from_json(record) for record in evaluation.get("records", ()))
    film = read_film(run / "recover" / "snapshots")
    names = _mapping(description.get("task")).get("class_names", ())
    return ReportData(
        run=str(run),
        settings=_settings(run / "config.yaml"),
        class_names=tuple(str(name) for name in names),
        why=next((str(e.get("message", "")) for e in reversed(events) if e.get("event") == "why"), ""),
        stages=tuple(_stage(run, name) for name in STAGES if (run / name / "manifest.json").exists()),
        curves=curves(_of_these(events, records)),
        gallery=read_gallery(run / "distilled" / "data") or last_frame(film),
        film=film,
        records=records,
        verdict=str(evaluation.get("verdict", "")),
        sizes_bytes={str(k): int(v) for k, v in _mapping(description.get("sizes")).items() if _is_number(v)},
        description=description,
    )


def curves(events: Sequence[Mapping[str, Any]]) -> tuple[Curve, ...]:
    """Sort the numbers of step and epoch events into curves, stages in the order of the work."""
    found: dict[tuple[str, str, str], dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for event in events:
        unit, step = str(event.get("event")), event.get("step")
        if unit not in ("step", "epoch") or not _is_number(step):
            continue
        for metric, value in event.items():
            if metric not in ("step", "time_s") and _is_number(value):
                key = (str(event.get("stage", "")), metric, unit)
                found[key][str(event.get("item") or "")][float(step)] = float(value)
    made = [
        Curve(stage, metric, unit, tuple(_series(item, points) for item, points in items.items()))
        for (stage, metric, unit), items in found.items()
    ]
    return tuple(sorted(made, key=lambda curve: STAGES.index(curve.stage) if curve.stage in STAGES else len(STAGES)))


def _of_these(events: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> list[Mapping[str, Any]]:
    """Leave out the trainings of other evaluations in the same folder, and the longer tail of one of the same name."""
    if not records:
        return list(events)
    last_epoch = {item: _epochs(record) for record in records for item in _items(record, records)}
    return [event for event in events if event.get("stage") != "evaluate" or _belongs(event, last_epoch)]


def _items(record: Record, records: Sequence[Record]) -> list[str]:
    """What `evaluate` calls the trainings behind a record."""
    several = any(other.model != record.model for other in records)
    title = f"{record.subject} on {record.model}" if several else record.subject
    return [f"{title}/seed {seed}" for seed in record.seeds]


def _epochs(record: Record) -> float:
    epochs = record.protocol.get("epochs")
    return epochs if _is_number(epochs) else math.inf


def _belongs(event: Mapping[str, Any], last_epoch: Mapping[str, float]) -> bool:
    step, item = event.get("step"), str(event.get("item"))
    return item in last_epoch and not (_is_number(step) and step > last_epoch[item])


def _series(item: str, points: Mapping[float, float]) -> Series:
    steps = sorted(points)
    return Series(item, tuple(steps), tuple(points[step] for step in steps))


def _settings(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is not valid YAML: {error}", fix="run the command again with --fresh") from error
    sections = {str(name): dict(_mapping(section)) for name, section in _mapping(values).items()}
    return {name: section for name, section in sections.items() if section}


def _stage(run: Path, name: str) -> Stage:
    manifest = _mapping(_json_if_there(run / name / "manifest.json"))
    wall_s = manifest.get("wall_s")
    return Stage(
        name=name,
        complete=bool(manifest.get("complete")),
        wall_s=float(wall_s) if _is_number(wall_s) else None,
        hardware=_mapping(manifest.get("hardware")),
        versions=_mapping(manifest.get("versions")),
    )


def _json_if_there(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
