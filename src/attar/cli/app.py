"""The program: its commands' frame, errors for people, exit codes."""

from __future__ import annotations

import functools
import inspect
import io
import os
import sys
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from attar.__main__ import GO_ON, INTERRUPTED
from attar.cli.texts import echo
from attar.errors import AttarError
from attar.runtime.processes import launched
from attar.runtime.refusals import resource_error
from attar.text import shortened
from attar.version import __version__

ASKING = {"--help", "-h", "--version"}
"""Whoever asks for these is answered, however many processes there are and whatever their launcher says."""
EPILOG = (
    "Exit codes: 0 done, 1 an error of attar itself, 2 a setting or a name, 3 the images, 4 files of a run, "
    "5 numbers that are no longer finite, 6 memory, disk or permission, 130 interrupted (run again to go on). "
    "--debug shows the traceback of an error."
)

Body = Callable[[dict[str, Any], bool], None]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Options:
    """Classes of a command's options, by name in `attar.api.options` or `attar.cli.extras`, and fields left out."""

    kinds: tuple[str, ...]
    without: tuple[str, ...] = ()


class _Command(TyperCommand):
    """A command whose help names its arguments as its text does, and shows a flag by its name alone."""

    options: Options | None = None
    """Of these its flags are made at its first use, so that `attar --help` needs none of them."""

    def get_params(self, ctx: Any) -> list[Any]:
        if self.options and self.callback and not self.params:
            from attar.cli.flags import with_flags

            made = typer.Typer(add_completion=False)
            made.command(self.name)(with_flags(inspect.unwrap(self.callback), self.options))
            built = typer.main.get_command(made)
            self.params, self.callback = built.params, built.callback
        return [_plain(param, ctx) for param in super().get_params(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, most of its width for the sentences."""
        shown = copy(self)
        params = [_slim(copy(param), ctx) for param in self.get_params(ctx)]
        shown.get_params = lambda ctx: params  # type: ignore[method-assign]
        TyperCommand.format_help(shown, ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed; a value that is none is told with what was found."""
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            words = error.message.removeprefix("Value error, ").replace("Input should be", "it should be")
            found = _value_of(getattr(error.param, "opts", ()), typed)
            error.message = f"{words} (found {found!r})" if found is not None and repr(found) not in words else words
            raise


def _value_of(names: Sequence[str], typed: Sequence[str]) -> str | None:
    """What was typed last after a flag of one of these names; None where there is none."""
    after = {word: text for word, text in pairwise(typed) if word in names}
    joined = {word.partition("=")[0]: word.partition("=")[2] for word in typed if "=" in word}
    return next((given[name] for given in (joined, after) for name in names if name in given), None)


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return [_plain(param, ctx) for param in super().get_params(ctx)]


def _plain(param: Any, ctx: Any) -> Any:
    """The same parameter; typer would write {source}, <bool> beside a flag, and <int range> for a number."""
    if param.metavar is None:
        if isinstance(param, TyperArgument):
            param.metavar = param.name.upper().rstrip("_")
        elif getattr(param, "is_flag", False):
            param.metavar = ""
        elif " range" in (param.display_type(ctx) or ""):
            param.metavar = param.display_type(ctx).replace(" range", "")
    return param


def _slim(param: Any, ctx: Any) -> Any:
    """The same parameter in few columns: texts have no type, an option's names stand in one, bounds are told later."""
    if not isinstance(param, TyperArgument):
        param.opts, param.secondary_opts, param.max = [", ".join([*param.opts, *param.secondary_opts])], [], None
    elif "str" in (param.display_type(ctx) or ""):
        param.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
    return param


app = typer.Typer(
    cls=_Group,
    help="Distill large image datasets into small synthetic ones, and train and judge models on them.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(panel: str, name: str | None = None) -> Callable[[Function], Function]:
    """Add a function as a command, in a panel of the help; by its own name where no other is given."""
    return app.command(name, cls=_Command, rich_help_panel=panel)


def command_of(
    *kinds: str, panel: str, name: str | None = None, without: tuple[str, ...] = ()
) -> Callable[[Body], Body]:
    """Add a command with a flag for each field of these classes, but those left out.

    The function is called with what was given, as arguments of the Python function, and with whether to print JSON.
    """

    def add(body: Body) -> Body:
        kind = type("Command", (_Command,), {"options": Options(kinds, without)})

        @functools.wraps(body)
        def placeholder() -> None:
            raise AssertionError("its flags are made before it is called")

        placeholder.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
        app.command(name, cls=kind, rich_help_panel=panel)(placeholder)
        return body

    return add


def run() -> None:
    """Entry point: errors for people, exit codes, no traceback unless --debug."""
    _escape_what_cannot_be_shown()
    debug, who = "--debug" in sys.argv, ""
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        if not ASKING & set(sys.argv[1:]) and (rank := launched().rank):
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (one of several processes speaks, for all its life)
            who = f"process {rank}: "
        app()
    except AttarError as error:
        if debug:
            raise
        _complain(error, who)
        sys.exit(error.exit_code)
    except SystemExit as leaving:  # typer turns Ctrl-C into this
        if leaving.code == INTERRUPTED:
            typer.secho(GO_ON, err=True)
        raise
    except KeyboardInterrupt:
        typer.secho(GO_ON, err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        if refusal := resource_error(error):
            _complain(refusal, who)
            sys.exit(refusal.exit_code)
        typer.secho("error of attar itself: ", fg="red", err=True, nl=False)
        echo(shortened(f"{type(error).__name__}: {error}", 1000), err=True)
        typer.echo("to fix: please report it with what the same command prints with --debug", err=True)
        sys.exit(1)


def _escape_what_cannot_be_shown() -> None:
    """Let no character end a command: names of files, on a terminal that is no UTF-8, or that are no UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"attar {__version__}")
        typer.echo("\n".join(_versions()))
        raise typer.Exit


def _versions() -> list[str]:
    """Versions that matter for a report of a bug, none of them imported."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    lines = [f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    for name in ("torch", "torchvision", "timm", "numpy", "datasets", "pyarrow", "safetensors", "pydantic", "typer"):
        try:
            lines.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} is not installed")
    return lines


def _complain(error: AttarError, who: str = "") -> None:
    typer.secho(f"{who}error: ", fg="red", bold=True, err=True, nl=False)
    for before, text in (("", error.found), ("expected: ", error.expected), ("to fix: ", error.fix)):
        if text:
            echo(before + text, err=True)
