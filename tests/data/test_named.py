import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from attar.data.named import digits
from attar.data.sources import SourceSettings, open_source
from attar.errors import DataError

WriteCifar = Callable[..., Path]


@pytest.fixture
def write_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteCifar:
    """Write a small dataset in the layout of CIFAR, and have its checksums published."""

    def write(kind: Any, per_class: int = 4, classes: int = 2, label_key: str = "labels") -> Path:
        folder = tmp_path / kind.base_folder
        folder.mkdir()
        rng = np.random.default_rng(0)

        def dump(name: str, entry: dict[str, Any]) -> list[str]:
            data = pickle.dumps(entry)
            (folder / name).write_bytes(data)
            return [name, hashlib.md5(data).hexdigest()]

        def batch(name: str) -> list[str]:
            labels = list(range(classes)) * per_class
            return dump(name, {"data": rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8), label_key: labels})

        names = [f"class {i}" for i in range(classes)]
        meta = dump(kind.meta["filename"], {kind.meta["key"]: names})
        monkeypatch.setattr(kind, "train_list", [batch("one"), batch("two")])
        monkeypatch.setattr(kind, "test_list", [batch("three")])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": meta[1]})
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("name", "kind", "key"),
    [("cifar10", datasets.CIFAR10, "labels"), ("cifar100", datasets.CIFAR100, "fine_labels")],
)
def test_cifar_in_torchvisions_layout(write_cifar: WriteCifar, name: str, kind: Any, key: str) -> None:
    root = write_cifar(kind, label_key=key)
    source = open_source(name, SourceSettings(data_dir=root, validation_fraction=0))
    assert source.task.class_names == ("class 0", "class 1")
    assert source.task.shape == (3, 32, 32)
    assert (len(source.train), len(source.test)) == (16, 8)
    theirs = kind(root, train=False)
    pixels = source.test.pixels(torch.arange(8)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels, theirs.data)
    inside = SourceSettings(data_dir=root / kind.base_folder, validation_fraction=0)
    assert open_source(name, inside).fingerprint == source.fingerprint


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("unpickled"),)


@pytest.mark.parametrize("file", ["one", "three", "batches.meta"])
def test_files_that_were_not_published_are_never_unpickled(
    write_cifar: WriteCifar, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_cifar(datasets.CIFAR10)
    monkeypatch.chdir(tmp_path)
    (root / datasets.CIFAR10.base_folder / file).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="not what was published"):
        open_source("cifar10", SourceSettings(data_dir=root))
    assert not Path("unpickled").exists()


def test_cifar_without_a_folder_or_without_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cifar100 needs a folder(.|\n)*cifar-100-python(.|\n)*--download"):
        open_source("cifar100")
    with pytest.raises(DataError, match="missing, incomplete"):
        open_source("cifar10", SourceSettings(data_dir=tmp_path))


def test_a_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(datasets.CIFAR10, "download", refuse)
    with pytest.raises(DataError, match=r"can't be fetched into(.|\n)*no route"):
        open_source("cifar10", SourceSettings(data_dir=tmp_path, download=True))


def test_the_digits_split_is_the_same_for_everyone() -> None:
    first, second = (open_source("digits", seed=seed) for seed in (0, 5))
    assert first.fingerprint == second.fingerprint
    assert first.test.labels.bincount().tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert torch.equal(first.test.labels, second.test.labels)


def test_digits_are_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    direct = digits._bundled_digits()
    monkeypatch.setattr(digits, "_DIGITS_FILE", tmp_path / "gone")
    for ours, theirs in zip(direct, digits._bundled_digits(), strict=True):
        assert np.array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
