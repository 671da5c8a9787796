"""What `auto` should choose: methods and coresets on several data sets, by one protocol, against random real images.

Each case is an `attar bench`: one network, schedule, augmentation and maker of soft labels for every set. A row of the
table is a data set, a number of images and a kind of labels: random real images, the best coreset, what `auto` chooses
there, and the best of all. The checks ask whether what auto chooses is ahead of random images and of the best coreset.

    python benchmarks/default.py --work WORK --json benchmarks/results/default.json
    python benchmarks/default.py --work WORK --data digits --ipc 1 --split test

A set may take four minutes (--time). Finished ones are kept in --work; data sets but the digits are read from
$ATTAR_DATA (cifar10-grey: some of CIFAR-10, grey and of 28 px; tiny-imagenet-50 and -100: every fourth and every second
class of Tiny-ImageNet, 112 and 300 training images of each). On validation splits, from which the rules are chosen,
unless --split test asks for the last word.
"""

from __future__ import annotations

import argparse
import io
import os
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pyarrow.parquet import read_table
from table import Checks, Rows, arguments, finish

import attar
from attar.methods import method as method_named
from attar.run.choice import choose_method
from attar.studies.bench import BenchResult


@dataclass(frozen=True)
class Case:
    """A data set, as it is read."""

    source: str
    settings: dict[str, Any]


CASES = {
    "digits": Case("digits", {}),
    "cifar10": Case("cifar10", {"source.train_per_class": 500}),
    "cifar10-whole": Case("cifar10", {}),
    "cifar10-grey": Case("cifar10-grey", {}),
    "imagenette": Case("imagenette", {"source.resolution": 64}),
    "tiny-imagenet": Case("tiny-imagenet-32", {"source.train_per_class": 100}),
    "tiny-imagenet-50": Case("tiny-imagenet-50", {}),
    "tiny-imagenet-100": Case("tiny-imagenet-100", {}),
}
GREY_PX, GREY_IMAGES = 28, {"train": 625, "test": 200}
"""Of the case cifar10-grey: its images' side, and how many of each class there are."""
METHODS = ["tesla", "dm", "pca", "cim"]
CORESETS = ["kmeans", "herding", "easy"]


def add(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    parser.add_argument("--work", type=Path, required=True, help="where sets and trainings are kept")
    parser.add_argument("--data", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--ipc", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--methods", nargs="+", default=METHODS, help="beside the coresets and what auto chooses")
    parser.add_argument("--coresets", nargs="+", default=CORESETS, help="that the methods must be ahead of")
    parser.add_argument("--labels", nargs="+", default=["hard", "soft"], choices=["hard", "soft"])
    parser.add_argument("--time", default="4m", help="what a set may take")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", default="validation", choices=["validation", "test"])


def grey(source: Path, folder: Path) -> Path:
    """The first images of each class of CIFAR-10, from parquet shards, as a folder of grey PNGs."""
    for split, most in GREY_IMAGES.items():
        taken: Counter[int] = Counter()
        for shard in sorted(source.glob(f"{split}-*.parquet")):
            for row in read_table(shard).to_pylist():
                label = row["label"]
                path = folder / split / f"class-{label}" / f"{taken[label]:05d}.png"
                if taken[label] < most and not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("L")
                    image.resize((GREY_PX, GREY_PX), Image.Resampling.BOX).save(path)
                taken[label] += 1
    return folder


def some_classes(source: Path, folder: Path, every: int, num: int) -> Path:
    """The first images of some classes of Tiny-ImageNet, from parquet shards, as a folder of images."""
    for split, most in {"train": num, "validation": None}.items():
        taken: Counter[int] = Counter()
        for shard in sorted(source.glob(f"{split}-*.parquet")):
            for row in read_table(shard).to_pylist():
                label = row["label"]
                taken[label] += 1
                if label % every == 0 and (most is None or taken[label] <= most):
                    path = folder / split / f"c{label:03d}" / f"{taken[label]:04d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(row["image"]["bytes"])
    return folder


MADE = {
    "cifar10-grey": ("cifar10", grey),
    "tiny-imagenet-50": ("tiny-imagenet-32", partial(some_classes, every=4, num=112)),
    "tiny-imagenet-100": ("tiny-imagenet-32", partial(some_classes, every=2, num=300)),
}
"""Cases that are made from others, and how."""


def bench(name: str, ipc: int, options: argparse.Namespace) -> tuple[dict[str, str], BenchResult]:
    """What auto chooses for a case by kind of labels, and the bench of all methods there."""
    case, root = CASES[name], os.environ.get("ATTAR_DATA")
    source = case.source if name == "digits" or not root else str(Path(root) / case.source)
    if name in MADE:
        whole, make = MADE[name]
        if not root:
            raise SystemExit(f"{name} is made from $ATTAR_DATA/{whole}")
        source = str(make(Path(root) / whole, options.work / name))
    task = attar.open(source, settings=case.settings, quiet=True).task
    on_cpu = not torch.cuda.is_available()
    chosen = {labels: choose_method(task, ipc, on_cpu=on_cpu, soft=labels == "soft")[0] for labels in options.labels}
    methods = dict.fromkeys([*chosen.values(), *options.methods, *options.coresets])
    result = attar.bench(
        source,
        methods=[name for name in methods if name != "random"],
        ipc=[ipc],
        labels=options.labels,
        seeds=options.seeds,
        split=options.split,
        time=options.time,
        out=options.work / f"{name}-ipc{ipc}-{options.split}",
        settings=case.settings,
        full_epochs=0,
    )
    return chosen, result


def told(row: Any) -> str:
    """Mean and deviation."""
    return f"{row.mean:.1f} ± {row.std:.1f}"


def main() -> None:
    options = arguments(__doc__ or "", add)
    rows: Rows = []
    checks: Checks = {}
    for name in options.data:
        for ipc in options.ipc:
            chosen, result = bench(name, ipc, options)
            for labels in options.labels:
                found = {row.method: row for row in result.rows if row.labels == labels and row.ipc == ipc}
                random = found.pop("random")
                chosen_images = [row for key, row in found.items() if method_named(key).makes != "distilled images"]
                coreset = max([random, *chosen_images], key=lambda row: row.mean)
                best = max(found.values(), key=lambda row: row.mean)
                auto = chosen[labels]
                ours = found[auto] if auto != "random" else random
                rows.append(
                    {
                        "data": name,
                        "ipc": ipc,
                        "labels": labels,
                        "random": told(random),
                        "best coreset": f"{coreset.method} {told(coreset)}",
                        "auto": f"{auto} {told(ours)}",
                        "ahead of random": f"{ours.points:+.1f} ({ours.low:+.1f} to {ours.high:+.1f})"
                        if ours is not random
                        else "",
                        "best": f"{best.method} {told(best)}",
                        "all": {row.method: told(row) for row in found.values()},
                        "n": random.n,
                    }
                )
                key = f"{name}, ipc {ipc}, {labels}"
                checks[f"{key}: auto ahead of random"] = {"value": ours.mean - random.mean, "target": 0.0}
                checks[f"{key}: auto ahead of the best coreset"] = {"value": ours.mean - coreset.mean, "target": 0.0}
    finish(rows, checks, options.json)


if __name__ == "__main__":
    main()
