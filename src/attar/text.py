"""YAML and JSON texts that anyone may have written: plain values within bounds, or one error, within a second.

Values are texts that can be written again, numbers that can be reckoned with, truth values, None, lists, and mappings
by names. What a text may not do: nest deeper than `MOST_DEPTH`, hold more than so many values (those that a YAML alias
repeats count each time), name one key twice, or name types of its own (`!!python/object`, `!!set`). What YAML takes for
a date, or for a number to the base of 60, is a text as it stands, and the key of a mapping always is, be it `0` or
`on`. No other module of attar reads YAML or JSON by itself. Needs no torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

MOST_NUMBER = 1e50
"""Far beyond any float32; squares and differences of such numbers are finite still."""
MOST_YAML_CHARACTERS = 1 << 20
MOST_DEPTH = 100
MOST_JSON_PARTS, MOST_YAML_PARTS = 5_000_000, 100_000
_MOST_DIGITS = 64
MOST_WHOLE = 2**63 - 1
"""Of the whole numbers in YAML, which are settings; those of JSON may be as large as any number."""
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The same language; those in C are five to seven times as fast."""
_TAG = "tag:yaml.org,2002:"
_BLOCKS = {yaml.SequenceStartEvent: f"{_TAG}seq", yaml.MappingStartEvent: f"{_TAG}map"}
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_TEXTS = tuple(f"{_TAG}{name}" for name in ("str", "timestamp", "value", "merge"))


class TextError(ValueError):
    """A text that is not of plain values, or goes beyond the bounds; says what of it, in a line."""


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Read a JSON text, with numbers that are not `finite` where these may be; raises TextError."""
    try:
        value = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_mapping,
            parse_int=_whole,
            parse_constant=_refused if finite else None,
        )
        require_plain(value, finite=finite)
    except TextError:
        raise
    except RecursionError as error:
        raise TextError("nested too deeply") from error
    except ValueError as error:
        raise TextError(one_line(error)) from error
    return value


def parse_yaml(text: str | bytes) -> Any:
    """Read a YAML text of at most `MOST_YAML_CHARACTERS`, None where it is empty; raises TextError."""
    if len(text) > MOST_YAML_CHARACTERS:
        raise TextError(f"more than {MOST_YAML_CHARACTERS:,} characters")
    if isinstance(text, str) and not is_text(text):
        raise TextError("it is no text of UTF-8")
    try:
        value = _Building().of(text.decode() if isinstance(text, bytes) else text)
    except TextError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TextError(one_line(error)) from error
    require_plain(value, most=MOST_YAML_PARTS)
    return value


def yaml_text(values: Mapping[str, Any]) -> str:
    """YAML of plain values, in their order, that `parse_yaml` reads as they were."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def require_plain(value: Any, *, finite: bool = True, most: int = MOST_JSON_PARTS) -> None:
    """Raise TextError unless a value is of plain parts, at most `most` of them, nested no deeper than `MOST_DEPTH`."""
    level, seen = [value], 0
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for part in level:
            below += _parts(part, finite)
            if seen + len(below) > most:
                raise TextError(f"more than {most:,} values")
        if not below:
            return
        level, seen = below, seen + len(below)
    raise TextError("nested too deeply")


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8, which bytes of a path in another encoding cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shortened(text: str, most: int = 100) -> str:
    """A text as an error shows it: its beginning, where it is long."""
    return text if len(text) <= most else f"{text[:most]}..."


def one_line(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class _Dumper(_SafeDumper):  # type: ignore[misc, valid-type]
    pass


_Dumper.add_representer(  # outside double quotes, YAML folds characters such as U+0085 into spaces
    str, lambda dumper, text: dumper.represent_scalar(f"{_TAG}str", text, None if text.isprintable() else '"')
)


class _Building:
    """The value of a text, made of the parser's events one by one: its bounds are held before any of it is made."""

    def __init__(self) -> None:
        self._open: list[tuple[list[Any], yaml.CollectionStartEvent]] = []
        self._named: dict[str, tuple[Any, int]] = {}
        """Values that aliases repeat, with the number of their parts."""
        self._parts, self._started = 0, list[int]()
        self._resolver, plain = Resolver(), SafeConstructor()
        self._constructors = {
            f"{_TAG}bool": plain.construct_yaml_bool,
            f"{_TAG}int": plain.construct_yaml_int,
            f"{_TAG}float": plain.construct_yaml_float,
        }
        self._found: list[Any] = []

    def of(self, text: str) -> Any:
        documents = 0
        for event in yaml.parse(text, Loader=_Loader):
            match event:
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise TextError("more than one document")
                case yaml.ScalarEvent():
                    value = self._name(event) if self._awaits_key() else self._scalar(event)
                    self._add(value, event.anchor, 1)
                case yaml.AliasEvent():
                    if event.anchor not in self._named:
                        raise TextError(f"*{event.anchor} stands for nothing before it")
                    value, parts = self._named[event.anchor]
                    self._add(value, None, parts)
                case yaml.CollectionStartEvent():
                    self._begin(event)
                case yaml.CollectionEndEvent():
                    self._end()
        return self._found[0] if self._found else None

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        if event.tag not in (None, "!", _BLOCKS[type(event)]):
            raise _odd_tag(event.tag)
        if len(self._open) >= MOST_DEPTH - 1:
            raise TextError("nested too deeply")
        if self._awaits_key():
            raise TextError("a mapping by something else than names")
        self._open.append(([], event))
        self._started.append(self._parts)

    def _end(self) -> None:
        items, event = self._open.pop()
        value = _mapping(list(zip(items[::2], items[1::2], strict=True))) if _maps(event) else items
        self._add(value, event.anchor, 1 + self._parts - self._started.pop(), counted=1)

    def _add(self, value: Any, anchor: str | None, parts: int, counted: int | None = None) -> None:
        self._parts += parts if counted is None else counted
        if self._parts > MOST_YAML_PARTS:
            raise TextError(f"more than {MOST_YAML_PARTS:,} values, those that aliases repeat counted each time")
        if self._awaits_key() and not isinstance(value, str):
            raise TextError("a mapping by something else than names")
        if anchor:
            self._named[anchor] = value, parts
        (self._open[-1][0] if self._open else self._found).append(value)

    def _awaits_key(self) -> bool:
        return bool(self._open) and _maps(self._open[-1][1]) and len(self._open[-1][0]) % 2 == 0

    def _name(self, event: yaml.ScalarEvent) -> str:
        if event.value == "<<" and event.implicit[0]:
            raise TextError("a merge (<<), in place of which the fields can be written out")
        name: str = event.value
        return name

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        tag = event.tag
        if tag in (None, "!"):
            resolve: Any = self._resolver.resolve
            tag = resolve(yaml.ScalarNode, event.value, event.implicit)
        node = yaml.ScalarNode(tag, event.value)
        if tag in _TEXTS:
            return event.value
        if tag in self._constructors and len(event.value) > _MOST_DIGITS:
            raise TextError(f"a number of more than {_MOST_DIGITS} characters")
        if tag in _NUMBERS and ":" in event.value:  # of 1:2:3 YAML 1.1 makes 3723
            return event.value
        if tag == f"{_TAG}null":
            return None
        construct = self._constructors.get(tag)
        if construct is None:
            raise _odd_tag(tag)
        try:
            value = construct(node)
        except (ValueError, LookupError) as error:
            raise TextError(f"{event.value!r} is no {tag.removeprefix(_TAG)}") from error
        if isinstance(value, int) and abs(value) > MOST_WHOLE:
            raise TextError(f"a whole number beyond {MOST_WHOLE:,}")
        return value


def _maps(event: yaml.CollectionStartEvent) -> bool:
    return isinstance(event, yaml.MappingStartEvent)


def _odd_tag(tag: str) -> TextError:
    return TextError(f"a value of the type {tag.replace(_TAG, '!!')[:80]}")


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise TextError(f"{next(name for name in counts if counts[name] > 1)[:80]!r} is there twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise TextError(f"a whole number of {len(digits):,} digits")
    return int(digits)


def _refused(name: str) -> Any:
    raise TextError(f"{name} is no number that can be reckoned with")


def _parts(value: Any, finite: bool) -> list[Any]:
    """What a value is made of; raises TextError where it is not plain itself."""
    match value:
        case None | bool():
            return []
        case str():
            if not is_text(value):
                raise TextError("half of a surrogate pair, which is no text")
            return []
        case float() if finite and not abs(value) <= MOST_NUMBER:
            raise TextError(f"{value} is no number that can be reckoned with")
        case int() if not abs(value) <= MOST_NUMBER:
            raise TextError("a whole number of more than 50 digits")
        case int() | float():
            return []
        case list():
            return value
        case dict():
            return [*value, *value.values()]
        case _:
            raise TextError(f"a {type(value).__name__}")
