"""Image files of people one does not know, as 8-bit pixels of one size."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from attar.artifacts.parquet import MODES, Bytes8
from attar.data.raster import formats, is_grey, plain, shown_size
from attar.errors import DataError
from attar.runtime.memory import enough_memory

MOST_PIXELS = 1 << 24
"""Larger images are refused before they are decoded: a file of some kilobytes may unfold to gigabytes."""

Encoded = Path | bytes


def decode_images(
    files: Sequence[tuple[str, Encoded]], shape: tuple[int, int, int] | None = None, *, whose: str = "the task says"
) -> Bytes8:
    """Decode images that all have one size to pixels uint8 (n, c, h, w).

    Args:
        files: name and content of each, at least one.
        shape: channels, height and width that they should have; None takes the size of the first, and one channel
            where all are grey.
        whose: says in an error who wants this shape.

    Raises DataError for one that cannot be read, is too large or of another size.
    """
    if shape is None:
        (width, height), whose = image_size(*files[0]), f"{files[0][0]} has"
        shape = (1 if all(_is_grey(*file) for file in files) else 3, height, width)
    num_bytes = len(files) * math.prod(shape)
    with enough_memory(f"reading images of {num_bytes:,} bytes", "close other programs, or take fewer images"):
        pixels = np.empty((len(files), *shape), np.uint8)
        for row, (name, content) in zip(pixels, files, strict=True):
            row[:] = _decode(name, content, shape, whose)
    return pixels


def image_size(name: str, content: Encoded) -> tuple[int, int]:
    """Width and height in pixels, as an image is shown."""
    with _Opened(name, content) as image:
        height, width = shown_size(image)
        return width, height


def _decode(name: str, content: Encoded, shape: tuple[int, int, int], whose: str) -> Bytes8:
    channels, height, width = shape

    def require_size(found: tuple[int, int], *due: tuple[int, int]) -> None:
        if found not in due:
            raise DataError(
                f"{name} has {found[0]}x{found[1]} px",
                expected=f"{width}x{height} px, as {whose}",
                fix="resize the images to one size",
            )

    with _Opened(name, content) as image:
        require_size(image.size, (width, height), (height, width))  # told before anything is decoded
        shown = plain(image)
        require_size(shown.size, (width, height))
        array = np.asarray(shown.convert(MODES[channels]), dtype=np.uint8)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)


def _is_grey(name: str, content: Encoded) -> bool:
    with _Opened(name, content) as image:
        return is_grey(image)


class _Opened:
    """An image whose header was read and found of a fair size; what goes wrong in the block is told of its file."""

    def __init__(self, name: str, content: Encoded) -> None:
        self._name, self._content = name, content

    def __enter__(self) -> Image.Image:
        try:
            stream = io.BytesIO(self._content) if isinstance(self._content, bytes) else self._content
            self._image = Image.open(stream, formats=formats())
        except Exception as error:
            raise self._unreadable(error) from error
        width, height = self._image.size
        if width * height > MOST_PIXELS:
            self._image.close()
            raise DataError(
                f"{self._name} says that it has {width}x{height} px",
                expected=f"at most {MOST_PIXELS:,} pixels",
                fix="scale it down",
            )
        return self._image

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._image.close()
        if isinstance(error, Exception) and not isinstance(error, DataError):
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(
            f"{self._name} cannot be read: {error}",
            expected=f"an image in one of: {', '.join(formats())}",
            fix="write it again",
        )
