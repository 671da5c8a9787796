"""Several evaluations side by side: which may be compared, and why others may not. Needs no torch.

Accuracies are comparable where the classes, the size of the images, the real images, the split that judges and the
training are the same; kinds of labels and networks stand in rows of their own. What differs otherwise stands apart.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attar.errors import ArtifactError, ConfigError
from attar.plain import is_number
from attar.report.alike import Judging, judged_alike, out_of
from attar.report.collect import json_if_there, listed, mapping, read_settings, read_stage
from attar.report.curves import STAGES
from attar.report.formats import count, setting
from attar.report.headline import accuracies, how_measured
from attar.report.outside import Outside, read_outside
from attar.results.records import Record, Split, read_records
from attar.results.verdict import Pair, pairs
from attar.runtime.files import read_json

EVALUATION, CONTINUAL, ABOUT, CONFIG = "evaluation.json", "continual.json", "attar.json", "config.yaml"
WIDEST = ("classes and size", "real images")
OWN = ("labels", "use_learned_rate", "changed")
"""Of how a network was trained, what may differ: it stands in a column, or, what was changed of a protocol, is compared
setting by setting."""


@dataclass(frozen=True)
class Condition:
    """Something that must be the same, as a person reads it; `key` tells apart what has the same words."""

    text: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.text} [{self.key}]" if self.key else self.text


@dataclass(frozen=True, eq=False)
class Judged:
    """One evaluation: what was judged, at what cost it was made, and the accuracies on the split that judges.

    `ipc` may be a fraction where classes differ in number; `wall_s` is the time of all stages that made the images and
    labels, None where that is not known; `conditions` are all that must be the same, in the order told.
    """

    name: str
    path: Path
    method: str
    ipc: float
    source: str
    sizes: Mapping[str, int]
    wall_s: float | None
    hardware: str
    command: str
    records: tuple[Record, ...]
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    judging: Judging | None = None
    """How it can be judged again."""
    arriving: tuple[Record, ...] = ()
    """Accuracies while classes arrive step by step, where that was measured."""

    @property
    def measured(self) -> Record:
        """The first accuracy of the distilled images, by which conditions are told."""
        return next(record for record in self.records if record.group == "distilled")


NONE = Condition("none")


@dataclass(frozen=True, eq=False)
class Group:
    """Evaluations that may be compared with each other; `because` says why not with those of the first group.

    `alike` are the commands after which they can: one for each member, and the comparison. There are none where the
    sets are of other classes, sizes or real images.
    """

    members: tuple[Judged, ...]
    because: tuple[str, ...]
    alike: tuple[str, ...] = ()

    @property
    def split(self) -> Split | None:
        """The split that judges."""
        return self.members[0].records[0].split


@dataclass(frozen=True, eq=False)
class Row:
    """One network trained on one distilled set, with what it is compared with."""

    judged: Judged
    pair: Pair
    full: Record | None

    @property
    def ours(self) -> Record:
        """The accuracy of the distilled images."""
        return self.pair.distilled

    @property
    def gain(self) -> float | None:
        """Points ahead of random real images with the same labels; None where there are no such."""
        alike = self.pair.random if self.pair.labelled_alike else None
        return None if alike is None else self.ours.mean - alike.mean


def read_judged(paths: Sequence[Path], defaults: Mapping[str, Any]) -> tuple[Judged, ...]:
    """Read the evaluations of run folders, or of distilled datasets that are in none.

    `defaults` are those of the training's settings, for records of before a setting was there. Raises ConfigError for
    fewer than two, ArtifactError where one has no evaluation.
    """
    folders = list(dict.fromkeys(_evaluated(path).resolve() for path in paths))
    if len(folders) < 2:
        raise ConfigError("one run can't be compared", expected="two runs or more", fix="attar compare RUN RUN ...")
    outside = [found[0] if (found := read_outside(folder)) else None for folder in folders]
    named = [_named(folder, one) for folder, one in zip(folders, outside, strict=True)]
    names = _told_apart(_names(named), folders)
    return tuple(_read(folder, name, one, defaults) for folder, name, one in zip(folders, names, outside, strict=True))


def grouped(judged: Sequence[Judged]) -> tuple[Group, ...]:
    """Put those together that may be compared, in the order of the first of each; the others' reasons are told."""
    found: list[list[Judged]] = []
    for one in judged:
        home = next((members for members in found if members[0].conditions == one.conditions), None)
        if home is None:
            found.append([one])
        else:
            home.append(one)
    return tuple(
        Group(tuple(members), _reasons(found[0][0], members[0]), _alike(found[0][0], members) if place else ())
        for place, members in enumerate(found)
    )


def _alike(first: Judged, members: Sequence[Judged]) -> tuple[str, ...]:
    """The commands that judge the members as the first of all was, and compare them; none where that can't be."""
    if any(first.conditions.get(key) != members[0].conditions.get(key) for key in WIDEST):
        return ()
    models = list(dict.fromkeys(record.model for record in first.records if record.group == "distilled"))
    folders = [out_of(one.path, first.path) for one in members]
    lines = [
        judged_alike(one.judging, one.measured, first.measured, models, out) if one.judging else ""
        for one, out in zip(members, folders, strict=True)
    ]
    if not all(lines):
        return ()
    return (*lines, shlex.join(["attar", "compare", str(first.path), *map(str, folders)]))


def rows(group: Group) -> tuple[Row, ...]:
    """Every network and kind of labels of a group: those of one kind together, few images first."""
    made = [
        Row(judged, pair, _full(judged, pair.distilled.model))
        for judged in group.members
        for pair in pairs(judged.records)
    ]
    models = list(dict.fromkeys(row.ours.model for row in made))
    kinds = list(dict.fromkeys(row.pair.labels for row in made))
    return tuple(sorted(made, key=lambda r: (models.index(r.ours.model), kinds.index(r.pair.labels), r.judged.ipc)))


def _evaluated(path: Path) -> Path:
    """The folder that holds the evaluation of a run or a distilled dataset."""
    named = path.resolve() if path.name in ("", "..") else path
    beside = named.parent / f"{named.name}-evaluation"
    for folder in (path, named.parent if named.name == "distilled" else path, beside):
        if (folder / EVALUATION).is_file():
            return folder
    raise ArtifactError(
        f"{path} has not been evaluated" if path.exists() else f"there is no {path}",
        expected=f"a run folder, or a folder with {EVALUATION}",
        fix=f"attar evaluate {path} --source SOURCE",
    )


def _named(folder: Path, outside: Outside | None) -> Path:
    """The folder of a run, or of the set that was judged apart from one, whose name tells what was."""
    if outside is None:
        return folder
    path = Path(outside.path)
    path = path.parent if path.name == "distilled" and path.parent.name else path
    return folder.with_name(path.name or folder.name)


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with those of their parents where these are not enough to tell them apart."""
    short = [folder.name for folder in folders]
    return [
        name if short.count(name) == 1 else f"{folder.parent.name}/{name}"
        for folder, name in zip(folders, short, strict=True)
    ]


def _told_apart(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The names; what was judged several times is told apart by where."""
    return [
        name if names.count(name) == 1 else f"{name}, judged in {folder.name}"
        for name, folder in zip(names, folders, strict=True)
    ]


def _read(folder: Path, name: str, outside: Outside | None, defaults: Mapping[str, Any]) -> Judged:
    evaluation = mapping(read_json(folder / EVALUATION))
    about = folder / "distilled" / ABOUT
    description = mapping(read_json(about)) if about.is_file() else {}
    if outside:
        description = {**outside.description, "source": {"name": Path(outside.source).name}}
    records = tuple(accuracies(read_records(folder / EVALUATION, evaluation)))
    ours = next((record for record in records if record.group == "distilled"), None)
    if ours is None:
        raise ArtifactError(
            f"{folder / EVALUATION} holds no accuracy of distilled images", fix="run attar evaluate again"
        )
    judged = mapping(evaluation.get("judged"))
    if not (is_number(judged.get("ipc")) and judged["ipc"] > 0 and _is_shape(judged.get("shape"))):
        raise ArtifactError(
            f"{folder / EVALUATION} does not say of how many images of which size it is",
            expected="`judged` with ipc above 0 and a shape of channels, height and width",
            fix="run attar evaluate again",
        )
    stages = [read_stage(folder, stage) for stage in STAGES if (folder / stage / "manifest.json").exists()]
    times = [stage.wall_s for stage in stages if stage.complete and stage.wall_s is not None]
    source = mapping(description.get("source"))
    return Judged(
        name=name,
        path=folder,
        method=str(judged.get("method") or description.get("method") or "unknown"),
        ipc=float(judged["ipc"]),
        source=str(source.get("name") or ""),
        sizes={str(key): int(value) for key, value in mapping(judged.get("sizes")).items() if is_number(value)},
        wall_s=sum(times) if times and len(times) == len(stages) else None,
        hardware=_hardware(stages[-1].hardware if stages else mapping(evaluation.get("hardware"))),
        command=str(description.get("command") or ""),
        records=records,
        conditions=_conditions(judged, ours, defaults),
        class_names=tuple(map(str, listed(mapping(description.get("task")).get("class_names")))),
        judging=_judging(folder, outside, description, defaults),
        arriving=tuple(read_records(folder / CONTINUAL, json_if_there(folder / CONTINUAL))),
    )


def _judging(
    folder: Path, outside: Outside | None, description: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Judging:
    made = mapping(description.get("settings"))
    train, evaluate = {**defaults, **mapping(made.get("train"))}, mapping(made.get("evaluate"))
    if outside:
        kept = [text for text in outside.settings if not text.startswith(("train.", "evaluate."))]
        return Judging(outside.path, outside.source, outside.data_dir, train, evaluate, kept)
    config = read_settings(folder / CONFIG)
    lies = config.get("source", {}).get("data_dir")
    return Judging(str(folder), str(config.get("run", {}).get("source") or ""), lies and str(lies), train, evaluate)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) == 3 and all(part is None or is_number(part) for part in shape)


def _conditions(judged: Mapping[str, Any], ours: Record, defaults: Mapping[str, Any]) -> dict[str, Condition]:
    """All that must be the same, with hashes where words may be the same for different things."""
    channels, height, width = judged["shape"]
    colour = "grey" if channels == 1 else "colour"
    num = judged.get("num_train_images")
    real = f"{count(round(num))} images" if is_number(num) else "images"
    found = {
        "classes and size": Condition(
            f"{judged['classes']} classes, {width} × {height} px, {colour}", str(judged["task"])
        ),
        "real images": Condition(real, str(judged.get("source"))[:12]),
        "judged by": Condition(f"the {ours.split} split"),
    }
    trained = {**defaults, **how_measured(ours)}
    return found | {key: Condition(setting(value)) for key, value in trained.items() if key not in OWN}


def _reasons(first: Judged, other: Judged) -> tuple[str, ...]:
    """What differs, the widest first: of another task or other real images, the training is not told too."""
    keys = dict.fromkeys([*first.conditions, *other.conditions])
    both = [(key, first.conditions.get(key, NONE), other.conditions.get(key, NONE)) for key in keys]
    differing = {key: _in_words(there, here) for key, there, here in both if there != here}
    for key in WIDEST:
        if key in differing:
            return (f"{key}: {differing[key]}",)
    if "judged by" in differing:
        differing.pop("tested_on", None)
    return tuple(f"{key.replace('_', ' ')}: {words}" for key, words in differing.items())


def _in_words(there: Condition, here: Condition) -> str:
    """Both values; with their hashes where the words are the same."""
    if there.text != here.text:
        return f"{there.text} there, {here.text} here"
    return f"{there} there, {here} here"


def _full(judged: Judged, model: str) -> Record | None:
    found = (r for r in judged.records if r.group == "full" and r.model == model and r.augmented)
    return next(found, None)


def _hardware(values: Mapping[str, Any]) -> str:
    device, processor = str(values.get("device", "")), str(values.get("processor", ""))
    return processor if device == "cpu" and processor else device
