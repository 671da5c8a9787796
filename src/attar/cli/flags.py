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
from attar.options import arranged

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from attar.cli.app import Body, Options

JSON = "Print the result as JSON on stdout; progress goes to stderr."
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
    parameters += [_parameter(name, info) for name, info in fields.items()]
    as_json = Annotated[bool, typer.Option("--json", help=JSON)]
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
    import attar.api.options
    import attar.cli.extras

    kinds: list[type[Config]] = [
        getattr(attar.api.options, name, None) or getattr(attar.cli.extras, name) for name in options.kinds
    ]
    fields = {
        name: info for name, info in arranged(*kinds).items() if name not in options.without and not flag(info).program
    }
    return dict(sorted(fields.items(), key=lambda field: (not _is_argument(field[1]), not field[1].is_required())))


def _is_argument(info: FieldInfo) -> bool:
    return info.is_required() and not flag(info).name


def _parameter(name: str, info: FieldInfo) -> inspect.Parameter:
    """One argument or option, as typer takes it."""
    look, kind = flag(info), _type(info)
    shared: dict[str, Any] = {"help": escape(_first_sentence(info)), "metavar": look.metavar or None, **_bounds(info)}
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
    option = typer.Option(*[spelled, *filter(None, [look.short])], **shared)
    kind = kind | None if default is None and not info.is_required() else kind
    default = inspect.Parameter.empty if info.is_required() else default
    return inspect.Parameter(name, KEYWORD, default=default, annotation=Annotated[kind, option])


def _first_sentence(info: FieldInfo) -> str:
    return re.split(r"(?<=[.)])\s+(?=[A-Z])", " ".join((info.description or "").split()))[0]


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
