"""A folder of class folders, with or without train, validation and test folders above them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from attar.data.examples import Examples, Found, licence_of, quoted, split_named
from attar.data.raster import SUFFIXES
from attar.data.readers.base import Reader
from attar.errors import DataError
from attar.options import Reading
from attar.runtime.events import Events
from attar.runtime.files import digest


def read_folder(path: Path) -> Found:
    """List the images of a folder; classes are the sorted names of the folders that hold them.

    Raises DataError where a class is empty, or has no folder in one of the splits.
    """
    classes = _split_folders(path) or {"train": class_folders(path)}
    names = tuple(folder.name for folder in classes.get("train", []))
    if not names:
        raise DataError(
            f"{path} holds no folders of images",
            expected="a folder for each class (under train/, if there are splits), or parquet files",
            fix="sort the images into one folder per class",
        )
    splits = {split: read_split(path, split, names, homes) for split, homes in classes.items()}
    return Found(names, splits, licence_of(path))


def _split_folders(path: Path) -> dict[str, list[Path]]:
    """Find the class folders of each split; a class that is called `train` holds images, not folders."""
    found = [(split, folder) for folder in class_folders(path) if (split := split_named(folder.name))]
    classes = {split: class_folders(folder) for split, folder in found}
    if len(classes) < len(found):
        raise DataError(
            f"{path} has several folders for one split: {quoted(folder.name for _, folder in found)}",
            expected="one folder for each of train, validation and test",
            fix="remove or rename the others",
        )
    return classes if any(classes.values()) else {}


def class_folders(path: Path) -> list[Path]:
    """List the folders in a folder by name, without hidden ones."""
    found = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))]
    return sorted(found, key=lambda entry: entry.name)


def read_split(root: Path, split: str, names: Sequence[str], folders: Sequence[Path]) -> Examples:
    """List the images of a split, a folder for each class; no image is opened.

    Args:
        root: what the images are named from.
        split: its name, for messages.
        names: the classes, as folders are called, in label order.
        folders: those of this split, sorted as `names`.

    Raises DataError where the folders aren't the classes, or one of them holds no images.
    """
    here = {folder.name for folder in folders}
    if here != set(names):
        missing, extra = sorted(set(names) - here), sorted(here - set(names))
        what = f"lacks the class folders {quoted(missing)}" if missing else f"has folders {quoted(extra)} more"
        raise DataError(
            f"{root}: the {split} split {what}",
            expected=f"the same {len(names)} class folders in every split",
            fix="add or remove the folders that differ",
        )
    files: list[tuple[str, int]] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = _images(folder, folder.relative_to(root).as_posix())
        images = sorted(found, key=lambda image: image[0].split("/"))
        if not images:
            raise DataError(
                f"the class folder {folder} holds no images",
                expected=f"at least one file ending in {', '.join(sorted(SUFFIXES))}",
                fix="add images to it, or remove the folder",
            )
        files += images
        labels += [label] * len(images)
    return of_files(root, files, labels)


def of_files(root: Path, files: Sequence[tuple[str, int]], labels: Sequence[int]) -> Examples:
    """Make examples of image files: paths from `root`, with `/` in them, and sizes in bytes."""
    return Examples(
        labels=torch.tensor(labels, dtype=torch.int64),
        name=lambda index: str(root / files[index][0]),
        open=lambda: lambda index: (root / files[index][0]).read_bytes(),
        listing=digest([list(file) for file in files]),
    )


def _images(folder: Path, name: str) -> Iterator[tuple[str, int]]:
    """Walk a folder of this name: by entries, as a million `Path` objects take a minute and a gigabyte."""
    left = [(str(folder), name)]
    while left:
        path, shown = left.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append((entry.path, f"{shown}/{entry.name}"))
                elif _is_image(entry.name) and entry.is_file():
                    yield f"{shown}/{entry.name}", entry.stat().st_size


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name[name.rfind(".") :].lower() in SUFFIXES


def _read(path: str, how: Reading, events: Events) -> Found:
    return read_folder(Path(path))


READER = Reader(
    "folders",
    "FOLDER",
    "a folder of class folders, with or without train/, val/ and test/ above them",
    _read,
    Path.is_dir,
    rank=90,
)
