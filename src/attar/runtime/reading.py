"""Files that another person wrote, or that were damaged: read within bounds, or told. Needs no torch.

A pipe is not waited for, a huge file not taken into memory, and of what a file says only plain values are passed on:
texts that can be written again, finite numbers, lists and mappings by names, nested no deeper than _MOST_DEPTH.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from attar.errors import ArtifactError
from attar.plain import MOST_NUMBER

MOST_BYTES = 64 << 20
_MOST_YAML_BYTES = 1 << 20
_MOST_DEPTH = 100
_MOST_PARTS, _MOST_YAML_PARTS = 5_000_000, 200_000
"""Values in a file; those that a YAML alias repeats count each time."""
_AGAIN = "run the command that makes it again"
UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, yaml.YAMLError)
"""What the YAML library may raise for a damaged text."""


def require_file(path: Path, most_bytes: int | None = MOST_BYTES) -> None:
    """Raise ArtifactError unless this is a plain file that is there, of at most so many bytes; None for any number."""
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", fix=_AGAIN) from error
    except (OSError, ValueError) as error:
        raise _closed(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise ArtifactError(
            f"{path} cannot be read: it is {kind}", expected="a plain file", fix=f"move it away, and {_AGAIN}"
        )
    if most_bytes is not None and status.st_size > most_bytes:
        raise ArtifactError(
            f"{path} has {status.st_size:,} bytes",
            expected=f"at most {most_bytes:,}",
            fix=f"move it away, and {_AGAIN}",
        )


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Read a plain file; raises ArtifactError where it is missing, unreadable, something else or larger."""
    require_file(path, most_bytes)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _closed(path, error) from error


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Read a JSON text of plain values, with numbers that are not `finite` where these may be; raises ValueError."""
    try:
        value = json.loads(text.decode() if isinstance(text, bytes) else text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _require_plain(value, finite=finite)
    return value


def parse_notes(metadata: Mapping[str, str] | None, *, finite: bool = True) -> dict[str, Any]:
    """Read the JSON texts of a safetensors file's metadata; raises ValueError."""
    return {key: parse_json(text, finite=finite) for key, text in (metadata or {}).items()}


def read_yaml(path: Path, fix: str) -> dict[str, Any]:
    """Read a YAML file that is a mapping of plain values; raises ArtifactError with this `fix`."""
    data = read_bytes(path, _MOST_YAML_BYTES)
    try:
        value = yaml.safe_load(data.decode())
        _require_plain(value, most=_MOST_YAML_PARTS)
    except UNREADABLE as error:
        raise ArtifactError(f"{path} is damaged: {_line(error)}", expected="YAML of settings", fix=fix) from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is damaged: not a mapping", expected="YAML of settings", fix=fix)
    return value


def _require_plain(value: Any, *, finite: bool = True, most: int = _MOST_PARTS) -> None:
    """Raise ValueError unless a value is of plain parts, at most `most` of them, nested no deeper than _MOST_DEPTH."""
    level, seen = [value], 0
    for _ in range(_MOST_DEPTH):
        below: list[Any] = []
        for part in level:
            below += _parts(part, finite)
            if seen + len(below) > most:
                raise ValueError(f"more than {most:,} values")
        if not below:
            return
        level, seen = below, seen + len(below)
    raise ValueError("nested too deeply")


def _parts(value: Any, finite: bool) -> list[Any]:
    """What a value is made of; raises ValueError where it is not plain itself."""
    match value:
        case None | bool():
            return []
        case str():
            value.encode()  # half of a surrogate pair is no text: a ValueError
            return []
        case float() if finite and not abs(value) <= MOST_NUMBER:
            raise ValueError(f"{value} is no number that can be reckoned with")
        case int() if not abs(value) <= MOST_NUMBER:
            raise ValueError("a whole number of more than 50 digits")
        case int() | float():
            return []
        case list():
            return value
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise ValueError("a mapping by something else than names")
            return [*value, *value.values()]
        case _:
            raise ValueError(f"a {type(value).__name__}")


def lines_of(path: Path, most_bytes: int) -> Iterator[bytes]:
    """The lines of a file, without those that are longer than `most_bytes`, of which no more is held in memory."""
    try:
        with path.open("rb") as file:
            whole = True
            while line := file.readline(most_bytes):
                ended = line.endswith(b"\n")
                if whole and (ended or len(line) < most_bytes):
                    yield line
                whole = ended
    except OSError as error:
        raise _closed(path, error) from error


def _closed(path: Path, error: Exception) -> ArtifactError:
    told = error.strerror if isinstance(error, OSError) else error
    return ArtifactError(f"{path} cannot be read: {told}", fix="see what it is and who may read it")


def _line(error: Exception) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    text = " ".join(str(error).split())
    return text[:300] or type(error).__name__
