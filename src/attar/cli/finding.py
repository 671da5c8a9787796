"""Rehearse a run; find names and settings."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attar.cli.app import command, command_of
from attar.cli.completion import completer
from attar.cli.texts import print_json
from attar.report.formats import binary_size, roughly

if TYPE_CHECKING:
    from attar.run.hosts import Hosts
    from attar.squeeze.rehearsal import Estimate

PANEL = "Find your way"
_STYLED = re.compile(r"\x1b\[\d*m")
"""Marks of bold text, which a pager may print as they are."""
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


@command_of("PlanOptions", panel=PANEL)
def plan(given: dict[str, Any], as_json: bool) -> None:
    """Rehearse the run on this machine: hours, memory and disk before you spend them."""
    from attar import api

    found = api.plan(**given)
    if as_json:
        stages = [_of_stage(estimate) for estimate in found.estimates]
        names = ("total_s", "memory_bytes", "main_memory_bytes", "helpers", "disk_bytes")
        totals = {name: getattr(found, name) for name in names}
        hosts = {"hosts": _of_hosts(found.hosts)} if found.hosts else {}
        print_json({"why": found.why, "stages": stages, **totals, **hosts})
        return
    for line in found.why:
        typer.echo(line)
    width = max(len(estimate.stage) for estimate in found.estimates)
    for estimate in found.estimates:
        each = f"{estimate.units:>9,} {estimate.unit} at {1000 * estimate.unit_s:,.1f} ms" if estimate.units > 1 else ""
        typer.echo(f"{estimate.stage:<{width}} {roughly(estimate.total_s):>9}  {each}".rstrip())
    typer.echo(f"{'in all':<{width}} {roughly(found.total_s):>9}")
    memory = f"memory about {binary_size(found.main_memory_bytes)}"
    if found.memory_bytes != found.main_memory_bytes:
        memory = f"GPU memory about {binary_size(found.memory_bytes)}, main {memory}"
    typer.echo(f"{memory}, disk about {binary_size(found.disk_bytes)}")
    if found.helpers:
        who = "a process" if found.helpers == 1 else f"{found.helpers} processes"
        typer.echo(f"{who} beside this one may train students too, with as much memory again where it is free")
        typer.echo("--set evaluate.processes=1 trains all in one")
    if found.hosts:
        _tell_hosts(found.hosts)


def _of_stage(estimate: Estimate) -> dict[str, Any]:
    """An estimate as plain values: how many items it falls into, and not which they are."""
    values = {name: value for name, value in vars(estimate).items() if name not in ("places", "fixed")}
    return {**values, "part": estimate.part, "num_items": len(estimate.places), "total_s": estimate.total_s}


def _of_hosts(hosts: Hosts) -> dict[str, Any]:
    """What several processes bring, as plain values."""
    names = ("num", "total_s", "gain", "host_hours", "stops_at")
    shared = [{**vars(one), "gain": one.gain} for one in hosts.shared]
    return {**{name: getattr(hosts, name) for name in names}, "shared": shared}


def _tell_hosts(hosts: Hosts) -> None:
    """A line for each kind of pieces, then what all take together."""
    typer.echo(f"\nby {hosts.num:,} processes, each on a machine like this:")
    width = max(len(one.part) for one in hosts.shared)
    for one in hosts.shared:
        if one.one_s < 0.5:
            continue
        each = f"{roughly(one.one_s):>9} -> {roughly(one.shared_s):>9}  {one.gain:5.1f}x"
        typer.echo(f"{one.part:<{width}} {each}  {one.shared_by}")
    end = f"{'in all':<{width}} {'':>9}    {roughly(hosts.total_s):>9}  {hosts.gain:5.1f}x"
    typer.echo(f"{end}  {hosts.host_hours:,.2f} host hours; beyond {hosts.stops_at:,} processes nothing is gained")


@command(PANEL, "list")
def list_(
    what: Annotated[
        Literal["methods", "recipes", "protocols", "datasets", "models", "strategies", "studies"],
        typer.Argument(help="What to list."),
    ],
    match: Annotated[
        str, typer.Argument(help="Only names that contain this text, or match it, such as 'resnet*-small'.")
    ] = "",
    json_: Json = False,
) -> None:
    """List methods, recipes, protocols, datasets, models, strategies or studies."""
    from attar import catalogue

    rows = catalogue.names(what, match)
    models = what == "models"
    if json_:
        sizes = [{"parameters": catalogue.num_parameters(*row)} if models else {} for row in rows]
        print_json([{"name": name, "summary": about, **size} for (name, about), size in zip(rows, sizes, strict=True)])
        return
    if not rows:
        typer.echo(f"none of the {what} has {match!r} in its name", err=True)
    width = max((len(name) for name, _ in rows), default=0)
    lines = (
        _by_family(rows, width, whole=not match)
        if models
        else [f"{_bold(name.ljust(width))}  {about}" for name, about in rows]
    )
    if sys.stdout.isatty() and len(lines) >= shutil.get_terminal_size().lines:
        import pydoc

        pydoc.pager(_STYLED.sub("", "\n".join(lines)))
    else:
        typer.echo("".join(f"{line}\n" for line in lines), nl=False)


def _by_family(rows: Sequence[tuple[str, str]], width: int, *, whole: bool) -> list[str]:
    """Networks under the name of their library, each with its parameters where a table has them, and what else is."""
    from attar import catalogue
    from attar.models.names import SHAPES

    lines: list[str] = []
    for family in dict.fromkeys(about for _, about in rows):
        names = [name for name, about in rows if about == family]
        known = {name: catalogue.num_parameters(name, family) for name in names}
        counted = f", parameters {catalogue.shown_for(family)}" if any(known.values()) else ""
        lines += [""] * bool(lines) + [f"{_bold(family)}: {len(names)}{counted}"]
        if whole and family == "attar":  # those are examples
            others = f"and any other of {', '.join(SHAPES)}"
            lines += textwrap.wrap(others, 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
        lines += [f"  {name.ljust(width)}  {f'{size:>13,}' if size else ''}".rstrip() for name, size in known.items()]
    return lines


def _bold(text: str) -> str:
    return typer.style(text, bold=True)


@command(PANEL)
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A method, a strategy, a recipe, a protocol (protocol:NAME where a method has its name), a model, or "
            "a section such as train.",
            autocompletion=completer("names"),
        ),
    ],
    json_: Json = False,
) -> None:
    """Show every field of a method, a recipe, a protocol or a section: type, default, meaning."""
    from attar import catalogue

    shown = catalogue.describe(name)
    if json_:
        print_json(shown)
    else:
        _print_description(shown)


@command(PANEL)
def doctor(
    data_dir: Annotated[str, typer.Option("--data-dir", help="A folder of datasets to look into.")] = "",
    json_: Json = False,
) -> None:
    """Say what this machine has: devices, CPU, threads, memory, disk, versions, datasets."""
    from attar.api.checkup import checkup

    found = checkup(data_dir)
    if json_:
        print_json(found)
        return
    width = max(map(len, found))
    for name, told in found.items():
        lines = told if isinstance(told, list) else [told]
        typer.echo(f"{typer.style(name.ljust(width), bold=True)}  {lines[0] if lines else 'none'}")
        for line in lines[1:]:
            typer.echo(f"{'':{width}}  {line}")


def _print_description(shown: dict[str, Any]) -> None:
    from attar.config import value_text

    typer.secho(shown["name"], bold=True, nl=False)
    typer.echo(f"  {shown['summary']}")
    for key, value in shown["notes"].items():
        if value and key != "about":
            text = ", ".join(f"{k}={value_text(v)}" for k, v in value.items()) if isinstance(value, dict) else value
            typer.echo(f"{key}: {text}")
    if objective := shown.get("objective"):
        typer.echo(f"\n{objective.rstrip()}")
    for section, fields in shown["sections"].items():
        if not fields:
            continue
        typer.echo("")
        typer.secho(f"{section}:", bold=True)
        for field in fields:
            kind = f"    ({field['type']})" if field["type"] else ""
            typer.echo(f"  {section}.{field['name']} = {value_text(field['default'])}{kind}")
            if field["meaning"]:
                typer.echo(f"      {field['meaning']}")
