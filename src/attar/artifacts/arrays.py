"""Rows of numbers beside the parquet shards: safetensors shards with one tensor each. Needs no torch.

No more than a part of the rows is in memory, when they are written and when they are read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import safetensors

from attar.errors import ArtifactError
from attar.runtime.files import new_file
from attar.runtime.tensorfile import DTYPES, encode_header, places

SHARD_BYTES = 400_000_000
"""A shard ends before it grows past this."""
_PART_BYTES, PART_ROWS = 1 << 20, 1000
"""Rows that are looked at together: larger parts leave holes in the heap, and take no less time."""

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


class Rows(Protocol):
    """Rows (n, ...), read by slices; an array is such."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, and the shape of each."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Some of the rows, an array (m, ...)."""


def spans(shape: Sequence[int], part_bytes: int | None = None) -> Iterator[slice]:
    """Cut rows of this shape (n, ...), 4 bytes a value, into parts that follow each other, of some `part_bytes`."""
    step = max(1, min(PART_ROWS, (part_bytes or _PART_BYTES) // max(1, 4 * math.prod(shape[1:]))))
    return (slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step))


def write_rows(folder: Path, stem: str, tensor: str, rows: Rows, dtype: str) -> list[str]:
    """Write rows (n, ...) as `<stem>-00000.safetensors` and on, each with one `tensor`; return the names.

    `dtype` is safetensors' name of theirs, F16 or F32.
    """
    num, *shape = rows.shape
    row_bytes = np.dtype(DTYPES[dtype]).itemsize * math.prod(shape)
    per_shard = max(1, SHARD_BYTES // row_bytes)
    names: list[str] = []
    for first in range(0, num, per_shard):
        names.append(f"{stem}-{len(names):05d}.safetensors")
        here = min(per_shard, num - first)
        said = {"dtype": dtype, "shape": [here, *shape], "data_offsets": [0, here * row_bytes]}
        with new_file(folder / names[-1]) as file:
            file.write(encode_header({tensor: said}))
            for part in spans((here, *shape)):
                values = rows[first + part.start : first + part.stop]
                file.write(np.ascontiguousarray(values, DTYPES[dtype]).data)
    return names


class StoredRows:
    """Rows (n, ...) of one tensor in safetensors files that follow each other, read when they are asked for.

    Args:
        paths: the files, in order; at least one.
        tensor: its name in each of them.
        dtype: F16 or F32.
        shape: of a row; None: as in the first file.
        alone: whether the files may hold no other tensor.

    Raises ArtifactError where a file is missing, damaged, of other rows or, when it is read, not the one that was
    opened.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        tensor: str,
        dtype: str,
        shape: tuple[int, ...] | None = None,
        *,
        alone: bool = True,
    ) -> None:
        self._dtype = np.dtype(DTYPES[dtype])
        self._files: list[_File] = []
        for path in paths:
            with _telling(path):
                self._files.append(_File.open(path, tensor, dtype, shape, alone))
            shape = self._files[0].shape
        self._ends = np.cumsum([file.num for file in self._files])
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *self._files[0].shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Indices, /) -> Array:
        """Rows (m, ...) of a slice, or of indices (m,) in any order; raises IndexError for one that is not there."""
        indices = np.arange(len(self))[rows]
        found = np.empty((len(indices), *self.shape[1:]), self._dtype)
        files = np.searchsorted(self._ends, indices, side="right")
        for k in np.unique(files).tolist():
            mine, file = np.flatnonzero(files == k), self._files[k]
            with _telling(file.path):
                file.read(indices[mine] - (self._ends[k] - file.num), mine, found)
        return found


@dataclass(frozen=True)
class _File:
    """A file of `num` rows of a shape: where they begin, and what tells it from one that takes its place."""

    path: Path
    offset: int
    num: int
    shape: tuple[int, ...]
    stamp: tuple[int, int, int]

    @classmethod
    def open(cls, path: Path, tensor: str, dtype: str, shape: tuple[int, ...] | None, alone: bool) -> _File:
        found = places(path)
        if tensor not in found or (alone and len(found) > 1):
            raise _damaged(path, f"tensors {sorted(found)}", f"one tensor, {tensor!r}")
        place = found[tensor]
        due = place.shape[1:] if shape is None else shape
        if place.dtype != DTYPES[dtype] or not place.shape or place.shape[1:] != due:
            kind = _CODES.get(place.dtype, place.dtype)
            raise _damaged(path, f"{kind} rows of shape {place.shape[1:]}", f"{dtype} rows of shape {due}")
        return cls(path, place.offset, place.shape[0], due, _stamp(path.stat()))

    def read(self, rows: Indices, into: Indices, found: Array) -> None:
        """Read rows (m,) to the places `into` (m,) of `found`, those that follow each other at one go."""
        with self.path.open("rb", buffering=0) as file:
            if _stamp(os.fstat(file.fileno())) != self.stamp:
                raise ArtifactError(
                    f"{self.path} is no longer the file that was opened",
                    expected="files that stay as they are while they are in use",
                    fix="open the images again",
                )
            jumps = np.flatnonzero((np.diff(rows) != 1) | (np.diff(into) != 1)) + 1
            for run in np.split(np.arange(len(rows)), jumps):
                file.seek(self.offset + int(rows[run[0]]) * found[0].nbytes)
                _fill(file, found[into[run[0]] : into[run[-1]] + 1].data.cast("B"))


def _fill(file: FileIO, target: memoryview) -> None:
    while target:
        num = file.readinto(target)
        if not num:
            raise OSError("it ends before its rows do")
        target = target[num:]


def _stamp(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn what a missing or damaged file makes its reader raise into an ArtifactError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", fix="fetch the dataset again") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, str(error), "a safetensors file") from error


_CODES = {name: code for code, name in DTYPES.items()}


def _damaged(path: Path, found: str, expected: str) -> ArtifactError:
    return ArtifactError(f"{path.name} is damaged: {found}", expected=expected, fix="fetch the dataset again")
