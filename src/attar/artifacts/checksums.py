"""SHA256SUMS of a folder, in the format of `sha256sum -c`. Needs no torch."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from attar.errors import ArtifactError
from attar.runtime.files import sha256, write_text
from attar.runtime.reading import read_bytes

NAME = "SHA256SUMS"
_HUB_FILES = (".git", ".gitattributes", ".cache")
"""What clients of the Hugging Face hub lay beside the files; not part of the dataset."""

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def files_of(folder: Path) -> list[str]:
    """Paths of all files below a folder, relative, with `/`, sorted; SHA256SUMS and _HUB_FILES left out."""
    found: list[str] = []
    for root, _, names in os.walk(folder):
        found += [(Path(root) / name).relative_to(folder).as_posix() for name in names]
    return sorted(name for name in found if name != NAME and name.split("/")[0] not in _HUB_FILES)


def write_sums(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write SHA256SUMS: of all files, or with the sums of `names` made anew and all others kept."""
    sums = {} if names is None else read_sums(folder)
    sums |= {name: sha256(folder / name) for name in (files_of(folder) if names is None else names)}
    write_text(folder / NAME, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))


def read_sums(folder: Path) -> dict[str, str]:
    """Sum by file name; raises ArtifactError where SHA256SUMS is missing or malformed."""
    path = folder / NAME
    try:
        lines = read_bytes(path).decode().split("\n")
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} cannot be read: {error}", fix="fetch the dataset again") from error
    sums: dict[str, str] = {}
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in sums or not _inside(match[2]):
            raise ArtifactError(
                f"line {number} of {path} is malformed",
                expected="a sum, two spaces and the name of a file inside the folder, each file once",
                fix="fetch the dataset again",
            )
        sums[match[2]] = match[1]
    return sums


def damage(folder: Path, name: str, sums: dict[str, str]) -> str | None:
    """Say what is wrong with one file: missing, not listed, or other bytes than were written; or None."""
    if name not in sums:
        return f"{name} is not listed in {NAME}"
    try:
        if not (folder / name).is_file():  # a pipe or a device would keep us waiting
            return f"{name} is missing" if not (folder / name).exists() else f"{name} is not a plain file"
        if sha256(folder / name) != sums[name]:
            return f"{name} is damaged: its bytes are not those that {NAME} lists"
    except (OSError, ValueError) as error:
        return f"{name} cannot be read: {error}"
    return None


def _inside(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name
