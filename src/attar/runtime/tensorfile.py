"""The safetensors format in parts: a header to write before a stream of data, and where data lie. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from attar.text import parse_json

DTYPES = {"U8": "u1", "F16": "<f2", "F32": "<f4", "I64": "<i8"}
"""What numpy calls the dtypes that are written and read in parts."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a file: bytes from its start, numpy's dtype (or another, as the file has it), shape."""

    offset: int
    dtype: str
    shape: tuple[int, ...]


def encode_header(header: Mapping[str, Any]) -> bytes:
    """A header with its length before it, ended so that what follows is aligned."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def in_order(data: bytes) -> bytes:
    """The same file with the metadata of its header sorted: the library writes its keys in an order of chance."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = parse_json(data[8:start])
    if len(header.get("__metadata__", ())) < 2:
        return data
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    return b"".join((encode_header(header), memoryview(data)[start:]))


def places(path: Path) -> dict[str, Place]:
    """Where each tensor of a file lies.

    Raises FileNotFoundError, or SafetensorError where the header is damaged or does not fill the file.
    """
    with safetensors.safe_open(path, framework="np"):
        pass  # it has looked at the header as nothing below does
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(length))
    return {
        name: Place(
            8 + length + said["data_offsets"][0], DTYPES.get(said["dtype"], said["dtype"]), tuple(said["shape"])
        )
        for name, said in header.items()
        if name != "__metadata__"
    }
