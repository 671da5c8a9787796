"""The folder that an export makes: new unless asked, with a note from which it can be imported again.

attar-export.json         task, learnt rate, provenance, and what the format could not hold
whitening.safetensors     the matrix that images are whitened by, where they are and the format holds them so
loader.py                 a PyTorch Dataset of it that needs no attar
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from attar.artifacts.description import MOST_TILES, Classes, Finite, Part, Provenance, provenance_of
from attar.artifacts.distilled import Distilled
from attar.artifacts.whitening import with_whitening, write_whitening
from attar.errors import ArtifactError
from attar.interop.images import MOST_PIXELS
from attar.interop.settings import ForeignSettings
from attar.plain import listed_problems
from attar.runtime.files import new_folder, require_name, write_bytes, write_json
from attar.task import Task

NOTE = "attar-export.json"
LOADER = "loader.py"


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
    exact_8bit: bool = False
    """Whether the images were whole 8-bit pixels."""
    tiles: int = 1
    """Images in each along a side."""


class _Note(Part):
    """What the file of a note holds."""

    task: Classes
    learning_rate: Annotated[Finite, Field(gt=0)] | None
    pixels: Literal["uint8", "float32"] | None = None
    tiles: Annotated[int, Field(ge=1, le=MOST_TILES)] = 1
    lost: tuple[str, ...] = ()
    provenance: Provenance


@contextmanager
def exporting(
    distilled: Distilled, out: Path, lost: Sequence[str], *, loader: str, whitened: bool, overwrite: bool
) -> Iterator[Path]:
    """Yield the folder to fill; it becomes `out`, with its note and loader, when the block ends well.

    Args:
        distilled: what is exported.
        out: where; a non-empty one is refused (ArtifactError); with `overwrite` too (ResourceError), unless it is an
            export itself.
        lost: what the format cannot hold.
        loader: a file in `attar.interop.loaders`, without its ending.
        whitened: the format holds images as networks see them, so whitened ones with their matrix.
        overwrite: replace an earlier export.
    """
    require_new(out, overwrite=overwrite)
    task, scale = distilled.task, distilled.task.normalization
    if not whitened:
        task = replace(task, normalization=replace(scale, whitening=None))
    with new_folder(out, replacing=NOTE if overwrite else None) as building:
        yield building
        if task.normalization.whitening is not None:
            write_whitening(building, task.normalization.whitening)
        write_bytes(building / LOADER, (resources.files("attar.interop.loaders") / f"{loader}.py").read_bytes())
        note = {
            "task": task.to_json(),
            "learning_rate": distilled.learning_rate,
            "pixels": distilled.info["pixels"],
            **({"tiles": distilled.tiles} if distilled.tiles > 1 else {}),
            "lost": list(lost),
            "provenance": provenance_of(distilled.info),
        }
        write_json(building / NOTE, note)


def exported(out: Path, lost: Sequence[str]) -> Export:
    """Count what an export wrote."""
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    return Export(out, len(sizes), sum(sizes), tuple(lost))


def lost_always(distilled: Distilled) -> list[str]:
    """What each format leaves out: labels stored or made by epoch, and what an image is made of."""
    lost, tiles = [], distilled.tiles
    if distilled.label_kind == "epochs":
        lost.append("soft labels of each epoch: each image has its class only")
    if distilled.label_kind == "online":
        lost.append("the teacher that labels in training: each image has its class only")
    if tiles > 1:
        lost.append(
            f"that each image holds {tiles} by {tiles} others: other programs must cut them apart to train on them"
        )
    return lost


def lost_in_8bit(distilled: Distilled) -> list[str]:
    """What a format of 8-bit pixels and hard labels leaves out."""
    lost = [] if distilled.exact_8bit else ["float pixels: clamped and rounded to 8 bits"]
    if distilled.label_kind == "soft":
        lost.append("soft labels: each image has its class only")
    lost += lost_always(distilled)
    if distilled.learning_rate is not None:
        lost.append(f"the learnt learning rate {distilled.learning_rate:.6g}: use it by hand")
    if distilled.task.normalization.whitening is not None:
        lost.append("the whitening: networks take the whitened images, and these are the pixels")
    return lost


def read_note(folder: Path) -> Note | None:
    """Read the note of an export; None where there is none, as in what other programs made.

    Raises ArtifactError where it is damaged.
    """
    if not (folder / NOTE).is_file():
        return None
    try:
        read = _Note.model_validate_json((folder / NOTE).read_bytes())
    except OSError as error:
        raise ArtifactError(f"{folder / NOTE} cannot be read: {error}", fix="see who may read it") from error
    except ValidationError as error:
        raise _damaged(folder, listed_problems(error)) from error
    task = Task.from_json(read.task.model_dump())
    if task.height_px * task.width_px > MOST_PIXELS:
        raise _damaged(folder, f"images of {task.width_px}x{task.height_px} px")
    provenance = read.provenance.model_dump(exclude_unset=True)
    return Note(with_whitening(folder, task), read.learning_rate, provenance, read.pixels == "uint8", read.tiles)


def _damaged(folder: Path, found: str) -> ArtifactError:
    return ArtifactError(
        f"{folder / NOTE} is damaged: {found}",
        expected="the note that an export of attar has",
        fix="export it again",
    )


def require_new(out: Path, *, overwrite: bool) -> None:
    """Raise ArtifactError where an export or import would replace what is there, unless asked to.

    Raises ResourceError where no folder can be made; see `attar.runtime.files.require_name`.
    """
    require_name(out)
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise ArtifactError(
            f"{out} is already there and not empty",
            expected="a folder that is new or empty",
            fix="choose another folder, or replace it with --overwrite",
        )


def tiles_of(note: Note | None, settings: ForeignSettings | None) -> int:
    """Images in each along a side: as the settings say, else as the note does."""
    return (settings.tiles if settings else 0) or (note.tiles if note else 1)


def imported(note: Note | None, kind: str) -> dict[str, Any]:
    """Provenance of an import: what its note tells, and by which format it came."""
    told = note.provenance if note else {"summary": "made by another program"}
    return {**told, "imported_from": kind}
