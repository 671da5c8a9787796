"""Datasets in torchvision's layout: small files as its classes read them, their checksums replaced."""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets

from attar.data.named import NAMED
from attar.data.named.vision import SETS
from attar.data.sources import Source, SourceSettings, open_source
from attar.errors import DataError

Image = Callable[..., bytes]


def noise(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def opened(name: str, root: Path, **settings: Any) -> Source:
    return open_source(name, SourceSettings(data_dir=root, validation_fraction=0, **settings))


def save(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "folder", "second"),
    [("mnist", "MNIST", "1"), ("fashion-mnist", "FashionMNIST", "Trouser"), ("kmnist", "KMNIST", "ki")],
)
def test_files_of_mnist(tmp_path: Path, name: str, folder: str, second: str) -> None:
    pixels = {"train": noise(0, 20, 28, 28), "t10k": noise(1, 20, 28, 28)}
    for part, values in pixels.items():
        raw = tmp_path / folder / "raw"
        save(raw / f"{part}-images-idx3-ubyte", struct.pack(">IIII", 0x803, *values.shape) + values.tobytes())
        save(raw / f"{part}-labels-idx1-ubyte", struct.pack(">II", 0x801, 20) + bytes(range(10)) * 2)
    source = opened(name, tmp_path)
    assert source.task.class_names[1] == second
    assert source.task.shape == (1, 28, 28)
    assert np.array_equal(source.train.pixels(torch.arange(20))[:, 0], pixels["train"])
    assert np.array_equal(source.test.pixels(torch.arange(20))[:, 0], pixels["t10k"])
    assert source.test.labels.tolist() == list(range(10)) * 2
    assert opened(name, tmp_path / folder).fingerprint == source.fingerprint
    save(tmp_path / folder / "raw" / "train-images-idx3-ubyte", b"\0\0\x08\x03")
    with pytest.raises(DataError, match="missing, incomplete or not what was published"):
        opened(name, tmp_path)


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = noise(0, 32, 32, 3, 20), np.array([10, *range(1, 10)] * 2)[:, None]
    listed = {}
    for split in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": labels})
        listed[split] = ["", f"{split}_32x32.mat", md5(tmp_path / f"{split}_32x32.mat")]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    source = opened("svhn", tmp_path)
    assert source.task.class_names == tuple("0123456789")
    assert source.train.labels.tolist() == list(range(10)) * 2, "10 is the digit 0"
    assert np.array_equal(source.train.pixels(torch.arange(20)), pixels.transpose(3, 2, 0, 1))


def test_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stl10_binary"
    pixels = noise(0, 20, 3, 96, 96)
    for part in ("train", "test", "unlabeled"):
        save(folder / f"{part}_X.bin", pixels.tobytes())
        save(folder / f"{part}_y.bin", bytes(range(1, 11)) * 2)
    save(folder / "class_names.txt", b"\n".join(b"class %d" % i for i in range(10)))
    for listed in ("train_list", "test_list"):
        names = [name for name, _ in getattr(datasets.STL10, listed)]
        monkeypatch.setattr(datasets.STL10, listed, [[name, md5(folder / name)] for name in names])
    source = opened("stl10", tmp_path)
    assert source.task.shape == (3, 96, 96)
    assert source.task.class_names[9] == "class 9"
    assert source.train.labels.tolist() == list(range(10)) * 2
    assert np.array_equal(source.train.pixels(torch.arange(20)), pixels.transpose(0, 1, 3, 2)), "columns come first"


def test_flowers102(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_image: Image) -> None:
    folder = tmp_path / "flowers-102"
    for i in range(1, 13):
        save(folder / "jpg" / f"image_{i:05d}.jpg", make_image(i, size=(20 + i, 30), kind="JPEG"))
    scipy.io.savemat(folder / "setid.mat", {"trnid": [1, 2, 3, 4], "valid": [5, 6, 7, 8], "tstid": [9, 10, 11, 12]})
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": [1, 2, 1, 2] * 3})
    files = {key: (name, md5(folder / name)) for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))}
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", {**datasets.Flowers102._file_dict, **files})
    monkeypatch.setattr(datasets.Flowers102, "classes", ["rose", "tulip"], raising=False)
    source = opened("flowers102", tmp_path, resolution=16)
    assert [len(source.train), len(source.validation), source.num_test] == [4, 4, 4]
    assert source.task.class_names == ("rose", "tulip")
    assert opened("flowers102", tmp_path).task.shape == (3, 224, 224)


def test_oxford_pets(tmp_path: Path, make_image: Image) -> None:
    folder = tmp_path / "oxford-iiit-pet"
    names = [f"{pet}_{i}" for i in range(4) for pet in ("Abyssinian", "great_pyrenees")]
    for i, name in enumerate(names):
        save(folder / "images" / f"{name}.jpg", make_image(i, kind="JPEG"))
    lines = [f"{name} {i % 2 + 1} {i % 2 + 1} 1" for i, name in enumerate(names)]
    for split in ("trainval", "test"):
        save(folder / "annotations" / f"{split}.txt", "\n".join(lines).encode())
    (folder / "annotations" / "trimaps").mkdir()
    source = opened("oxford-pets", tmp_path, resolution=8)
    assert source.task.class_names == ("Abyssinian", "Great Pyrenees")
    assert source.train.labels.tolist() == [0, 1] * 4
    (folder / "images" / f"{names[2]}.jpg").unlink()
    with pytest.raises(DataError, match="missing, incomplete"):
        opened("oxford-pets", tmp_path)


def test_food101(tmp_path: Path, make_image: Image) -> None:
    folder = tmp_path / "food-101"
    for i in range(4):
        for food in ("pizza", "ramen"):
            save(folder / "images" / food / f"{i}.jpg", make_image(i, kind="JPEG"))
    for split, places in (("train", (0, 1, 2)), ("test", (3,))):
        listed = {food: [f"{food}/{i}" for i in places] for food in ("ramen", "pizza")}
        save(folder / "meta" / f"{split}.json", json.dumps(listed).encode())
    source = opened("food101", tmp_path, resolution=8)
    assert source.task.class_names == ("pizza", "ramen")
    assert source.train.labels.tolist() == [1, 1, 1, 0, 0, 0]
    assert source.num_test == 2


@pytest.mark.parametrize(
    ("name", "home", "side"),
    [("eurosat", "eurosat/2750", 64), ("caltech101", "caltech101/101_ObjectCategories", 224)],
)
def test_class_folders(tmp_path: Path, make_image: Image, name: str, home: str, side: int) -> None:
    for i in range(8):
        for j, kind in enumerate(("Forest", "River", "BACKGROUND_Google")):
            save(tmp_path / home / kind / f"{i}.jpg", make_image(i + 100 * j, size=(64, 64), kind="JPEG"))
    before = sorted(tmp_path.rglob("*"))
    source = opened(name, tmp_path)
    assert source.task.class_names == ("Forest", "River")
    assert source.task.shape == (3, side, side)
    assert len(source.train) + source.num_test == 16
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", [one.name for one in SETS])
def test_what_is_missing_is_told_and_nothing_is_written(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--data-dir" in NAMED[name].summary
    with pytest.raises(DataError, match=rf"{name} needs a folder(.|\n)*--data-dir DIR, and --download"):
        open_source(name)
    with pytest.raises(DataError, match=r"--data-dir, or add --download"):
        opened(name, tmp_path)
    assert not list(tmp_path.iterdir())

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route")

    kind = getattr(datasets, next(one.kind for one in SETS if one.name == name))
    monkeypatch.setattr(kind, "download" if hasattr(kind, "download") else "_download", refuse)
    with pytest.raises(DataError, match=r"can't be fetched into(.|\n)*no route"):
        opened(name, tmp_path, download=True)
