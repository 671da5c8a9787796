"""Recognise what another program left, so that it can be judged as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attar.artifacts.description import NAME
from attar.data.walking import is_image, visible_folders
from attar.errors import ArtifactError, DataError
from attar.interop.folder import read_note
from attar.interop.imagefolder import find_images, read_imagefolder
from attar.interop.images import image_size
from attar.interop.loaded import Loaded, Origin
from attar.interop.parts import SINGLE
from attar.interop.settings import ForeignSettings
from attar.interop.tensors import find_tensors, image_shape, read_tensors, unchosen
from attar.interop.webdataset import find_shards, read_webdataset


class Reader(Protocol):
    """Read a set in another format."""

    def __call__(self, source: Path, origin: Origin | None = None, settings: ForeignSettings | None = None) -> Loaded:
        """Read and check it; raises AttarError."""


READERS: Mapping[str, Reader] = {
    "imagefolder": read_imagefolder,
    "tensors": read_tensors,
    "webdataset": read_webdataset,
}


@dataclass(frozen=True)
class Foreign:
    """A set in another format, found but not read yet; `format` is a name in `READERS`."""

    path: Path
    format: str

    def resolution(self, settings: ForeignSettings) -> int | None:
        """Height and width in pixels where they are the same, which its source has to be brought to; else None."""
        with _allowed(self.path):
            height, width = self._size(settings)
        return height if height == width else None

    def read(self, origin: Origin | None, settings: ForeignSettings) -> Loaded:
        """Read and check it."""
        with _allowed(self.path):
            return READERS[self.format](self.path, origin, settings)

    def _size(self, settings: ForeignSettings) -> tuple[int, int]:
        match self.format:
            case "tensors":
                shape = image_shape(self.path, settings.part)
                if len(shape) != 4:
                    raise ArtifactError(
                        f"{self.path}: images of shape {shape}", expected="(n, channels, height, width)"
                    )
                return shape[2], shape[3]
            case "imagefolder":
                first = find_images(self.path, None, read_note(self.path)).files[0][0]
                width, height = image_size(str(first), first)
                return height, width
            case _:
                note = read_note(find_shards(self.path)[0].parent)
                return (note.task.height_px, note.task.width_px) if note else (0, 1)


def recognise(path: Path) -> Foreign | None:
    """What a path holds of other people's formats; None for a distilled dataset, a run folder, and all else.

    Raises DataError where the system does not let it be looked into.
    """
    with _allowed(path):
        return _recognised(path)


def _recognised(path: Path) -> Foreign | None:
    if path.is_file():
        found = "webdataset" if path.suffix.lower() == ".tar" else "tensors" if path.suffix.lower() in SINGLE else None
        return Foreign(path, found) if found else None
    if not path.is_dir() or is_ours(path):
        return None
    if _has_tensors(path):
        return Foreign(path, "tensors")
    if any(path.glob("*.tar")):
        return Foreign(path, "webdataset")
    return Foreign(path, "imagefolder") if _has_class_folders(path) else None


def is_ours(path: Path) -> bool:
    """Whether it is a distilled dataset of attar, or a run folder that holds one."""
    return (path / NAME).exists() or (path / "distilled").is_dir()


def require_recognised(path: Path) -> Foreign:
    """The same; raises DataError where it is nothing that is known."""
    found = recognise(path)
    if found is None:
        raise DataError(
            f"{path} holds no distilled images in a format that is known" if path.exists() else f"there is no {path}",
            expected="a distilled dataset of attar; or class folders of images, with or without labels as "
            "epoch_0/batch_0.tar; images_best.pt with labels_best.pt, also in numbered parts; images and labels in one "
            ".pt, .npz or .safetensors; or shards",
            fix=unchosen(path) or "give the folder that they are in, or the file",
        )
    return found


@contextmanager
def _allowed(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to let something be read into errors for people."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}", fix="see what it is and who may read it") from error


def _has_tensors(folder: Path) -> bool:
    try:
        find_tensors(folder)
    except ArtifactError:
        return False
    return True


def _has_class_folders(path: Path) -> bool:
    root = path / "train" if (path / "train").is_dir() else path
    return any(is_image(file.name) for folder in visible_folders(root) for file in folder.iterdir())
