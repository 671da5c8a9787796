"""What a file of `torch.save` holds, read as data (see `plainpickle`): nothing in it is called.

Since torch 1.6 such a file is a zip archive, not compressed: `data.pkl` says what there is, and `data/0`, `data/1`...
are the numbers of the tensors. Before, and DC's code asks for torch 1.2, it is a stream:

    pickles    of a number that marks it, a version, the machine's byte order, the values, and keys of numbers in order
    numbers    for each key their count, int64, and the numbers

Sizes are held against those of the file before anything is allocated.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from attar.errors import ArtifactError
from attar.interop.plainpickle import unpickle

MOST_PICKLE_BYTES = 1 << 22
"""Tensors are not in it: the sets of a thousand experiments fit."""
MOST_COPIES = 2
"""Tensors may share numbers, but all together have no more than this times the bytes of the file."""
_STREAM = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How a stream begins, after two bytes: the number that marks it, 0x1950a86a20f9469cfc6c."""
_STREAM_VERSION, _COUNT_BYTES = 1001, 8


def read_values(path: Path) -> Any:
    """Read what was saved: lists, tuples, dictionaries, numbers, texts, None and CPU tensors, and nothing else.

    Raises ArtifactError where it is no such file, is damaged, or holds anything more.
    """
    with _told(path, "values and tensors"):
        return _read(path)


def read_tensor(path: Path) -> Tensor:
    """Read one tensor, on the CPU and contiguous; raises ArtifactError for anything else."""
    with _told(path, "a tensor"):
        found = _read(path)
    if not isinstance(found, Tensor):
        raise ArtifactError(f"{path} holds a {type(found).__name__}", expected="one tensor")
    return found


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged archives raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise ArtifactError(
            f"{path} cannot be read as {what}: {reason}",
            expected="numbers and tensors in a file written by torch.save",
            fix="fetch it again, or save it again as plain tensors",
        ) from error


def _read(path: Path) -> Any:
    if not path.exists():
        raise ValueError("there is no such file")
    with path.open("rb") as file:
        start = file.read(2 + len(_STREAM))
    if start.endswith(_STREAM):
        return _read_stream(path)
    if not start.startswith(b"PK\x03\x04"):
        raise ValueError("it begins as no file of torch.save does")
    with zipfile.ZipFile(path) as archive:
        records = _Records(archive, path.stat().st_size)
        return unpickle(records.pickle(), records)


def _read_stream(path: Path) -> Any:
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        pickles = io.BytesIO(file.read(MOST_PICKLE_BYTES))
        sizes = _Sizes()
        _, version, machine = (unpickle(pickles, sizes) for _ in range(3))
        if version != _STREAM_VERSION or machine.get("little_endian") is not True:
            raise ValueError("it is of an unknown version, or its numbers are big-endian")
        begin = pickles.tell()
        unpickle(pickles, sizes)  # tells how many bytes each of the keys has, which come after it
        keys = unpickle(pickles, sizes)
        placed = _Placed(file, file_bytes, pickles.tell(), keys, sizes.found)
        pickles.seek(begin)
        return unpickle(pickles, placed)


class _Sizes:
    """Bytes of the numbers that a pickle speaks of, by key."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def storage(self, key: str, num_bytes: int) -> None:
        if self.found.setdefault(key, num_bytes) != num_bytes:
            raise ValueError(f"the numbers {key!r} are said to have {num_bytes} bytes, and {self.found[key]}")


class _Placed:
    """Numbers that follow each other in a stream, from a place on, their sizes checked."""

    def __init__(self, file: BinaryIO, file_bytes: int, place: int, keys: Any, sizes: dict[str, int]) -> None:
        of_text = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not of_text or sorted(keys) != sorted(sizes):
            raise ValueError("its keys are not those of its numbers")
        self._file, self._sizes, self._left_bytes = file, sizes, MOST_COPIES * file_bytes
        self._places: dict[str, int] = {}
        for key in keys:
            self._places[key] = place + _COUNT_BYTES
            place += _COUNT_BYTES + sizes[key]
        if place != file_bytes:
            raise ValueError(f"its numbers are said to end at byte {place:,}, and the file does at {file_bytes:,}")

    def storage(self, key: str, num_bytes: int) -> bytes:
        self._left_bytes -= num_bytes
        if self._left_bytes < 0:
            raise ValueError("its tensors are larger than the file")
        self._file.seek(self._places[key])
        return self._file.read(num_bytes)


class _Records:
    """The members of the archive, their sizes checked."""

    def __init__(self, archive: zipfile.ZipFile, file_bytes: int) -> None:
        members = archive.infolist()
        self._archive, self._sizes = archive, {member.filename: member.file_size for member in members}
        self._left_bytes = MOST_COPIES * file_bytes
        if len(self._sizes) != len(members):
            raise ValueError("two of its members have the same name")
        if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
            raise ValueError("it is compressed or encrypted")
        if sum(self._sizes.values()) > file_bytes:
            raise ValueError("its members say they are larger than the file")
        roots = [name.removesuffix("data.pkl") for name in self._sizes if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise ValueError("it has no data.pkl, or several")
        self._root = roots[0]
        if self._sizes.get(f"{self._root}byteorder") and self._bytes("byteorder") != b"little":
            raise ValueError("its numbers are big-endian")

    def pickle(self) -> bytes:
        if self._sizes[f"{self._root}data.pkl"] > MOST_PICKLE_BYTES:
            raise ValueError(f"its data.pkl has more than {MOST_PICKLE_BYTES:,} bytes")
        return self._bytes("data.pkl")

    def storage(self, key: str, num_bytes: int) -> bytes:
        found = self._sizes.get(f"{self._root}data/{key}")
        if found != num_bytes:
            raise ValueError(f"the numbers {key!r} are said to have {num_bytes} bytes, and have {found}")
        self._left_bytes -= num_bytes
        if self._left_bytes < 0:
            raise ValueError("its tensors are larger than the file")
        return self._bytes(f"data/{key}")

    def _bytes(self, name: str) -> bytes:
        return self._archive.read(self._root + name)  # checks the CRC
