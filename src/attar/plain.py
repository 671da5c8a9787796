"""Plain values of files, which anyone may have written: the types that fields of dataclasses are checked against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeGuard, TypeVar

from pydantic import ConfigDict, Field, ValidationError, with_config

from attar.text import MOST_NUMBER

_T = TypeVar("_T")
MOST_TOLD = 5

Number = Annotated[float, Field(strict=True, ge=-MOST_NUMBER, le=MOST_NUMBER)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Whole = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0)]
Text = Annotated[str, Field(strict=True)]
Truth = Annotated[bool, Field(strict=True)]

exact: Callable[[type[_T]], type[_T]] = with_config(ConfigDict(extra="forbid"))
"""Marks a dataclass whose files may hold its fields and no others."""


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number that can be reckoned with, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_NUMBER


def listed_problems(error: ValidationError) -> str:
    """What is wrong with a file's fields, each with its place; of a file that is all wrong the first `MOST_TOLD`."""
    details = error.errors(include_input=False)
    more = [f"and {len(details) - MOST_TOLD} more"] if len(details) > MOST_TOLD else []
    told = [": ".join(filter(None, (".".join(map(str, d["loc"])), d["msg"]))) for d in details[:MOST_TOLD]]
    return "; ".join([*told, *more])
