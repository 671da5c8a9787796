"""Arrays in `.npz` files of people one does not know: read within bounds, nothing is unpickled. Needs no torch."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.errors import DataError

MOST_UNFOLDED = 300
"""Images with much background shrink well; what unfolds to more than this times the file is refused."""
_LEAST_BYTES = 1 << 20
_KINDS = "biufUS"
_VERSIONS = ((1, 0), (2, 0), (3, 0))


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Every array of a file by its name.

    Raises DataError where it is damaged or unfolds without measure, or an array is of objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if sum(member.file_size for member in members) > MOST_UNFOLDED * max(path.stat().st_size, _LEAST_BYTES):
                raise ValueError(f"it unfolds to more than {MOST_UNFOLDED} times its bytes")
            found = {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    except Exception as error:  # zipfile's, numpy's, zlib's, lzma's and bz2's own
        raise _unreadable(path, error) from error
    if not found:
        raise _unreadable(path, ValueError("it holds no arrays"))
    return found


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _VERSIONS:
            raise ValueError(f"{member.filename}: another version of npy")
        reading = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reading(stream)
        if dtype.kind not in _KINDS or dtype.itemsize == 0:
            raise ValueError(f"{member.filename} holds {dtype}, which is not numbers or text")
        data = stream.read()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{member.filename} is said to be {dtype} {shape}, and has {len(data):,} bytes")
    values: NDArray[Any] = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return values if dtype.isnative else values.astype(dtype.newbyteorder("="))


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} can't be read as an .npz: {error or type(error).__name__}",
        expected="arrays of numbers as numpy.savez or savez_compressed writes them",
        fix="write it again, without objects in it",
    )
