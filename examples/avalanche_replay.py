"""Class-incremental digits with Avalanche: the memory is a distilled set, one image a class.

    pip install 'attar[avalanche]'
    python examples/avalanche_replay.py runs/replay

Prints the accuracy on all ten digits after five experiences of two classes each, with the memory and without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import attar
from attar.avalanche import replay


class Labelled(TensorDataset):
    """Images and classes; Avalanche sorts them by `targets`."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__(images, labels)
        self.targets = labels.tolist()

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.tensors[0][index], self.targets[index]


def accuracy(model: nn.Module, test: Labelled) -> float:
    """In percent."""
    with torch.no_grad():
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in DataLoader(test, 256))
    return 100 * right / len(test)


def learn(train: Labelled, test: Labelled, memory: Path | None, epochs: int = 4) -> float:
    """Train on five experiences one after another, and give the accuracy on all classes at the end."""
    torch.manual_seed(0)
    benchmark = nc_benchmark(train, test, n_experiences=5, task_labels=False, seed=0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9),
        train_mb_size=32,
        train_epochs=epochs,
        plugins=[replay(memory)] if memory else [],
        evaluator=EvaluationPlugin(loggers=[]),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    return accuracy(model, test)


def main(out: Path) -> tuple[float, float]:
    """Distill the memory, and learn with and without it."""
    distilled = attar.distill("digits", ipc=1, method="kmeans", until="relabel", out=out, quiet=True).distilled
    scale = attar.load(distilled).task.normalization
    real = attar.open("digits", quiet=True)
    train, test = (
        Labelled(scale.normalize(split.pixels(torch.arange(len(split)))), split.labels)
        for split in (real.train, real.test)
    )
    found = learn(train, test, distilled), learn(train, test, None)
    print(f"with the memory {found[0]:.1f} %, without {found[1]:.1f} %")
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/replay"))
