"""A published row on a processor: tesla on CIFAR-10, one image a class, by the protocol of MTT and TESLA.

    ATTAR_DATA=FOLDER python benchmarks/published.py --out RUN --json benchmarks/results/published.json

FOLDER holds cifar10/ as parquet shards. All 50,000 images (2 % held out), ZCA, N 50, M 2, start epochs below T+ 2,
DSA with one operation a batch and parameters for each image, 1,000 epochs at the learnt rate, five networks.
Published with width 128, 100 experts and 5,000 iterations or more: MTT 46.3, TESLA 48.5 %, each the best over the run
on the test images. Here the width, the number of experts and the iterations are options; experts train for the M + T+
- 1 = 3 epochs that are matched. Numbers are of the last iteration, and beside them the best over the run. It takes
hours, goes on where it was stopped, and the same command shows the table again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

from table import Checks, accuracy_rows, arguments, finish

import attar


def main() -> None:
    options = arguments(__doc__ or "", further)
    if "ATTAR_DATA" not in os.environ:
        sys.exit("set ATTAR_DATA to a folder with cifar10/ as parquet shards")
    model = f"convnet-d3-w{options.width}"
    made = attar.distill(
        Path(os.environ["ATTAR_DATA"]) / "cifar10",
        "tesla",
        1,
        recipe="tesla-cifar10-ipc1",
        out=options.out,
        settings={
            "squeeze.model": model,
            "squeeze.num_experts": options.experts,
            "squeeze.epochs": 3,
            "recover.iterations": options.iterations,
            "recover.num_states": options.states,
            "evaluate.models": [model],
            "evaluate.seeds": 5,
            "evaluate.baselines": ["random"],
            "evaluate.best_over_run": True,
            "run.workers": options.workers,
        },
        quiet=False,
    )
    scores = {record.subject: list(record.values) for record in made.records}
    sizes = {record.subject: record.size_bytes for record in made.records}
    mean = {name: statistics.fmean(values) for name, values in scores.items()}
    checks: Checks = {
        "distilled_minus_random": {"value": mean["distilled"] - mean["random"], "target": 20.0},
        "below_published_mtt": {"value": 46.3 - max(mean.values()), "target": 5.0},
    }
    finish(accuracy_rows(scores, sizes), checks, options.json)


def further(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="run folder; a stopped run goes on")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--experts", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--states", type=int, default=5, help="judged on the way, for the best over the run")
    parser.add_argument("--workers", type=int, default=1, help="threads")


if __name__ == "__main__":
    main()
