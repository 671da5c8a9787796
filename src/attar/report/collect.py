"""Read a run folder into plain values for the report. Needs no torch.

What is missing is left out, so that an interrupted run gets a report of what is there; a file that is
there but damaged is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attar.errors import ArtifactError, naming
from attar.plain import is_number
from attar.report.curves import STAGES, Curve, curves, of_these_records, with_items
from attar.report.outside import Outside, read_outside
from attar.report.pictures import Film, Gallery, last_frame, read_film, read_gallery
from attar.report.strips import Strips, read_strips
from attar.results.by_class import BY_CLASS, ByClass, read_by_class
from attar.results.records import Record, read_records
from attar.results.verdict import Words
from attar.runtime.events import read_events
from attar.runtime.files import read_json
from attar.runtime.reading import read_yaml


@dataclass(frozen=True)
class Stage:
    """What a stage's manifest says; `wall_s` is None where it doesn't."""

    name: str
    complete: bool
    wall_s: float | None
    hardware: Mapping[str, Any]
    versions: Mapping[str, Any]


@dataclass(frozen=True)
class LeftOut:
    """Images of the source that could not be read: how many, and the names of the first ones."""

    num: int
    names: tuple[str, ...]


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
    verdict: Words = field(default_factory=Words)
    continual: tuple[Record, ...] = ()
    """Accuracies while classes arrive step by step, where that was measured."""
    sizes_bytes: Mapping[str, int] = field(default_factory=dict)
    description: Mapping[str, Any] = field(default_factory=dict)
    """What `distilled/attar.json` says."""
    outside: Outside | None = None
    """What was judged, where that is in no run."""
    makes: str = ""
    """What the evaluation calls the images; empty where it does not say."""
    judged_on: Mapping[str, Any] = field(default_factory=dict)
    """Hardware of the evaluation."""
    by_class: tuple[ByClass, ...] = ()
    """Accuracy class by class."""
    strips: Strips | None = None
    """Real images."""
    left_out: LeftOut | None = None
    """Real images that could not be read."""

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
    outside, shown = read_outside(run) or (None, None)
    told = outside.description if outside else json_if_there(run / "distilled" / "attar.json")
    description = mapping(told)
    evaluation = mapping(json_if_there(run / "evaluation.json"))
    records = read_records(run / "evaluation.json", evaluation)
    film = read_film(run / "recover" / "snapshots")
    names = listed(mapping(description.get("task")).get("class_names"))
    return ReportData(
        run=str(run),
        settings=read_settings(run / "config.yaml"),
        class_names=tuple(str(name) for name in names),
        why=next((str(e.get("message", "")) for e in reversed(events) if e.get("event") == "why"), ""),
        stages=tuple(read_stage(run, name) for name in STAGES if (run / name / "manifest.json").exists()),
        curves=curves(of_these_records(with_items(events), records)),
        gallery=shown or read_gallery(run / "distilled" / "data") or last_frame(film),
        film=film,
        records=records,
        verdict=_words(run / "evaluation.json", evaluation),
        continual=read_records(run / "continual.json", json_if_there(run / "continual.json")),
        sizes_bytes={str(k): int(v) for k, v in mapping(description.get("sizes")).items() if is_number(v)},
        description=description,
        outside=outside,
        makes=str(mapping(evaluation.get("judged")).get("makes") or ""),
        judged_on=mapping(evaluation.get("hardware")),
        by_class=_by_class(run / BY_CLASS),
        strips=read_strips(run),
        left_out=_left_out(evaluation.get("judged")) or _left_out(description.get("source")),
    )


def _by_class(path: Path) -> tuple[ByClass, ...]:
    return read_by_class(path, read_json(path)) if path.exists() else ()


def _left_out(told: Any) -> LeftOut | None:
    """What the evaluation, or attar.json, says of images that were left out; None where it says nothing of it."""
    left_out = mapping(mapping(told).get("left_out"))
    names = tuple(name for name in listed(left_out.get("names")) if isinstance(name, str))
    num = left_out.get("num")
    return LeftOut(num, names) if is_number(num) and isinstance(num, int) and num > 0 and names else None


def _words(path: Path, evaluation: Mapping[str, Any]) -> Words:
    """What an evaluation says, nothing where it does not say; errors name the file."""
    with naming(path):
        return Words.from_json(evaluation["verdict"]) if "verdict" in evaluation else Words()


def read_settings(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of a run's config.yaml that hold something; empty where there is none. Raises ArtifactError."""
    if not path.exists():
        return {}
    values = read_yaml(path, "run the command again with --fresh")
    sections = {name: dict(mapping(section)) for name, section in values.items()}
    return {name: section for name, section in sections.items() if section}


def read_stage(run: Path, name: str) -> Stage:
    """What the manifest of a stage says."""
    manifest = mapping(json_if_there(run / name / "manifest.json"))
    wall_s = manifest.get("wall_s")
    return Stage(
        name=name,
        complete=bool(manifest.get("complete")),
        wall_s=float(wall_s) if is_number(wall_s) else None,
        hardware=mapping(manifest.get("hardware")),
        versions=mapping(manifest.get("versions")),
    )


def json_if_there(path: Path) -> Any:
    """What a JSON file says; None where it is not there."""
    return read_json(path) if path.exists() else None


def listed(value: Any) -> list[Any]:
    """This value, or an empty list where it is none."""
    return value if isinstance(value, list) else []


def mapping(value: Any) -> Mapping[str, Any]:
    """This value, or an empty mapping where it is none."""
    return value if isinstance(value, Mapping) else {}
