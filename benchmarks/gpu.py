"""All that only a GPU can show, in one table and within 25 minutes on one of them.

    python benchmarks/gpu.py --json benchmarks/results/gpu.json
    python benchmarks/gpu.py --toy      the same at toy size on whatever is there: the script runs, and no number counts

    training       a step of a student: precisions, memory formats, torch.compile, DDP of one process
    recovery       a step of sre2l against the loop as it was published (see recover.py); the aim is a third of its time
    beside mtt     a step of sre2l against one of MTT, the same network and batch; SRe2L's paper has 52 and 16 times the
                   speed and a 11.6th and a 6.4th of the memory, on ConvNet-4 and ResNet-18
    methods        every method once: squeezed on the processor, recovered there and on the device, images compared

A case that fails, such as for want of memory or of a compiler, is a row that says so, and the others go on.

Times are medians of steps after a warm-up, of finished work. Images of methods are compared in normalised values, after
three steps at most, without TF32: the mean difference is checked, and the largest is shown, as Adam's first step goes
by the sign of a gradient, which rounding may turn where it is next to zero.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import recover
import torch
import trajectory
from table import Checks, Rows, arguments, finish
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import attar
from attar.artifacts.recovered import read_chunks
from attar.methods import methods
from attar.methods.mtt import unrolled
from attar.models.factory import build
from attar.runtime.engine import Engine
from attar.runtime.seeding import generator
from attar.task import Normalization, Task
from attar.text import one_line, shortened

T = TypeVar("T")
FAILED = "failed"
MOST_MINUTES, RECOVER_TARGET, APART_TARGET = 25.0, 0.33, 1e-3
PAPER = {"ConvNet-4": (52.0, 11.6), "ResNet-18": (16.0, 6.4)}
"""How many times the time and the memory of SRe2L's step MTT's takes, by SRe2L's paper."""
FULL = Namespace(
    network="resnet18-small",
    size_px=32,
    batch=256,
    repeats=20,
    recovered=["resnet18=100", "resnet50=100"],
    recover_px=224,
    beside={"ConvNet-4": ("convnet-d4-w128-batch", "convnet-d4-w128"), "ResNet-18": ("resnet18-small",) * 2},
    beside_px=64,
    images=100,
    mtt_steps=10,
    compiler="inductor",
)
TOY = Namespace(
    network="convnet-d2-w8-batch",
    size_px=8,
    batch=8,
    repeats=2,
    recovered=["convnet-d2-w8-batch=4"],
    recover_px=16,
    beside={
        "ConvNet-4": ("convnet-d2-w8-batch", "convnet-d2-w8"),
        "ResNet-18": ("convnet-d1-w8-batch", "convnet-d1-w8"),
    },
    beside_px=16,
    images=10,
    mtt_steps=2,
    compiler="aot_eager",
)
SMALL: dict[str, Any] = {"source.train_per_class": 12}
BY_KNOWLEDGE: dict[str, dict[str, Any]] = {
    "none": {},
    "teacher": {"squeeze.model": "convnet-d2-w8-batch", "squeeze.epochs": 2},
    "pool": {"squeeze.model": "convnet-d2-w8-batch", "squeeze.epochs": 3, "squeeze.num_members": 2},
    "trajectories": {"squeeze.model": "convnet-d2-w8", "squeeze.epochs": 3, "squeeze.num_experts": 1},
}
"""Knowledge at toy size: how a method treats a device is the same at any."""
OWN: dict[str, Any] = {
    "method.num_steps": 2,
    "method.max_start_epoch": 1,
    "method.num_real": 8,
    "method.lr_images": 0.1,
}


def row(
    part: str,
    case: str,
    seconds: float = 0.0,
    of: float = 0.0,
    peak: float = 0.0,
    apart: tuple[float, float] | None = None,
) -> dict[str, Any]:
    return {
        "part": part,
        "case": case,
        "ms a step": f"{1000 * seconds:.2f}" if seconds else "-",
        "of the first": f"{of:.2f}" if of else "-",
        "peak, MB": f"{peak / 1e6:.0f}" if peak else "-",
        "apart, mean": f"{apart[0]:.1e}" if apart else "-",
        "apart, most": f"{apart[1]:.1e}" if apart else "-",
    }


def tried(rows: Rows, part: str, case: str, work: Callable[[], T]) -> T | None:
    """What the work finds; None where it fails, which a row then says."""
    try:
        return work()
    except Exception as error:  # of a kernel, a compiler or a memory; what it holds is let go behind this block
        told = shortened(f"{type(error).__name__}: {one_line(error)}", 200)
    print(f"{part}, {case} failed: {told}", flush=True)
    rows.append(row(part, f"{case}: {FAILED}, {told}"))
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def measured(step: Callable[[], Any], device: torch.device, repeats: int) -> tuple[float, float]:
    """Median seconds of a step after three, and the peak of allocated memory in bytes (0 on a processor)."""
    on_gpu = device.type == "cuda"
    for _ in range(3):
        step()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started_s)
    return statistics.median(times), torch.cuda.max_memory_allocated() if on_gpu else 0.0


def training_step(network: nn.Module, images: Tensor, labels: Tensor, engine: Engine) -> Callable[[], None]:
    """A step of SGD with momentum, scaled where halves are float16."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler(engine.device.type, enabled=engine.precision == "16-mixed")

    def step() -> None:
        optimizer.zero_grad()
        with engine.autocast():
            loss = F.cross_entropy(network(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def training(size: Namespace) -> tuple[Rows, Checks]:
    device = Engine().device
    precisions = ["32-true", "bf16-mixed", *(["16-mixed"] if device.type == "cuda" else [])]
    rng = generator(0, "benchmark")
    images = torch.randn(size.batch, 3, size.size_px, size.size_px, generator=rng).to(device)
    labels = (torch.arange(size.batch) % 10).to(device)
    task = Task(tuple(map(str, range(10))), *images.shape[1:], Normalization((0.5,) * 3, (0.25,) * 3))

    def timed(
        precision: str, layout: torch.memory_format, wrap: Callable[[nn.Module], nn.Module]
    ) -> tuple[float, float]:
        with group_of_one(device) if wrap is DistributedDataParallel else nullcontext():
            network = wrap(build(size.network, task, seed=0).to(device, memory_format=layout))
            step = training_step(network, images.contiguous(memory_format=layout), labels, Engine("auto", precision))
            return measured(step, device, size.repeats)

    kept, last = torch.contiguous_format, torch.channels_last
    cases = {
        f"{p}, {name}": (p, layout, _same)
        for p in precisions
        for name, layout in (("plain", kept), ("channels_last", last))
    }
    for precision in precisions[:2]:
        compiled = lambda network: torch.compile(network, backend=size.compiler)  # noqa: E731
        cases[f"{precision}, channels_last, compiled"] = (precision, last, compiled)
    cases["32-true, channels_last, DDP of one"] = ("32-true", last, DistributedDataParallel)
    part = f"training {size.network}, {size.batch} of {size.size_px} px"
    rows: Rows = []
    found: dict[str, tuple[float, float]] = {}
    for name, case in cases.items():
        if (one := tried(rows, part, name, partial(timed, *case))) is not None:
            found[name] = one
            first = next(iter(found.values()))[0]
            rows.append(row(part, name, one[0], one[0] / first, one[1]))
    checks: Checks = {}
    if {plain := "32-true, channels_last", shared := "32-true, channels_last, DDP of one"} <= set(found):
        checks["ddp_time_over_plain"] = {"value": found[shared][0] / found[plain][0], "target": 1.1}
    return rows, checks


@contextmanager
def group_of_one(device: torch.device) -> Iterator[None]:
    """A process group of this process alone."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if device.type == "cuda" else "gloo"
        distributed.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            yield
        finally:
            distributed.destroy_process_group()


def _same(network: nn.Module) -> nn.Module:
    return network


def recovery(size: Namespace) -> tuple[Rows, Checks]:
    rows: Rows = []
    checks: Checks = {}
    options = Namespace(size_px=size.recover_px, precisions=["bf16-mixed", "32-true"], repeats=size.repeats)
    for case in size.recovered:
        name, _, num = case.rpartition("=")
        timed = tried(rows, "recovery", name, partial(recover.time_one, name, int(num), options))
        found, asked = timed or ([], {})
        for one in found:
            ratio, peak = str(one["of published"]).split()[0], one["device peak, MB"]
            bytes_ = 0.0 if peak == "-" else 1e6 * float(peak)
            part = f"recovery {name}, {one['images']}"
            rows.append(row(part, one["step"], float(one["s a step"]), float(ratio), bytes_))
        checks |= {key: {**check, "target": RECOVER_TARGET} for key, check in asked.items()}
    return rows, checks


def beside_mtt(size: Namespace) -> tuple[Rows, Checks]:
    rows: Rows = []
    checks: Checks = {}
    for paper, networks in size.beside.items():
        part = f"beside mtt {paper}, {size.images} of {size.beside_px} px, N = {size.mtt_steps}"
        found = tried(rows, part, "both", partial(both_sides, size, *networks))
        if found is None:
            continue
        took, peaks = found
        slowest = took["mtt"][0]
        rows += [row(part, side, took[side][0], took[side][0] / slowest, peaks[side]) for side in took]
        times, memory = PAPER[paper]
        checks[f"mtt_time_over_sre2l_{paper}"] = {"value": slowest / took["sre2l"][0], "target": times}
        checks[f"mtt_memory_over_sre2l_{paper}"] = {"value": peaks["mtt"] / peaks["sre2l"], "target": memory}
    return rows, checks


def both_sides(
    size: Namespace, recovered: str, matched: str
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """What a step of MTT and one of sre2l take, in seconds and at their peaks in bytes."""
    device = Engine().device
    options = Namespace(size_px=size.beside_px, device=str(device), images=size.images, width=0, repeats=size.repeats)
    problem = recover.noise_problem(recovered, size.images, options)
    instance = matched if matched.startswith("convnet") else f"{matched}-instance"
    matching = trajectory.make_problem(options, size.mtt_steps, build(instance, problem.task))
    with tempfile.TemporaryDirectory() as folder:
        ours = recover.Ours(problem, "32-true", Path(folder))
        sides: dict[str, Callable[[], Any]] = {"mtt": partial(unrolled, *matching), "sre2l": partial(ours.step, 0)}
        took = {side: measured(step, device, max(2, size.repeats // 4)) for side, step in sides.items()}
        return took, {side: trajectory.peak(step, device.type, 0) for side, step in sides.items()}


def settings_of(name: str) -> dict[str, Any]:
    """A method at toy size: its knowledge, and three steps where it takes some."""
    kind = methods()[name]
    own = {key: value for key, value in OWN.items() if key.partition(".")[2] in kind.Settings.model_fields}
    steps = {"recover.iterations": 3} if kind.defaults.get("recover", {}).get("iterations", 1) else {}
    return {**SMALL, **BY_KNOWLEDGE[kind.needs(kind.Settings())], **own, **steps}


def images_of(name: str, device: str, squeezed: Path, out: Path) -> Tensor:
    """What a method makes on a device of what was squeezed on the processor."""
    shutil.copytree(squeezed, out)
    run = {"recipe": "none", "thorough": True, "precision": "32-true", "out": out, "settings": settings_of(name)}
    attar.distill("digits", name, 2, device=device, until="recover", **run)
    made = read_chunks(out / "recover").images[:]
    return made.float() / 255 if made.dtype == torch.uint8 else made.float()


def every_method(names: list[str]) -> tuple[Rows, Checks]:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    device = Engine().device.type
    rows: Rows = []
    most = 0.0
    for name in names:
        apart = tried(rows, "methods", name, partial(apart_of, name, device))
        if apart is not None:
            most = max(most, apart[0])
            rows.append(row("methods", f"{name}, cpu and {device}", apart=apart))
    return rows, {"methods_apart_mean": {"value": most, "target": APART_TARGET}}


def apart_of(name: str, device: str) -> tuple[float, float]:
    """Mean and largest difference between what a method makes on the processor and on a device, of one squeeze."""
    with tempfile.TemporaryDirectory() as place:
        squeezed = Path(place) / "squeezed"
        run = {"recipe": "none", "thorough": True, "precision": "32-true", "out": squeezed}
        attar.distill("digits", name, 2, device="cpu", until="squeeze", settings=settings_of(name), **run)
        here = images_of(name, "cpu", squeezed, Path(place) / "here")
        there = images_of(name, device, squeezed, Path(place) / "there")
    difference = (here - there).abs()
    return float(difference.mean()), float(difference.max())


def main() -> None:
    options = arguments(__doc__ or "", add_options)
    size = TOY if options.toy else FULL
    if not options.toy and not torch.cuda.is_available():
        raise SystemExit("no GPU is here; --toy tries the script at toy size")
    torch.set_num_threads(options.threads)
    parts: dict[str, Callable[[], tuple[Rows, Checks]]] = {
        "training": lambda: training(size),
        "recovery": lambda: recovery(size),
        "beside mtt": lambda: beside_mtt(size),
        "methods": lambda: every_method(options.methods),
    }
    rows: Rows = []
    checks: Checks = {}
    started_s = time.perf_counter()
    for name, part in parts.items():
        if name not in options.parts:
            continue
        before_s = time.perf_counter()
        found = tried(rows, name, "the whole part", part) or ([], {})
        rows += found[0]
        checks |= found[1]
        for one in found[0]:  # the table comes at the end, if that comes
            print("  ".join(str(cell) for cell in one.values()), flush=True)
        print(f"{name}: {(time.perf_counter() - before_s) / 60:.1f} minutes", flush=True)
    checks["minutes"] = {"value": (time.perf_counter() - started_s) / 60, "target": MOST_MINUTES}
    finish(rows, checks, options.json)
    if num := sum(FAILED in one["case"] for one in rows):
        raise SystemExit(f"{num} cases failed")


def add_options(parser: argparse.ArgumentParser) -> None:
    parts = ["training", "recovery", "beside mtt", "methods"]
    parser.add_argument("--toy", action="store_true", help="toy sizes, on whatever device there is")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--methods", nargs="+", default=sorted(methods()))
    parser.add_argument("--threads", type=int, default=4, help="of the processor")


if __name__ == "__main__":
    main()
