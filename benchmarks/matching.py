"""One step of teddy's recovery beside one of sre2l's: same network, images, crops and optimiser.

    python benchmarks/matching.py --json benchmarks/results/matching.json

Teddy's steps draw one of --members networks, and match the statistics of each class (`class_share` 1, which `auto` is
with five images of each) or of all classes together (0). All sides take turns, in this order and the other way round,
and the medians of their ratios count. One thread is the default, of which the processor's time is taken, so that other
work on the machine disturbs little. Weights are random and statistics those of noise: what networks have learnt doesn't
change the time of a step.

On a GPU the times are of finished work; this has not been run on one yet.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from kept import peak_bytes
from recover import Ours, Problem, noise_problem, timed
from table import Checks, Rows, arguments, finish

from attar.losses.class_statistics import LayerStatistics
from attar.methods.base import Member
from attar.methods.teddy import Teddy, TeddySettings
from attar.runtime.seeding import generator
from attar.squeeze.real_statistics import Measuring

TARGET = 1.1
SIDES = {"sre2l": None, "teddy, class by class": 1.0, "teddy, all classes together": 0.0}
"""`class_share` of those that are teddy's."""


class Pool:
    """Networks of random weights with statistics of noise, of each class its own."""

    def __init__(self, problems: list[Problem]) -> None:
        self.num_members = self.num_in_memory = len(problems)
        self._members = [self._measured(problem) for problem in problems]

    def member(self, k: int, classes: bool = False) -> Member:
        return self._members[k]

    def _measured(self, problem: Problem) -> Member:
        device, measuring = problem.start.device, Measuring(problem.teacher, problem.task.num_classes)
        images = torch.randn(problem.start.shape, generator=generator(1)).to(device)
        measuring.add(images, problem.labels.sort().values)
        layers = [[value.to(device) for value in vars(layer).values()] for layer in measuring.statistics()]
        return Member(problem.teacher, tuple(LayerStatistics(*layer) for layer in layers))


def time_one(case: str, precision: str, options: argparse.Namespace) -> tuple[Rows, Checks]:
    name, num_images, size_px = case.replace("@", "=").split("=")
    shape = argparse.Namespace(size_px=int(size_px), repeats=options.repeats)
    problems = [noise_problem(name, int(num_images), shape) for _ in range(options.members)]
    pool, problem = Pool(problems), problems[0]
    with tempfile.TemporaryDirectory() as folder:
        steps = {side: step_of(problem, pool, share, precision, Path(folder)) for side, share in SIDES.items()}
        keeps = {side: peak_bytes(partial(step.step, 0)) for side, step in steps.items()}
        seconds: dict[str, list[float]] = {side: [] for side in steps}
        for number in range(1, options.repeats + 1):
            for side in list(steps)[:: (-1) ** number]:
                seconds[side].append(timed(steps[side], number, problem.start.device)[0])
    rows, ratios = [], {}
    for side, times in seconds.items():
        ratios[side] = [one / sre2l for one, sre2l in zip(times, seconds["sre2l"], strict=True)]
        rows.append(
            {
                "network": name,
                "images": f"{num_images} of {size_px} px",
                "precision": precision,
                "step": side,
                "threads": torch.get_num_threads(),
                "s a step": f"{statistics.median(times):.4f}",
                "of sre2l": f"{statistics.median(ratios[side]):.2f} ({min(ratios[side]):.2f}-{max(ratios[side]):.2f})",
                "autograd keeps, MB": f"{keeps[side] / 1e6:.0f}",
            }
        )
    ratio = statistics.median(ratios["teddy, class by class"])
    return rows, {f"{name}_{precision}_teddy_over_sre2l": {"value": ratio, "target": TARGET}}


def step_of(problem: Problem, pool: Pool, share: float | None, precision: str, folder: Path) -> Ours:
    if share is None:
        return Ours(problem, precision, folder)
    settings = TeddySettings(alpha_bn=problem.alpha_bn, lr_images=problem.lr, class_share=share)
    return Ours(problem, precision, folder, Teddy(settings, problem.task, problem.ipc), pool)


def main() -> None:
    options = arguments(__doc__ or "", add_options)
    torch.set_num_threads(options.threads)
    rows: Rows = []
    checks: Checks = {}
    for case in options.cases:
        for precision in options.precisions:
            found = time_one(case, precision, options)
            rows += found[0]
            checks |= found[1]
    finish(rows, checks, options.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases",
        nargs="+",
        default=["convnet-d3-w32-batch=100@32", "convnet-d4-w16-batch=100@64", "resnet18-small=100@32"],
        help="NETWORK=IMAGES@PIXELS, of ten classes",
    )
    parser.add_argument("--precisions", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--members", type=int, default=6, help="networks that a step of teddy draws from")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)


if __name__ == "__main__":
    main()
