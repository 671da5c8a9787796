"""The folder that an export makes: new unless asked, with a note from which it can be imported again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.artifacts.description import provenance_of
from attar.artifacts.distilled import Distilled
from attar.errors import ArtifactError
from attar.runtime.files import new_folder, read_json, write_json
from attar.task import Task

NOTE = "attar-export.json"


@dataclass(frozen=True)
class Export:
    """What was exported: where, how many files and bytes, and what the format could not hold."""

    path: Path
    files: int
    bytes: int
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Note:
    """What an export knows that its format does not hold."""

    task: Task
    learning_rate: float | None
    provenance: dict[str, Any]


@contextmanager
def exporting(distilled: Distilled, out: Path, lost: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Yield the folder to fill; it becomes `out`, with its note, when the block ends well.

    A non-empty `out` is refused (ArtifactError); with `overwrite` too (ResourceError), unless it is an export itself.
    """
    require_new(out, overwrite=overwrite)
    with new_folder(out, replacing=NOTE if overwrite else None) as building:
        yield building
        write_json(
            building / NOTE,
            {
                "task": distilled.task.to_json(),
                "learning_rate": distilled.learning_rate,
                "lost": list(lost),
                "provenance": provenance_of(distilled.info),
            },
        )


def exported(out: Path, lost: Sequence[str]) -> Export:
    """Count what an export wrote."""
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    return Export(out, len(sizes), sum(sizes), tuple(lost))


def read_note(folder: Path) -> Note | None:
    """Read the note of an export; None where there is none, as in what other programs made."""
    if not (folder / NOTE).is_file():
        return None
    values = read_json(folder / NOTE)
    try:
        rate, provenance = values["learning_rate"], values["provenance"]
        return Note(Task.from_json(values["task"]), None if rate is None else float(rate), dict(provenance))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / NOTE} is damaged: {error!r}", fix="delete it, and say what the images are for"
        ) from error


def require_new(out: Path, *, overwrite: bool) -> None:
    """Raise ArtifactError where an export or import would replace what is there, unless asked to."""
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise ArtifactError(
            f"{out} is already there and not empty",
            expected="a folder that is new or empty",
            fix="choose another folder, or replace it with --overwrite",
        )


def imported(note: Note | None, kind: str) -> dict[str, Any]:
    """Provenance of an import: what its note tells, and by which format it came."""
    told = note.provenance if note else {"summary": "made by another program"}
    return {**told, "imported_from": kind}
