"""Distill, whole or one stage at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from attar.cli.app import command_of
from attar.cli.texts import echo, print_json
from attar.errors import FEW
from attar.report.formats import binary_size

if TYPE_CHECKING:
    from attar.api import Distillation

STAGE = "One stage at a time"


@command_of("DistillOptions", panel="Distill", without=("until",))
def distill(given: dict[str, Any], as_json: bool) -> None:
    """Distill SOURCE: squeeze, recover, relabel, evaluate, report. The same command again resumes."""
    from attar import api

    _show(api.distill(**given), "evaluate", as_json)


@command_of("DistillOptions", "Listing", panel=STAGE, without=("until", "redo"))
def squeeze(given: dict[str, Any], as_json: bool) -> None:
    """Begin a run folder: train the networks that hold the knowledge of SOURCE, or take them with --weights.

    For trajectories, raise num_experts and run it again: it keeps the experts that are there.
    """
    from attar import api

    if given.pop("listing", False):
        _list_experts(given, as_json)
    else:
        _show(api.distill(**given, until="squeeze"), "squeeze", as_json)


@command_of("ResumeOptions", panel=STAGE, without=("until", "redo", "label_budget"))
def recover(given: dict[str, Any], as_json: bool) -> None:
    """Continue RUN: optimise the synthetic images. With --set, do the stage again."""
    _resume("recover", given, as_json)


@command_of("ResumeOptions", panel=STAGE, without=("until", "redo"))
def relabel(given: dict[str, Any], as_json: bool) -> None:
    """Continue RUN: label the images and write the distilled dataset. With a setting, do the stage again."""
    _resume("relabel", given, as_json)


def _resume(until: Literal["recover", "relabel"], given: dict[str, Any], as_json: bool) -> None:
    from attar import api

    changed = "settings" in given or "label_budget" in given
    _show(api.resume(**given, until=until, redo=until if changed else None), until, as_json)


def _show(result: Distillation, until: str, as_json: bool) -> None:
    whole = not result.missing
    if as_json:
        print_json(
            {
                "run": str(result.path),
                "until": until,
                "distilled": str(result.distilled) if until in ("relabel", "evaluate") and whole else None,
                "report": str(result.report) if result.report else None,
                "records": [record.to_json() for record in result.records],
                "verdict": result.verdict.to_json(),
                "missing": [str(path.relative_to(result.path)) for path in result.missing],
                "at_work": list(result.at_work),
            }
        )
        return
    if not whole:
        _tell_missing(result)
        return
    if result.records:
        from attar.cli.tables import print_records

        print_records(result.records, result.verdict)
    following = {"squeeze": "recover", "recover": "relabel"}.get(until)
    if following:
        echo(f"{until} is complete; next: attar {following} {result.path}")
    else:
        echo(f"distilled dataset: {result.distilled}")
    if result.report:
        echo(f"report:            {result.report}")


def _tell_missing(result: Distillation) -> None:
    """Say what other shards have yet to make, and how to go on."""
    names = [str(path.relative_to(result.path)) for path in result.missing]
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    echo(
        f"this shard has made its items; of others' these are missing in {result.path}: {', '.join(names[:FEW])}{more}"
    )
    if result.at_work:
        echo(f"at work now: shard{'s' * (len(result.at_work) > 1)} {', '.join(map(str, result.at_work))}")
    echo("next: the same command once they are there, or without --shard, which makes what is missing and all the rest")


def _list_experts(given: dict[str, Any], as_json: bool) -> None:
    """Print the experts in `out` and whether they can be used for the source, or those in a run given as the source."""
    from attar import api

    source, out = given["source"], given.get("out")
    names = ("settings", "data_dir", "download", "resolution", "skip_corrupt")
    asked = {name: value for name, value in given.items() if name in names and out}
    found = api.experts(out, source, **asked) if out else api.experts(source)
    if as_json:
        print_json([{**vars(expert), "path": str(expert.path)} for expert in found])
        return
    width = max(len(expert.model) for expert in found)
    echo(f"expert  {'network':<{width}}  epochs    loss      size{f'  for {source}' if out else ''}")
    for expert in found:
        loss = "" if expert.loss is None else f"{expert.loss:.4f}"
        use = f"  {expert.problem or 'yes'}" if out else ""
        cells = f"{expert.expert:>6}  {expert.model:<{width}}  {expert.epochs:>6}  {loss:>6}"
        echo(f"{cells}  {binary_size(expert.bytes):>8}{use}")
    echo(f"{len(found)} expert{'s' * (len(found) > 1)}, {binary_size(sum(expert.bytes for expert in found))}")
