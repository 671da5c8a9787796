"""Continual learning at the shape of SRe2L's paper: 200 classes of Tiny-ImageNet that arrive in 5 and in 10 steps.

    python benchmarks/continual.py --work WORK --json benchmarks/results/continual.json
    python benchmarks/continual.py --work WORK --source digits --ipc 1 --steps 2 --toy

The images of each method, and random real ones (GDumb), under the soft labels of one teacher, which is trained once;
`easy` is what `auto` chooses here. Of the paper it has the classes, the steps and the protocol: a network from scratch
at each step. It has 32 px instead of 64, ten images a class instead of 100, and a narrow ConvNet instead of a
ResNet-18, as two cores bear no more. Runs are kept in --work, and `attar compare` of those in --work/steps-5 draws the
curves in one figure.
"""

from __future__ import annotations

import argparse
import os
import shutil
from itertools import product
from pathlib import Path
from typing import Any

from table import Checks, Rows, arguments, finish

import attar

PUBLISHED = "45.6, 48.5, 49.4, 49.8 and 49.9 % by the authors' log, 100 images a class, ResNet-18, 64 px"
SHARED: dict[str, Any] = {
    "squeeze.model": "convnet-d3-w32-batch",
    "squeeze.epochs": 20,
    "squeeze.batch_size": 128,
    "squeeze.learning_rate": 0.1,
    "relabel.min_scale": 0.5,
    "relabel.mix": "none",
    "evaluate.protocol": "soft-labels",
    "train.epochs": 40,
    "train.batch_size": 50,
    "train.learning_rate": 0.004,
    "train.temperature": 4,
    "evaluate.models": ["convnet-d3-w16"],
    "evaluate.labels": ["stored"],
    "evaluate.seeds": 1,
    "evaluate.baselines": ["random"],
}
METHODS: dict[str, dict[str, Any]] = {
    "easy": {"relabel.labels": "epochs"},
    "rded": {},
    "sre2l": {"method.start": "real", "method.lr_images": 0.05, "method.alpha_bn": "auto", "recover.iterations": 200},
}
TOY = {
    "squeeze.model": "convnet-d2-w8-batch",
    "squeeze.epochs": 1,
    "train.epochs": 2,
    "evaluate.models": ["convnet-d2-w8"],
}


def add(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--source", default=str(Path(os.environ.get("ATTAR_DATA", ".")) / "tiny-imagenet-32"))
    parser.add_argument("--per-class", type=int, default=100, help="real images of each class to distill")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--orders", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--toy", action="store_true", help="tiny networks: the script runs, and no number counts")


def learned(method: str, steps: int, options: argparse.Namespace) -> tuple[Any, ...]:
    """Accuracies of one run whose classes arrive in so many steps, in a folder of its own that compares with others.

    Random images are the same ones under the same labels whatever the method, so the first alone has them.
    """
    folder = options.work / f"steps-{steps}" / method
    if not folder.is_dir():
        shutil.copytree(options.work / method, folder)
    return attar.continual(
        folder,
        source=options.source,
        steps=steps,
        seeds=options.orders,
        labels=["stored"],
        baseline=method == options.methods[0],
        settings={"source.train_per_class": options.per_class},
    )


def main() -> None:
    options = arguments(__doc__.splitlines()[0], add)
    rows: Rows = []
    last: dict[tuple[int, str], float] = {}
    settings = {"source.train_per_class": options.per_class} | SHARED
    for method in options.methods:
        if method != options.methods[0]:
            settings["squeeze.weights"] = str(options.work / options.methods[0] / "squeeze" / "teacher.safetensors")
        attar.distill(
            options.source,
            method=method,
            ipc=options.ipc,
            recipe="none",
            thorough=True,
            out=options.work / method,
            settings=settings | METHODS[method] | (TOY if options.toy else {}),
        )
    for steps, method in product(options.steps, options.methods):
        records = learned(method, steps, options)
        for group in dict.fromkeys(record.group for record in records):
            found = [record for record in records if record.group == group]
            rows.append(
                {"images": method if group == "distilled" else group, "steps": steps}
                | {f"after {k + 1}": found[k].spread if k < len(found) else "" for k in range(max(options.steps))}
                | {"mean": f"{sum(record.mean for record in found) / len(found):.1f}"}
            )
            last[steps, rows[-1]["images"]] = found[-1].mean
    checks: Checks = {
        f"{method}, {steps} steps, points ahead of random at the end": {
            "value": last[steps, method] - last[steps, "random"],
            "target": 0,
        }
        for method in options.methods
        for steps in options.steps
    }
    print(f"published: {PUBLISHED}")
    finish(rows, checks, options.json)


if __name__ == "__main__":
    main()
