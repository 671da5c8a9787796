"""Which labels of the experts to store: trajectory matching under expert labels on CIFAR-10, on a CPU.

    ATTAR_DATA=FOLDER python benchmarks/expert_labels.py --out FOLDER --json benchmarks/results/expert_labels.json

FOLDER of ATTAR_DATA holds cifar10/ as parquet shards. The recipe `tesla-cifar10-ipc1-cpu` with
`method.labels=expert`: each step matches with the labels that its own θ* gives. The same images are then stored with
the mean of what every θ* of the window says, which is what the method hands over, with what one θ* says (as TESLA's
code stores the last), with the mean of the finished experts, and with their classes. Numbers are over seeds of
distillation times three students, at the last epoch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch
from table import Checks, accuracy_rows, arguments, finish
from torch import Tensor

import attar
from attar.artifacts.distilled import write_distilled
from attar.artifacts.recovered import read_chunks
from attar.run.pipeline import resume
from attar.runtime.engine import Engine

TRAIN_PER_CLASS = 500


def main() -> None:
    options = arguments(__doc__ or "", further)
    if "ATTAR_DATA" not in os.environ:
        sys.exit("set ATTAR_DATA to a folder with cifar10/ as parquet shards")
    source = Path(os.environ["ATTAR_DATA"]) / "cifar10"
    scores: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for seed in range(options.seeds):
        run = options.out / f"expert-{seed}"
        attar.distill(
            source,
            "tesla",
            1,
            recipe="tesla-cifar10-ipc1-cpu",
            seed=seed,
            out=run,
            until="relabel",
            settings={"method.labels": "expert", "run.workers": 1},
            quiet=False,
        )
        for name, folder in variants(run, options.out / f"stored-{seed}").items():
            judged = attar.evaluate(
                folder,
                source,
                seed=3 * seed,
                out=folder.with_name(f"{folder.name}-judged"),
                models=["convnet-d3-w32"],
                settings={
                    "source.train_per_class": TRAIN_PER_CLASS,
                    "train.augment": "dsa",
                    "train.epochs": 1000,
                    "evaluate.baselines": [],
                },
            )
            scores.setdefault(name, []).extend(judged.records[0].values)
            sizes[name] = judged.records[0].size_bytes
    mean = {name: statistics.fmean(values) for name, values in scores.items()}
    checks: Checks = {
        "window_minus_finished": {"value": mean["mean of the window"] - mean["finished experts"], "target": 0.0},
        "window_minus_one": {"value": mean["mean of the window"] - mean["one θ*"], "target": 0.0},
    }
    finish(accuracy_rows(scores, sizes), checks, options.json)


def variants(run: Path, folder: Path) -> dict[str, Path]:
    """The run's images, stored with each kind of labels: folders by what they are called."""
    with resume(run, quiet=True) as opened:
        task, method = opened.source.task, opened.settings.sections["method"]
        experts = opened.settings.knowledge.open(
            opened.settings.sections["squeeze"], task, run / "squeeze", Engine("cpu")
        )
    made = read_chunks(run / "recover")
    images = made.images[:]
    epochs = method.target_epochs(experts.num_epochs)
    with torch.no_grad():
        one = experts.flat(experts.segment(0, 0, epochs[-1]).target, images).softmax(dim=1)
    kinds: dict[str, Tensor | None] = {
        "mean of the window": experts.labeller(epochs).soft_labels(images),
        "one θ*": one,
        "finished experts": experts.labeller((experts.num_epochs,)).soft_labels(images),
        "classes": None,
    }
    found = {}
    for name, labels in kinds.items():
        found[name] = folder / name.replace(" ", "-").replace("θ*", "target")
        write_distilled(found[name], replace(made, soft_labels=labels), task)
    return found


def further(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="of distillation")


if __name__ == "__main__":
    main()
