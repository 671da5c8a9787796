"""Folders of images, one a class: what torchvision's ImageFolder and everybody's tools read.

Holds 8-bit pixels and hard labels, and nothing else. Folders of SRe2L and CDA are named `new000` and on, of RDED
`00000` and on: by the label, not by the class.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attar.artifacts.distilled import Distilled
from attar.artifacts.parquet import Bytes8, encode_png
from attar.data.raster import SUFFIXES
from attar.data.walking import is_image, visible_folders
from attar.errors import DataError
from attar.interop.fkd import FIRST, FkdLabels, find_labels
from attar.interop.folder import Export, Note, exported, exporting, imported, lost_in_8bit, read_note, tiles_of
from attar.interop.images import decode_images
from attar.interop.loaded import Loaded, Origin
from attar.interop.settings import ForeignSettings
from attar.interop.unpacking import unpack_labels
from attar.runtime.files import write_bytes
from attar.task import Normalization, Task

_NUMBERED = re.compile(r"(?:new)?(\d+)")
_NAMED_FILE = re.compile(r"class(\d+)_id\d+")
PUBLISHED_TRAINING = {
    "batch_size": 1024,
    "optimizer": "adamw",
    "learning_rate": 0.001,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "temperature": 20,
}
"""How SRe2L trains on stored labels at 224 px; epochs are those stored."""


@dataclass(frozen=True)
class Found:
    """Image files with their labels, and the class names in label order."""

    files: list[tuple[Path, int]]
    class_names: tuple[str, ...]


def export_imagefolder(distilled: Distilled, out: Path, *, overwrite: bool = False) -> Export:
    """Write PNGs as `class<label>_<name>/<image_id>.png`, and say what is lost by it.

    Raises ResourceError where `out` is not empty; `overwrite` replaces an earlier export.
    """
    lost = lost_in_8bit(distilled)
    with exporting(distilled, out, lost, loader="imagefolder", whitened=False, overwrite=overwrite) as building:
        folders = [building / name for name in folder_names(distilled.task.class_names)]
        for folder in folders:
            folder.mkdir()
        for image_id, label in enumerate(distilled.labels.tolist()):
            (pixels,) = distilled.pixels_8bit(torch.tensor([image_id])).numpy()
            write_bytes(folders[label] / f"{image_id:06d}.png", encode_png(pixels))
    return exported(out, lost)


def read_imagefolder(source: Path, origin: Origin | None = None, settings: ForeignSettings | None = None) -> Loaded:
    """Read such a folder; and with settings the labels that were stored for it, where they are named or found in it."""
    note = read_note(source)
    task = origin.task if origin else note.task if note else None
    found = find_images(source, task, note)
    pixels = decode_images([(str(path), path) for path, _ in found.files], task.shape if task else None)
    labels = torch.tensor([label for _, label in found.files])
    task = task or _task(found.class_names, pixels)
    fkd = _stored_labels(source, labels, task, settings) if settings else None
    return Loaded(
        path=source,
        task=task,
        stored=torch.from_numpy(pixels),
        labels=labels,
        provenance=imported(note, "imagefolder"),
        tiles=tiles_of(note, settings),
        image_bytes=sum(path.stat().st_size for path, _ in found.files),
        label_bytes=len(labels) * (1 if task.num_classes <= 256 else 2),
        fkd=fkd,
        settings={"train": {**PUBLISHED_TRAINING, "epochs": fkd.num_epochs}} if fkd else {},
    )


def folder_names(class_names: Sequence[str]) -> list[str]:
    """Folder of each class: `class` and the label, zero-padded so that names sort as labels, and a safe name."""
    digits = max(2, len(str(len(class_names) - 1)))
    slugs = [re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_")[:60] for name in class_names]
    return [f"class{label:0{digits}d}_{slug}".rstrip("_") for label, slug in enumerate(slugs)]


def find_images(source: Path, task: Task | None, note: Note | None) -> Found:
    """Image files with their labels in the order of an ImageFolder, or of an export; and the class names.

    Raises DataError where there are none, a class has none, or a folder is none of the classes.
    """
    root = source / "train" if (source / "train").is_dir() else source
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", expected="a folder with a folder of images for each class")
    folders = [folder for folder in visible_folders(root) if not _holds_labels(folder)]
    numbers = [int(match[1]) for folder in folders if (match := _NUMBERED.fullmatch(folder.name))]
    by_number = len(numbers) == len(folders) and sorted(numbers) == list(range(len(folders)))
    names = task.class_names if task else _own_names(folders, numbers if by_number else None)
    label_of = {name: label for label, name in enumerate(folder_names(names))} if note else {}
    label_of |= {name: label for label, name in enumerate(names)}
    if by_number and not all(folder.name in label_of for folder in folders):
        label_of = {folder.name: number for folder, number in zip(folders, numbers, strict=True)}
    files = [(path, _label(folder, label_of, names)) for folder in folders for path in _images(folder)]
    empty = [name for label, name in enumerate(names) if label not in {label for _, label in files}]
    if empty or not names:
        raise DataError(
            f"no images of class {', '.join(empty[:5])} in {root}" if empty else f"{root} has no class folders",
            expected=f"a folder for each class, with files ending in {', '.join(sorted(SUFFIXES))}",
        )
    _require_named(files)
    if note:
        files.sort(key=lambda item: item[0].name)  # an export's file names are the places in the dataset
    return Found(files, names)


def _own_names(folders: Sequence[Path], numbers: Sequence[int] | None) -> tuple[str, ...]:
    if numbers is None:
        return tuple(folder.name for folder in folders)
    return tuple(folder.name for _, folder in sorted(zip(numbers, folders, strict=True)))


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if is_image(path.name) and path.is_file()]


def _holds_labels(folder: Path) -> bool:
    return (folder / FIRST).is_file() or bool(re.fullmatch(r"epoch_\d+", folder.name))


def _require_named(files: Sequence[tuple[Path, int]]) -> None:
    """Where file names tell the class too, as those of SRe2L and RDED do, they must tell the same."""
    for path, label in files:
        match = _NAMED_FILE.fullmatch(path.stem)
        if match and _NUMBERED.fullmatch(path.parent.name) and int(match[1]) != label:
            raise DataError(
                f"{path} is of class {int(match[1])} by its name, and of class {label} by its folder",
                expected="one class",
                fix="put it into the folder of its class",
            )


def _stored_labels(source: Path, labels: Tensor, task: Task, settings: ForeignSettings) -> FkdLabels | None:
    folder = settings.fkd or find_labels(source)
    if folder is None:
        return None
    if folder.is_file():
        folder = unpack_labels(folder)
    return FkdLabels(
        folder, labels, task.num_classes, task.shape, seed=settings.fkd_seed, unchecked=settings.fkd_unchecked
    )


def _label(folder: Path, label_of: dict[str, int], names: Sequence[str]) -> int:
    label = label_of.get(folder.name, len(names))
    if label >= len(names):
        raise DataError(
            f"{folder} is none of the classes",
            expected=f"folders named {', '.join(names[:10])}",
            fix="give it the name of its class, or one that begins with a dot, and it is left out",
        )
    return label


def _task(names: tuple[str, ...], pixels: Bytes8) -> Task:
    values: Tensor = torch.from_numpy(pixels).double().div(255)
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3), correction=0)
    scale = Normalization(tuple(mean.tolist()), tuple(s or 1.0 for s in std.tolist()))
    channels, height, width = pixels.shape[1:]
    return Task(names, channels, height, width, scale)
