"""Datasets that torchvision knows, in its layout: it fetches and checks their files, and reads those of arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attar.data.examples import Examples, Found
from attar.data.named.base import NamedSource, of_arrays
from attar.data.readers.folders import class_folders, read_split
from attar.data.walking import below, of_files
from attar.errors import DataError

PHOTOGRAPHS_PX = 224
"""Photographs of many sizes are brought to this."""
_BACKGROUND = "BACKGROUND_Google"
"""The folder of Caltech-101 that is no class."""
_TRAIN: Mapping[str, Mapping[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_SPLIT: Mapping[str, Mapping[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}


@dataclass(frozen=True)
class _Set:
    """How torchvision has a dataset.

    Attributes:
        kind: its class.
        folder: what lies in the data directory; its files may lie there directly (svhn).
        holds: how its images are kept: arrays in memory, files with labels apart, or class folders without splits.
        splits: what its class is to be given for each of our splits.
    """

    name: str
    kind: str
    folder: str
    about: str
    holds: Literal["arrays", "files", "folders"]
    splits: Mapping[str, Mapping[str, Any]]


SETS = (
    _Set("mnist", "MNIST", "MNIST", "70,000 handwritten digits of 28x28 px", "arrays", _TRAIN),
    _Set("fashion-mnist", "FashionMNIST", "FashionMNIST", "70,000 clothes of 28x28 px in 10 classes", "arrays", _TRAIN),
    _Set("kmnist", "KMNIST", "KMNIST", "70,000 handwritten hiragana of 28x28 px in 10 classes", "arrays", _TRAIN),
    _Set("svhn", "SVHN", "train_32x32.mat", "99,289 house numbers of 32x32 px, digits", "arrays", _SPLIT),
    _Set("stl10", "STL10", "stl10_binary", "13,000 labelled photographs of 96x96 px in 10 classes", "arrays", _SPLIT),
    _Set("eurosat", "EuroSAT", "eurosat", "27,000 satellite images of 64x64 px in 10 classes", "folders", {}),
    _Set(
        "flowers102",
        "Flowers102",
        "flowers-102",
        "8,189 photographs of flowers in 102 classes",
        "files",
        {"train": {"split": "train"}, "validation": {"split": "val"}, "test": {"split": "test"}},
    ),
    _Set(
        "oxford-pets",
        "OxfordIIITPet",
        "oxford-iiit-pet",
        "7,349 photographs of cats and dogs in 37 breeds",
        "files",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
    ),
    _Set("food101", "Food101", "food-101", "101,000 photographs of food in 101 classes", "files", _SPLIT),
    _Set("caltech101", "Caltech101", "caltech101", "8,677 photographs of objects in 101 classes", "folders", {}),
)


def read_set(one: _Set, data_dir: Path | None, download: bool) -> Found:
    """Read a dataset of `SETS`.

    Raises DataError where files are missing, or damaged, or can't be fetched.
    """
    if data_dir is None:
        raise DataError(
            f"{one.name} needs a folder",
            expected=f"--data-dir, the folder that holds {one.folder}{'' if '.' in one.folder else '/'}",
            fix="add --data-dir DIR, and --download to fetch it into that folder",
        )
    root = data_dir.parent if data_dir.name == one.folder and data_dir.is_dir() else data_dir
    if one.holds == "folders":
        return _of_folders(one, root, download)
    parts = {
        split: opened(one.kind, root, one.folder, download=download, **which) for split, which in one.splits.items()
    }
    reading: Callable[[Any, str], Examples] = _of_arrays if one.holds == "arrays" else partial(_of_files, root)
    try:
        splits = {split: reading(part, split) for split, part in parts.items()}
    except OSError as error:
        raise _missing(root / one.folder, error) from error
    resolution = PHOTOGRAPHS_PX if one.holds == "files" else None
    return Found(_class_names(parts["train"], splits["train"]), splits, resolution=resolution)


def opened(kind: str, root: Path, folder: str, *, download: bool, **which: Any) -> Any:
    """Open a dataset of torchvision's, by the name of its class; it compares checksums where it has some.

    Raises DataError where files are missing, or aren't the ones that were published, or can't be fetched.
    """
    from torchvision import datasets

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about the age of files
            return getattr(datasets, kind)(root, download=download, **which)
    except OSError as error:
        raise DataError(
            f"{kind} can't be {'fetched into' if download else 'read in'} {root}: {error}",
            fix="check the connection and the folder, or put the files there by hand",
        ) from error
    except Exception as error:  # torchvision's RuntimeError, and those of damaged files
        raise _missing(root / folder, error) from error


def _missing(where: Path, error: Exception) -> DataError:
    return DataError(
        f"{where} is missing, incomplete or not what was published ({type(error).__name__}: {error})",
        expected="the files as they were published, in torchvision's layout",
        fix="check --data-dir, or add --download to fetch them",
    )


def _of_arrays(part: Any, split: str) -> Examples:
    pixels, labels = np.asarray(part.data), getattr(part, "targets", None)
    labels = part.labels if labels is None else labels
    if pixels.ndim == 4:
        pixels = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1))
    return of_arrays(pixels, [int(label) for label in labels], f"{split} image")


def _of_files(root: Path, part: Any, split: str) -> Examples:
    paths = getattr(part, "_image_files", None) or part._images
    files = [(Path(path).relative_to(root).as_posix(), Path(path).stat().st_size) for path in paths]
    return of_files(files, [int(label) for label in part._labels], below(root), f"{root}/")


def _class_names(part: Any, train: Examples) -> tuple[str, ...]:
    """As torchvision has them, `0 - zero` without its word; numbers where it has none."""
    names = getattr(part, "classes", None) or map(str, range(int(train.labels.max()) + 1))
    return tuple(str(name).partition(" - ")[0] for name in names)


def _of_folders(one: _Set, root: Path, download: bool) -> Found:
    """Class folders, read as such: torchvision only fetches them."""
    home = root / one.folder / ("2750" if one.name == "eurosat" else "101_ObjectCategories")
    if download and not home.is_dir():
        opened(one.kind, root, one.folder, download=True)
    try:
        folders = [folder for folder in class_folders(home) if folder.name != _BACKGROUND]
    except OSError as error:
        raise _missing(home, error) from error
    names = tuple(folder.name for folder in folders)
    splits = {"train": read_split(home, "train", names, folders)}
    return Found(names, splits, resolution=PHOTOGRAPHS_PX if one.name == "caltech101" else None)


SOURCES = tuple(
    NamedSource(one.name, f"{one.about}; torchvision's layout in --data-dir", partial(read_set, one)) for one in SETS
)
