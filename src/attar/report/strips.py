"""Small pictures of real images, a strip for each class, which a run keeps for its page. Needs no torch.

real.safetensors    `pixels` uint8 (n, h, w, c), at most STRIP_PX wide, and n labels

They lie beside `distilled/`, not in it: no size of the distilled dataset counts them, and nothing that is exported or
uploaded holds them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from PIL import Image
from safetensors import SafetensorError, safe_open

from attar.errors import ArtifactError
from attar.report.pictures import MOST_IMAGES, MOST_PICTURE_BYTES, Pixels, checked_labels, shown_classes
from attar.runtime.files import write_bytes
from attar.runtime.reading import parse_notes, require_file

STRIPS = "real.safetensors"
STRIP_PX = 64


@dataclass(frozen=True, eq=False)
class Strips:
    """Real images by class: pixels uint8 (n, h, w, c), the label of each, and the bytes of their file."""

    pixels: Pixels
    labels: tuple[int, ...]
    num_bytes: int


def places(num_classes: int, most: int) -> tuple[list[int], int]:
    """The classes that strips are kept of, as many as a page shows, and how many images of each, at most `most`."""
    classes = shown_classes(range(num_classes))
    return classes, min(most, max(1, MOST_IMAGES // max(1, len(classes))))


def write_strips(folder: Path, pixels: Sequence[Pixels], labels: Sequence[int], made_of: str) -> None:
    """Write images, uint8 (h, w, c) of one shape, made smaller where they are large; `made_of` is told by `made_of`."""
    note = {"strips": json.dumps({"labels": [*labels], "made_of": made_of})}
    tensors = {"pixels": np.ascontiguousarray(np.stack([_small(one) for one in pixels]))}
    write_bytes(folder / STRIPS, safetensors.numpy.save(tensors, metadata=note))


def made_of(folder: Path) -> str | None:
    """What the strips of a folder were made of; None where there are none, or none that can be read."""
    try:
        require_file(folder / STRIPS, MOST_PICTURE_BYTES)
        with safe_open(folder / STRIPS, framework="np") as file:
            return str(parse_notes(file.metadata())["strips"]["made_of"])
    except (ArtifactError, SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def read_strips(folder: Path) -> Strips | None:
    """The strips that a folder holds; None where there are none. Raises ArtifactError where they are damaged."""
    path = folder / STRIPS
    if not path.exists():
        return None
    try:
        require_file(path, MOST_PICTURE_BYTES)
        with safe_open(path, framework="np") as file:
            note = parse_notes(file.metadata())["strips"]
            pixels: Pixels = file.get_tensor("pixels")
        labels = checked_labels(pixels, note["labels"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} holds no pictures of real images: {error}",
            expected="`pixels`, uint8 (n, h, w, c), and n labels",
            fix="delete it, and run the command that judges the set again",
        ) from error
    return Strips(pixels, tuple(labels), path.stat().st_size)


def _small(pixels: Pixels) -> Pixels:
    grey = pixels.shape[2] == 1
    if max(pixels.shape[:2]) <= STRIP_PX:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if grey else pixels))
    image.thumbnail((STRIP_PX, STRIP_PX), Image.Resampling.LANCZOS)
    array: Pixels = np.asarray(image)
    return array[:, :, None] if grey else array
