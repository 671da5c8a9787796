"""A small task, and one distillate of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from attar.artifacts.labelling import Labelling
from attar.augment.views import Views, ViewSettings
from attar.labels.plan import LabelPlan
from attar.labels.writing import write_labels
from attar.methods.base import Distillate
from attar.runtime.seeding import generator
from attar.task import Normalization, Task

ODD_NAMES = ("yes", "a|b *c*", "новый\u2028\n---\nline", "<b>&amp;</b>", '"quoted": [x]', " 007", "null")


@pytest.fixture
def task() -> Task:
    scale = Normalization((0.4914009, 0.4821587, 0.44653094), (0.2470322, 0.24348505, 0.26158768))
    return Task(ODD_NAMES, 3, 6, 5, scale)


@pytest.fixture
def floats(task: Task) -> Distillate:
    """Two float images a class that leave 0..1, with soft labels and a learnt rate."""
    rng = generator(0, "floats")
    images = torch.randn(2 * task.num_classes, *task.shape, generator=rng) * 3
    soft = torch.randn(len(images), task.num_classes, generator=rng).softmax(dim=1)
    return Distillate(images, torch.arange(task.num_classes).repeat(2), soft, learning_rate=0.0123456789)


@pytest.fixture
def exact(task: Task) -> Distillate:
    """One real image a class."""
    pixels = torch.randint(256, (task.num_classes, *task.shape), generator=generator(0, "exact"), dtype=torch.uint8)
    return Distillate(task.normalization.normalize(pixels), torch.arange(task.num_classes), exact_8bit=True)


@pytest.fixture
def provenance() -> dict[str, Any]:
    return {
        "method": "tesla",
        "ipc": 2,
        "seed": 0,
        "source": {"name": "petals", "fingerprint": "f00d", "licence": "CC BY 4.0", "num_train_images": 5000},
        "settings": {"recover": {"iterations": 300, "rate": 0.1}},
    }


@pytest.fixture
def stored(tmp_path: Path, task: Task, exact: Distillate) -> Labelling:
    """Labels of `exact` in five stored epochs, three files of them."""
    plan = LabelPlan("q8", task.num_classes, len(exact.labels), 5, epochs_per_shard=2)
    logits = torch.randn(5, len(exact.labels), task.num_classes, generator=generator(0, "stored")) * 3
    write_labels(tmp_path / "relabel", plan, lambda epoch: [(torch.arange(len(exact.labels)), logits[epoch])])
    return Labelling("epochs", plan, tmp_path / "relabel", views_of(task, len(exact.labels)))


def views_of(task: Task, num_images: int) -> dict[str, Any]:
    """What views of these images are replayed by."""
    return Views(ViewSettings(), 3, num_images, task.shape).to_json()
