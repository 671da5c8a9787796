"""Clients by Flower's partitioners; skipped where flwr-datasets is not installed."""

from __future__ import annotations

import importlib.util
import runpy
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import attar
from attar.artifacts.distilled import Distilled, write_distilled
from attar.errors import DataError
from attar.methods.base import Distillate
from attar.runtime.seeding import generator
from attar.task import Normalization, Task

INSTALLED = importlib.util.find_spec("flwr_datasets") is not None
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
    pytest.mark.skipif(not INSTALLED, reason="flwr-datasets is not installed: pip install 'attar[flower]'"),
]
EXAMPLE = Path(__file__).parents[1] / "examples" / "flower_clients.py"

if INSTALLED:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from flwr_datasets.partitioner import IidPartitioner, PathologicalPartitioner

        from attar.flower import gather, partition


def source(tmp_path: Path) -> object:
    """Images of four classes, of one value each."""
    values = np.repeat(np.arange(40, dtype=np.uint8), 16).reshape(40, 4, 4)
    labels = np.array(["ant", "bee", "cow", "dog"]).repeat(10)
    return attar.open(
        {"train": (values, labels), "test": (values, labels)}, quiet=True, settings={"validation_fraction": 0}
    )


def test_every_training_image_goes_to_one_client(tmp_path: Path) -> None:
    clients = partition(source(tmp_path), IidPartitioner(num_partitions=3))
    values = Counter(
        int(client["train"][index][0][0, 0]) for client in clients for index in range(len(client["train"]))
    )
    assert values == Counter(range(40))
    for client in clients:
        names = client["train"].classes
        assert all(
            names[label] == ["ant", "bee", "cow", "dog"][int(image[0, 0]) // 10]
            for image, label in (client["train"][index] for index in range(len(client["train"])))
        )


def test_a_client_knows_its_own_classes_only(tmp_path: Path) -> None:
    sharing = PathologicalPartitioner(
        num_partitions=2, partition_by="label", num_classes_per_partition=2, class_assignment_mode="deterministic"
    )
    one, two = partition(source(tmp_path), sharing)
    assert one["train"].classes == ["ant", "bee"]
    assert two["train"].classes == one["train"].classes or len(two["train"].classes) == 2
    assert {int(one["test"][index][0][0, 0]) // 10 for index in range(len(one["test"]))} == {0, 1}
    assert set(attar.open(one, quiet=True).task.class_names) == {"ant", "bee"}


def test_rare_classes_can_be_left_out_and_one_class_is_refused(tmp_path: Path) -> None:
    (client,) = partition(source(tmp_path), IidPartitioner(num_partitions=1), least=10)
    assert len(client["train"]) == 40
    with pytest.raises(DataError, match="client 0 has 40 images, 11 or more of 0 classes"):
        partition(source(tmp_path), IidPartitioner(num_partitions=1), least=11)


def made(folder: Path, names: tuple[str, ...], pixels: torch.Tensor) -> Distilled:
    task = Task(names, 3, 4, 4, Normalization((0.5,) * 3, (0.25,) * 3))
    images = task.normalization.normalize(pixels)
    return write_distilled(folder, Distillate(images, torch.arange(len(names)), exact_8bit=True), task)


def test_sets_are_gathered_by_the_names_of_their_classes(tmp_path: Path) -> None:
    pixels = torch.randint(256, (4, 3, 4, 4), dtype=torch.uint8, generator=generator(0, "gather"))
    sets = [made(tmp_path / "a", ("cow", "ant"), pixels[:2]), made(tmp_path / "b", ("ant", "bee"), pixels[2:])]
    images, labels = gather([sets[0], sets[1].path], ("ant", "bee", "cow"))
    assert labels.tolist() == [2, 0, 0, 1]
    assert np.array_equal(images, pixels.permute(0, 2, 3, 1).numpy())
    with pytest.raises(DataError, match="a client has the class 'cow'"):
        gather(sets, ("ant", "bee"))


def test_images_that_hold_others_are_gathered_apart(tmp_path: Path) -> None:
    task = Task(("ant", "bee"), 3, 4, 4, Normalization((0.5,) * 3, (0.25,) * 3))
    pixels = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    images = task.normalization.normalize(pixels)
    sets = [
        write_distilled(tmp_path / str(tiles), Distillate(images, torch.arange(2), exact_8bit=True, tiles=tiles), task)
        for tiles in (1, 2)
    ]
    found, labels = gather(sets, ("bee", "ant"))
    assert labels.tolist() == [1, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert found[:, ::3, ::3, 0].reshape(10, 4)[2:6].tolist() == [[value] * 4 for value in range(4)]
    assert found[6, 0, 0].tolist() == [12, 16, 20]


@pytest.mark.slow
def test_the_example_learns_from_three_clients(tmp_path: Path) -> None:
    main = runpy.run_path(str(EXAMPLE))["main"]
    assert main(tmp_path, seeds=1, baselines=(), settings={"evaluate.full_epochs": 1}) > 60
