"""A distilled set as Avalanche's memory; skipped where avalanche-lib is not installed."""

from __future__ import annotations

import importlib.util
import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.artifacts.distilled import Distilled, write_distilled
from attar.errors import DataError
from attar.methods.base import Distillate
from attar.task import Normalization, Task

INSTALLED = importlib.util.find_spec("avalanche") is not None
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # that package and those it imports warn of much
    pytest.mark.skipif(not INSTALLED, reason="avalanche-lib is not installed: pip install 'attar[avalanche]'"),
]
TASK = Task(("a", "b", "c", "d"), 1, 4, 4, Normalization((0.5,), (0.25,)))
EXAMPLE = Path(__file__).parents[1] / "examples" / "avalanche_replay.py"

if INSTALLED:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_tensor_classification_dataset

        from attar.avalanche import DistilledBuffer, replay


class Experience:
    """What a policy reads of one."""

    def __init__(self, labels: list[int], task: int = 0) -> None:
        targets = torch.tensor(labels)
        self.dataset = _make_taskaware_tensor_classification_dataset(
            torch.zeros(len(labels), *TASK.shape), targets, task_labels=task
        )
        self.task_label = task


@pytest.fixture
def distilled(tmp_path: Path) -> Distilled:
    """Three images of each of four classes: image n has the pixel value 20 n."""
    pixels = (torch.arange(12, dtype=torch.uint8) * 20).view(-1, 1, 1, 1).expand(-1, *TASK.shape)
    distillate = Distillate(TASK.normalization.normalize(pixels), torch.arange(4).repeat(3), exact_8bit=True)
    return write_distilled(tmp_path / "set", distillate, TASK)


def held(buffer: Any) -> list[tuple[int, int, int]]:
    """Number of each image, its class and its task."""
    items = (buffer.buffer[index] for index in range(len(buffer.buffer)))
    found = (
        (TASK.normalization.pixels(image[None])[0, 0, 0, 0] * 255 / 20, label, task) for image, label, task in items
    )
    return sorted((round(float(number)), int(label), int(task)) for number, label, task in found)


def test_images_come_with_their_classes(distilled: Distilled) -> None:
    buffer = DistilledBuffer(distilled)
    assert (len(buffer.buffer), buffer.max_size) == (0, 12)
    buffer.post_adapt(None, Experience([2, 2, 0]))
    assert held(buffer) == [(0, 0, 0), (2, 2, 0), (4, 0, 0), (6, 2, 0), (8, 0, 0), (10, 2, 0)]
    buffer.post_adapt(None, Experience([1, 0], task=1))  # class 0 has been there: it stays in its task, once
    assert len(buffer.buffer) == 9
    assert {(label, task) for _, label, task in held(buffer)} == {(0, 0), (2, 0), (1, 1)}
    assert torch.equal(buffer.buffer[0][0], distilled.images[0])


def test_images_that_hold_others_are_rehearsed_one_by_one(tmp_path: Path) -> None:
    pixels = torch.arange(16, dtype=torch.uint8).view(4, 1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    images = TASK.normalization.normalize(20 * pixels)
    made = write_distilled(tmp_path / "tiled", Distillate(images, torch.arange(4), exact_8bit=True, tiles=2), TASK)
    for transform in (None, TASK.normalization.normalize):
        buffer = DistilledBuffer(made, transform=transform)
        buffer.post_adapt(None, Experience([1, 2]))
        assert held(buffer) == [(number, number // 4, 0) for number in range(4, 12)]
        assert buffer.buffer[0][0].shape == TASK.shape


def test_a_smaller_memory_is_shared_evenly(distilled: Distilled) -> None:
    buffer = DistilledBuffer(distilled, max_size=5)
    buffer.post_adapt(None, Experience([0, 1]))
    assert [label for _, label, _ in sorted(held(buffer), key=lambda one: one[1])] == [0, 0, 0, 1, 1]
    buffer.post_adapt(None, Experience([3]))
    assert [sum(label == one for _, label, _ in held(buffer)) for one in (0, 1, 3)] == [2, 2, 1]
    buffer.resize(None, 100)
    assert len(buffer.buffer) == 9


def test_classes_may_be_numbered_otherwise_and_pixels_transformed(distilled: Distilled) -> None:
    buffer = DistilledBuffer(distilled.path, labels=[7, 5, 3, 1], transform=lambda pixels: pixels * 2)
    buffer.post_adapt(None, Experience([5]))
    assert [label for _, label, _ in (buffer.buffer[i] for i in range(3))] == [5, 5, 5]
    assert torch.equal(buffer.buffer[1][0], distilled.pixels(torch.tensor([5]))[0] * 2)
    with pytest.raises(DataError, match=r"class 2, of which nothing was distilled"):
        buffer.post_adapt(None, Experience([2]))
    with pytest.raises(DataError, match="all different"):
        DistilledBuffer(distilled, labels=[0, 0, 1, 2])


def test_the_plugin_takes_it(distilled: Distilled) -> None:
    assert replay(distilled, max_size=8).storage_policy.max_size == 8


@pytest.mark.slow
def test_the_example_forgets_less(tmp_path: Path) -> None:
    with_memory, without = runpy.run_path(str(EXAMPLE))["main"](tmp_path / "run")
    assert with_memory > without + 20
