"""Train one network, or a grid of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attar.cli.app import command
from attar.cli.options import DataDir, Device, Json, Out, Precision, Quiet, Resolution, Seed, Set, Workers
from attar.cli.texts import print_json, use_threads


@command("Train and judge")
def train(
    data: Annotated[str, typer.Argument(help="A source, a distilled dataset, or a run folder.")],
    model: Annotated[str, typer.Option(help="A name from `attar list models`.")] = "auto",
    strategy: Annotated[
        str, typer.Option(help="A name from `attar list strategies`, or several joined by '+', such as dlb+ddgsd.")
    ] = "ce",
    teacher: Annotated[
        Path | None, typer.Option(help="For the strategy kd: the model.safetensors of another training.")
    ] = None,
    label_noise: Annotated[
        float | None, typer.Option(min=0, show_default="0", help="Part of the training labels that are made wrong.")
    ] = None,
    noise_kind: Annotated[
        Literal["symmetric", "pairflip"] | None,
        typer.Option(show_default="symmetric", help="What they become: any other class, or the next one."),
    ] = None,
    logger: Annotated[
        list[str] | None, typer.Option(help="tensorboard or wandb, writing into --out. May be repeated.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Real images whose validation split judges the network.")] = None,
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
    """Train one network on DATA; settings are those of the section `train` (`attar show train`, `attar show dlb`)."""
    from attar import api

    use_threads(workers)
    result = api.train(
        data,
        model,
        strategy=strategy,
        teacher=teacher,
        label_noise=label_noise,
        noise_kind=noise_kind,
        loggers=logger or [],
        source=source,
        out=out,
        seed=seed or 0,
        settings=set_ or [],
        data_dir=data_dir,
        resolution=resolution,
        device=device or "auto",
        precision=precision or "32-true",
        quiet=quiet,
    )
    found = {
        "accuracy_percent": dict(result.accuracies),
        "loss": result.losses[-1],
        "epochs": len(result.losses),
        **({"label_noise": dict(result.label_noise)} if result.label_noise else {}),
    }
    if json_:
        print_json({**found, "path": str(result.path) if result.path else None})
        return
    if noise := result.label_noise:
        typer.echo(f"wrong labels {noise['flipped']} of {noise['of']} ({noise['kind']}, digest {noise['digest']})")
    for split, percent in result.accuracies.items():
        typer.echo(f"{split:<12} {percent:5.1f} %")
    if result.path:
        typer.echo(f"network: {result.path / 'model.safetensors'}")


@command("Train and judge")
def study(
    file: Annotated[str, typer.Argument(help="A name from `attar list studies`, or a YAML file.")],
    out: Out = None,
    set_: Set = None,
    data_dir: DataDir = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes that share the trainings, with one thread each or --workers.")
    ] = 1,
    plan_: Annotated[bool, typer.Option("--plan", help="Count the trainings, and train nothing.")] = False,
    device: Device = None,
    precision: Precision = None,
    workers: Workers = None,
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Compare training strategies: a grid of strategies, networks, variants, wrong labels and seeds, from FILE.

    The same command again goes on where it stopped; a grid that has grown trains only what is new.
    """
    from attar import api

    where = {"device": device or "auto", "precision": precision or "32-true", "quiet": quiet}
    asked: dict[str, Any] = {"out": out, "settings": set_ or [], "data_dir": data_dir, **where}
    if plan_:
        planned = api.plan_study(file, **asked)
        print_json(vars(planned)) if json_ else typer.echo(f"{planned}\n{planned.held_equal}")
        return
    result = api.study(file, jobs=jobs, workers=workers, **asked)
    from attar.cli.comparisons import print_study, study_json

    print_json(study_json(result)) if json_ else print_study(result)
