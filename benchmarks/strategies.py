"""What each training strategy costs: time per image seen and peak memory, relative to plain cross-entropy.

    python benchmarks/strategies.py --json benchmarks/results/strategies.json

An image seen is one pass of one view of it through the network: DLB and DDGSD show each image twice an epoch. All
strategies train the same network on the same pixels by the same loop and batch size, in turn, `--rounds` times; the
ratio is the median over rounds of that to `ce` in the same round. On the CPU times are the process's own, so that what
else runs on the machine tells little, and the peak is that of all tensors alive at once, of network, gradients,
optimiser and strategy, as the profiler counts them; on a GPU it is the clock's and the allocator's. Under a minute of
one core.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from table import Checks, Rows, arguments, finish
from torch import Tensor, nn

from attar.data.loading import MemorySplit, RealSet
from attar.models.factory import build
from attar.runtime.engine import Engine
from attar.task import Normalization, Task
from attar.training.loop import fit
from attar.training.section import TrainSection
from attar.training.strategies import STRATEGIES

TASK = Task(tuple("abcdefghij"), 3, 32, 32, Normalization((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)))
SUMS = ("dlb+ddgsd",)
TWICE = ("dlb", "ddgsd")
"""Strategies that show each image twice an epoch."""


class Teacher:
    """A frozen network like the student, for kd."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        return self._model(images).float()


class Bench:
    """One network, one set of random pixels, and trainings of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.engine, self.options = Engine(options.device), options
        pixels = torch.randint(0, 256, (options.images, 3, 32, 32), dtype=torch.uint8)
        self.data = RealSet(MemorySplit(pixels, torch.arange(options.images) % 10), TASK.normalization)
        self.teacher = Teacher(build(options.model, TASK, seed=1).to(self.engine.device))

    def train(self, name: str, model: nn.Module) -> None:
        settings = TrainSection(
            epochs=1 if set(name.split("+")) & set(TWICE) else 2,  # so that all see as many images
            batch_size=self.options.batch,
            strategy=name,
            augment="flip_crop",
            augment_per="image",
        )
        fit(model, self.data, settings, seed=0, engine=self.engine, teacher=self.teacher)

    def seconds_per_image(self, name: str) -> float:
        """Seconds of a training over the images that went through the network in it."""
        model, seen = build(self.options.model, TASK, seed=0), 0

        def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal seen
            seen += len(inputs[0]) if module.training else 0

        model.register_forward_pre_hook(count)
        started_s = self._clock()
        self.train(name, model)
        return (self._clock() - started_s) / seen

    def peak_bytes(self, name: str) -> int:
        """Most bytes of tensors alive at once in a training."""
        model = build(self.options.model, TASK, seed=0)
        if self.engine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.train(name, model)
            return torch.cuda.max_memory_allocated() - before
        return _peak_on_cpu(lambda: self.train(name, model)) + sum(p.nbytes for p in model.state_dict().values())

    def _clock(self) -> float:
        """Seconds, of work that is done."""
        if self.engine.device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def main() -> None:
    options = arguments(__doc__ or "", _add)
    torch.set_num_threads(options.threads)
    bench, names = Bench(options), [*STRATEGIES.all(), *SUMS]
    peaks = {name: bench.peak_bytes(name) for name in names}  # and all code is warm
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(bench.seconds_per_image(name))
    ratios = {name: [mine / ce for mine, ce in zip(times[name], times["ce"], strict=True)] for name in names}
    rows: Rows = [
        {
            "strategy": name,
            "ms per image seen": f"{1000 * statistics.median(times[name]):.3f}",
            "relative to ce": f"{statistics.median(ratios[name]):.3f}",
            "lowest..highest": f"{min(ratios[name]):.2f}..{max(ratios[name]):.2f}",
            "peak MB": f"{peaks[name] / 1e6:.1f}",
            "relative to ce ": f"{peaks[name] / peaks['ce']:.3f}",
        }
        for name in names
    ]
    checks: Checks = {
        "dlb_memory_over_ce": {"value": peaks["dlb"] / peaks["ce"], "target": 1.02},
        "dlb_time_per_image_seen_over_ce": {"value": statistics.median(ratios["dlb"]), "target": 1.05},
    }
    finish(rows, checks, options.json)


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="convnet-d3-w32-batch")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")


def _peak_on_cpu(work: Callable[[], None]) -> int:
    """Most bytes allocated at once by what `work` makes, from the profiler's log of every allocation."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    log = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(log, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


if __name__ == "__main__":
    main()
