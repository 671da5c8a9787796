"""Tensors on disk: safetensors, written atomically, never pickles."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from attar.errors import ArtifactError
from attar.runtime.files import write_bytes, write_parts
from attar.runtime.reading import parse_notes, require_file
from attar.runtime.tensorfile import encode_header, in_order


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors (moved to the CPU, made contiguous) and JSON-able metadata as safetensors, atomically.

    The same content gives the same bytes.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    note = {key: json.dumps(value) for key, value in (metadata or {}).items()}
    write_bytes(path, in_order(safetensors.torch.save(plain, metadata=note or None)))


def write_rows(
    path: Path, name: str, rows: Iterable[Tensor], num: int, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write `num` rows (p,), float32, as the one tensor `name` (num, p), with one row in memory at a time.

    The bytes are those that `write_tensors` would write. Raises ValueError where the rows are not as many.
    """
    rows = iter(rows)
    first = next(rows)
    size = 4 * num * len(first)
    header: dict[str, Any] = {name: {"dtype": "F32", "shape": [num, len(first)], "data_offsets": [0, size]}}
    if metadata:
        header = {"__metadata__": {key: json.dumps(value) for key, value in sorted(metadata.items())}} | header
    each = (row for row, _ in zip(chain([first], rows), range(num), strict=True))
    data = (row.detach().cpu().numpy().astype("<f4", copy=False).tobytes() for row in each)
    write_parts(path, chain([encode_header(header)], data))


def read_tensors(path: Path, *, leaving: Collection[str] = ()) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote: tensors on the CPU, but for those that are left, and metadata."""
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name not in leaving}  # noqa: SIM118 (no dict)
        return tensors, _note(file)


def read_note(path: Path) -> dict[str, Any]:
    """Read the metadata of what `write_tensors` wrote, and no tensor."""
    with _opened(path) as file:
        return _note(file)


def unprefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def prefixed(prefix: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors by longer names, of which `unprefixed` finds them again."""
    return {prefix + name: value for name, value in tensors.items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    require_file(path, None)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} is not a safetensors file: {error}", fix="make or fetch it again") from error


def _note(file: Any) -> dict[str, Any]:
    return parse_notes(file.metadata(), finite=False)  # a loss may have been none
