"""One step of recovery: ours against the loop as it was published, and whether both end at the same losses.

    [ATTAR_DATA=FOLDER] python benchmarks/recover.py --json benchmarks/results/recover.json

Ours is the library's own step (crops, teacher, gradient, Adam, clamp, checks). The published loop is written here as
its authors describe it: float32 throughout, forward hooks that copy every layer's input to take its statistics, a read
of the loss in every step. Both take turns on the same teacher and chunk, and the medians of their ratios count. One
thread is the default, of which the processor's time is taken, so that other work on the machine disturbs little. The
teacher's weights are random and its statistics those of noise: what it has learnt doesn't change the time of a step.

A third row is the network alone, norms folded and nothing measured: below it only other convolutions help.
ONEDNN_MAX_CPU_ISA=AVX2 (or AVX512_CORE) before the command holds a newer processor to older instructions.

The losses are those of a teacher trained on CIFAR-10 (or, without ATTAR_DATA, on digits): both loops make the same
number of steps from the same noise with the same draws, and their last images are judged alike, in float32 over 20
draws that no loop has seen. A second run of the published loop with other draws shows what chance does.

On a GPU the times are of finished work and the peak of allocated memory is told; this has not been run on one yet.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from kept import peak_bytes
from table import Checks, Rows, arguments, finish
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from attar.augment.operations import MultiCrop
from attar.data.loading import RealSet
from attar.data.sources import SourceSettings, open_source
from attar.methods.base import Optimised, Synthetic
from attar.methods.sre2l import Sre2l, Sre2lSettings
from attar.models.factory import build
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.seeding import generator
from attar.squeeze.teachers import TeacherSettings
from attar.stages.recover import RecoverSettings, _Loop
from attar.task import Normalization, Task
from attar.training.loop import accuracy, fit

SPEED_TARGET, LOSS_TARGET = 0.6, 1.1
BETAS, FIRST_WEIGHT = (0.5, 0.9), 10.0


@dataclass(frozen=True)
class Problem:
    """A frozen teacher and a chunk of noise to make images of."""

    task: Task
    teacher: nn.Module
    start: Tensor
    labels: Tensor
    iterations: int
    alpha_bn: float
    lr: float

    @property
    def ipc(self) -> int:
        """Images of a class, the last round perhaps not whole."""
        return -(-len(self.labels) // self.task.num_classes)


class Published:
    """The published loop, one step at a time; differs from its authors' code in the roll's reach, which is ours."""

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        self.problem, self.seed = problem, seed
        self.images = problem.start.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.images], lr=problem.lr, betas=BETAS)
        self.low, self.high = problem.task.normalization.valid_range(problem.start)
        self.best = math.inf

    def step(self, number: int) -> None:
        problem = self.problem
        self.optimizer.param_groups[0]["lr"] = problem.lr * (1 + math.cos(math.pi * number / problem.iterations)) / 2
        self.optimizer.zero_grad()
        classification, distance = losses(problem, view(self.images, problem.task, self.seed, number))
        loss = classification + problem.alpha_bn * distance
        self.best = min(self.best, loss.item())
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for channel in range(problem.task.channels):
                self.images[:, channel].clamp_(self.low[channel].item(), self.high[channel].item())


class Ours:
    """The library's step, as `attar recover` takes it; of sre2l unless another method and its knowledge are given."""

    def __init__(
        self,
        problem: Problem,
        precision: str,
        folder: Path,
        method: Optimised[Any, Any] | None = None,
        knowledge: Any = None,
    ) -> None:
        settings = Sre2lSettings(alpha_bn=problem.alpha_bn, lr_images=problem.lr, first_weight=FIRST_WEIGHT)
        method = method or Sre2l(settings, problem.task, problem.ipc)
        knowledge = knowledge or SimpleNamespace(model=problem.teacher)
        loop = RecoverSettings(
            iterations=problem.iterations,
            optimizer="adam",
            momentum=BETAS[0],
            second_beta=BETAS[1],
            schedule="cosine",
            chunk_size=len(problem.labels),
        )
        state = Synthetic(problem.labels, {"images": problem.start.clone()})
        engine = Engine(problem.start.device.type, precision)
        real: Any = None  # neither sre2l nor teddy looks at real images in a step
        self.images = state.variables["images"]
        self.loop = _Loop(method, state, real, knowledge, loop, 0, 0, 1, folder, engine, Events(quiet=True))

    def step(self, number: int) -> None:
        self.loop._step(number)


class Alone:
    """The network alone, forward and back to its input, its norms folded into the convolutions before them.

    What a step would take without statistics, crops and Adam, by the convolutions of torch: the floor for those.
    """

    def __init__(self, problem: Problem) -> None:
        folded = fuse(problem.teacher.eval()).requires_grad_(False)
        self.network = folded.to(memory_format=torch.channels_last)
        self.images = problem.start.contiguous(memory_format=torch.channels_last)

    def step(self, _: int) -> None:
        images = self.images.detach().requires_grad_()
        torch.autograd.grad(self.network(images).sum(), images)


def view(images: Tensor, task: Task, seed: int, step: int) -> Tensor:
    """One look at the images, by torchvision; of the seed 0, it is the look that ours takes in this step."""
    drawn = MultiCrop().draw(generator(seed, "recover", "chunk", 0, "step", step), task.shape)
    top, left, height, width = drawn["rrc"][0].tolist()
    size = [task.height_px, task.width_px]
    looked = vision.resized_crop(images, top, left, height, width, size, antialias=False)
    looked = vision.horizontal_flip(looked) if bool(drawn["flip"][0]) else looked
    return torch.roll(looked, drawn["roll"][0].tolist(), (2, 3))


def losses(problem: Problem, views: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and the distance of the statistics at every BatchNorm, taken by hooks."""
    distances: list[Tensor] = []

    def look(norm: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        channels = inputs[0].shape[1]
        mean = inputs[0].mean([0, 2, 3])
        var = inputs[0].permute(1, 0, 2, 3).contiguous().view([channels, -1]).var(1, unbiased=False)
        distances.append(torch.norm(norm.running_var - var, 2) + torch.norm(norm.running_mean - mean, 2))

    hooks = [m.register_forward_hook(look) for m in problem.teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    logits = problem.teacher(views)
    for hook in hooks:
        hook.remove()
    total = sum(one * (FIRST_WEIGHT if place == 0 else 1.0) for place, one in enumerate(distances))
    return F.cross_entropy(logits, problem.labels), torch.as_tensor(total)


def time_one(name: str, num_images: int, options: argparse.Namespace) -> tuple[Rows, Checks]:
    problem = noise_problem(name, num_images, options)
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Any] = {"published": Published(problem)}
        for precision in options.precisions:
            sides[f"ours, {precision}"] = Ours(problem, precision, Path(folder))
        sides["the network alone, 32-true"] = Alone(problem)
        keeps = {side: peak_bytes(partial(step.step, 0)) for side, step in sides.items()}  # and so warm up
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        peaks: dict[str, int] = dict.fromkeys(sides, 0)
        for number in range(1, options.repeats + 1):
            for side, step in sides.items():
                duration_s, peak = timed(step, number, problem.start.device)
                seconds[side].append(duration_s)
                peaks[side] = max(peaks[side], peak)
    ratios = {
        side: [ours / published for ours, published in zip(times, seconds["published"], strict=True)]
        for side, times in seconds.items()
    }
    images = f"{num_images} of {options.size_px} px"
    rows = [row(name, images, side, seconds[side], ratios[side], keeps[side], peaks[side]) for side in sides]
    fast = f"ours, {options.precisions[0]}"
    return rows, {f"{name}_time_over_published": {"value": statistics.median(ratios[fast]), "target": SPEED_TARGET}}


def row(
    network: str,
    images: str,
    step: str,
    seconds: Sequence[float] = (),
    ratios: Sequence[float] = (),
    keeps: int = 0,
    peak: int = 0,
    losses: tuple[float, float] | None = None,
) -> dict[str, Any]:
    return {
        "network": network,
        "images": images,
        "step": step,
        "threads": torch.get_num_threads(),
        "s a step": f"{statistics.median(seconds):.3f}" if seconds else "-",
        "of published": f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-",
        "autograd keeps, MB": f"{keeps / 1e6:.0f}" if keeps else "-",
        "device peak, MB": f"{peak / 1e6:.0f}" if peak else "-",
        "classification": f"{losses[0]:.4f}" if losses else "-",
        "statistics": f"{losses[1]:.4f}" if losses else "-",
    }


def timed(side: Any, number: int, device: torch.device) -> tuple[float, int]:
    """Seconds of a step, and on a GPU the peak of its memory in bytes (0 elsewhere)."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    clock = time.perf_counter if on_gpu or torch.get_num_threads() > 1 else time.process_time
    started_s = clock()
    side.step(number)
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - started_s, torch.cuda.max_memory_allocated() if on_gpu else 0


def noise_problem(name: str, num_images: int, options: argparse.Namespace) -> Problem:
    shape = (3, options.size_px, options.size_px)
    task = Task(tuple(map(str, range(10))), *shape, Normalization((0.5,) * 3, (0.25,) * 3))
    teacher = build(name, task)
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    rng = generator(0, "benchmark")
    with torch.no_grad():
        teacher(torch.randn(16, *shape, generator=rng))
    return problem_of(task, teacher, num_images, options.repeats + 1, rng, alpha_bn=0.01)


def problem_of(
    task: Task, teacher: nn.Module, num_images: int, iterations: int, rng: torch.Generator, alpha_bn: float
) -> Problem:
    device = Engine().device
    start = torch.randn(num_images, *task.shape, generator=rng).to(device)
    labels = (torch.arange(num_images) % task.num_classes).to(device)
    frozen = teacher.to(device).eval().requires_grad_(False)
    return Problem(task, frozen, start, labels, iterations, alpha_bn, lr=0.1)


def same_losses(options: argparse.Namespace) -> tuple[Rows, Checks]:
    name, problem = trained_problem(options)
    found: dict[str, tuple[float, float]] = {"before": judged(problem, problem.start)}
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Any] = {"published": Published(problem)}
        sides["published, other draws"] = Published(problem, seed=1)
        for precision in options.precisions:
            sides[f"ours, {precision}"] = Ours(problem, precision, Path(folder))
        for side, step in sides.items():
            for number in range(problem.iterations):
                step.step(number)
            found[f"{side}, {problem.iterations} steps"] = judged(problem, step.images.detach())
    images = f"{len(problem.labels)} of {problem.task.height_px} px"
    rows = [row(name, images, side, losses=values) for side, values in found.items()]
    ours, published = (
        found[f"{side}, {problem.iterations} steps"] for side in (f"ours, {options.precisions[0]}", "published")
    )
    return rows, {
        f"{term}_over_published": {"value": ours[place] / published[place], "target": LOSS_TARGET}
        for place, term in enumerate(("classification", "statistics"))
    }


def judged(problem: Problem, images: Tensor) -> tuple[float, float]:
    """Both losses of images, in float32, means over 20 draws that no loop has seen."""
    with torch.no_grad():
        pairs = [losses(problem, view(images, problem.task, 2, draw)) for draw in range(20)]
    first, second = zip(*pairs, strict=True)
    return float(torch.stack(first).mean()), float(torch.stack(second).mean())


def trained_problem(options: argparse.Namespace) -> tuple[str, Problem]:
    """A ConvNet trained for some epochs on what is at hand, and noise."""
    folder = os.environ.get("ATTAR_DATA")
    source, kept = (str(Path(folder) / "cifar10"), 500) if folder else ("digits", None)
    real = open_source(source, SourceSettings(train_per_class=kept))
    teacher, engine = build(options.teacher, real.task), Engine()
    training = TeacherSettings(epochs=options.epochs, augment="crop")
    data, validation = (RealSet(split, real.task.normalization) for split in (real.train, real.validation))
    fit(teacher, data, training, seed=0, engine=engine)
    percent = accuracy(teacher, validation, engine)
    name = f"{options.teacher} ({'cifar10' if folder else 'digits'}, {percent:.0f} %)"
    rng = generator(0, "benchmark")
    return name, problem_of(real.task, teacher, 50, options.iterations, rng, alpha_bn=0.1)


def main() -> None:
    options = arguments(__doc__ or "", add_options)
    torch.set_num_threads(options.threads)
    rows: Rows = []
    checks: Checks = {}
    for case in options.networks:
        name, _, num_images = case.rpartition("=")
        found = time_one(name, int(num_images), options)
        rows += found[0]
        checks |= found[1]
    if options.iterations:
        found = same_losses(options)
        rows += found[0]
        checks |= found[1]
    finish(rows, checks, options.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="*", default=["resnet18-small=20", "resnet18=50"], help="NAME=IMAGES")
    parser.add_argument("--precisions", nargs="+", default=["bf16-mixed", "32-true"], help="the first one is checked")
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--teacher", default="convnet-d3-w32-batch")
    parser.add_argument("--epochs", type=int, default=5, help="of the teacher of the losses")
    parser.add_argument("--iterations", type=int, default=200, help="of the losses; 0 leaves them out")
    parser.add_argument("--threads", type=int, default=1)


if __name__ == "__main__":
    main()
