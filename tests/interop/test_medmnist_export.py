"""A distilled set as an `.npz` that MedMNIST's readers and ours take."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from bringing import bring_in

import attar
from attar.artifacts.distilled import Distilled, write_distilled
from attar.data.readers.npz import read_arrays
from attar.interop import EXPORTERS
from attar.methods.base import Distillate
from attar.runtime.seeding import generator
from attar.task import Normalization, Task

GREY = Task(("a", "b", "c"), 1, 6, 5, Normalization((0.5,), (0.25,)))
export = EXPORTERS["medmnist"][0]


@pytest.fixture
def grey(tmp_path: Path) -> Distilled:
    pixels = torch.randint(256, (6, *GREY.shape), generator=generator(0, "grey"), dtype=torch.uint8)
    images, made_from = GREY.normalization.normalize(pixels), {"source": {"name": "medmnist:octmnist:64"}}
    distillate = Distillate(images, torch.arange(3).repeat(2), exact_8bit=True)
    return write_distilled(tmp_path / "grey", distillate, GREY, MappingProxyType(made_from))


def test_the_arrays_are_those_of_the_packages_files(tmp_path: Path, exact: Distilled, grey: Distilled) -> None:
    export(exact, tmp_path / "colour")
    arrays = np.load(tmp_path / "colour" / "distilled.npz", allow_pickle=False)
    assert arrays["train_images"].dtype == np.uint8
    assert arrays["train_images"].shape == (8, 6, 5, 3)
    assert arrays["train_labels"].shape == (8, 1)
    assert arrays["class_names"].tolist() == list(exact.task.class_names)
    assert (
        np.load(tmp_path / "colour" / "distilled.npz")["train_images"][3, 2, 1].tolist()
        == exact.stored[torch.tensor([3])][0, :, 2, 1].tolist()
    )
    assert export(grey, tmp_path / "grey-out").lost == ()
    assert np.load(tmp_path / "grey-out" / "octmnist_64.npz")["train_images"].shape == (6, 6, 5)


@pytest.mark.parametrize("kind", ["exact", "grey"])
def test_our_reader_of_sources_and_import_give_the_same_images(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    distilled: Distilled = request.getfixturevalue(kind)
    export(distilled, tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.npz")
    found = read_arrays(file)
    assert found.class_names == distilled.task.class_names
    train = found.splits["train"]
    assert train.labels.tolist() == distilled.labels.tolist()
    first = np.asarray(train.open()(0))
    assert np.array_equal(np.atleast_3d(first).transpose(2, 0, 1), distilled.stored[torch.tensor([0])][0].numpy())
    back = bring_in("medmnist", tmp_path / "out", tmp_path / "back")
    assert back.task == distilled.task
    assert back.exact_8bit
    assert torch.equal(back.images, distilled.images)
    assert torch.equal(back.labels, distilled.labels)


def test_the_same_set_gives_the_same_bytes_and_losses_are_named(tmp_path: Path, floats: Distilled) -> None:
    lost = [attar.export(floats.path, tmp_path / name, "medmnist").lost for name in ("one", "two")]
    assert [text.split(" ")[0] for text in lost[0]] == ["float", "soft", "the"]
    one, two = ((tmp_path / name / "distilled.npz").read_bytes() for name in ("one", "two"))
    assert one == two
    back = bring_in("medmnist", tmp_path / "one", tmp_path / "back")
    assert (back.pixels() - floats.pixels().clamp(0, 1)).abs().max() < 0.51 / 255


def test_the_package_reads_it(tmp_path: Path, grey: Distilled) -> None:
    medmnist = pytest.importorskip("medmnist", reason="the package medmnist is not installed")
    export(grey, tmp_path / "out")
    data = medmnist.OCTMNIST(split="train", root=str(tmp_path / "out"), size=64)
    assert data.imgs.shape == (6, 6, 5)
    assert data.labels[:, 0].tolist() == grey.labels.tolist()
