"""Experts a minute, one by one and in stacks of 2, 4, 8: which is faster on this device?

    python benchmarks/experts.py --json benchmarks/results/experts.json [--device cuda]

Each size takes the library's own training step (augmentation, forward and backward passes, SGD) for an epoch of a few
steps on noise, as `experts_at_once: auto` times it on a GPU; sizes take turns, and medians count. An expert is taken to
be 20 epochs of 50,000 images. On a CPU `auto` is one by one: the check is that no stack of the first network is much
faster there; the last one, whose steps are all overhead, does gain, and may be given a number by hand. On a GPU it is
chosen by this very measurement at the start of each run; this has not been run on one yet.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch
from table import Checks, Rows, arguments, finish

from attar.data.loading import TensorSet
from attar.runtime.engine import Engine
from attar.runtime.seeding import generator
from attar.squeeze.expert_files import ExpertSettings, Making
from attar.squeeze.experts import GAIN, measure
from attar.task import Normalization, Task

NETWORKS = ["convnet-d3-w32=32x256", "convnet-d2-w32=8x256", "convnet-d2-w8=8x32"]
IMAGES, CLASSES, CHANNELS = 50_000, 10, 3


def step_seconds(network: str, size_px: int, batch: int, options: argparse.Namespace) -> dict[int, float]:
    """Median seconds of a step by the size of the stack."""
    norm = Normalization((0.5,) * CHANNELS, (0.25,) * CHANNELS)
    task = Task(tuple(map(str, range(CLASSES))), CHANNELS, size_px, size_px, norm)
    settings = ExpertSettings(model=network, batch_size=batch)
    num = options.steps * batch
    images = torch.randn(num, *task.shape, generator=generator(0, "benchmark"))
    data = TensorSet(images, torch.arange(num) % CLASSES)
    engine = Engine(options.device, options.precision)
    found = [
        measure(data, Making(network, settings.training, task), (1, *options.at_once), engine)
        for _ in range(options.repeats)
    ]
    return {size: statistics.median(each[size] for each in found) for size in found[0]}


def main() -> None:
    options = arguments(__doc__ or "", add_options)
    torch.set_num_threads(options.threads)
    rows: Rows = []
    checks: Checks = {}
    for case in options.networks:
        network, _, sizes = case.rpartition("=")
        size_px, batch = map(int, sizes.split("x"))
        step_s = step_seconds(network, size_px, batch, options)
        steps = 20 * math.ceil(IMAGES / batch)
        rates = {size: 60 * size / (seconds * steps) for size, seconds in step_s.items()}
        for size, rate in rates.items():
            rows.append(
                {
                    "network": network,
                    "px": size_px,
                    "batch": batch,
                    "at once": size,
                    "ms a step": f"{1000 * step_s[size]:.1f}",
                    "experts a minute": f"{rate:.3g}",
                    "to one by one": f"{rate / rates[1]:.2f}",
                }
            )
        stacked = max(rate for size, rate in rates.items() if size > 1)
        if not checks:
            checks[f"{network}_{size_px}px_best_stack_over_one_by_one"] = {"value": stacked / rates[1], "target": GAIN}
    finish(rows, checks, options.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="NAME=PXxBATCH")
    parser.add_argument("--at-once", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--threads", type=int, default=1)


if __name__ == "__main__":
    main()
