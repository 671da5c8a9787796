"""Plain values of files, which anyone may have written, checked against what is expected of each field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard, get_args

Suits = Callable[[Any], bool]
Field = tuple[str, Suits]
"""What a value must be, in words, and whether one is."""
MOST_NUMBER = 1e50
"""Far beyond any float32; squares and differences of such numbers are finite still."""


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number that can be reckoned with, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_NUMBER


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether this is a whole number, and no truth value."""
    return isinstance(value, int) and is_number(value)


def is_count(value: Any) -> TypeGuard[int]:
    """Whether this is a whole number, not below 0."""
    return is_whole(value) and value >= 0


def is_text(value: Any) -> TypeGuard[str]:
    """Whether this is a text."""
    return isinstance(value, str)


def list_of(suits: Suits) -> Suits:
    """Whether a value is a list of such."""
    return lambda value: isinstance(value, list | tuple) and all(map(suits, value))


def one_of(names: Any) -> Field:
    """A field that is one of the texts of a Literal."""
    known = get_args(names)
    return " or ".join(known), lambda value: is_text(value) and value in known


def part(fields: Mapping[str, Field]) -> Field:
    """A field that is a mapping of exactly these fields."""
    return f"a mapping of {', '.join(fields)}", lambda value: not problem(value, fields, tuple(fields))


TEXT: Field = ("a text", is_text)
WHOLE: Field = ("a whole number", is_whole)
COUNT: Field = ("a whole number, not below 0", is_count)
NUMBER: Field = ("a number", is_number)
TRUTH: Field = ("true or false", lambda value: isinstance(value, bool))
SHARE: Field = ("a number from 0 to 1", lambda value: is_number(value) and 0 <= value <= 1)


def problem(values: Any, fields: Mapping[str, Field], required: Sequence[str] = ()) -> str:
    """What keeps this from being a mapping of some of these fields, `required` ones among them; empty: nothing does."""
    if not isinstance(values, dict):
        return "it is not a mapping"
    if odd := [name for name in values if name not in fields]:
        return f"unknown field {str(odd[0])[:50]!r}"
    for name, (kind, suits) in fields.items():
        if name not in values and name in required:
            return f"{name} is missing"
        if name in values and not suits(values[name]):
            return f"{name} is {str(values[name])[:50]!r}, not {kind}"
    return ""
