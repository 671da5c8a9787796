"""What the functions of `attar.api` take alike."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attar.config import Config, build, merge, place

PathLike = str | Path
Settings = Mapping[str, Any] | Iterable[str]
"""`{"recover.iterations": 300}` or `["recover.iterations=300"]`."""


def assignments(settings: Settings) -> list[str]:
    """`{"recover.iterations": 300}` as `["recover.iterations=300"]`; texts pass as they are."""
    if isinstance(settings, Mapping):
        return [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()]
    return list(settings)


def sections(
    kinds: Mapping[str, type[Config]],
    settings: Settings,
    defaults: Mapping[str, Mapping[str, Any]],
) -> dict[str, Config]:
    """Sections of these kinds, from assignments over defaults; raises ConfigError with all that is wrong."""
    placed, problems = place(kinds, assignments(settings))
    values = merge({name: defaults.get(name, {}) for name in kinds}, placed)
    return build(kinds, values, problems)


def given(**flags: Any) -> dict[str, Any]:
    """The flags that were given: not None."""
    return {name: value for name, value in flags.items() if value is not None}
