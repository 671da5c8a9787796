"""`medmnist:NAME`, or `medmnist:NAME:SIZE` of 64, 128 or 224 px: its package fetches the file and names the classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.data.examples import Found
from attar.data.readers.base import Reader
from attar.data.readers.npz import read_arrays
from attar.errors import DataError, unknown
from attar.options import Reading
from attar.runtime.events import Events

PREFIX = "medmnist:"
HOME = Path("~/.medmnist")
"""Where the package keeps its files where no folder is named."""


def read_medmnist(name: str, how: Reading | None = None) -> Found:
    """Read a dataset of MedMNIST by the name that its package has for it.

    Raises DataError where the package isn't installed, the file is missing, or images have several labels or
    dimensions; ConfigError for an unknown name.
    """
    how = how or Reading()
    try:
        import medmnist
    except ImportError as error:
        raise DataError(
            f"{PREFIX}{name} needs the package medmnist, which isn't installed",
            expected="it, for the names of the classes and to fetch the file",
            fix="pip install medmnist; or give the file itself, such as pathmnist.npz",
        ) from error
    flag, _, size = name.lower().partition(":")
    if flag not in medmnist.INFO:
        raise unknown("dataset of MedMNIST", flag, list(medmnist.INFO))
    about = medmnist.INFO[flag]
    kind = getattr(medmnist, about["python_class"])
    sizes = [str(one) for one in kind.available_sizes]
    if size and size not in sizes:
        raise unknown("size", size, sizes)
    if "multi-label" in about["task"] or flag.endswith("3d"):
        what = "several labels for each image" if "multi-label" in about["task"] else "volumes, not images"
        raise DataError(f"{flag} holds {what}", expected="a dataset of images with one class each")
    root = Path(how.data_dir or HOME).expanduser()
    file = root / f"{flag}{'' if size in ('', '28') else f'_{size}'}.npz"
    if how.download and not file.is_file():
        _fetch(kind, root, int(size) if size else None)
    if not file.is_file():
        raise DataError(
            f"{file} is missing",
            expected=f"the file of {flag} in {root}",
            fix="add --download to fetch it into --data-dir (by default ~/.medmnist), or put it there",
        )
    names = [about["label"][str(label)] for label in range(len(about["label"]))]
    return read_arrays(file, how, None if how.label_column else names)


def _fetch(kind: Any, root: Path, size: int | None) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        kind(split="train", download=True, root=str(root), size=size)
    except Exception as error:  # the package's own RuntimeError, and those of the network
        raise DataError(
            f"{kind.__name__} can't be fetched into {root}: {error}",
            fix="check the connection and the folder, or put the file there by hand",
        ) from error


def _read(name: str, how: Reading, events: Events) -> Found:
    return read_medmnist(name, how)


READER = Reader(
    "medmnist",
    "medmnist:NAME",
    "a dataset of MedMNIST, such as medmnist:pathmnist or medmnist:pathmnist:64 (needs its package)",
    _read,
    prefix=PREFIX,
    columns=True,
)
