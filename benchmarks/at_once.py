"""What `method.images_at_once` costs and saves: time, memory and the gradient of a chunk that is looked at in parts.

    python benchmarks/at_once.py --json benchmarks/results/at_once.json
    python benchmarks/at_once.py --network resnet18-small --resolution 32 --num 64 --at-once 16

One gradient of sre2l's loss (cross-entropy, and the statistics of every BatchNorm) by a chunk of noise, whole and in
parts, each in a process of its own with one thread, of which the most resident memory is taken; the quicker of two. The
network has random weights and the statistics of other noise, which cost what a trained one's do. Where a part's kernels
round otherwise and move one value across the corner of a ReLU, its gradient differs by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from table import Checks, Rows, arguments, finish
from torch.nn import functional as F

from attar.losses.statistics import Watched
from attar.models.factory import build
from attar.models.norms import batch_norms
from attar.runtime.memory import keep_freed_memory
from attar.task import Normalization, Task

WHOLE = 0
"""Stands for a chunk that is looked at as a whole."""


def add(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    parser.add_argument("--network", nargs="+", default=["resnet18", "tf_efficientnet_lite0"])
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--num", type=int, default=100, help="images of the chunk")
    parser.add_argument("--at-once", type=int, nargs="+", default=[20, 10])
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the process, bytes of memory and some of the gradient of this process's own way."""
    keep_freed_memory()
    torch.set_num_threads(1)
    side = options.resolution
    task = Task(tuple(map(str, range(100))), 3, side, side, Normalization((0.5,) * 3, (0.5,) * 3))
    network, rng = build(options.network[0], task), torch.Generator().manual_seed(0)
    for norm in batch_norms(network):
        norm.momentum = None
    with torch.no_grad():
        network.train()(torch.randn(8, *task.shape, generator=rng))
    watched = Watched(network.eval(), 10.0, at_once=options.part or None)
    images = torch.randn(options.num, *task.shape, generator=rng)
    labels, seconds = torch.arange(options.num) % 100, []
    for _ in range(2):
        x, began_s = images.clone().requires_grad_(), time.process_time()
        logits, statistics = watched(x)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels) + 0.01 * statistics, x)
        seconds.append(time.process_time() - began_s)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": min(seconds), "bytes": peak, "gradient": gradient.flatten()[:: max(1, side)].tolist()}


def compared(network: str, options: argparse.Namespace, rows: Rows, checks: Checks) -> None:
    """Add a row for each way of looking through this network, and checks against looking at all."""
    found: dict[int, dict[str, Any]] = {}
    same = ["--network", network, "--resolution", str(options.resolution), "--num", str(options.num)]
    for part in (WHOLE, *options.at_once):
        words = [sys.executable, __file__, *same, "--part", str(part)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
        found[part] = json.loads(done.stdout.splitlines()[-1])
        whole, gradient = torch.tensor(found[WHOLE]["gradient"]), torch.tensor(found[part]["gradient"])
        apart = float((gradient - whole).norm() / whole.norm())
        times, less = (found[part][what] / found[WHOLE][what] for what in ("seconds", "bytes"))
        rows.append(
            {
                "network": f"{network}, {options.num} of {options.resolution} px",
                "at once": part or "all",
                "seconds": round(found[part]["seconds"], 2),
                "times all": round(times, 2),
                "peak, MB": round(found[part]["bytes"] / 1e6),
                "gradient apart": f"{apart:.1e}",
            }
        )
        print(rows[-1], flush=True)
        if part:
            of = f"{network}, {part} at once"
            checks[f"{of}: time of all"] = {"value": round(times, 3), "target": 1.6}
            checks[f"{of}: peak of all"] = {"value": round(less, 3), "target": 1.0}
            checks[f"{of}: gradient apart"] = {"value": apart, "target": 1e-2}


def main() -> None:
    """Measure each way in a process of its own."""
    options = arguments(__doc__ or "", add)
    if options.part is not None:
        print(json.dumps(measured(options)))
        return
    rows: Rows = []
    checks: Checks = {}
    for network in options.network:
        compared(network, options, rows, checks)
    finish(rows, checks, options.json)


if __name__ == "__main__":
    main()
