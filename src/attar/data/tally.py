"""What one pass over images gathers: their pixels, exact sums over all of them, a hash, and what is damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attar.data.raster import Pixels
from attar.errors import DataError
from attar.task import Normalization

_EXACT = 256
"""Squares of so many 8-bit values have a sum that float32 holds exactly."""


class DamagedError(DataError):
    """An image that can't be read."""


@dataclass(frozen=True)
class Chunk:
    """Some images: indices and pixels (k, c, h, w) of those that could be read, and their sums by channel."""

    kept: list[int]
    pixels: Pixels
    sums: NDArray[np.int64]
    squares: NDArray[np.int64]
    digests: list[bytes]
    damaged: list[tuple[str, DamagedError]]


class Store:
    """Pixels gathered chunk by chunk; widened to three channels when the first colour image comes."""

    def __init__(self, num: int, channels: int | None, size: tuple[int, int]) -> None:
        self._pixels = np.empty((num, channels or 1, *size), np.uint8)
        self._filled = 0

    def add(self, pixels: Pixels) -> None:
        """Append pixels (k, c, h, w)."""
        if pixels.shape[1] > self._pixels.shape[1]:
            self._pixels = np.repeat(self._pixels, 3, axis=1)
        self._pixels[self._filled : self._filled + len(pixels)] = pixels
        self._filled += len(pixels)

    def tensor(self) -> Tensor:
        """All of them, uint8 (n, c, h, w)."""
        return torch.from_numpy(self._pixels[: self._filled])


class Tally:
    """What is learnt in decoding: which images there are, and exact sums over all pixels.

    Grey chunks count alike for each channel.
    """

    def __init__(self) -> None:
        self.skipped: list[str] = []
        self.sums = self._squares = np.zeros(1, np.int64)
        self._kept: list[int] = []
        self._content = hashlib.sha256()
        self._digest: str | None = None

    @property
    def kept(self) -> Tensor:
        """Indices int64 (m,) of the images that could be read."""
        return torch.tensor(self._kept, dtype=torch.int64)

    def add(self, chunk: Chunk) -> None:
        """Take a chunk in, after those before it."""
        self._kept += chunk.kept
        self.skipped += [name for name, _ in chunk.damaged]
        self.sums = self.sums + chunk.sums
        self._squares = self._squares + chunk.squares
        self._content.update(b"".join(chunk.digests))

    def normalization(self, pixels_each: int) -> Normalization:
        """Mean and standard deviation of pixels in 0..1 by channel, of images of so many pixels each."""
        count = max(1, len(self._kept)) * pixels_each * 255.0
        mean = self.sums / count
        std = np.sqrt(np.maximum(self._squares / (count * 255.0) - mean**2, 0))
        return Normalization(tuple(mean.tolist()), tuple((std + (std == 0)).tolist()))  # a constant channel: 1

    def digest(self, labels: Tensor) -> str:
        """Hash of the images as stored and of the labels (m,) of all that could be read."""
        if self._digest is not None:
            return self._digest
        content = self._content.copy()
        content.update(labels.numpy().tobytes())
        return content.hexdigest()

    def learnt(self, indices: Tensor, labels: Tensor) -> dict[str, Any]:
        """All of it, as JSON keeps it; images by their places among `indices` (n,), which are into `labels`."""
        damaged = (~torch.isin(indices, self.kept)).nonzero().squeeze(1)
        sums = {"sums": self.sums.tolist(), "squares": self._squares.tolist()}
        return {"damaged": damaged.tolist(), **sums, "digest": self.digest(labels[self.kept])}

    @classmethod
    def of(cls, learnt: Mapping[str, Any], indices: Tensor, name: Callable[[int], str]) -> Tally:
        """What `learnt` gave for these indices (n,) of images by these names."""
        tally, read = cls(), torch.ones(len(indices), dtype=torch.bool)
        read[torch.tensor(learnt["damaged"], dtype=torch.int64)] = False
        tally._kept = indices[read].tolist()
        tally.skipped = [name(index) for index in indices[~read].tolist()]
        tally.sums, tally._squares = (np.array(learnt[key], np.int64) for key in ("sums", "squares"))
        tally._digest = learnt["digest"]
        return tally


def channel_sums(pixels: Pixels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums, and sums of squares, of pixels (k, c, h, w) by channel: int64 (c,) each, exact.

    They are added as float32, 256 pixels at a time: these stay below 2^24, where no integer is rounded.
    """
    sums = squares = np.zeros(pixels.shape[1], np.int64)
    at_once = max(1, (1 << 18) // max(1, pixels[0].size)) if len(pixels) else 1
    ones = np.ones(min(_EXACT, pixels.shape[3]), np.float32)
    for start in range(0, len(pixels), at_once):
        for left in range(0, pixels.shape[3], _EXACT):
            values = pixels[start : start + at_once, ..., left : left + _EXACT].astype(np.float32)
            row = ones[: values.shape[3]]
            sums = sums + (values @ row).sum((0, 2), dtype=np.float64).astype(np.int64)
            values *= values
            squares = squares + (values @ row).sum((0, 2), dtype=np.float64).astype(np.int64)
    return sums, squares
