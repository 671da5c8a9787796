"""Choose and read the pictures of a run: the distilled images and the snapshots of their synthesis.

Of large sets only what will be shown is decoded.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from attar.errors import ArtifactError, AttarError
from attar.runtime.reading import parse_notes, require_file

MOST_CLASSES = 100
MOST_IMAGES = 240
MOST_PER_CLASS = 10
MOST_FRAMES = 40
MOST_FILM_TILES = 60
FEWEST_FILM_TILES = 10
FILM_PIXELS = 1_000_000
MOST_FILM_PIXELS = 3_000_000
MOST_PICTURE_BYTES = 1 << 32
BATCH_ROWS = 64

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Gallery:
    """Chosen synthetic images: pixels uint8 (n, h, w, c), label of each, and how many there are in all."""

    pixels: Pixels
    labels: tuple[int, ...]
    num_images: int
    num_classes: int


@dataclass(frozen=True, eq=False)
class Film:
    """Chosen snapshots of the synthesis: pixels uint8 (frames, k, h, w, c) of the same k images."""

    steps: tuple[int, ...]
    labels: tuple[int, ...]
    pixels: Pixels
    num_images: int


def read_gallery(folder: Path) -> Gallery | None:
    """Read images chosen from the parquet shards of `folder`; None where there are none."""
    from attar.data.columns import read_columns

    shards = sorted(folder.glob("*.parquet"))
    labels: list[int] = []
    try:
        for shard in shards:
            require_file(shard, None)
            labels += map(int, read_columns(shard, ["label"])["label"].to_pylist())
        wanted = choose_images(labels)
        rows = _images_of(shards, frozenset(wanted))
        if not rows:
            return None
        pixels = np.stack([rows[index] for index in wanted])
        shown = checked_labels(pixels, [labels[index] for index in wanted])
    except AttarError:
        raise
    except Exception as error:  # a hostile picture may raise nearly anything
        raise ArtifactError(
            f"the images of {folder} could not be read: {error}", fix="attar verify names the damaged file"
        ) from error
    return Gallery(pixels, tuple(shown), len(labels), len(set(labels)))


def read_film(folder: Path) -> Film | None:
    """Read at most MOST_FRAMES snapshots, first and last among them, with as many images as FILM_PIXELS allow.

    FEWEST_FILM_TILES are shown in any case, in fewer frames where they would come to more than MOST_FILM_PIXELS.
    """
    paths = sorted(folder.glob("step-*.safetensors"))
    if not paths:
        return None
    last, labels, _ = _snapshot(paths[-1])
    num_frames, keep = film_of(len(paths), labels, max(last.shape[1:3]))
    frames = [
        (step, pixels[keep])
        for pixels, _, step in (_snapshot(paths[i]) for i in _evenly(len(paths), num_frames))
        if pixels.shape == last.shape
    ]
    return Film(
        steps=tuple(step for step, _ in frames),
        labels=tuple(labels[i] for i in keep),
        pixels=np.stack([pixels for _, pixels in frames]),
        num_images=len(labels),
    )


def film_of(num_snapshots: int, labels: Sequence[int], px: int) -> tuple[int, list[int]]:
    """How many frames a film of so many snapshots of images of `px` has, and the indices of the images in it."""
    side_px, fewest = min(px, 128), min(FEWEST_FILM_TILES, len(labels))
    num_frames = min(num_snapshots, MOST_FRAMES, MOST_FILM_PIXELS // (fewest * side_px**2))
    num_fit = min(MOST_FILM_TILES, max(FEWEST_FILM_TILES, FILM_PIXELS // (num_frames * side_px**2)))
    chosen, num_classes = round_by_class(labels), len(set(labels))
    return num_frames, chosen[: num_fit - num_fit % num_classes if num_classes < num_fit else num_fit]


def last_frame(film: Film | None) -> Gallery | None:
    """Take the last snapshot for the gallery, where nothing is distilled yet."""
    if film is None:
        return None
    order = choose_images(film.labels)
    labels = tuple(film.labels[i] for i in order)
    return Gallery(film.pixels[-1][order], labels, film.num_images, len(set(film.labels)))


def choose_images(labels: Sequence[int]) -> list[int]:
    """Choose the indices to show, class by class: evenly spaced classes, the first images of each."""
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_class[label].append(index)
    shown = shown_classes(sorted(by_class))
    each = min(MOST_PER_CLASS, max(1, MOST_IMAGES // max(1, len(shown))))
    return [index for label in shown for index in by_class[label][:each]]


def shown_classes(classes: Sequence[int]) -> list[int]:
    """At most MOST_CLASSES of these classes, evenly spaced."""
    return [classes[place] for place in _evenly(len(classes), MOST_CLASSES)]


def round_by_class(labels: Sequence[int]) -> list[int]:
    """Indices ordered so that every class comes once before any comes twice."""
    seen: dict[int, int] = defaultdict(int)
    rounds = []
    for index, label in enumerate(labels):
        rounds.append((seen[label], label, index))
        seen[label] += 1
    return [index for _, _, index in sorted(rounds)]


def _images_of(shards: Sequence[Path], wanted: frozenset[int]) -> dict[int, Pixels]:
    """Decode the wanted images, numbered through all shards; row groups without any are not read."""
    import pyarrow.parquet as pq

    found: dict[int, Pixels] = {}
    first = 0
    for shard in shards:
        with pq.ParquetFile(shard) as file:
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                here = {i for i in wanted if first <= i < first + size}
                place, first = first, first + size
                if not here:
                    continue
                for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=["image"]):
                    column = batch["image"]
                    rows = [i for i in here if place <= i < place + len(column)]
                    found |= {i: _decode(column[i - place].as_py()["bytes"]) for i in rows}
                    place += len(column)
    return found


def _decode(data: bytes) -> Pixels:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        array = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    return array if array.ndim == 3 else array[:, :, None]


def _snapshot(path: Path) -> tuple[Pixels, list[int], int]:
    """Pixels (k, h, w, c), the k labels and the step of one snapshot."""
    from safetensors import SafetensorError, safe_open

    require_file(path, MOST_PICTURE_BYTES)
    try:
        with safe_open(path, framework="np") as file:
            note = parse_notes(file.metadata())
            pixels: Pixels = file.get_tensor("pixels")
        step = int(note["step"])
        labels = checked_labels(pixels, note.get("labels", list(range(len(pixels)))))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path} is not a snapshot: {error}",
            expected="`pixels`, uint8 (k, h, w, c), with step and k labels",
            fix="delete it; the report does without",
        ) from error
    return pixels, labels, step


def checked_labels(pixels: Pixels, labels: Any) -> list[int]:
    """The labels of pixels, uint8 (n, h, w, c), c 1 or 3; raises ValueError where these are something else."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or 0 in pixels.shape or pixels.shape[3] not in (1, 3):
        raise ValueError(f"{pixels.dtype} of shape {pixels.shape}")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        raise ValueError(f"{len(pixels)} pictures, and not as many labels")
    return [int(label) for label in labels]


def _evenly(num: int, most: int) -> list[int]:
    """At most `most` of the indices 0..num-1, evenly spaced, both ends among them."""
    if num <= most:
        return list(range(num))
    return [round(i * (num - 1) / (most - 1)) for i in range(most)]
