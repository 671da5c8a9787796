"""Distil, whole or one stage at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attar.cli.app import command
from attar.cli.options import (
    DataDir,
    Device,
    Download,
    Fresh,
    Ipc,
    Json,
    LabelBudget,
    Method,
    Model,
    Out,
    Precision,
    Quiet,
    RecipeName,
    Redo,
    Resolution,
    RunPath,
    Seed,
    Set,
    SetAgain,
    SkipCorrupt,
    Source,
    Weights,
    Workers,
)
from attar.cli.texts import print_json, size, use_threads, without

if TYPE_CHECKING:
    from attar.api import Distillation


@command("Distil")
def distill(
    source: Source,
    method: Method = "auto",
    ipc: Ipc = None,
    recipe: RecipeName = "auto",
    model: Model = None,
    weights: Weights = None,
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    download: Download = None,
    resolution: Resolution = None,
    skip_corrupt: SkipCorrupt = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    label_budget: LabelBudget = None,
    fresh: Fresh = False,
    redo: Redo = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Distil SOURCE: squeeze, recover, relabel, evaluate, report. The same command again resumes."""
    flags = without(locals(), "json_", "label_budget", "set_")
    budget = [f"relabel.label_budget={label_budget}"] if label_budget else []
    _distill("evaluate", **flags, set_=[*budget, *(set_ or [])], as_json=json_)


@command("One stage at a time")
def squeeze(
    source: Source,
    method: Method = "auto",
    ipc: Ipc = None,
    recipe: RecipeName = "auto",
    model: Model = None,
    weights: Weights = None,
    pool: Annotated[
        Literal["prior", "post"] | None,
        typer.Option(
            show_default="the recipe's, or prior",
            help="Of teddy: early epochs of the network's training (prior), or pruned copies of it (post).",
        ),
    ] = None,
    list_: Annotated[
        bool,
        typer.Option(
            "--list",
            help="Make nothing: list the experts in --out, and whether SOURCE can use them; or in SOURCE, a run.",
        ),
    ] = False,
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    download: Download = None,
    resolution: Resolution = None,
    skip_corrupt: SkipCorrupt = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    fresh: Fresh = False,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Begin a run folder: train the networks that hold the knowledge of SOURCE, or take them with --weights.

    Trajectories: raise num_experts and run again, and the experts that are there are kept.
    """
    if list_:
        _list_experts(source, out, set_ or [], data_dir, resolution, json_)
    else:
        _distill("squeeze", **without(locals(), "json_", "list_"), as_json=json_)


@command("One stage at a time")
def recover(
    run: RunPath, set_: SetAgain = None, workers: Workers = None, quiet: Quiet = False, json_: Json = False
) -> None:
    """Go on with RUN: optimise the synthetic images."""
    _resume("recover", run, set_ or [], workers, quiet, json_)


@command("One stage at a time")
def relabel(
    run: RunPath,
    label_budget: LabelBudget = None,
    set_: SetAgain = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Go on with RUN: give the images their labels and write the distilled dataset."""
    budget = [f"relabel.label_budget={label_budget}"] if label_budget else []
    _resume("relabel", run, budget + (set_ or []), workers, quiet, json_)


def _distill(until: Literal["squeeze", "evaluate"], as_json: bool, **flags: Any) -> None:
    from attar import api

    flags["settings"] = flags.pop("set_") or []
    _show(api.distill(until=until, **flags), until, as_json)


def _resume(
    until: Literal["recover", "relabel"],
    run: Path,
    changed: list[str],
    workers: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    use_threads(workers)
    from attar.artifacts.run import require_run

    folder = require_run(run)
    from attar import api

    redo: Literal["recover", "relabel"] | None = until if changed else None
    _show(api.resume(folder, until, settings=changed, redo=redo, quiet=quiet), until, as_json)


def _show(result: Distillation, until: str, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "run": str(result.path),
                "until": until,
                "distilled": str(result.distilled) if until in ("relabel", "evaluate") else None,
                "report": str(result.report) if result.report else None,
                "records": [record.to_json() for record in result.records],
                "verdict": result.verdict,
            }
        )
        return
    if result.records:
        from attar.cli.tables import print_records

        print_records(result.records, result.verdict)
    following = {"squeeze": "recover", "recover": "relabel"}.get(until)
    if following:
        typer.echo(f"{until} is complete; next: attar {following} {result.path}")
    else:
        typer.echo(f"distilled dataset: {result.distilled}")
    if result.report:
        typer.echo(f"report:            {result.report}")


def _list_experts(
    source: str, out: Path | None, changed: list[str], data_dir: Path | None, resolution: int | None, as_json: bool
) -> None:
    """Print the experts in `out` and whether they can be used for the source, or those in a run given as the source."""
    from attar import api

    asked: dict[str, Any] = {"settings": changed, "data_dir": data_dir, "resolution": resolution} if out else {}
    found = api.experts(out or Path(source), source if out else None, **asked)
    if as_json:
        print_json([{**vars(expert), "path": str(expert.path)} for expert in found])
        return
    width = max(len(expert.model) for expert in found)
    typer.echo(f"expert  {'network':<{width}}  epochs    loss      size{f'  for {source}' if out else ''}")
    for expert in found:
        loss = "" if expert.loss is None else f"{expert.loss:.4f}"
        use = f"  {expert.problem or 'yes'}" if out else ""
        cells = f"{expert.expert:>6}  {expert.model:<{width}}  {expert.epochs:>6}  {loss:>6}  {size(expert.bytes):>8}"
        typer.echo(f"{cells}{use}")
    typer.echo(f"{len(found)} expert{'s' * (len(found) > 1)}, {size(sum(expert.bytes for expert in found))}")
