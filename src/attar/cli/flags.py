"""Arguments and flags of a command, made of the fields of its options' classes: each is stated once, there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from rich.markup import escape

from attar.cli.completion import completer
from attar.config import Config, value_text
from attar.marks import flag
from attar.options import PROGRESS, PathLike, arranged, panel_of

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from attar.cli.app import Body, Options

JSON = "Print the result as JSON on stdout; progress goes to stderr."
WIDE = 12
"""Characters of choices that may stand beside a flag."""
KEYWORD = inspect.Parameter.KEYWORD_ONLY


def with_flags(body: Body, options: Options) -> Callable[..., None]:
    """A function with an argument or a flag for each field of the options, which hands what was given to the body.

    The body takes the arguments of the Python function, by name, and whether to print JSON.
    """
    fields = fields_of(options)

    def call(context: typer.Context, json_: bool, **values: Any) -> None:
        given = typed(context)
        if "quiet" in fields:
            given["quiet"] = values["quiet"]
        body(given, json_)

    parameters = [inspect.Parameter("context", KEYWORD, annotation=typer.Context)]
    kinds = _kinds(options)
    panels = {name: panel_of(kind, name) for kind in kinds for name in kind.model_fields}
    parameters += [_parameter(name, info, panels[name]) for name, info in fields.items()]
    as_json = Annotated[bool, typer.Option("--json", help=JSON, rich_help_panel=PROGRESS)]
    parameters.append(inspect.Parameter("json_", KEYWORD, default=False, annotation=as_json))
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__doc__, call.__name__ = body.__doc__, body.__name__
    return call


def typed(context: typer.Context) -> dict[str, Any]:
    """What was typed on a command line, by the names of the Python function's arguments."""
    found = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if name != "json_" and source is not None and source.name != "DEFAULT":
            found[name] = value
    return found


def fields_of(options: Options) -> Mapping[str, FieldInfo]:
    """The fields that a command has arguments or flags for, arguments first."""
    fields = {
        name: info
        for name, info in arranged(*_kinds(options)).items()
        if name not in options.without and not flag(info).program
    }
    return dict(sorted(fields.items(), key=lambda field: (not _is_argument(field[1]), not field[1].is_required())))


def _kinds(options: Options) -> list[type[Config]]:
    import attar.api.options
    import attar.cli.extras

    return [getattr(attar.api.options, name, None) or getattr(attar.cli.extras, name) for name in options.kinds]


def _is_argument(info: FieldInfo) -> bool:
    return info.is_required() and not flag(info).name


def _parameter(name: str, info: FieldInfo, panel: str | None) -> inspect.Parameter:
    """One argument or option, as typer takes it."""
    look, kind = flag(info), _type(info)
    metavar = look.metavar or _metavar(info)
    shared: dict[str, Any] = {"help": escape(_help(info, metavar)), "metavar": metavar, **_bounds(info)}
    if look.completes:
        shared["autocompletion"] = completer(look.completes)
    if _is_argument(info):
        shared["metavar"] = look.metavar or name.upper()
        return inspect.Parameter(name, KEYWORD, annotation=Annotated[kind, typer.Argument(**shared)])
    spelled = look.name or f"--{name.replace('_', '-')}"
    default = False if name == "quiet" else _default(info)
    if kind is bool and default is True:
        spelled = f"{spelled}/--no-{spelled.removeprefix('--')}"
    shared["show_default"] = look.default or (default is not None and kind is not bool)
    option = typer.Option(*[spelled, *filter(None, [look.short])], **shared, rich_help_panel=panel)
    kind = kind | None if default is None and not info.is_required() else kind
    default = inspect.Parameter.empty if info.is_required() else default
    return inspect.Parameter(name, KEYWORD, default=default, annotation=Annotated[kind, option])


def _metavar(info: FieldInfo) -> str | None:
    """What stands for the value, short, so that the sentences beside it have room; None where there is no value."""
    kind = _without_none(info.annotation)
    if kind is bool:
        return None
    if get_origin(kind) is Literal:
        names = "|".join(get_args(kind))
        return names if len(names) <= WIDE else "CHOICE"
    if PathLike in (info.annotation, *get_args(info.annotation)):
        return "PATH"
    if get_origin(kind) is tuple:
        return "N,..." if int in get_args(kind) else "NAMES"
    return {int: "N", float: "X"}.get(kind) or ("NAME" if flag(info).completes else "TEXT")


def _help(info: FieldInfo, metavar: str | None) -> str:
    """The first sentence about a field, and the choices that neither it nor what stands for the value names."""
    sentence = re.split(r"(?<=[.)])\s+(?=[A-Z])", " ".join((info.description or "").split()))[0]
    kind = _without_none(info.annotation)
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if metavar == "|".join(choices) or all(choice in sentence for choice in choices):
        return sentence
    return f"{sentence} One of {', '.join(choices)}."


def _default(info: FieldInfo) -> Any:
    """The default as typer takes it."""
    if info.is_required() or info.default == ():
        return None
    return ",".join(map(value_text, info.default)) if isinstance(info.default, tuple) else info.default


def _bounds(info: FieldInfo) -> dict[str, Any]:
    names = {"ge": "min", "le": "max"}
    return {ours: getattr(rule, own) for rule in info.metadata for own, ours in names.items() if hasattr(rule, own)}


def _type(info: FieldInfo) -> Any:
    """The type that typer reads a field as: a list is one text with commas, or repeated, another union a text."""
    annotation = _without_none(info.annotation)
    if flag(info).repeated or (get_origin(annotation) is tuple and _is_argument(info)):
        return list[str]
    return annotation if annotation in (bool, int, float) or get_origin(annotation) is Literal else str


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not NoneType]
        return _without_none(parts[0]) if len(parts) == 1 else None
    return _without_none(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation
