"""How the functions of `attar.api` take their options: the class of a function's options is its signature."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar, cast

from attar.config import Config, build, not_valid, place, validated
from attar.options import arranged, assignments
from attar.protocols import layered

P = ParamSpec("P")
OptionsT = TypeVar("OptionsT")
R = TypeVar("R")


def takes(kind: Callable[P, OptionsT]) -> Callable[[Callable[[OptionsT], R]], Callable[P, R]]:
    """Make a function of an options object one of the options themselves, named, typed, documented and checked.

    `kind` is a class of options. The function that results has its fields as arguments, those that aren't keyword-only
    first, and raises ConfigError with all that is wrong with them.
    """

    def of(function: Callable[[OptionsT], R]) -> Callable[P, R]:
        assert isinstance(kind, type)
        assert issubclass(kind, Config)
        signature = inspect.Signature(_parameters(kind), return_annotation=function.__annotations__.get("return"))

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            values = _reopened(kind, signature.bind(*args, **kwargs).arguments)
            options, problems = validated(kind, values, "")
            if problems:
                told = f"--help on the command line and help(attar.{function.__name__}) say what each may be"
                raise not_valid(problems, told)
            return function(cast("OptionsT", options))

        call.__doc__ = _documented(function.__doc__ or "", kind)
        call.__signature__ = signature  # type: ignore[attr-defined]
        call.options = kind  # type: ignore[attr-defined]
        return call

    return of


def sections(
    kinds: Mapping[str, type[Config]],
    settings: Iterable[str],
    *layers: Mapping[str, Mapping[str, Any]],
) -> dict[str, Config]:
    """Sections of these kinds, from assignments over layers, each of which may name a protocol.

    Raises ConfigError with all that is wrong.
    """
    placed, problems = place(kinds, settings)
    values = layered(*layers, placed)
    return build(kinds, {name: values.get(name, {}) for name in kinds}, problems)


def _reopened(kind: type[Config], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with the name of a source that `attar.open` gave in its place, to be read as it was then.

    What else the caller says goes above that. A distilled set in memory is kept in a file, whose path stands for it.
    """
    found = dict(values)
    if isinstance(distilled := values.get("distilled"), tuple | list):
        from attar.interop.handed import is_handed, keep_handed

        found |= {"distilled": keep_handed(distilled)} if is_handed(distilled) else {}
    for name, value in values.items():
        if not hasattr(value, "open_test"):
            continue
        found[name] = value.name
        how = value.how.model_dump(mode="json", exclude_unset=True)
        own = {key: how[key] for key in how if key in kind.model_fields}
        others = {f"source.{key}": how[key] for key in how if key not in own}
        if others:
            found["settings"] = (*assignments(others), *assignments(values.get("settings", ())))
        found = {**own, **found}
    return found


def _parameters(kind: type[Config]) -> list[inspect.Parameter]:
    fields = sorted(arranged(kind).items(), key=lambda field: field[1].kw_only is not False)
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if info.kw_only is False else inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if info.is_required() else info.default,
            annotation=info.annotation,
        )
        for name, info in fields
    ]


def _documented(text: str, kind: type[Config]) -> str:
    """A function's docstring, with what its options are behind the first paragraphs and before `Raises`."""
    about, raises, rest = inspect.cleandoc(text).partition("\n\nRaises")
    lines = [
        textwrap.fill(
            f"{name}: {' '.join((kind.model_fields[name].description or '').split())}",
            width=116,
            initial_indent="    ",
            subsequent_indent="        ",
        )
        for name in (parameter.name for parameter in _parameters(kind))
    ]
    return "\n".join([about, "", "Args:", *lines]) + raises + rest
