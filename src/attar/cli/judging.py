"""Judge a distilled dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from attar.cli.app import command
from attar.cli.options import DataDir, Device, Distilled, Json, Out, Precision, Quiet, Resolution, Seed, Set, Workers
from attar.cli.texts import print_json, split, use_threads


@command("Train and judge")
def evaluate(
    distilled: Distilled,
    source: Annotated[str, typer.Option(help="The real images that it was made from.")],
    models: Annotated[str | None, typer.Option(help="Networks, separated by commas.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each network on each set.")] = None,
    baselines: Annotated[
        str | None, typer.Option(help="Of random, herding, kcenter, kmeans and full, separated by commas; or none.")
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Run all that the scores of DD-Ranking are made of, and tell them.")
    ] = False,
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    resolution: Resolution = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Train networks on DISTILLED and on its baselines alike, and test them on the real test split.

    DISTILLED may be what another program left: folders of images, .pt tensors, shards (`attar show foreign`).
    """
    from attar import api

    use_threads(workers)
    result = api.evaluate(
        distilled,
        source,
        models=split(models) or (),
        seeds=seeds,
        baselines=[] if baselines == "none" else split(baselines),
        scores=scores or None,
        out=out,
        seed=seed or 0,
        settings=set_ or [],
        data_dir=data_dir,
        resolution=resolution,
        device=device or "auto",
        precision=precision or "32-true",
        quiet=quiet,
    )
    if json_:
        found = {"records": [record.to_json() for record in result.records], "verdict": result.verdict}
        page = str(result.report) if result.report else None
        print_json({**found, "scores": [one.to_json() for one in result.scores], "report": page})
        return
    from attar.cli.tables import print_records, print_scores

    print_records(result.records, result.verdict)
    print_scores(result.scores, told=scores)
    if result.report:
        typer.echo(f"report: {result.report}")


@command("Train and judge")
def continual(
    distilled: Distilled,
    source: Annotated[str, typer.Option(help="The real images that it was made from.")],
    model: Annotated[str, typer.Option(help="A name from `attar list models`.")] = "auto",
    steps: Annotated[int, typer.Option(min=1, help="Steps in which the classes arrive.")] = 5,
    seeds: Annotated[int, typer.Option(min=1, help="Orders of the classes.")] = 1,
    baseline: Annotated[bool, typer.Option(help="Compare with random real images at the same count.")] = True,
    labels: Annotated[str, typer.Option(help="stored or hard, or both, separated by a comma.")] = "stored",
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    resolution: Resolution = None,
    seed: Seed = None,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Let classes arrive step by step; train from scratch on the distilled images of all classes seen."""
    from attar import api

    use_threads(workers)
    records = api.continual(
        distilled,
        source,
        model=model,
        steps=steps,
        seeds=seeds,
        baseline=baseline,
        labels=split(labels) or (),
        out=out,
        seed=seed or 0,
        settings=set_ or [],
        data_dir=data_dir,
        resolution=resolution,
        device=device or "auto",
        precision=precision or "32-true",
        quiet=quiet,
    )
    if json_:
        print_json({"records": [record.to_json() for record in records]})
        return
    from attar.cli.tables import print_steps

    print_steps(records)
