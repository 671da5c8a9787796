"""How DSA is drawn, and at which rate students train: trajectory matching on CIFAR-10, one image a class, on a CPU.

    ATTAR_DATA=FOLDER python benchmarks/draws.py --out FOLDER --json benchmarks/results/draws.json

FOLDER of ATTAR_DATA holds cifar10/ as parquet shards. The recipe `tesla-cifar10-ipc1-cpu`, matched and judged with
one draw of DSA for a batch, with one operation for a batch and parameters for each image (as published), and with a
draw for each image; all ways share the experts of their seed. The images of the first way and as many random real
ones are then judged at the learnt rate and at 0.01. Numbers are over seeds of distillation times three students, at
the last epoch. A stopped run goes on.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
from pathlib import Path

from table import Checks, accuracy_rows, arguments, finish

import attar

WAYS = ("batch", "operation", "image")


def main() -> None:
    options = arguments(__doc__ or "", further)
    if "ATTAR_DATA" not in os.environ:
        sys.exit("set ATTAR_DATA to a folder with cifar10/ as parquet shards")
    source = Path(os.environ["ATTAR_DATA"]) / "cifar10"
    scores: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for seed in range(options.seeds):
        runs = {way: options.out / f"{way}-{seed}" for way in WAYS}
        for way, out in runs.items():
            if out != runs["batch"] and not out.exists():
                shutil.copytree(runs["batch"] / "squeeze", out / "squeeze")
            for record in distil(source, way, seed, out).records:
                name = f"{record.subject}, a draw for each {way}, learnt rate"
                scores.setdefault(name, []).extend(record.values)
                sizes[name] = record.size_bytes
        judged = attar.evaluate(
            runs["batch"],
            source,
            seed=3 * seed,
            out=options.out / f"fixed-{seed}",
            settings={
                "source.train_per_class": 500,
                "evaluate.use_learned_rate": False,
                "train.learning_rate": 0.01,
                "evaluate.baselines": ["random"],
            },
        )
        for record in judged.records:
            name = f"{record.subject}, a draw for each batch, rate 0.01"
            scores.setdefault(name, []).extend(record.values)
            sizes[name] = record.size_bytes
    mean = {name: statistics.fmean(values) for name, values in scores.items()}
    own = "distilled, a draw for each {}, learnt rate".format
    checks: Checks = {
        "default_minus_published_draw": {"value": mean[own("batch")] - mean[own("operation")], "target": 0.0},
        "learnt_rate_minus_fixed": {
            "value": mean[own("batch")] - mean["distilled, a draw for each batch, rate 0.01"],
            "target": 0.0,
        },
    }
    finish(accuracy_rows(scores, sizes), checks, options.json)


def distil(source: Path, way: str, seed: int, out: Path) -> attar.Distillation:
    return attar.distill(
        source,
        "tesla",
        1,
        recipe="tesla-cifar10-ipc1-cpu",
        seed=seed,
        out=out,
        settings={
            "method.augment_per": way,
            "train.augment_per": way,
            "evaluate.baselines": ["random"],
            "run.workers": 1,
        },
        quiet=False,
    )


def further(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="of distillation")


if __name__ == "__main__":
    main()
