"""The methods by name. A new one is a file here, or in another package that names it as an entry point."""

from __future__ import annotations

from typing import Any

from attar.methods.base import Method, Selector
from attar.registry import Registry, classes_in, require_class

_MUST_HAVE = ("name", "summary", "source", "Settings", "knowledge", "separable")


def _accepted(thing: Any, name: str) -> type[Method]:
    found: type[Method] = require_class(thing, Selector, "method", _MUST_HAVE)
    return found


METHODS: Registry[type[Method]] = Registry("attar.methods", "method", lambda: classes_in(__name__, Selector), _accepted)
"""Every method by the name that is typed after `--method`."""


def methods() -> dict[str, type[Method]]:
    """Every method by its name."""
    return METHODS.all()


def method(name: str) -> type[Method]:
    """The method of this name, or an error with the nearest names."""
    return METHODS.find(name, beside=("auto",))
