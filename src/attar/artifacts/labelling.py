"""The labels that a distilled dataset is written with, beyond those of its images alone. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attar.artifacts.description import BELOW_TEACHER, NAME, Description, LabelKind
from attar.errors import ArtifactError
from attar.labels.plan import LabelPlan
from attar.labels.shards import QuantizationError, open_shard
from attar.runtime.files import linked


@dataclass(frozen=True)
class Labelling:
    """How the images of a distilled dataset are labelled. Raises ArtifactError where its parts do not go together."""

    kind: LabelKind
    plan: LabelPlan | None = None
    """Of the labels stored by epoch; for the kind `epochs`, and only there."""
    folder: Path | None = None
    """Where the shards of the plan lie; for the kind `epochs`."""
    views: Mapping[str, Any] | None = None
    """Plain values by which both sides replay the views that were labelled; for `epochs` and `online`."""
    teacher: Mapping[str, Path] = field(default_factory=dict)
    """Files that are needed to label in training, by their names below teacher/; at least one for `online`."""

    def __post_init__(self) -> None:
        stored, replayed = self.kind == "epochs", self.kind in ("epochs", "online")
        if stored != (self.plan is not None) or stored != (self.folder is not None):
            raise _odd(self.kind, "a plan and a folder of shards", "for the kind epochs, and only there")
        if replayed != (self.views is not None):
            raise _odd(self.kind, "views", "for the kinds epochs and online, and only there")
        if self.kind == "online" and not self.teacher:
            raise _odd(self.kind, "the files of a teacher", "at least one")
        for name in self.teacher:
            if not re.fullmatch(BELOW_TEACHER, name):
                raise ArtifactError(f"{name!r} is no name of a teacher's file", expected="such as resnet18.safetensors")

    def describe(self) -> dict[str, Any]:
        """Fields of `attar.artifacts.description.Labels`."""
        views = None if self.views is None else dict(self.views)
        if self.plan is None or self.folder is None:
            return {"kind": self.kind, "views": views}
        error = QuantizationError.merge(open_shard(self.folder, self.plan, one).error for one in self.plan.shards)
        return {"kind": self.kind, "stored": self.plan.to_json(), "error": error.to_json(), "views": views}

    def place(self, building: Path) -> tuple[list[str], list[str]]:
        """Link or copy the shards and the teacher's files into a folder; return their names there."""
        shards = [shard.name for shard in self.plan.shards] if self.plan else []
        for name in shards:
            assert self.folder is not None, "a plan comes with a folder"
            _link(self.folder / name, building / name)
        names = [f"teacher/{name}" for name in sorted(self.teacher)]
        for name in names:
            _link(self.teacher[name.removeprefix("teacher/")], building / name)
        return shards, names


def stored_plan(description: Description) -> LabelPlan | None:
    """The plan of the labels that are stored by epoch, or None; raises ArtifactError where it makes no sense."""
    stored = description.labels.stored
    if stored is None:
        return None
    plan = LabelPlan.from_json(stored.model_dump())
    if tuple(shard.name for shard in plan.shards) != description.files.labels:
        raise ArtifactError(
            f"{NAME} names {len(description.files.labels)} label shards that are not those of its own plan",
            expected=f"{plan.shards[0].name} and on, {len(plan.shards)} in all",
            fix="make the dataset again, or fetch it again",
        )
    return plan


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, if it is there."""
    if not source.is_file():
        raise ArtifactError(f"{source} is missing", fix="make the labels again")
    linked(source, target)


def _odd(kind: str, what: str, when: str) -> ArtifactError:
    return ArtifactError(f"labels of the kind {kind}: {what} in the wrong place or missing", expected=f"{what}: {when}")
