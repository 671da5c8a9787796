"""Data sets that go by a name: bundled, as torchvision keeps them, or as their authors publish them."""

from __future__ import annotations

import gzip
import hashlib
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attar.data.examples import Examples, Found
from attar.data.imagenet import IMAGENETS, read_imagenet
from attar.data.raster import Encoded, Pixels
from attar.errors import DataError

NAMED = MappingProxyType(
    {
        "digits": "1,797 handwritten digits of 8x8 px, bundled with scikit-learn: nothing to download",
        "cifar10": "60,000 photographs of 32x32 px in 10 classes; torchvision's layout in --data-dir",
        "cifar100": "60,000 photographs of 32x32 px in 100 classes; torchvision's layout in --data-dir",
        "tiny-imagenet": "110,000 images of 64x64 px in 200 classes; tiny-imagenet-200/ as published, in --data-dir",
        "imagenet-1k": "1.3 million photographs in 1,000 classes; train/ and val/ of class folders in --data-dir",
        **{
            f"imagenet-{name}": f"13,000 photographs of imagenet-1k in 10 classes ({what}), at 128 px; in its folders"
            for name, what in (
                ("nette", "tench, springer, church, ..."),
                ("woof", "dogs"),
                ("fruit", "fruit and vegetables"),
                ("meow", "cats"),
                ("squawk", "birds"),
                ("yellow", "yellow things"),
            )
        },
    }
)
"""Names, and what stands behind them."""
_DIGITS_FILE = Path("datasets", "data", "digits.csv.gz")


def read_named(name: str, data_dir: Path | None, download: bool) -> Found:
    """Read the data set of a name in `NAMED`.

    Raises DataError where files are needed and missing, or aren't the ones that were published.
    """
    if name == "digits":
        return _digits()
    if name in IMAGENETS:
        return read_imagenet(name, data_dir)
    return _cifar(name, data_dir, download)


def _digits() -> Found:
    pixels, labels = _bundled_digits()
    examples = _of_arrays(np.round(pixels * (255 / 16)).astype(np.uint8), labels.tolist(), "digit")
    return Found(tuple("0123456789"), {"train": examples}, licence="CC-BY-4.0")


def _bundled_digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """Digits (1797, 8, 8) in 0..16 and labels (1797,), as scikit-learn's `load_digits` gives them.

    The file is read where it lies: importing scikit-learn for it takes as long as importing torch.
    """
    package = find_spec("sklearn")
    file = Path(package.origin if package and package.origin else "").parent / _DIGITS_FILE
    if not file.exists():  # a scikit-learn that keeps it elsewhere
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return bunch.images, bunch.target
    with gzip.open(file, "rt") as text:
        table = np.loadtxt(text, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)


def _cifar(name: str, data_dir: Path | None, download: bool) -> Found:
    from torchvision import datasets

    kind = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    if data_dir is None:
        raise DataError(
            f"{name} needs a folder",
            expected=f"--data-dir, the folder that holds {kind.base_folder}/",
            fix="add --data-dir DIR, and --download to fetch it into that folder",
        )
    root = data_dir.parent if data_dir.name == kind.base_folder else data_dir
    train, test = (_verified(kind, root, train=train, download=download) for train in (True, False))
    return Found(
        tuple(train.classes),
        {
            "train": _of_arrays(train.data, train.targets, "training image"),
            "test": _of_arrays(test.data, test.targets, "test image"),
        },
    )


def _verified(kind: Any, root: Path, *, train: bool, download: bool) -> Any:
    """Open torchvision's files, which are pickles: it compares their MD5 with the published ones first."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about the age of these files
            return kind(root, train=train, download=download)
    except RuntimeError as error:
        raise DataError(
            f"{root / kind.base_folder} is missing, incomplete or not what was published",
            expected="the files with their published checksums; others are not opened",
            fix="check --data-dir, or add --download to fetch them",
        ) from error
    except OSError as error:
        raise DataError(
            f"{kind.__name__} can't be fetched into {root}: {error}",
            fix="check the connection and the folder, or put the files there by hand",
        ) from error


def _of_arrays(pixels: Pixels, labels: list[int], what: str) -> Examples:
    """Wrap pixels uint8 (n, h, w) or (n, h, w, 3) that are in memory already."""

    def read(index: int) -> Encoded:
        image: Pixels = pixels[index]
        return image

    return Examples(
        labels=torch.tensor(labels),
        name=lambda index: f"{what} {index}",
        open=lambda: read,
        listing=hashlib.sha256(pixels.tobytes()).hexdigest(),
    )
