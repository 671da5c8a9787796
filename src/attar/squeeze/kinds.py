"""The kinds of knowledge by name. A new kind is one file here and one line in this table, or a call of `register`."""

from __future__ import annotations

from typing import Any

from attar.errors import ConfigError, unknown
from attar.squeeze.knowledge import Knowledge
from attar.squeeze.nothing import NoKnowledge
from attar.squeeze.pool import PoolKnowledge
from attar.squeeze.teachers import TeacherKnowledge
from attar.squeeze.trajectories import TrajectoryKnowledge

Kind = Knowledge[Any, Any]

_KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (NoKnowledge(), TeacherKnowledge(), PoolKnowledge(), TrajectoryKnowledge())
}


def kinds() -> dict[str, Kind]:
    """Every kind of knowledge by its name, from the most general to those that fewer settings are meant for."""
    return dict(_KINDS)


def knowledge(name: str) -> Kind:
    """The kind of this name, or ConfigError with the nearest names."""
    if name not in _KINDS:
        raise unknown("kind of knowledge", name, _KINDS)
    return _KINDS[name]


def register(kind: Kind) -> None:
    """Add a kind from outside, for methods that need it; ConfigError where another kind has its name."""
    if type(_KINDS.get(kind.name, kind)) is not type(kind):
        raise ConfigError(
            f"there is a kind of knowledge {kind.name!r} already",
            expected="a name that is not taken: " + ", ".join(_KINDS),
            fix=f"give {type(kind).__qualname__} another name",
        )
    _KINDS[kind.name] = kind
