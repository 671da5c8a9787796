"""The kinds of knowledge by name. A new one is a file here, or in another package that names it as an entry point."""

from __future__ import annotations

import inspect
from typing import Any

from attar.registry import Registry, classes_in, require_class
from attar.squeeze.knowledge import Knowledge

Kind = Knowledge[Any, Any]


def _accepted(thing: Any, name: str) -> Kind:
    kind = thing if inspect.isclass(thing) else type(thing)
    made: Kind = require_class(kind, Knowledge, "kind of knowledge", ("name", "Settings"))()
    return made


KINDS: Registry[Kind] = Registry(
    "attar.knowledge",
    "kind of knowledge",
    lambda: [kind() for kind in classes_in("attar.squeeze", Knowledge)],
    _accepted,
)
"""Every kind by the name that methods need it by."""


def kinds() -> dict[str, Kind]:
    """Every kind of knowledge by its name, those first that are asked first what settings are meant for."""
    return dict(sorted(KINDS.all().items(), key=lambda item: (item[1].turn, item[0])))


def knowledge(name: str) -> Kind:
    """The kind of this name, or ConfigError with the nearest names."""
    return KINDS.find(name)
