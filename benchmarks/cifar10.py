"""Exact against published gradient and real images on CIFAR-10, one image per class, on two CPU cores.

    ATTAR_DATA=FOLDER python benchmarks/cifar10.py --json benchmarks/results/cifar10.json

FOLDER holds cifar10/ as parquet shards. Everything is the recipe `tesla-cifar10-ipc1-cpu`; for each seed both gradients
share the same experts. Numbers are over all trainings: seeds of distillation times three; the whole set is
trained on with the first seed only. Two processes of one thread each, about a quarter of an hour.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from table import Checks, accuracy_rows, arguments, finish

import attar
from attar.results.records import Record

RECIPE = "tesla-cifar10-ipc1-cpu"
CASES = {
    "tesla, exact": ("tesla", {}),
    "tesla, published": ("tesla", {"method.gradient": "published"}),
    "nearest to the mean": ("kmeans", {"method.features": "pixels"}),
}


def main() -> None:
    options = arguments(__doc__ or "", lambda p: p.add_argument("--seeds", type=int, default=4))
    if "ATTAR_DATA" not in os.environ:
        sys.exit("set ATTAR_DATA to a folder with cifar10/ as parquet shards")
    scores: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for records in pool.map(all_cases, range(options.seeds), [Path(folder)] * options.seeds):
            for name, record in records:
                scores.setdefault(name, []).extend(record.values)
                sizes[name] = record.size_bytes
    mean = {name: statistics.fmean(values) for name, values in scores.items()}
    checks: Checks = {
        "exact_minus_random": {"value": mean["tesla, exact"] - mean["random"], "target": 10.0},
        "exact_minus_published": {"value": mean["tesla, exact"] - mean["tesla, published"], "target": 0.0},
    }
    finish(accuracy_rows(scores, sizes), checks, options.json)


def all_cases(seed: int, folder: Path) -> list[tuple[str, Record]]:
    """Records of one seed, named by what was trained on; both gradients take the same experts."""
    found: list[tuple[str, Record]] = []
    experts = folder / f"{seed}-0" / "squeeze"
    for number, (name, (method, settings)) in enumerate(CASES.items()):
        out = folder / f"{seed}-{number}"
        if method == "tesla" and number:
            shutil.copytree(experts, out / "squeeze")
        done = distill(method, seed, out, settings, first=number == 0)
        found += [(name if record.subject == "distilled" else record.subject, record) for record in done.records]
    return found


def distill(method: str, seed: int, out: Path, settings: dict[str, object], *, first: bool) -> attar.Distillation:
    baselines = (["random", "full"] if seed == 0 else ["random"]) if first else []
    return attar.distill(
        Path(os.environ["ATTAR_DATA"]) / "cifar10",
        method,
        1,
        recipe=RECIPE if method == "tesla" else "none",
        seed=seed,
        out=out,
        settings={
            **(STUDENT if method != "tesla" else {}),
            **settings,
            "evaluate.baselines": baselines,
            "run.workers": 1,
        },
        quiet=False,
    )


STUDENT = {
    "source.train_per_class": 500,
    "train.epochs": 1000,
    "train.learning_rate": 0.01,
    "train.augment": "dsa",
    "evaluate.models": ["convnet-d3-w32"],
}


if __name__ == "__main__":
    main()
