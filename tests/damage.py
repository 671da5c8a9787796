"""Ways in which a file may be damaged, the same ones in each run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from attar.errors import AttarError

BLOCK = 64


def refusals(file: Path, reading: Callable[[], Any], num: int) -> int:
    """How many of its damaged forms a reader refuses by an error for people; all others it must read."""
    whole, told = file.read_bytes(), 0
    for what, data in damaged(whole, num, len(whole)):
        file.write_bytes(data)
        try:
            reading()
        except AttarError:
            told += 1
        except Exception as error:
            pytest.fail(f"{file.name}, {what}: {type(error).__name__}: {error}")
    file.write_bytes(whole)
    return told


def damaged(data: bytes, num: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """A file cut off, grown, and `num` times each: bytes flipped, blocks blanked, moved, doubled; each with a name."""
    yield from _cut(data, num)
    yield from (
        ("empty", b""),
        ("zeros", bytes(len(data))),
        ("grown", data + bytes(600)),
        ("bom", b"\xef\xbb\xbf" + data),
    )
    rng = random.Random(f"{seed}")
    for _ in range(num if data else 0):
        at, to = rng.randrange(len(data)), rng.randrange(len(data))
        size = rng.choice((1, 4, BLOCK, 512))
        yield f"byte {at} flipped", _laid(data, at, bytes([data[at] ^ rng.randrange(1, 256)]))
        yield f"{size} zeros at {at}", _laid(data, at, bytes(size))
        yield f"{size} ones at {at}", _laid(data, at, b"\xff" * size)
        yield f"{size} from {to} to {at}", _laid(data, at, data[to : to + size])
        yield f"{size} lost at {at}", data[:at] + data[at + size :]
        yield f"{size} doubled at {at}", data[: at + size] + data[at:]


def _cut(data: bytes, num: int) -> Iterator[tuple[str, bytes]]:
    """Cut off after the first bytes, before the last, and in between."""
    places = {1, 4, 8, 100, 512, len(data) - 1, len(data) - 8, *(len(data) * i // (num + 1) for i in range(1, num + 1))}
    for place in sorted(place for place in places if 0 < place < len(data)):
        yield f"cut off after {place}", data[:place]


def _laid(data: bytes, at: int, new: bytes) -> bytes:
    """The bytes from a place on replaced; the length stays."""
    new = new[: len(data) - at]
    return data[:at] + new + data[at + len(new) :]
