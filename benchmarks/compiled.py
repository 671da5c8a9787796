"""Whether traced, compiled or otherwise derived steps are faster than eager ones: of trajectory matching and recovery.

    python benchmarks/compiled.py --json benchmarks/results/compiled.json
    python benchmarks/compiled.py --steps recovery --ways eager inductor --teacher resnet18-small

A second-order step is what trajectory matching takes thirty times an iteration: the gradient g of a training loss by
the parameters, and the gradients of <g, λ> by parameters, images and targets. A step of recovery is the teacher's look
at a chunk: cross-entropy and statistics, and their gradient by the images. Augmentation is left out of both, as it is
drawn anew in each step. Ways of computing the same:

    eager          as the library does
    channels_last  eager, of images in that memory format
    traced         make_fx: one graph of all operations, forward and back, run by torch one by one; of recovery, whose
                   own convolutions and statistics can't be traced, by torch's
    jvp            a second-order step's products as the derivative of the gradient along λ, forward over reverse
    inductor       the traced graph, compiled

All take turns; the medians of their ratios to eager count, and the largest relative difference of a gradient is told.
Seconds are of the process (one thread) or of a GPU. Compiling is done once for each shape; how many steps win it back
is told. A CUDA graph of the traced step is tried where there is a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from table import Checks, Rows, arguments, finish
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from attar.losses.statistics import Watched
from attar.losses.trajectory import soft_cross_entropy
from attar.models.factory import build
from attar.models.flat import FlatModel
from attar.runtime import seeding
from attar.task import Normalization, Task

Step = Callable[..., tuple[Tensor, ...]]
SPEED_AIM = 1.5
WAYS = {
    "second-order": ["eager", "channels_last", "traced", "jvp", "inductor"],
    "recovery": ["eager", "channels_last", "traced", "inductor"],
}


@dataclass(frozen=True)
class Problem:
    """A step, what it is of, and which of its arguments are images.

    `traceable` is the same in operations of torch alone, where the library's own can't be traced; `along` is the same
    by forward over reverse.
    """

    of: str
    step: Step
    inputs: tuple[Tensor, ...]
    images_at: int
    traceable: Step | None = None
    along: Step | None = None


@dataclass
class Way:
    """One way of taking a step: its work, and the seconds that it took to be made."""

    work: Callable[[], tuple[Tensor, ...]]
    making_s: float = 0.0


def second_order(options: argparse.Namespace) -> Problem:
    """A step of training a ConvNet-3 on all synthetic images, and its product with λ."""
    task = _task(options)
    with seeding.scoped(0, "benchmark"):
        flat = FlatModel(build(options.student, task).to(options.device))
    rng = seeding.generator(0, "benchmark")
    images = torch.randn(options.images, *task.shape, generator=rng).to(options.device)
    targets = torch.eye(10).repeat(options.images // 10, 1).to(options.device)
    theta, lam = flat.vector(), torch.randn(flat.size, generator=rng).to(options.device)

    def gradient(theta: Tensor, x: Tensor, y: Tensor, *, graph: bool) -> Tensor:
        loss = soft_cross_entropy(flat(theta, x), y)
        return torch.autograd.grad(loss, theta, create_graph=graph)[0]

    def step(theta: Tensor, x: Tensor, y: Tensor, lam: Tensor) -> tuple[Tensor, ...]:
        leaves = tuple(one.detach().requires_grad_() for one in (theta, x, y))
        g = gradient(*leaves, graph=True)
        return g, *torch.autograd.grad(g @ lam, leaves)

    def along(theta: Tensor, x: Tensor, y: Tensor, lam: Tensor) -> tuple[Tensor, ...]:
        by_all = torch.func.grad(lambda t, x, y: soft_cross_entropy(flat(t, x), y), argnums=(0, 1, 2))
        (g, *_), products = torch.func.jvp(lambda t: by_all(t, x, y), (theta,), (lam,))
        return g, *products

    of = f"{options.student}, {options.images} images of {options.size_px} px"
    return Problem(of, step, (theta, images, targets, lam), 1, along=along)


def recovery(options: argparse.Namespace) -> Problem:
    """A teacher's look at a chunk of noise: its statistics are those of noise too."""
    task = _task(options)
    teacher = build(options.teacher, task)
    rng = seeding.generator(0, "benchmark")
    for module in teacher.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        teacher(torch.randn(16, *task.shape, generator=rng))
    teacher = teacher.to(options.device).eval().requires_grad_(False)
    watched = Watched(teacher, 10.0)
    images = torch.randn(options.chunk, *task.shape, generator=rng).to(options.device)
    labels = (torch.arange(options.chunk) % task.num_classes).to(options.device)

    def by(look: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        x = x.detach().requires_grad_()
        logits, distance = look(x)
        return torch.autograd.grad(F.cross_entropy(logits, labels) + 0.01 * distance, x)

    of = f"{options.teacher}, {options.chunk} images of {options.size_px} px"
    return Problem(of, partial(by, watched), (images, labels), 0, partial(by, partial(_plain_look, teacher)))


def _plain_look(teacher: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the distance of the statistics, as `Watched` with first weight 10, by hooks."""
    distances: list[Tensor] = []

    def note(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        var, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        distances.append((mean - norm.running_mean).norm() + (var - norm.running_var).norm())

    hooks = [m.register_forward_hook(note) for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    logits = teacher(images)
    for hook in hooks:
        hook.remove()
    return logits, 9 * distances[0] + torch.stack(distances).sum()


def ways(problem: Problem, chosen: Sequence[str]) -> dict[str, Way]:
    """How a step is taken, by name; the graph is traced once."""
    inputs = list(problem.inputs)
    found = {"eager": Way(lambda: problem.step(*inputs))}
    if "channels_last" in chosen:
        last = list(inputs)
        last[problem.images_at] = last[problem.images_at].contiguous(memory_format=torch.channels_last)
        found["channels_last"] = Way(lambda: problem.step(*last))
    if "jvp" in chosen and problem.along:
        along = problem.along
        found["jvp"] = Way(lambda: along(*inputs))
    if {"traced", "inductor", "CUDA graph"} & set(chosen):
        started_s = time.perf_counter()
        graph = make_fx(problem.traceable or problem.step)(*inputs)
        traced_s = time.perf_counter() - started_s
        print(f"{problem.of}: {len(graph.graph.nodes)} operations, traced in {traced_s:.0f} s", flush=True)
        if "traced" in chosen:
            found["traced"] = Way(lambda: graph(*inputs), traced_s)
        if "inductor" in chosen:
            compiled = torch.compile(graph, fullgraph=True, dynamic=False)
            started_s = time.perf_counter()
            compiled(*inputs)
            found["inductor"] = Way(lambda: compiled(*inputs), traced_s + time.perf_counter() - started_s)
            print(f"{problem.of}: compiled in {found['inductor'].making_s:.0f} s", flush=True)
        if inputs[0].is_cuda:
            found["CUDA graph"] = _captured(graph, inputs)
    return found


def _captured(graph: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> Way:
    """The traced step as a CUDA graph: its operations are launched as one."""
    started_s = time.perf_counter()
    beside = torch.cuda.Stream()
    with torch.cuda.stream(beside):
        for _ in range(3):
            graph(*inputs)
    torch.cuda.current_stream().wait_stream(beside)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        results = graph(*inputs)

    def work() -> tuple[Tensor, ...]:
        captured.replay()
        return results

    return Way(work, time.perf_counter() - started_s)


def measured(kind: str, problem: Problem, options: argparse.Namespace) -> tuple[Rows, Checks]:
    """Rows of one step, all ways in turn."""
    chosen = [way for way in WAYS[kind] if way in options.ways]
    found = ways(problem, chosen)
    results = {name: [one.detach() for one in way.work()] for name, way in found.items()}
    took: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(options.repeats):
        for name, way in found.items():
            took[name].append(_seconds(way.work, options.device))
    times = {
        name: statistics.median(own / eager for own, eager in zip(took[name], took["eager"], strict=True))
        for name in found
    }
    eager_s = statistics.median(took["eager"])
    rows: Rows = [
        {
            "step": kind,
            "of": problem.of,
            "way": name,
            "ms": f"{1000 * statistics.median(took[name]):.0f}",
            "times as fast": f"{1 / times[name]:.2f}",
            "difference": f"{_difference(results[name], results['eager']):.0e}",
            "made in, s": f"{found[name].making_s:.0f}" if found[name].making_s else "-",
            "steps that win it back": _won_back(found[name].making_s, eager_s * (1 - times[name])),
        }
        for name in found
    ]
    fastest = max(1 / ratio for ratio in times.values())
    return rows, {f"{kind}: fastest over eager": {"value": fastest, "target": SPEED_AIM}}


def _won_back(making_s: float, saved_s: float) -> str:
    if not making_s:
        return "-"
    return f"{making_s / saved_s:,.0f}" if saved_s > 0 else "never"


def _difference(found: Sequence[Tensor], eager: Sequence[Tensor]) -> float:
    """The largest of the gradients' differences, each over the norm of the eager one."""
    return max(float((own - other).norm() / other.norm()) for own, other in zip(found, eager, strict=True))


def _seconds(work: Callable[[], object], device: str) -> float:
    clock = time.process_time if device == "cpu" else time.perf_counter
    started_s = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started_s


def _task(options: argparse.Namespace) -> Task:
    size = options.size_px
    return Task(tuple(map(str, range(10))), 3, size, size, Normalization((0.5,) * 3, (0.25,) * 3))


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--ways", nargs="+", default=WAYS["second-order"], choices=WAYS["second-order"])
    parser.add_argument("--student", default="convnet-d3-w32", help="of a second-order step")
    parser.add_argument("--images", type=int, default=100, help="of a second-order step; a multiple of ten")
    parser.add_argument("--teacher", default="resnet18-small", help="of a step of recovery")
    parser.add_argument("--chunk", type=int, default=20, help="images of a step of recovery")
    parser.add_argument("--size-px", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    options = arguments(__doc__ or "", _add)
    torch.set_num_threads(options.threads)
    problems = {"second-order": second_order, "recovery": recovery}
    rows: Rows = []
    checks: Checks = {}
    for kind in options.steps:
        found, checked = measured(kind, problems[kind](options), options)
        rows += found
        checks |= checked
    finish(rows, checks, options.json)


if __name__ == "__main__":
    main()
