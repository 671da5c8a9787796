"""Typed settings: one pydantic field with its docstring is the only statement of an option.

The resolved YAML, `attar show` and the docs table are all read off these classes. Needs no torch.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from attar.errors import ConfigError, nearest
from attar.text import MOST_WHOLE, is_text, parse_yaml, shortened
from attar.visible import visible

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


MOST_SHOWN = 20
"""Of what is wrong with settings this much is listed; a file with more is damaged, or of another kind."""


class Config(BaseModel):
    """A frozen group of settings; unknown fields are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
    changed: ClassVar[Mapping[str, Any]] = {}
    """Defaults that a subclass changes of the fields it inherits."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        if huge := [key for key, value in values.items() if isinstance(value, int) and abs(value) > MOST_WHOLE]:
            raise ConfigError(f"{huge[0]} is beyond {MOST_WHOLE:,}", expected="a whole number of 64 bits")
        if odd := [key for key, value in values.items() if isinstance(value, str) and not is_text(value)]:
            raise ConfigError(
                f"{odd[0]}: {visible(values[odd[0]])} is no text",
                expected="UTF-8, as names of files and folders are too",
                fix="rename it",
            )
        return {key: _as_typed(cls, key, value) for key, value in {**cls.changed, **values}.items()}


ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True)
class Option:
    """One setting, described for a person."""

    name: str
    type: str
    default: str
    meaning: str


def options(kind: type[Config], defaults: Mapping[str, Any] | None = None) -> list[Option]:
    """Describe every field of a config class, those of its groups as `group.field`.

    `defaults` replaces the class's own where a method changes them.
    """
    changed = {**kind.changed, **(defaults or {})}
    found: list[Option] = []
    for name, info in kind.model_fields.items():
        if group := _group(info):
            within = [replace(option, name=f"{name}.{option.name}") for option in options(group, changed.get(name))]
            found += within
        else:
            found.append(_option(name, info, changed))
    return found


def build(
    sections: Mapping[str, type[Config]],
    values: Mapping[str, Mapping[str, Any]],
    problems: Iterable[str] = (),
) -> dict[str, Config]:
    """Build every section, or raise one ConfigError that names all that is wrong in all of them.

    `problems` are those found before, such as by `place`.
    """
    problems = list(problems)
    built: dict[str, Config] = {}
    for section in values:
        if section not in sections:
            problems.append(f"unknown section {section!r}; known: {', '.join(sections)}")
    for section, kind in sections.items():
        made, found = validated(kind, values.get(section, {}), section)
        problems += found
        if made is not None:
            built[section] = made
    if problems:
        raise not_valid(problems, "`attar show NAME` lists every field of a method with type, default and meaning")
    return built


def validated(kind: type[ConfigT], values: Mapping[str, Any], where: str) -> tuple[ConfigT | None, list[str]]:
    """A config of these values, or None and every problem, each named from `where` on, which may be empty."""
    try:
        return kind.model_validate(dict(values)), []
    except ValidationError as error:
        return None, list(dict.fromkeys(_problem(where, kind, detail, values) for detail in _innermost(error)))


def not_valid(problems: Sequence[str], fix: str) -> ConfigError:
    """The one error for all that is wrong with settings; `fix` where one of them does not say its own way out."""
    count = "a setting is" if len(problems) == 1 else f"{len(problems)} settings are"
    told = all("to fix: " in problem for problem in problems)
    shown = [f"  - {problem}" for problem in problems[:MOST_SHOWN]]
    if more := len(problems) - len(shown):
        shown.append(f"  and {more} more")
    found = f"{count} not valid:\n" + "\n".join(shown)
    return ConfigError(found, fix="" if told else fix)


def place(
    sections: Mapping[str, type[Config]], assignments: Iterable[str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Sort `--set` assignments into sections; also return what is wrong with them, for `build`.

    `recover.iterations=300` names its section; `iterations=300` will do where only one section has the
    field. A field of a group is `train.dlb.tau=4` or `dlb.tau=4`. Values are YAML: numbers, true/false, null, [lists].
    """
    placed: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        head, *rest = key.strip().split(".")
        path = rest if head in sections and rest else [head, *rest]
        owners = [head] if path is rest else [s for s, kind in sections.items() if head in kind.model_fields]
        if not equals:
            problems.append(f"--set {shortened(assignment)!r} is not key=value, such as recover.iterations=300")
        elif not owners and rest:
            problems.append(f"{key}: unknown section {head!r}; known: {', '.join(sections)}")
        elif not owners:
            near = _near(head, _all_fields(sections))
            told = near if "did you mean" in near else f"; the sections are {', '.join(sections)}"
            problems.append(f"{key}: no section has this field{told}")
        elif len(owners) > 1:
            problems.append(f"{key}: several sections have it; write {' or '.join(f'{o}.{key}' for o in owners)}")
        else:
            try:
                value: Any = parse_value(text)
            except ValueError as error:
                problems.append(f"{key}: '{shortened(visible(text))}' is not a value of YAML: {error}")
                continue
            for name in reversed(path):
                value = {name: value}
            placed[owners[0]] = _over(placed.get(owners[0], {}), value)
    return placed, problems


def parse_value(text: str) -> Any:
    """Read one YAML value; `1e-3`, which YAML takes for text, is read as the number it is."""
    value = parse_yaml(text)
    if isinstance(value, str):
        with suppress(ValueError):
            return value if not math.isfinite(number := float(value)) else number
    return value


def value_text(value: Any) -> str:
    """A value as a person types it behind `--set KEY=`: `true`, `0.5`, `[0.5, 0.75]`, `none`."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case list() | tuple():
            return f"[{', '.join(map(value_text, value))}]"
        case Mapping():
            return "{" + ", ".join(f"{key}: {value_text(one)}" for key, one in value.items()) + "}"
        case _:
            return str(value)


def merge(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Merge layers of sections, later layers over earlier ones; within a group, field by field."""
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, values in layer.items():
            merged[section] = _over(merged.get(section, {}), values)
    return merged


@dataclass(frozen=True)
class Change:
    """A setting that differs, by its path such as `recover.iterations`; as a text `path: was A, now B`."""

    path: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.path}: was {value_text(self.before)}, now {value_text(self.now)}"


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[Change]:
    """Every leaf in which two nested settings differ."""
    found: list[Change] = []
    for key in [*before, *(k for k in now if k not in before)]:
        old, new, path = before.get(key), now.get(key), f"{prefix}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{path}.")
        elif old != new:
            found.append(Change(path, old, new))
    return found


def dump(config: Config) -> dict[str, Any]:
    """Plain JSON-able values of a config."""
    return config.model_dump(mode="json")


def _problem(section: str, kind: type[Config], detail: Any, values: Mapping[str, Any]) -> str:
    if (several := _of_several(kind, detail["loc"], values)) is not None:
        return f"{section}.{several}"
    path = ".".join(str(part) for part in detail["loc"])
    where = ".".join(filter(None, (section, path)))
    if detail["type"] == "extra_forbidden":
        for part in detail["loc"][:-1]:
            kind = _group(kind.model_fields[part]) or kind if part in kind.model_fields else kind
        return f"{where}: no such field{_near(str(detail['loc'][-1]), kind.model_fields)}"
    if isinstance(told := detail.get("ctx", {}).get("error"), ConfigError):
        return ": ".join(filter(None, (where, str(told)))).replace("\n", "\n    ")
    message = detail["msg"].removeprefix("Value error, ")
    if path and detail["type"] != "missing":
        return f"{where}: {message} (found {shortened(value_text(detail['input']))})"
    return f"{where}: {message}" if where else message


def _of_several(kind: type[Config], loc: Sequence[str | int], values: Mapping[str, Any]) -> str | None:
    """What is wrong with a value that could be of several types, once for all of them; None for any other value."""
    names = list(itertools.takewhile(lambda part: "[" not in str(part), loc))
    if not names or len(names) == len(loc):
        return None
    *groups, field = names
    for name in groups:
        inner = _group(kind.model_fields[name]) if name in kind.model_fields else None
        if inner is None:
            return None
        kind, values = inner, values[str(name)]
    if field not in kind.model_fields:
        return None
    wanted = _type_name(kind.model_fields[str(field)])
    path = ".".join(map(str, names))
    return f"{path}: Input should be {wanted} (found {shortened(value_text(values[str(field)]))})"


def _innermost(error: ValidationError) -> list[Any]:
    """What is wrong, without what is only said of a whole because a part of it is wrong."""
    details = error.errors()
    wrong = [detail["loc"] for detail in details]
    return [one for one in details if not any(loc[: len(one["loc"])] == one["loc"] != loc for loc in wrong)]


def _near(name: str, known: Iterable[str]) -> str:
    names = list(dict.fromkeys(known))
    if not names:
        return ": this section has no fields for this method"
    told = nearest(name, names)
    return f"; expected {told}" if told.startswith("one of") else f"; {told}"


def _all_fields(sections: Mapping[str, type[Config]]) -> list[str]:
    return [name for kind in sections.values() for name in kind.model_fields]


def _option(name: str, info: FieldInfo, changed: Mapping[str, Any]) -> Option:
    default = changed.get(name, info.get_default(call_default_factory=True))
    return Option(
        name=name,
        type=_type_name(info),
        default="(must be given)" if info.is_required() else value_text(default),
        meaning=" ".join((info.description or "").split()),
    )


def _as_typed(kind: type[Config], key: str, value: Any) -> Any:
    """What a person means who types `none`, as `attar show` writes what YAML calls null; for a list `a,b`, 1 or none.

    Only where the field can be that, and has no choice of the name.
    """
    if not isinstance(value, str | int | float) or key not in kind.model_fields:
        return value
    choices = _choices(kind.model_fields[key].annotation)
    if value in choices:
        return value
    if value == "none" and type(None) in choices:
        return None
    lists = any(get_origin(choice) is tuple for choice in choices)
    if lists and value in ("none", ""):
        return []
    if lists and not choices & {str, type(value)}:
        return [parse_value(part) for part in value.split(",")] if isinstance(value, str) else [value]
    return value


def _choices(annotation: Any) -> set[Any]:
    """The types and literal values that a union is of, or the annotation alone."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ()
    return set().union(*map(_choices, parts)) if parts else {annotation}


def _group(info: FieldInfo) -> type[Config] | None:
    """The settings that a field groups, where it is such a field."""
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Config) else None


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `above` over those of `below`, group by group."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _type_name(info: FieldInfo) -> str:
    return _type_text(info.annotation)


def _type_text(annotation: Any) -> str:
    parts = get_args(annotation)
    if annotation is None or annotation is type(None):
        return "none"
    if get_origin(annotation) is Annotated:
        return _type_text(parts[0])
    if get_origin(annotation) is Literal:
        return " | ".join(map(str, parts))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(map(_type_text, parts))
    if get_origin(annotation) is tuple and parts[1:] == (...,):
        return f"list of {_type_text(parts[0])}"
    return getattr(annotation, "__name__", None) or str(annotation)


def parse_duration(text: str) -> float:
    """Seconds of a time such as 90s, 30m, 2h or 1h30m; raises ConfigError for anything else, and for none at all."""
    match = re.fullmatch(r"\s*(?:(\d{1,4})h)?\s*(?:(\d{1,6})m(?:in)?)?\s*(?:(\d{1,8})s)?\s*", text, re.IGNORECASE)
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if seconds < 1:
        raise ConfigError(
            f"{text!r} is not a time", expected="hours, minutes or seconds", fix="such as 30m, 2h or 1h30m"
        )
    return float(seconds)


def parse_bytes(text: str) -> int:
    """Bytes of a size such as 300KB, 50MB, 1.5GB or 20000; units of 1000, with an i of 1024.

    Raises ConfigError for anything else, and for no bytes at all.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    unit = _UNITS.get((match[2] or "B").upper()) if match else None
    if match is None or unit is None or (size := int(float(match[1]) * unit)) < 1:
        raise ConfigError(
            f"{text!r} is not a size",
            expected=f"a number above 0 with a unit: {', '.join(_UNITS)}",
            fix="for example 300KB, 50MB or 1.5GB",
        )
    return size
