"""Train one network, or a grid of them; compare methods."""

from __future__ import annotations

from typing import Any

from attar.cli.app import command_of
from attar.cli.texts import echo, print_json

PANEL = "Train and judge"


@command_of("TrainOptions", panel=PANEL)
def train(given: dict[str, Any], as_json: bool) -> None:
    """Train one network on DATA; settings are those of the section `train` (`attar show train`, `attar show dlb`)."""
    from attar import api

    result = api.train(**given)
    found = {
        "accuracy_percent": dict(result.accuracies),
        "loss": result.losses[-1],
        "epochs": len(result.losses),
        **({"label_noise": dict(result.label_noise)} if result.label_noise else {}),
    }
    if as_json:
        print_json({**found, "path": str(result.path) if result.path else None})
        return
    if noise := result.label_noise:
        echo(f"wrong labels {noise['flipped']} of {noise['of']} ({noise['kind']}, digest {noise['digest']})")
    for split, percent in result.accuracies.items():
        echo(f"{split:<12} {percent:5.1f} %")
    if result.path:
        echo(f"network: {result.path / 'model.safetensors'}")


@command_of("StudyOptions", "Counting", panel=PANEL)
def study(given: dict[str, Any], as_json: bool) -> None:
    """Compare training strategies: a grid of strategies, networks, variants, wrong labels and seeds, from FILE.

    The same command again resumes; a grid that has grown trains only what is new.
    """
    from attar import api

    if given.pop("counting", False):
        planned = api.plan_study(**{name: value for name, value in given.items() if name != "processes"})
        print_json(vars(planned)) if as_json else echo(f"{planned}\n{planned.held_equal}")
        return
    result = api.study(**given)
    from attar.cli.comparisons import print_study, study_json

    print_json(study_json(result)) if as_json else print_study(result)


@command_of("BenchOptions", panel=PANEL)
def bench(given: dict[str, Any], as_json: bool) -> None:
    """Compare methods on SOURCE under one protocol: the same network, schedule and labelling teacher for all.

    The same command again resumes; with more methods, images, labels or seeds it trains only what is new.
    """
    from attar import api

    result = api.bench(**given)
    from attar.cli.comparisons import bench_json, print_bench

    print_json(bench_json(result)) if as_json else print_bench(result)
