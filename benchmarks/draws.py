"""How DSA is drawn, for experts, in matching and in judging, and at which rate students train; on a CPU.

    python benchmarks/draws.py digits --out FOLDER --json benchmarks/results/draws-digits.json
    ATTAR_DATA=FOLDER python benchmarks/draws.py cifar10 --out FOLDER --json benchmarks/results/draws-cifar10.json

One image a class by the recipes `tesla-digits-ipc1` and `tesla-cifar10-ipc1-cpu`, matched and judged with one draw
of DSA for a batch, with one operation for a batch and parameters for each image (as published), and with a draw for
each image; all of these share the experts of their seed. On digits, experts that saw DSA drawn as published, or
four operations in turn with one draw for a batch, stand beside the recipe's, which saw images as they are. The
images of the first way, and as many random real ones, are then judged at the learnt rate and at 0.01. Numbers are
over seeds of distillation times three students, at the last epoch. A run that was stopped goes on.
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
EXPERTS = {
    "DSA, as published": {"squeeze.augment": "dsa-noflip", "squeeze.augment_per": "operation"},
    "four in turn, a draw for each batch": {"squeeze.augment": "crop_scale_rotate", "squeeze.augment_per": "batch"},
}


def main() -> None:
    options = arguments(__doc__ or "", further)
    if options.case == "cifar10" and "ATTAR_DATA" not in os.environ:
        sys.exit("set ATTAR_DATA to a folder with cifar10/ as parquet shards")
    source = "digits" if options.case == "digits" else str(Path(os.environ["ATTAR_DATA"]) / "cifar10")
    recipe = "tesla-digits-ipc1" if options.case == "digits" else "tesla-cifar10-ipc1-cpu"
    scores: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}

    def keep(judged: attar.Distillation | attar.Evaluation, how: str) -> None:
        for record in judged.records:
            scores.setdefault(f"{record.subject}, {how}", []).extend(record.values)
            sizes[f"{record.subject}, {how}"] = record.size_bytes

    for seed in range(options.seeds):
        runs = {way: options.out / f"{way}-{seed}" for way in WAYS}
        for way, out in runs.items():
            if out != runs["batch"] and not out.exists():
                shutil.copytree(runs["batch"] / "squeeze", out / "squeeze")
            keep(distill(source, recipe, seed, out, way, {}), f"a draw for each {way}, learnt rate")
        for name, experts in EXPERTS.items() if options.case == "digits" else ():
            out = options.out / f"{experts['squeeze.augment']}-{seed}"
            keep(distill(source, recipe, seed, out, "batch", experts), f"experts: {name}, learnt rate")
        fixed = {"evaluate.use_learned_rate": False, "train.learning_rate": 0.01, "evaluate.baselines": ["random"]}
        reading = {} if options.case == "digits" else {"source.train_per_class": 500}
        out = options.out / f"fixed-{seed}"
        judged = attar.evaluate(runs["batch"], source, seed=3 * seed, out=out, settings={**reading, **fixed})
        keep(judged, "a draw for each batch, rate 0.01")
    mean = {name: statistics.fmean(values) for name, values in scores.items()}
    own = "distilled, a draw for each {}, {}".format
    checks: Checks = {
        "published_draw_minus_one_for_all": {
            "value": mean[own("operation", "learnt rate")] - mean[own("batch", "learnt rate")],
            "target": 0.0,
        },
        "learnt_rate_minus_fixed": {
            "value": mean[own("batch", "learnt rate")] - mean[own("batch", "rate 0.01")],
            "target": 0.0,
        },
    }
    finish(accuracy_rows(scores, sizes), checks, options.json)


def distill(source: str, recipe: str, seed: int, out: Path, way: str, experts: dict[str, object]) -> attar.Distillation:
    settings = {
        "method.augment_per": way,
        "train.augment_per": way,
        "evaluate.baselines": ["random"],
        "evaluate.use_learned_rate": True,
        "run.workers": 1,
        **experts,
    }
    return attar.distill(source, "tesla", 1, recipe=recipe, seed=seed, out=out, settings=settings, quiet=False)


def further(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("case", choices=("digits", "cifar10"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=2, help="of distillation")


if __name__ == "__main__":
    main()
