"""A folder of class folders, with or without train, validation and test folders above them."""

from __future__ import annotations

from pathlib import Path

import torch

from attar.data.examples import Examples, Found, licence_of, quoted, split_named
from attar.data.raster import SUFFIXES
from attar.errors import DataError
from attar.runtime.files import digest


def read_folder(path: Path) -> Found:
    """List the images of a folder; classes are the sorted names of the folders that hold them.

    Raises DataError where a class is empty, or has no folder in one of the splits.
    """
    classes = _split_folders(path) or {"train": _folders(path)}
    names = tuple(folder.name for folder in classes.get("train", []))
    if not names:
        raise DataError(
            f"{path} holds no folders of images",
            expected="a folder for each class (under train/, if there are splits), or parquet files",
            fix="sort the images into one folder per class",
        )
    splits = {split: _examples(path, split, names, homes) for split, homes in classes.items()}
    return Found(names, splits, licence_of(path))


def _split_folders(path: Path) -> dict[str, list[Path]]:
    """Find the class folders of each split; a class that is called `train` holds images, not folders."""
    found = [(split, folder) for folder in _folders(path) if (split := split_named(folder.name))]
    classes = {split: _folders(folder) for split, folder in found}
    if len(classes) < len(found):
        raise DataError(
            f"{path} has several folders for one split: {quoted(folder.name for _, folder in found)}",
            expected="one folder for each of train, validation and test",
            fix="remove or rename the others",
        )
    return classes if any(classes.values()) else {}


def _folders(path: Path) -> list[Path]:
    found = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith((".", "__"))]
    return sorted(found, key=lambda entry: entry.name)


def _examples(root: Path, split: str, names: tuple[str, ...], folders: list[Path]) -> Examples:
    here = {folder.name for folder in folders}
    if here != set(names):
        missing, extra = sorted(set(names) - here), sorted(here - set(names))
        what = f"lacks the class folders {quoted(missing)}" if missing else f"has folders {quoted(extra)} more"
        raise DataError(
            f"{root}: the {split} split {what}",
            expected=f"the same {len(names)} class folders in every split",
            fix="add or remove the folders that differ",
        )
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        images = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        images = [file for file in images if not file.name.startswith(".")]
        if not images:
            raise DataError(
                f"the class folder {folder} holds no images",
                expected=f"at least one file ending in {', '.join(sorted(SUFFIXES))}",
                fix="add images to it, or remove the folder",
            )
        files += images
        labels += [label] * len(images)
    paths = [file.relative_to(root).as_posix() for file in files]
    listing = digest([[name, file.stat().st_size] for name, file in zip(paths, files, strict=True)])
    return Examples(
        labels=torch.tensor(labels),
        name=lambda index: str(files[index]),
        open=lambda: lambda index: files[index].read_bytes(),
        listing=listing,
    )
