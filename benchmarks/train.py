"""Images per second of a training by attar and by a plain torchvision and DataLoader loop, on the same machine.

    python benchmarks/train.py --json benchmarks/results/train.json

The same network, batch size, optimiser, and crop and mirror for each image by itself; CIFAR-10 from ATTAR_DATA
(cifar10/ as parquet shards) or random pixels of that size, which cost the same. The plain loop is what tutorials show:
a dataset of PIL images, RandomCrop with padding, RandomHorizontalFlip, ToTensor, Normalize, a DataLoader, and here the
fastest of 0, 1 and 2 workers of it, kept alive between epochs; it has a process of its own, as attar tells the one that
it runs in how to treat memory. attar keeps pixels as uint8 in memory and augments a batch at a time; its rows are of
both layouts, the one that it takes unless told otherwise last. All in turn, `--rounds` times, of which the fastest
counts: what else runs on the machine only makes slower. About two minutes of two cores, where nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from PIL import Image
from table import Checks, Rows, arguments, finish
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from attar.data.loading import MemorySplit, RealSet
from attar.data.sources import open_source
from attar.models.factory import build
from attar.runtime.engine import Engine
from attar.task import Normalization, Task
from attar.training.loop import fit
from attar.training.section import TrainSection

NORMALIZATION = Normalization((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))
TASK = Task(tuple("abcdefghij"), 3, 32, 32, NORMALIZATION)
WORKERS = (0, 1, 2)
TARGET = 1.5


class PlainImages(Dataset[tuple[Tensor, int]]):
    """Pixels (n, h, w, c) as torchvision's CIFAR10 holds them, each augmented when asked for."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels, self.labels = pixels.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(NORMALIZATION.mean, NORMALIZATION.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


class Plain:
    """A plain loop with so many workers; one call is one epoch."""

    def __init__(self, dataset: PlainImages, model: nn.Module, batch: int, workers: int, device: torch.device) -> None:
        self.model, self.device = model.to(device).train(), device
        self.optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
        self.loader = DataLoader(
            dataset,
            batch,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

    def __call__(self) -> None:
        for images, labels in self.loader:
            images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
            loss = F.cross_entropy(self.model(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


_plain: dict[tuple[str, int], Plain] = {}
"""Plain loops of the process that they run in, by network and workers."""


def plain_epoch(options: argparse.Namespace, name: str, workers: int) -> None:
    """One epoch of a plain loop, in the process of these."""
    if (name, workers) not in _plain:
        torch.set_num_threads(options.threads)
        dataset = PlainImages(*_pixels(options.images))
        _plain[name, workers] = Plain(dataset, build(name, TASK), options.batch, workers, torch.device(options.device))
    _plain[name, workers]()


def main() -> None:
    options = arguments(__doc__ or "", _add)
    torch.set_num_threads(options.threads)
    engine, real = Engine(options.device), RealSet(MemorySplit(*_pixels(options.images)), NORMALIZATION)
    rows: Rows = []
    checks: Checks = {}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        for name in options.models.split(","):
            loops: dict[str, Callable[[], object]] = {
                f"plain, {workers} workers": lambda name=name, workers=workers: apart.submit(
                    plain_epoch, options, name, workers
                ).result()
                for workers in WORKERS
            }
            for layout in ("contiguous", "channels_last", "auto"):
                loops[f"attar, {layout}"] = partial(
                    _attar, real, partial(build, name, TASK), options.batch, layout, engine
                )
            rates = _rates(loops, options.rounds, options.images, engine.device)
            plain = max(rate for loop, rate in rates.items() if loop.startswith("plain"))
            for loop, rate in rates.items():
                rows.append({"network": name, "loop": loop, "images/s": f"{rate:,.0f}", "x": f"{rate / plain:.2f}"})
            checks[f"attar_over_plain_{name}"] = {"value": rates["attar, auto"] / plain, "target": TARGET}
    finish(rows, checks, options.json)


def _attar(real: RealSet, make: Callable[[], nn.Module], batch: int, layout: str, engine: Engine) -> None:
    settings = TrainSection(
        epochs=1,
        batch_size=batch,
        learning_rate=0.05,
        nesterov=True,
        augment="crop_flip",
        augment_per="image",
        memory_format=layout,
    )
    fit(make(), real, settings, seed=0, engine=engine)


def _rates(
    loops: dict[str, Callable[[], object]], rounds: int, num_images: int, device: torch.device
) -> dict[str, float]:
    """Images per second of each loop in its fastest round."""
    best_s = dict.fromkeys(loops, float("inf"))
    for turn in range(rounds + 1):
        for name, loop in loops.items():
            started_s = time.perf_counter()
            loop()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first starts the workers
                best_s[name] = min(best_s[name], time.perf_counter() - started_s)
    return {name: num_images / seconds for name, seconds in best_s.items()}


def _pixels(num: int) -> tuple[Tensor, Tensor]:
    if "ATTAR_DATA" not in os.environ:
        return torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8), torch.arange(num) % 10
    train = open_source(str(Path(os.environ["ATTAR_DATA"]) / "cifar10")).train
    indices = torch.arange(min(num, len(train)))
    return train.pixels(indices), train.labels[indices]


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", default="convnet-d3-w16-batch,convnet-d3-w32-batch")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")


if __name__ == "__main__":
    main()
