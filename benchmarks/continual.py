"""Continual learning at the shape of SRe2L's paper: 200 classes of Tiny-ImageNet that arrive in 5 and in 10 steps.

    python benchmarks/continual.py --work WORK --methods easy rded sre2l --json benchmarks/results/continual.json
    python benchmarks/continual.py --work WORK --source digits --ipc 1 --steps 2 --toy
    python benchmarks/continual.py --draw benchmarks/results/continual.json --figure docs/images/continual.svg

The images of each method, and random real ones (GDumb), under the soft labels of one teacher, which is trained once;
`easy` is what `auto` chooses here, and `cim`, which it takes for fewer images, has 40 of its 200 iterations. Of the
paper it has the classes, the steps and the protocol: a network from scratch at each step. It has 32 px instead of 64,
ten images a class instead of 100, and a narrow ConvNet instead of a ResNet-18, as two cores bear no more. Runs are kept
in --work, and `attar compare` of those in --work/steps-5 draws the curves in one figure; --figure draws them beside
the published one, with matplotlib.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from itertools import product
from pathlib import Path
from typing import Any

from table import Checks, Rows, arguments, finish

import attar

PUBLISHED = (45.6, 48.5, 49.4, 49.8, 49.9)
"""After each of five steps, %, by the log of SRe2L's authors: 100 images a class, ResNet-18, 64 px."""
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
    "cim": {"relabel.labels": "epochs", "recover.iterations": 40},
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
    parser.add_argument("--work", type=Path, help="where runs are kept")
    parser.add_argument("--draw", type=Path, help="measure nothing: take the rows of this file of results")
    parser.add_argument("--figure", type=Path, help="draw the curves here (.svg or .png)")
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


def measured(options: argparse.Namespace) -> tuple[Rows, Checks]:
    """A row for each kind of images and number of steps."""
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
    return rows, checks


def draw(rows: Rows, path: Path) -> None:
    """A panel for each number of steps, and one for what is published."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    counts = sorted({row["steps"] for row in rows})
    figure = Figure(figsize=(4.2 * (len(counts) + 1), 3.6), layout="constrained")
    panels = figure.subplots(1, len(counts) + 1, squeeze=False)[0]
    for panel, steps in zip(panels, counts, strict=False):
        for row in [row for row in rows if row["steps"] == steps]:
            cells = [str(row[f"after {k + 1}"]).partition(" (")[0].split(" ± ") for k in range(steps)]
            means, stds = ([float(cell[k]) for cell in cells] for k in (0, 1))
            places = range(1, steps + 1)
            (line,) = panel.plot(places, means, marker="o", markersize=3.5, label=row["images"])
            low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
            panel.fill_between(places, low, high, alpha=0.15, linewidth=0, color=line.get_color())
        panel.set_title(f"ours, {steps} steps", fontsize=10)
        panel.legend(frameon=False, fontsize=8)
    panels[-1].plot(range(1, len(PUBLISHED) + 1), PUBLISHED, marker="o", markersize=3.5, color="0.3")
    panels[-1].set_title("published, 5 steps: sre2l, 100 images\na class, ResNet-18, 64 px", fontsize=10)
    for panel in panels:
        top = 1.1 * panel.get_ylim()[1]
        panel.set(xlabel="steps so far", ylabel="accuracy on the classes so far, %", ylim=(0, top))
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.get_major_locator().set_params(integer=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "attar"}):  # the same bytes each time
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    options = arguments(__doc__.splitlines()[0], add)
    if options.draw:
        rows = json.loads(options.draw.read_text())["rows"]
    else:
        if not options.work:
            raise SystemExit("--work says where runs are kept; or --draw names a file of results")
        rows, checks = measured(options)
        print(f"published: {', '.join(map(str, PUBLISHED))} % (100 images a class, ResNet-18, 64 px)")
        finish(rows, checks, options.json)
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
