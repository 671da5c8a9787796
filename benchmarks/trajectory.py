"""Memory and time of one trajectory-matching gradient, by the number of steps N: exact, published, unrolled.

On a CPU memory is the peak of what autograd keeps for its backward passes: bytes of distinct storages held by saved
tensors, counted with saved-tensor hooks, so that it is the same on every machine. On a GPU it is the peak of what is
allocated beyond the problem itself, without the parameter vectors. These are counted apart: the algorithm keeps them,
and `checkpoint_every` keeps fewer. Time is the processor's (of all threads) or a GPU's, the median of interleaved
repeats, its ratio the median over pairs of neighbours; compare ratios, not seconds. TESLA's paper promises a sixth of
MTT's memory for 2 % more time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from kept import peak_bytes
from table import Checks, Rows, arguments, finish
from torch import Tensor, nn

from attar.augment.operations import Augmentation
from attar.losses.compiled import CompiledStep
from attar.losses.trajectory import Matching, MatchingGradient, soft_cross_entropy
from attar.methods.mtt import unrolled
from attar.methods.tesla import adjoint, graph_bytes
from attar.models.convnet import ConvNet
from attar.models.flat import FlatModel
from attar.runtime import seeding
from attar.runtime.engine import Engine

Problem = tuple[Matching, Tensor, Tensor, Tensor]
PROMISE = {"memory": 1 / 6, "time": 1.02}
"""TESLA beside MTT, by its paper."""
UNROLLED, COMPILED = "unrolled", "exact, compiled"
SPEED_AIM = 1.5
"""Of compiled steps over eager ones."""
BUDGETED = "exact, {memory:.0f} MB for graphs"


def ways(options: argparse.Namespace, problem: Problem) -> dict[str, Callable[..., MatchingGradient]]:
    """How the gradient of one problem is computed, by name."""
    compiled = {}
    if options.compiled:
        step = CompiledStep(problem[0].loss)
        compiled[COMPILED] = lambda *problem: adjoint(*problem, compiled=step)
    affordable = int(options.graph_memory * 1e6) // graph_bytes(*problem[:3])
    return {
        "exact": adjoint,
        "exact, every 10th": lambda *problem: adjoint(*problem, checkpoint_every=10),
        budgeted(options): lambda *problem: adjoint(*problem, keep_graphs=affordable),
        "published": lambda *problem: adjoint(*problem, exact=False),
        UNROLLED: unrolled,
        **compiled,
    }


def budgeted(options: argparse.Namespace) -> str:
    """Name of the exact gradient with as many graphs kept as fit into --graph-memory."""
    return BUDGETED.format(memory=options.graph_memory)


def make_problem(options: argparse.Namespace, num_steps: int, network: nn.Module | None = None) -> Problem:
    """A problem of random images and an invented expert, all in each step; of a ConvNet-3 unless a network is given."""
    shape, device = (3, options.size_px, options.size_px), options.device
    with seeding.scoped(0, "benchmark"):
        flat = FlatModel((network or ConvNet(10, *shape, depth=3, width=options.width)).to(device))
    rng = seeding.generator(0, "benchmark")
    images = torch.randn(options.images, *shape, generator=rng).to(device)
    targets = torch.eye(10).repeat(options.images // 10, 1).to(device)
    start = flat.vector()
    augmentation = Augmentation("dsa")
    draws = [augmentation.draw(rng, 1, shape) for _ in range(num_steps)]

    def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return soft_cross_entropy(flat(theta, x), y)

    target = start + 0.01 * torch.randn(flat.size, generator=rng).to(device)
    everything = torch.arange(options.images, device=device)
    rate = torch.tensor(0.01, device=device)
    problem = Matching(start, target, [everything] * num_steps, loss, lambda i, x: augmentation.apply(x, draws[i]))
    return problem, images, targets, rate


def vectors_bytes(name: str, num_steps: int, size: int) -> int:
    """Parameter vectors that the adjoint keeps, at most; those of the unrolled way are among what autograd keeps."""
    if name == UNROLLED:
        return 0
    return 4 * size * (num_steps + 1 if "every" not in name else min(num_steps, 10) + num_steps // 10 + 1)


def peak(work: Callable[[], object], device: str, vectors: int) -> int:
    """Bytes at the peak, without the parameter vectors."""
    if device == "cpu":
        return peak_bytes(work)
    work()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() - before - vectors


def seconds(work: Callable[[], object], device: str) -> float:
    """Time of doing it once: the processor's, of all threads, which other work hardly changes, or a GPU's."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started_s = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - started_s


def measured(options: argparse.Namespace, num_steps: int) -> dict[str, dict[str, float]]:
    """Bytes, seconds, and seconds over those of the unrolled way (where it is run), by the name of the way."""
    problem = make_problem(options, num_steps)
    size = len(problem[0].start)
    chosen = {n: w for n, w in ways(options, problem).items() if n != UNROLLED or num_steps <= options.unrolled_up_to}
    works = {name: lambda way=way: way(*problem) for name, way in chosen.items()}
    vectors = {name: vectors_bytes(name, num_steps, size) for name in works}
    peaks = {name: peak(work, options.device, vectors[name]) for name, work in works.items()}
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(options.repeats):
        for name, work in works.items():
            took[name].append(seconds(work, options.device))
    found = {
        name: {"bytes": peaks[name], "vectors": vectors[name], "s": statistics.median(took[name])} for name in works
    }
    if UNROLLED in works:
        for name in works:
            pairs = zip(took[name], took[UNROLLED], strict=True)
            found[name]["time_ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
            found[name]["memory_ratio"] = peaks[name] / peaks[UNROLLED]
    return found


def row(num_steps: int, name: str, values: Mapping[str, float]) -> dict[str, object]:
    """A line of the table."""
    compared = "time_ratio" in values
    return {
        "N": num_steps,
        "gradient": name,
        "peak, MB": f"{values['bytes'] / 1e6:.1f}",
        "of unrolled's": f"{values['memory_ratio']:.3f}" if compared else "-",
        "parameter vectors, MB": f"{values['vectors'] / 1e6:.1f}",
        "ms an iteration": f"{1000 * values['s']:.0f}",
        "times unrolled's": f"{values['time_ratio']:.2f}" if compared else "-",
    }


def checks_of(found: Mapping[int, Mapping[str, Mapping[str, float]]], options: argparse.Namespace) -> Checks:
    """Memory that does not grow with N, time beside unrolled where unrolled fits into the same memory, the paper's."""
    few, many, name = min(found), max(found), budgeted(options)
    both = [n for n in found if UNROLLED in found[n]]
    fitting = [n for n in both if found[n][UNROLLED]["bytes"] <= options.graph_memory * 1e6]
    made: Checks = {
        f"exact_memory_N{many}_over_N{few}": {
            "value": found[many]["exact"]["bytes"] / found[few]["exact"]["bytes"],
            "target": 1.1,
        }
    }
    made["budgeted_memory_over_budget"] = {
        "value": max(found[n][name]["bytes"] for n in found) / (options.graph_memory * 1e6),
        "target": 1.1,
    }
    for key, way, steps in (
        ("budgeted_where_unrolled_fits", name, fitting),
        ("exact", "exact", both),
        ("published", "published", both),
    ):
        ratio = statistics.median(found[n][way]["time_ratio"] for n in steps)
        made[f"{key}_time_over_unrolled"] = {"value": ratio, "target": PROMISE["time"] if key == "published" else 1.1}
    if options.compiled:
        ratio = statistics.median(found[n][COMPILED]["time_ratio"] for n in both)
        made["unrolled_time_over_compiled"] = {"value": 1 / ratio, "target": SPEED_AIM}
    made[f"unrolled_memory_over_exact_N{max(both)}"] = {
        "value": 1 / found[max(both)]["exact"]["memory_ratio"],
        "target": 1 / PROMISE["memory"],
    }
    return made


def main() -> None:
    options = arguments(__doc__ or "", add_options)
    torch.set_num_threads(options.threads)
    Engine(options.device)  # which tells the processor's memory what it tells it in a run
    found = {num_steps: measured(options, num_steps) for num_steps in options.steps}
    rows: Rows = [row(n, name, values) for n, by_name in found.items() for name, values in by_name.items()]
    promise = {"N": "any", "gradient": "TESLA's paper", "of unrolled's": f"{PROMISE['memory']:.3f}"}
    promise["times unrolled's"] = f"{PROMISE['time']:.2f}"
    rows.append({key: promise.get(key, "-") for key in rows[0]})
    finish(rows, checks_of(found, options), options.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--unrolled-up-to", type=int, default=50)
    parser.add_argument("--graph-memory", type=float, default=1000, help="MB, of method.graph_memory")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--size-px", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compiled", action="store_true", help="method.compile too, which takes minutes to begin")


if __name__ == "__main__":
    main()
