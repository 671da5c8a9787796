"""Errors that a person meets.

    AttarError                 something the user can mend; shown without a traceback
    ├── ConfigError      (2)   a setting, a name or a value
    ├── DataError        (3)   a source or its images
    ├── ArtifactError    (4)   a run folder, a distilled dataset, a checkpoint file
    ├── DivergedError    (5)   the computation left the finite numbers
    └── ResourceError    (6)   memory, disk or permission

The number is the exit code of the command line. 0 is success, 1 an error of attar itself,
130 an interruption (the run can be resumed).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

FEW, MANY = 12, 30
"""So many names are listed beside those that are near; and where none is near."""


class AttarError(Exception):
    """What was found, what was expected, and what to do about it."""

    exit_code = 1

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        self.found, self.expected, self.fix = found, expected, fix
        parts = [found, f"expected: {expected}" if expected else "", f"to fix: {fix}" if fix else ""]
        super().__init__("\n".join(part for part in parts if part))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.found, self.expected, self.fix)


class ConfigError(AttarError, ValueError):
    """A setting, a name or a value that attar doesn't know or can't take.

    A ValueError too, so that a config's validators may raise it and all of them are reported at once.
    """

    exit_code = 2


class DataError(AttarError):
    """A source of images that is missing, empty, broken or inconsistent."""

    exit_code = 3


class ArtifactError(AttarError):
    """A file that attar wrote (or was given in its format) that disagrees with what is asked of it."""

    exit_code = 4


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name this file in an ArtifactError of its content that is raised inside the block."""
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error.found}", expected=error.expected, fix=error.fix) from error


class DivergedError(AttarError):
    """A loss or a parameter that is no longer a finite number."""

    exit_code = 5


class ResourceError(AttarError):
    """Not enough memory or disk, or no permission to write."""

    exit_code = 6


def unknown(kind: str, name: str, known: Iterable[str], *, fix: str = "") -> ConfigError:
    """Build the error for a name that isn't known: the nearest names first, and all of them where they are few."""
    return ConfigError(f"unknown {kind} {name!r}", expected=nearest(name, list(known)), fix=fix)


def nearest(name: str, known: Sequence[str], before: str = "") -> str:
    """`one of A, B, C; did you mean A?`, of few names; of many, those that are near, or all where none is.

    They are typed with `before` in front of them, `name` is compared without.
    """
    known = list(dict.fromkeys(known))  # a method may bear the name of a section
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    more = f" and {len(known) - MANY} more" if len(known) > MANY else ""
    every = "" if near and len(known) > FEW else f"one of {', '.join(before + one for one in known[:MANY])}{more}"
    hint = f"did you mean {' or '.join(before + one for one in near)}?" if near else ""
    return "; ".join(part for part in (every, hint) if part)


def _rebuild(kind: type[AttarError], found: str, expected: str, fix: str) -> AttarError:
    return kind(found, expected=expected, fix=fix)
