"""SRe2L on CIFAR-10 against random real images with the same labels, and what a step costs beside MTT's.

    ATTAR_DATA=FOLDER python benchmarks/sre2l.py --json FILE                 two CPU cores: narrow network, a subset
    ATTAR_DATA=FOLDER python benchmarks/sre2l.py --size full --json FILE     the published setting, for a GPU

The accuracies are those of a run each (teacher, recover, relabel, students) with both kinds of labels. The costs are
per synthetic image: seconds and peak memory of one recover step, and of one MTT step that unrolls `--mtt-steps` steps,
on the same images. On the CPU memory is what autograd keeps (saved-tensor hooks), on a GPU the peak that was allocated.
Published (NeurIPS 2023, table 1): 52 times faster than MTT on ConvNet-4 and 16 times on ResNet-18, with 11.6 and 6.4
times less memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from kept import peak_bytes
from table import Checks, Rows, arguments, finish, spread
from torch import Tensor, nn

import attar
from attar.losses.trajectory import Matching, soft_cross_entropy
from attar.methods.mtt import unrolled
from attar.methods.sre2l import Sre2l, Sre2lSettings
from attar.models.factory import build
from attar.models.flat import FlatModel
from attar.runtime.engine import Engine
from attar.runtime.seeding import generator, scoped
from attar.task import Normalization, Task

SMALL = {
    "source.train_per_class": 500,
    "squeeze.model": "convnet-d3-w32-batch",
    "squeeze.epochs": 20,
    "squeeze.learning_rate": 0.1,
    "squeeze.augment_per": "image",
    "recover.iterations": 300,
    "recover.num_snapshots": 0,
    "method.alpha_bn": "auto",
    "train.epochs": 100,
    "train.batch_size": 50,
    "train.learning_rate": 0.004,
    "train.temperature": 4,
    "evaluate.full_epochs": 20,
}
"""What two CPU cores bear."""
PUBLISHED = {"ConvNet-4": (52.0, 11.6), "ResNet-18": (16.0, 6.4)}


class Frozen:
    """A teacher of random weights: what a step costs does not depend on them."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model.to(device).eval().requires_grad_(False)


def measure_accuracies(options: argparse.Namespace, folder: Path) -> Rows:
    source = Path(os.environ["ATTAR_DATA"]) / "cifar10"
    rows: Rows = []
    for ipc in options.ipc:
        settings: dict[str, Any] = dict(SMALL) if options.size == "cpu" else {}
        settings |= {"evaluate.seeds": options.seeds, "evaluate.baselines": ["random", "full"]}
        recipe = f"sre2l-cifar10-ipc{ipc}" if options.size == "full" else "none"
        made = attar.distill(
            source,
            "sre2l",
            ipc,
            recipe=recipe,
            out=folder / str(ipc),
            settings=settings,
            workers=options.threads,
            quiet=False,
        )
        rows += [
            {
                "what": f"IPC {ipc}: {r.subject}",
                "labels": r.labels,
                "accuracy": spread(r.values),
                "bytes": r.size_bytes,
            }
            for r in made.records
        ]
    return rows


def measure_costs(options: argparse.Namespace, checks: Checks) -> Rows:
    engine = Engine()
    rows: Rows = []
    task = Task(tuple("abcdefghij"), 3, options.size_px, options.size_px, Normalization((0.5,) * 3, (0.25,) * 3))
    images = torch.randn(options.images, *task.shape, generator=generator(0, "images")).to(engine.device)
    labels = (torch.arange(options.images) % 10).to(engine.device)
    for name, (published_s, published_bytes) in PUBLISHED.items():
        steps = {
            "sre2l": recover_step(name, task, images, labels, engine),
            "mtt": mtt_step(name, task, images, labels, engine, options.mtt_steps),
        }
        seconds, peaks = timed(steps, options.repeats, engine)
        for way in steps:
            rows.append(
                {
                    "what": f"{name}: one step of {way}",
                    "ms an image": f"{1000 * seconds[way] / len(images):.1f}",
                    "MB an image": f"{peaks[way] / len(images) / 1e6:.2f}",
                }
            )
        slug = name.lower().replace("-", "")
        checks[f"mtt_time_over_sre2l_{slug}"] = {"value": seconds["mtt"] / seconds["sre2l"], "target": published_s}
        checks[f"mtt_memory_over_sre2l_{slug}"] = {"value": peaks["mtt"] / peaks["sre2l"], "target": published_bytes}
    return rows


def recover_step(name: str, task: Task, images: Tensor, labels: Tensor, engine: Engine) -> Callable[[], Any]:
    from attar.methods.base import Synthetic

    model = build("convnet-d4-w128-batch" if name == "ConvNet-4" else "resnet18-small", task)
    method, knowledge = Sre2l(Sre2lSettings(alpha_bn=1.0), task, 1), Frozen(model, engine.device)
    state = Synthetic(labels, {"images": images})
    picked = torch.arange(len(labels), device=labels.device)
    real: Any = None  # this objective does not look at real images
    return lambda: method.gradient(state, picked, real, knowledge, generator(0))


def mtt_step(
    name: str, task: Task, images: Tensor, labels: Tensor, engine: Engine, num_steps: int
) -> Callable[[], Any]:
    with scoped(0, "mtt"):
        model = build("convnet-d4-w128", task) if name == "ConvNet-4" else group_normed_resnet(task)
    flat = FlatModel(model.to(engine.device))
    start = flat.vector()
    target = start + 0.01 * torch.randn(flat.size, generator=generator(0)).to(start)
    targets = nn.functional.one_hot(labels, task.num_classes).float()
    everything = torch.arange(len(images), device=images.device)
    problem = Matching(start, target, [everything] * num_steps, partial(_loss, flat), lambda _, x: x)
    return lambda: unrolled(problem, images, targets, torch.tensor(0.01, device=images.device))


def _loss(flat: FlatModel, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return soft_cross_entropy(flat(theta, x), y)


def group_normed_resnet(task: Task) -> nn.Module:
    """ResNet-18 with a small stem and GroupNorm: trajectories cannot carry BatchNorm's running statistics."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=task.num_classes, norm_layer=lambda channels: nn.GroupNorm(channels, channels))
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def timed(steps: dict[str, Callable[[], Any]], repeats: int, engine: Engine) -> tuple[dict[str, float], dict[str, int]]:
    """Median seconds of interleaved repeats, and peak bytes."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    peaks = {name: _peak(step, engine) for name, step in steps.items()}
    for _ in range(repeats):
        for name, step in steps.items():
            _wait(engine)
            started_s = time.perf_counter()
            step()
            _wait(engine)
            seconds[name].append(time.perf_counter() - started_s)
    return {name: statistics.median(values) for name, values in seconds.items()}, peaks


def _peak(step: Callable[[], Any], engine: Engine) -> int:
    if engine.device.type != "cuda":
        return peak_bytes(step)
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated()


def _wait(engine: Engine) -> None:
    if engine.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    options = arguments(__doc__ or "", add_options)
    torch.set_num_threads(options.threads)
    checks: Checks = {}
    rows = measure_costs(options, checks)
    if options.ipc:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure_accuracies(options, Path(folder))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    finish([{column: row.get(column, "") for column in columns} for row in rows], checks, options.json)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=["cpu", "full"], default="cpu")
    parser.add_argument("--ipc", type=int, nargs="*", default=[10, 50])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10, help="synthetic images of the cost measurement")
    parser.add_argument("--size-px", type=int, default=32)
    parser.add_argument("--mtt-steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)


if __name__ == "__main__":
    main()
