"""What methods that need a teacher make of few real images: one teacher, one protocol, ten images a class.

    python benchmarks/teachers.py --work WORK --json benchmarks/results/teachers.json
    python benchmarks/teachers.py --work WORK --teacher resnet56-cifar --weights WEIGHTS
    python benchmarks/teachers.py --work WORK --source $ATTAR_DATA/tiny-imagenet-32 --per-class 100 --ipc 1 --epochs 300

500 CIFAR-10 images a class ($ATTAR_DATA/cifar10, or torchvision's) unless another source is given, and a teacher that
is trained on these, once for all methods, unless weights are. Each method with the values of its papers that don't
depend on the size of the network, a few hundred steps, and a ConvNet-3 of width 32 as student. Judged under hard and
stored soft labels on the validation split, beside random real images with the same labels, which are the same ones
whatever the method. Runs are kept in --work.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

from table import Checks, Rows, arguments, finish, spread

import attar

SHARED: dict[str, Any] = {
    "squeeze.epochs": 30,
    "relabel.min_scale": 0.5,
    "relabel.mix": "none",
    "relabel.labels": "epochs",
    "train.epochs": 150,
    "train.learning_rate": 0.004,
    "train.temperature": 4,
    "evaluate.protocol": "soft-labels",
    "evaluate.models": ["convnet-d3-w32"],
    "evaluate.split": "validation",
}
STEPS = {"recover.iterations": 400}
METHODS: dict[str, dict[str, Any]] = {
    "kmeans": {},
    "rded": {},
    "sre2l": STEPS | {"method.alpha_bn": "auto"},
    "sre2l, patches": STEPS | {"method.alpha_bn": "auto", "method.start": "patches", "method.lr_images": 0.05},
    "fadrm": STEPS | {"method.alpha_bn": "auto", "method.lr_images": 0.05},
    "cim": STEPS,
    "cim, no steps": {"recover.iterations": 0},
    "easy": {},
}


def add(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--source", help="real images; CIFAR-10 of $ATTAR_DATA where none is given")
    parser.add_argument("--per-class", type=int, default=500, help="real images of each class to distill")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--teacher", default="convnet-d3-w32-batch")
    parser.add_argument(
        "--weights", help="of the teacher, on images normalised as ImageNet's; trained where none are given"
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--sets", type=int, default=2, help="distilled sets of each method, by root seeds from 0")
    parser.add_argument("--students", type=int, default=3, help="students of each set")
    parser.add_argument("--epochs", type=int, default=SHARED["train.epochs"], help="of a student, and of its labels")


def main() -> None:
    options = arguments(__doc__.splitlines()[0], add)
    root = os.environ.get("ATTAR_DATA")
    source = options.source or (str(Path(root) / "cifar10") if root else "cifar10")
    shared = SHARED | {
        "source.train_per_class": options.per_class,
        "squeeze.model": options.teacher,
        "train.epochs": options.epochs,
    }
    if options.weights:
        shared |= {"squeeze.weights": options.weights, "squeeze.weights_normalization": "imagenet"}
    scores: dict[tuple[str, str], list[float]] = {}
    for seed in range(options.sets):
        trained: dict[str, Any] = {}
        for name in options.methods:
            out = options.work / f"{name.replace(', ', '-')}-{seed}"
            result = attar.distill(
                source,
                method=name.partition(",")[0],
                ipc=options.ipc,
                recipe="none",
                thorough=True,
                seed=seed,
                out=out,
                settings=shared
                | trained
                | METHODS[name]
                | {
                    "evaluate.seeds": options.students,
                    "evaluate.baselines": ["random"] if name == options.methods[0] else [],
                },
            )
            if not options.weights and not trained:
                trained = {"squeeze.weights": str(out / "squeeze" / "teacher.safetensors")}
            for record in result.records:
                if record.is_accuracy and record.labels:
                    of = name if record.group == "distilled" else record.group
                    scores.setdefault((of, record.labels), []).extend(record.values)
    rows: Rows = [
        {"images": name, "labels": labels, "accuracy": spread(values)}
        for (name, labels), values in sorted(scores.items(), key=lambda item: (item[0][1], -statistics.fmean(item[1])))
    ]
    checks: Checks = {
        f"{name}, {labels} labels, points ahead of random": {
            "value": statistics.fmean(values) - statistics.fmean(scores["random", labels]),
            "target": 0,
        }
        for (name, labels), values in scores.items()
        if name != "random"
    }
    finish(rows, checks, options.json)


if __name__ == "__main__":
    main()
