"""Marks on fields of settings: what run folders and the command line need to know of an option beside its type.

num_experts: Annotated[int, Mark.GROWS] = Field(default=10, ge=1)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

Completes = Literal[
    "", "methods", "recipes", "datasets", "models", "protocols", "strategies", "studies", "names", "settings"
]
Stage = Literal["squeeze", "recover", "relabel", "evaluation"]


class Mark(Enum):
    """What a change of a field means for a run folder that has begun."""

    HOW = "how"
    """Says where and how the work is done, not what: a run goes on with another value."""
    GROWS = "grows"
    """A number that may be raised in a run folder, or a list that may get more: what is there stays, what is new is
    made."""


@dataclass(frozen=True)
class DecidedFor:
    """The first stage whose result depends on a field, where it isn't the one that its section belongs to."""

    stage: Stage


@dataclass(frozen=True)
class Flag:
    """How a field looks on the command line, where that doesn't follow from its name and type."""

    name: str = ""
    """Such as `--set`; empty: the field's name. A required field with a name here is an option, not an argument."""
    short: str = ""
    """Such as `-q`."""
    metavar: str = ""
    """Stands for the value in the help."""
    repeated: bool = False
    """Given once for each of several values; otherwise they are separated by commas."""
    default: str = ""
    """The default in words."""
    completes: Completes = ""
    """What shell completion offers."""
    program: bool = False
    """Whether it is for programs only, and no flag."""


def is_marked(info: FieldInfo, mark: Mark) -> bool:
    """Whether a field has this mark."""
    return mark in info.metadata


def flag(info: FieldInfo) -> Flag:
    """How a field looks on the command line."""
    return next((found for found in info.metadata if isinstance(found, Flag)), Flag())


@dataclass(frozen=True)
class Rules:
    """What the marks of a run's sections say about going on with other settings; fields are named section.field."""

    how: frozenset[str] = frozenset()
    grows: frozenset[str] = frozenset()
    decided_for: Mapping[str, Stage] | None = None
    """Of the fields that say so themselves."""

    @classmethod
    def of(cls, sections: Mapping[str, type[BaseModel]]) -> Rules:
        """The rules of these sections."""
        fields = dict(_fields(sections))
        return cls(
            frozenset(name for name, info in fields.items() if is_marked(info, Mark.HOW)),
            frozenset(name for name, info in fields.items() if is_marked(info, Mark.GROWS)),
            {name: found.stage for name, info in fields.items() if (found := _decided(info))},
        )

    def comparable(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings without fields that only say how the work is done."""
        return {
            section: {key: value for key, value in values.items() if f"{section}.{key}" not in self.how}
            if isinstance(values, Mapping)
            else values
            for section, values in settings.items()
        }

    def grown(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of before, with those that may grow raised to what they are now."""
        grown = {key: dict(value) if isinstance(value, Mapping) else value for key, value in before.items()}
        for path in self.grows:
            section, name = path.split(".")
            had, has = (values.get(section) for values in (grown, now))
            if isinstance(had, dict) and isinstance(has, Mapping) and _is_more(had.get(name), has.get(name)):
                had[name] = has[name]
        return grown

    def stage(self, name: str) -> Stage | None:
        """The first stage that depends on the setting section.field; None for a section that no stage has."""
        found: Stage | None = (self.decided_for or {}).get(name) or SECTIONS.get(name.partition(".")[0])
        return found


SECTIONS: Mapping[str, Stage] = {
    "run": "squeeze",
    "source": "squeeze",
    "squeeze": "squeeze",
    "method": "recover",
    "recover": "recover",
    "relabel": "relabel",
    "train": "evaluation",
    "evaluate": "evaluation",
}
"""The stage that a section's fields belong to."""


def _fields(sections: Mapping[str, type[BaseModel]]) -> Iterator[tuple[str, FieldInfo]]:
    for section, kind in sections.items():
        for name, info in kind.model_fields.items():
            yield f"{section}.{name}", info


def _decided(info: FieldInfo) -> DecidedFor | None:
    return next((found for found in info.metadata if isinstance(found, DecidedFor)), None)


def _is_more(before: Any, now: Any) -> bool:
    if isinstance(before, list) and isinstance(now, list):
        return bool(before) and len(before) < len(now) and all(value in now for value in before)
    return isinstance(before, int) and isinstance(now, int) and before < now
