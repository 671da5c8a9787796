import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attar.data import arrayfiles
from attar.data.arrayfiles import read_npz
from attar.data.readers.npz import read_arrays
from attar.data.sources import SourceSettings, open_source
from attar.errors import DataError
from attar.options import Reading
from damage import refusals


def noise(num: int, *shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (num, *(shape or (8, 8, 3)))).astype(np.uint8)


def in_turn(num: int) -> Any:
    return np.arange(num) % 2


def test_a_file_of_medmnist(tmp_path: Path) -> None:
    parts = {"train": 20, "val": 4, "test": 6}
    arrays = {f"{name}_images": noise(num, 28, 28, seed=num) for name, num in parts.items()}
    arrays |= {f"{name}_labels": in_turn(num)[:, None].astype(np.uint8) for name, num in parts.items()}
    np.savez_compressed(tmp_path / "breastmnist.npz", **arrays)
    source = open_source(str(tmp_path / "breastmnist.npz"))
    assert [len(source.train), len(source.validation), source.num_test] == [20, 4, 6]
    assert source.task.shape == (1, 28, 28)
    assert np.array_equal(source.train.pixels(torch.arange(20))[:, 0], arrays["train_images"])
    assert source.test.labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("x_train", "y_train"), ("X", "y"), ("data", "targets")]
)
def test_other_names_of_arrays(tmp_path: Path, images: str, labels: str) -> None:
    np.savez(tmp_path / "x.npz", **{images: noise(20), labels: in_turn(20)}, class_names=np.array(["ant", "bee"]))
    found = read_arrays(tmp_path / "x.npz")
    assert found.class_names == ("ant", "bee")
    assert found.splits["train"].labels.tolist() == [0, 1] * 10


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (1, 8, 8), (8, 8, 3), (3, 8, 8)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, ">f8"])
def test_layouts_and_types_of_numbers(tmp_path: Path, shape: tuple[int, ...], dtype: Any) -> None:
    pixels = noise(20, *shape)
    pixels.reshape(20, -1)[:, :2] = (0, 255)
    scaled = (pixels / 255).astype(dtype) if np.dtype(dtype).kind == "f" else pixels.astype(dtype)
    np.savez(tmp_path / "x.npz", images=scaled, labels=in_turn(20))
    source = open_source(str(tmp_path / "x.npz"), SourceSettings(validation_fraction=0))
    expected = (
        pixels.reshape(20, 1, 8, 8) if 3 not in shape else pixels if shape[0] == 3 else pixels.transpose(0, 3, 1, 2)
    )
    every = torch.cat([part.pixels(torch.arange(len(part))) for part in (source.train, source.test)]).numpy()
    assert sorted(every.reshape(20, -1).tolist()) == sorted(expected.reshape(20, -1).tolist())


def test_another_array_of_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=noise(4), labels=[0, 1, 2, 3], coarse=["x", "x", "y", "y"])
    assert read_arrays(tmp_path / "x.npz", Reading(label_column="coarse")).class_names == ("x", "y")
    with pytest.raises(DataError, match="no images with labels that are known"):
        read_arrays(tmp_path / "x.npz", Reading(label_column="other"))


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"features": noise(4), "labels": in_turn(4)}, "'features', 'labels', which are no images"),
        ({"images": noise(4), "labels": np.zeros((4, 14))}, "several labels for each image"),
        ({"images": noise(4), "labels": in_turn(5)}, "4 images and labels 5 labels"),
        ({"images": noise(4, 8), "labels": in_turn(4)}, "no channels"),
        ({"images": np.array([["a"]]), "labels": in_turn(1)}, "shape"),
        ({"images": np.array([{}, {}], object), "labels": in_turn(2)}, "not numbers or text"),
        ({}, "holds no arrays"),
    ],
)
def test_what_is_no_set_of_images_is_told(tmp_path: Path, arrays: dict[str, Any], match: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=match):
        open_source(str(tmp_path / "x.npz"))


def test_sizes_that_lie_and_files_that_unfold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", images=noise(4), labels=in_turn(4))
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        header = archive.read("images.npy").replace(b"(4, 8, 8, 3)", b"(4, 8, 8,99)")
    with zipfile.ZipFile(tmp_path / "y.npz", "w") as archive:
        archive.writestr("images.npy", header)
    with pytest.raises(DataError, match=r"is said to be uint8 \(4, 8, 8, 99\), and has 768 bytes"):
        read_npz(tmp_path / "y.npz")
    monkeypatch.setattr(arrayfiles, "_LEAST_BYTES", 1)
    np.savez_compressed(tmp_path / "z.npz", images=np.zeros((4, 1000, 1000), np.uint8))
    with pytest.raises(DataError, match="unfolds to more than 300 times"):
        read_npz(tmp_path / "z.npz")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_damaged_files_are_read_or_told(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "x.npz", images=noise(8, 8, 8), labels=in_turn(8))
    assert refusals(tmp_path / "x.npz", lambda: open_source(str(tmp_path / "x.npz")), 40)
