"""Rows of numbers beside the parquet shards: safetensors shards with one tensor each. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from attar.errors import ArtifactError
from attar.runtime.files import write_bytes

SHARD_BYTES = 400_000_000
"""A shard ends before it grows past this."""

Array = npt.NDArray[Any]


def write_rows(folder: Path, stem: str, tensor: str, rows: Array) -> list[str]:
    """Write rows (n, ...) as `<stem>-00000.safetensors` and on, each with one `tensor`; return the names."""
    per_shard = max(1, SHARD_BYTES // rows[0].nbytes)
    names: list[str] = []
    for first in range(0, len(rows), per_shard):
        names.append(f"{stem}-{len(names):05d}.safetensors")
        piece = np.ascontiguousarray(rows[first : first + per_shard])
        write_bytes(folder / names[-1], safetensors.numpy.save({tensor: piece}))
    return names


def read_rows(path: Path, tensor: str, dtype: str, shape: tuple[int, ...]) -> Array:
    """Read one shard: rows (n, *shape) of exactly this dtype; raises ArtifactError on what is wrong."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            if list(file.keys()) != [tensor]:
                raise _damaged(path, f"tensors {sorted(file.keys())}", f"one tensor, {tensor!r}")
            kind, found = file.get_slice(tensor).get_dtype(), tuple(file.get_slice(tensor).get_shape())
            if (kind, found[1:]) != (_CODES[dtype], shape):
                raise _damaged(path, f"{kind} rows of shape {found[1:]}", f"{_CODES[dtype]} rows of shape {shape}")
            rows: Array = file.get_tensor(tensor)
            return rows
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", fix="fetch the dataset again") from error
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, str(error), "a safetensors file") from error


_CODES = {"float16": "F16", "float32": "F32"}


def _damaged(path: Path, found: str, expected: str) -> ArtifactError:
    return ArtifactError(f"{path.name} is damaged: {found}", expected=expected, fix="fetch the dataset again")
