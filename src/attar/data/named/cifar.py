"""CIFAR-10 and CIFAR-100 in torchvision's layout."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from attar.data.examples import Found
from attar.data.named.base import NamedSource, of_arrays
from attar.data.named.vision import opened
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
    # they are pickles: torchvision compares their MD5 with the published ones first
    train, test = (
        opened(kind.__name__, root, kind.base_folder, download=download, train=train) for train in (True, False)
    )
    return Found(
        tuple(train.classes),
        {
            "train": of_arrays(train.data, train.targets, "training image"),
            "test": of_arrays(test.data, test.targets, "test image"),
        },
    )


SOURCES = tuple(
    NamedSource(
        f"cifar{num}",
        f"60,000 photographs of 32x32 px in {num} classes; torchvision's layout in --data-dir",
        partial(read_cifar, f"cifar{num}"),
    )
    for num in (10, 100)
)
