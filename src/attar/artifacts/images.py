"""Images by index: as tensors, from files that are read when they are asked for.

Few images (`attar.data.loading.KEPT_BYTES`) are read at once and kept. Of more, float images stay on disk; 8-bit pixels
are decoded together when the first of them are asked for, to one copy, as a PNG is too slow to be decoded in each
epoch of a training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attar.artifacts.arrays import Array, StoredRows, spans
from attar.artifacts.parquet import num_rows, read_shard
from attar.data.loading import few
from attar.errors import ArtifactError
from attar.methods.base import Images
from attar.task import Normalization


def float_images(rows: StoredRows) -> Images:
    """Normalised images (n, c, h, w), float32, of rows on disk."""
    images = StoredImages(rows)
    return images[:] if few(rows.shape) else images


def pixel_images(paths: Sequence[Path], shape: tuple[int, int, int]) -> Images:
    """Pixels uint8 (n, c, h, w) of parquet shards that follow each other.

    Raises ArtifactError where a shard is damaged; of an image that is, as soon as it is decoded.
    """
    pixels = StoredPixels(paths, shape)
    return pixels[:] if few(pixels.shape) else pixels


def parts(images: Images, part_bytes: int | None = None) -> Iterator[Tensor]:
    """All images (n, c, h, w), some (b, c, h, w) after the others; see `attar.artifacts.arrays.spans`."""
    return (images[part] for part in spans(images.shape, part_bytes))


class StoredImages:
    """Float images (n, c, h, w) that are read from disk whenever they are asked for."""

    dtype = torch.float32

    def __init__(self, rows: StoredRows) -> None:
        self._rows = rows
        self.shape = torch.Size(rows.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, indices: slice | Tensor, /) -> Tensor:
        """Images (b, c, h, w) of a slice or of indices (b,)."""
        return torch.from_numpy(self._rows[indices if isinstance(indices, slice) else indices.cpu().numpy()])


class StoredPixels:
    """Pixels uint8 (n, c, h, w) of parquet shards, all decoded when the first are asked for, and kept."""

    dtype = torch.uint8

    def __init__(self, paths: Sequence[Path], shape: tuple[int, int, int]) -> None:
        self._paths, self._lock = paths, Lock()
        self.shape = torch.Size((sum(map(num_rows, paths)), *shape))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: slice | Tensor, /) -> Tensor:
        """Pixels (b, c, h, w) of a slice or of indices (b,)."""
        with self._lock:  # batches may be read ahead in a thread of their own
            return self._decoded[indices]

    @cached_property
    def _decoded(self) -> Tensor:
        num, *shape = self.shape
        pixels, first = np.empty((num, *shape), np.uint8), 0
        for path in self._paths:
            for block in read_shard(path, (shape[0], shape[1], shape[2])):
                pixels[first : first + len(block.pixels)] = block.pixels
                first += len(block.pixels)
        if first != num:
            raise ArtifactError(f"{self._paths[0].parent} holds {first} images", expected=f"{num}, as its files say")
        return torch.from_numpy(pixels)


class NormalizedPixels:
    """8-bit pixels (n, c, h, w) as normalised images, made whenever they are asked for."""

    dtype = torch.float32

    def __init__(self, pixels: Images, normalization: Normalization) -> None:
        self._pixels, self._normalization = pixels, normalization
        self.shape = pixels.shape

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, indices: slice | Tensor, /) -> Tensor:
        """Images (b, c, h, w) of a slice or of indices (b,)."""
        return self._normalization.normalize(self._pixels[indices])


class ImageArrays:
    """Images on the CPU as arrays, read by slices."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self.shape = tuple(images.shape)

    def __getitem__(self, rows: slice, /) -> Array:
        """Images (b, c, h, w) of a slice."""
        return self._images[rows].numpy()
