"""Decoded pixels kept on disk, for splits that don't fit in memory: decoded once, then read through a memory map.

    ~/.cache/attar/pixels/3f9a0c.../pixels.bin    uint8 (n, c, h, w), nothing else
                                    about.json    shape, what the pixels are of, and what was learnt in decoding them

A folder is made whole under another name and renamed, by one process at a time, which holds a lock that the system
lets go when a process is killed. It is taken for a split of the same content, form and decoders alone. Removing any of
it is safe at any time: a process that reads keeps its map.
"""

from __future__ import annotations

import mmap
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor

from attar.data.raster import Pixels, jpeg_decoder
from attar.data.usercache import VARIABLE, cache_folder, is_own
from attar.errors import ArtifactError, AttarError, ConfigError, ResourceError
from attar.runtime.events import Events
from attar.runtime.files import digest, locked_file, new_folder, read_json, write_json, writing

_FORMAT = 1
_PIXELS, _ABOUT, _LOCK = "pixels.bin", "about.json", ".lock"
_SPARE_BYTES = 256 << 20
"""Left free on the disk."""


class MappedSplit:
    """A split whose pixels lie in a file: `path` holds uint8 of this shape (n, c, h, w), labels are int64 (n,)."""

    def __init__(self, path: Path, shape: tuple[int, ...], labels: Tensor) -> None:
        self.labels = labels.long()
        self._pixels = torch.empty((0, *shape[1:]), dtype=torch.uint8)
        if shape[0]:
            with path.open("rb") as file, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is read-only, and nobody writes
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._pixels = torch.frombuffer(mapped, dtype=torch.uint8).view(shape)

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Tensor) -> Tensor:
        """Pixels uint8 (b, c, h, w) of these indices (b,)."""
        return self._pixels.index_select(0, indices.cpu())


@dataclass(frozen=True)
class Kept:
    """Pixels that are there: the file, its shape (n, c, h, w), and what was learnt when they were decoded."""

    path: Path
    shape: tuple[int, ...]
    learnt: dict[str, Any]


class PixelFile:
    """Writes pixels chunk by chunk; what is there is widened to three channels when the first colour image comes."""

    def __init__(self, folder: Path, channels: int) -> None:
        self._folder, self._channels, self._num = folder, channels, 0
        self._file: BinaryIO = (folder / _PIXELS).open("xb")

    def add(self, pixels: Pixels) -> None:
        """Append pixels (k, c, h, w) of one channel or three."""
        if pixels.shape[1] > self._channels:
            self._widen(pixels.shape[2] * pixels.shape[3])
        wide = np.broadcast_to(pixels, (len(pixels), self._channels, *pixels.shape[2:]))
        self._file.write(np.ascontiguousarray(wide).data)
        self._num += len(pixels)

    def finish(self, of: str, size: tuple[int, int], learnt: dict[str, Any]) -> None:
        """Say what the pixels are, as the last thing."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()
        shape = [self._num, self._channels, *size]
        write_json(self._folder / _ABOUT, {"format": _FORMAT, "of": of, "shape": shape, "learnt": learnt})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _widen(self, plane_bytes: int) -> None:
        grey = self._folder / "grey.bin"
        self._file.close()
        (self._folder / _PIXELS).rename(grey)
        self._file, self._channels = (self._folder / _PIXELS).open("xb"), 3
        with grey.open("rb") as file:
            while plane := file.read(plane_bytes):
                self._file.write(plane * 3)
        grey.unlink()


@dataclass(frozen=True)
class PixelCache:
    """The pixels that are kept in a folder, of at most `most_bytes` together."""

    folder: Path
    most_bytes: int
    events: Events

    @classmethod
    def of(cls, gib: float, events: Events) -> PixelCache | None:
        """The user's; None where nothing is to be kept. Raises ConfigError where it may be nowhere."""
        if not gib:
            return None
        folder = cache_folder("pixels")
        if folder is None:
            raise ConfigError(
                f"source.cache_gib={gib:g} keeps decoded images, and {VARIABLE} is empty or there is no home folder",
                expected=f"a folder to keep them in, such as {VARIABLE}=/scratch/attar",
                fix=f"set {VARIABLE}, or leave source.cache_gib out",
            )
        return cls(folder, int(gib * (1 << 30)), events)

    def find(self, of: str) -> Kept | None:
        """Pixels of this name, where they are there and whole."""
        folder = self.folder / of
        try:
            if not is_own(self.folder):
                return None
            about = read_json(folder / _ABOUT)
            shape = tuple(map(int, about["shape"]))
            known = about["format"] == _FORMAT and about["of"] == of and len(shape) == 4
            if not known or (folder / _PIXELS).stat().st_size != int(np.prod(shape, dtype=np.int64)):
                return None
            os.utime(folder)  # it was used
            return Kept(folder / _PIXELS, shape, dict(about["learnt"]))
        except (AttarError, OSError, KeyError, TypeError, ValueError):
            return None

    @contextmanager
    def making(self, of: str, most_bytes: int, channels: int, what: str) -> Iterator[PixelFile | None]:
        """Yield a file to write pixels of this name into; None where another process has made them meanwhile.

        `most_bytes` is what they may take: others, the longest unused first, are removed for it. Raises ResourceError
        where the disk hasn't that much room, or where somebody else may write in the folder.
        """
        with writing(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_own(self.folder):
            raise ResourceError(f"others may write in {self.folder}", fix=f"chmod 700 {self.folder}")
        with self._locked():
            if self.find(of):
                yield None
                return
            self._make_room(of, most_bytes)
            self.events.say(f"keeping {what} decoded in {self.folder}: up to {_gib(most_bytes)}")
            with new_folder(self.folder / of, replacing=_ABOUT) as building, writing(self.folder / of):
                made = PixelFile(building, channels)
                try:
                    yield made
                finally:
                    made.close()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder, waiting for whoever does."""
        try:
            with locked_file(self.folder / _LOCK, self.folder, "wait"):
                held = True
        except ArtifactError:
            held = False
        if not held:
            self.events.say(f"waiting for another attar that decodes images into {self.folder}")
        with locked_file(self.folder / _LOCK, self.folder, "wait for it", wait=True):
            yield

    def _make_room(self, of: str, most_bytes: int) -> None:
        for left in self.folder.glob(".*.tmp"):  # of killed processes: whoever is at work holds the lock
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        shutil.rmtree(self.folder / of, ignore_errors=True)  # damaged
        entries = [entry for entry in os.scandir(self.folder) if entry.is_dir(follow_symlinks=False)]
        others = [(entry.stat().st_mtime, Path(entry)) for entry in entries]
        sizes = {folder: _size_bytes(folder) for _, folder in others}
        for _, folder in sorted(others):
            if sum(sizes.values()) + most_bytes <= self.most_bytes:
                break
            self.events.say(f"removing decoded images that were not used for longest: {folder}")
            shutil.rmtree(folder)
            del sizes[folder]
        free = shutil.disk_usage(self.folder).free
        if most_bytes + _SPARE_BYTES > free:
            raise ResourceError(
                f"{_gib(most_bytes)} of decoded images do not fit on the disk of {self.folder}: {_gib(free)} are free",
                fix=f"name a larger disk by {VARIABLE}, or leave source.cache_gib out",
            )


def name_of(content: str, form: Any, skip_corrupt: bool) -> str:
    """What pixels are known by: the images as stored, what they are brought to, and what decodes them."""
    return digest([_FORMAT, content, repr(form), skip_corrupt, *_decoders()])


@cache
def _decoders() -> tuple[str | None, ...]:
    names = ("libjpeg_turbo", "jpg", "webp", "zlib", "libtiff", "jpg_2000", "avif")
    simplejpeg = version("simplejpeg") if jpeg_decoder() else None
    return (PIL.__version__, simplejpeg, *(features.version(name) for name in names))


def _size_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"
