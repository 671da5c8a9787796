"""Distilled datasets of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attar.artifacts.distilled import Distilled, write_distilled
from attar.methods.base import Distillate
from attar.runtime.seeding import generator
from attar.task import Normalization, Task


@pytest.fixture
def task() -> Task:
    scale = Normalization((0.4914009, 0.4821587, 0.44653094), (0.2470322, 0.24348505, 0.26158768))
    return Task(("cat", "../dog", "a b/ç", "CON"), 3, 6, 5, scale)


@pytest.fixture
def floats(tmp_path: Path, task: Task) -> Distilled:
    images = torch.randn(8, *task.shape, generator=generator(0, "floats")) * 3
    labels = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    soft = torch.eye(4)[labels] * 0.875 + 0.03125
    return write_distilled(tmp_path / "floats", Distillate(images, labels, soft, 0.25), task, {"method": "tesla"})


@pytest.fixture
def exact(tmp_path: Path, task: Task) -> Distilled:
    pixels = torch.randint(256, (8, *task.shape), generator=generator(0, "exact"), dtype=torch.uint8)
    images = task.normalization.normalize(pixels)
    labels = torch.arange(4).repeat(2)
    return write_distilled(tmp_path / "exact", Distillate(images, labels, exact_8bit=True), task, {"seed": 7})
