"""What a try is: an input, the commands that are given it, and what their end must be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

Wrong = Callable[[list[int], str], str]
"""The commands' exit codes and all that they printed -> what is wrong about it, empty where nothing is."""


def no_matter(codes: list[int], said: str) -> str:
    """It may end well or be refused."""
    return ""


def refused(codes: list[int], said: str) -> str:
    """The last must be refused."""
    return "" if codes[-1] else "accepted"


def done(codes: list[int], said: str) -> str:
    """The last must end well."""
    return f"exit code {codes[-1]}" if codes[-1] else ""


@dataclass(frozen=True)
class Try:
    """Commands, one after the other, and what was done to their input."""

    kind: str
    what: str
    commands: tuple[tuple[str, ...], ...]
    wrong: Wrong = no_matter
    environment: Mapping[str, str] = field(default_factory=dict)
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """What the first command is run in."""


def content(folder: Path) -> dict[str, str]:
    """A hash of each file below a folder, by name; links are told by where they lead and not followed."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
