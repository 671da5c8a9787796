"""Which kind of folder one is, by the files that mark each kind; so that none is written over another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attar.errors import ArtifactError
from attar.runtime.holding import LOCK
from attar.runtime.trackers import TRACKERS

Kind = Literal[
    "a run folder of `attar distill`", "a distilled dataset", "an export", "a study", "a bench", "an evaluation"
]
STUDY = "study.yaml"
_MARKS: Mapping[Kind, tuple[str, ...]] = {
    "a run folder of `attar distill`": ("config.yaml",),
    "a distilled dataset": ("attar.json",),
    "an export": ("attar-export.json",),
    "a study": (STUDY, "study.json"),
    "a bench": ("bench.json", "random-ipc*"),
    "an evaluation": ("evaluation.json", "continual.json", "judged.json"),
}
"""Patterns of names, one of which is in the folder; a bench makes the sets of random images first."""
_BEFORE = (LOCK, f"{LOCK}-*", "events*.jsonl", "*.tmp", *TRACKERS)
"""What is there before any of these marks, and left where work ends early: it tells no kind."""


def claim(folder: Path, kind: Kind) -> None:
    """Raise ArtifactError unless the folder is of this kind, or holds nothing yet."""
    require_no_other(folder, kind)
    if not folder.is_dir() or _is(folder, kind):
        return
    if others := sorted(path.name for path in folder.iterdir() if not any(path.match(name) for name in _BEFORE)):
        raise ArtifactError(
            f"{folder} is not empty and not {kind}: it holds {', '.join(others[:5])}",
            expected=f"{kind}, or a folder that is new or empty",
            fix="choose another --out",
        )


def require_no_other(folder: Path, kind: Kind) -> None:
    """Raise ArtifactError where the folder is of another kind than this."""
    for other in _MARKS:
        if other != kind and _is(folder, other):
            raise ArtifactError(
                f"{folder} is {other}", expected=f"{kind}, or a folder of its own", fix="choose another --out"
            )


def _is(folder: Path, kind: Kind) -> bool:
    return any(any(folder.glob(name)) for name in _MARKS[kind])
