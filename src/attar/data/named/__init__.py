"""Datasets that go by a name: bundled, as torchvision keeps them, or as their authors publish them.

A new one is a file here that lists it in `SOURCES`, or in another package that names it as an entry point.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

from attar.data.named.base import NamedSource
from attar.data.named.memory import in_memory, is_data
from attar.errors import ConfigError
from attar.registry import Registry


def _own() -> Iterator[NamedSource]:
    for info in pkgutil.iter_modules(__path__):
        yield from getattr(importlib.import_module(f"{__name__}.{info.name}"), "SOURCES", ())


def _accepted(thing: Any, name: str) -> NamedSource:
    if isinstance(thing, NamedSource):
        return thing
    if is_data(thing):
        return in_memory(thing, name=name or None)
    if not callable(thing):
        raise ConfigError(
            f"{type(thing).__name__} is no source of images",
            expected="a name or path; (images, labels) as arrays or tensors; a torch Dataset of (image, label); a "
            "Dataset or DatasetDict of Hugging Face's library; what attar.open gave; or a function of a folder and "
            "whether to download",
        )
    about = (inspect.getdoc(thing) or "").partition("\n")[0]
    return NamedSource(name or thing.__name__, about, thing)


NAMED: Registry[NamedSource] = Registry("attar.sources", "source", _own, _accepted)
"""Every such dataset by its name."""
