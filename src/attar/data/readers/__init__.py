"""Readers of the formats that real images come in, a file each: what recognises one, and what lists its images.

A new format is a file here that says so in `READER`, or in another package that names a `Reader` as an entry point.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attar.data.readers.base import Reader
from attar.errors import ConfigError
from attar.registry import Registry


def _own() -> Iterator[Reader]:
    for info in pkgutil.iter_modules(__path__):
        reader = getattr(importlib.import_module(f"{__name__}.{info.name}"), "READER", None)
        if reader is not None:
            yield reader


def _accepted(thing: Any, name: str) -> Reader:
    if not isinstance(thing, Reader):
        raise ConfigError(f"{thing!r} is no reader", expected="a Reader of attar.data.readers.base")
    return thing


READERS: Registry[Reader] = Registry("attar.readers", "reader", _own, _accepted)
"""Every reader by its name."""


def addressed(name: str) -> Reader | None:
    """The reader whose prefix a source begins with, such as `hf:`."""
    return next((one for one in READERS.all().values() if one.prefix and name.startswith(one.prefix)), None)


def recognised(path: Path) -> Reader | None:
    """The reader that a file or folder is for; None where no format is known. Raises OSError where it can't look."""
    return next((one for one in sorted(READERS.all().values(), key=lambda one: one.rank) if one.fits(path)), None)
