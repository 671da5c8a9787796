"""CIFAR-10 and CIFAR-100 in torchvision's layout."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from attar.data.examples import Found
from attar.data.named.base import NamedSource, of_arrays
from attar.errors import DataError


def read_cifar(name: str, data_dir: Path | None, download: bool) -> Found:
    """Read `cifar10` or `cifar100`.

    Raises DataError where files are missing, or aren't the ones that were published.
    """
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
            "train": of_arrays(train.data, train.targets, "training image"),
            "test": of_arrays(test.data, test.targets, "test image"),
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


SOURCES = tuple(
    NamedSource(
        f"cifar{num}",
        f"60,000 photographs of 32x32 px in {num} classes; torchvision's layout in --data-dir",
        partial(read_cifar, f"cifar{num}"),
    )
    for num in (10, 100)
)
