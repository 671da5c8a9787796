"""Files that another person wrote, or that were damaged: read within bounds, or told. Needs no torch.

A pipe is not waited for, a huge file not taken into memory, and of what a file says only plain values are passed on
(see `attar.text`).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attar.errors import ArtifactError
from attar.text import MOST_YAML_CHARACTERS, one_line, parse_json, parse_yaml

MOST_BYTES = 64 << 20
_AGAIN = "run the command that makes it again"


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


def parse_notes(metadata: Mapping[str, str] | None, *, finite: bool = True) -> dict[str, Any]:
    """Read the JSON texts of a safetensors file's metadata; raises ValueError."""
    return {key: parse_json(text, finite=finite) for key, text in (metadata or {}).items()}


def read_yaml(path: Path, fix: str) -> dict[str, Any]:
    """Read a YAML file that is a mapping of plain values; raises ArtifactError with this `fix`."""
    data = read_bytes(path, MOST_YAML_CHARACTERS)
    try:
        value = parse_yaml(data)
    except ValueError as error:
        raise ArtifactError(f"{path} is damaged: {one_line(error)}", expected="YAML of settings", fix=fix) from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is damaged: not a mapping", expected="YAML of settings", fix=fix)
    return value


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
