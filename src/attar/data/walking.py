"""Which files below a folder are images to be read: hidden and system folders, attar's own, and links.

Folders are read in this order: real ones first, then what links lead to, each place once. So a link to a folder that
is there anyway adds nothing, whichever of the two has the first name, and a link that leads back ends.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from attar.data.examples import Examples, quoted
from attar.data.raster import SUFFIXES, Encoded
from attar.runtime.files import digest

SYSTEM = frozenset(
    {
        *("__macosx", "__pycache__", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *("$recycle.bin", "system volume information", "lost+found", "desktop.ini", "thumbs.db"),
    }
)
"""Names, in lower case, of what operating systems, storage devices and editors leave among people's files."""
OURS = frozenset({"attar.json", "attar-export.json", "judged.json", "study.json", "events.jsonl"})
"""A folder that holds one of these was made by attar: a run, a set, an export, an evaluation, a study."""
_CLAIMED = frozenset({".lock", "config.yaml"})
UNREAD = frozenset(
    {
        *(".heic", ".heif", ".jxl", ".svg", ".psd", ".tga", ".exr", ".hdr", ".npy", ".mat"),
        *(".dcm", ".nii", ".mha", ".nrrd", ".cr2", ".nef", ".arw", ".dng"),
    }
)
"""Names of images that attar can't read end so."""


@dataclass
class Walked:
    """What lies below a folder; paths are from it, with `/` in them.

    Attributes:
        files: images, and their sizes in bytes.
        folders: every folder that was looked into.
        ours: folders that attar made, which were not.
        again: links to folders that are read under another name.
        broken: links of an image's name that lead nowhere.
        unread: images of kinds that attar doesn't read, by their endings.
    """

    files: list[tuple[str, int]] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)

    def notes(self, where: str) -> list[str]:
        """What a person should hear of what was left out."""
        found = []
        if self.ours:
            found.append(f"{where}: left out, as attar made them: {quoted(self.ours)}")
        if self.again:
            found.append(
                f"{where}: left out, as these links lead to folders that are read already: {quoted(self.again)}"
            )
        if self.broken:
            found.append(f"{where}: left out, as these links lead nowhere: {quoted(self.broken)}")
        if self.unread:
            kinds = ", ".join(f"{num:,} {ending}" for ending, num in self.unread.most_common())
            found.append(f"{where}: left out, as attar reads no files of these kinds: {kinds}")
        return found


def walk(root: Path, name: str = "") -> Walked:
    """Find the images below a folder, which is called `name` in paths; none is opened. Raises OSError.

    Goes by entries of the system, as a million `Path` objects take a minute and a gigabyte.
    """
    found = Walked()
    left, links = [(str(root), name)], list[tuple[str, str]]()
    seen = {_place(str(root))}
    while left or links:
        if not left:
            links.sort()
            path, shown = links.pop(0)
            if (place := _place(path)) in seen:
                found.again.append(shown)
                continue
            seen.add(place)
            left.append((path, shown))
        path, shown = left.pop()
        with os.scandir(path) as entries:
            here = list(entries)
        if shown != name and is_ours([entry.name for entry in here]):
            found.ours.append(shown)
            continue
        found.folders += [shown] if shown != name else []
        for entry in here:
            if hidden(entry.name):
                continue
            below = f"{shown}/{entry.name}" if shown else entry.name
            if entry.is_dir(follow_symlinks=False):
                seen.add(_place(entry.path))
                left.append((entry.path, below))
            elif entry.is_dir():
                links.append((entry.path, below))
            else:
                _add(found, entry, below)
    return found


def _add(found: Walked, entry: os.DirEntry[str], name: str) -> None:
    ending = entry.name[entry.name.rfind(".") :].lower()
    if ending in SUFFIXES:
        if entry.is_file():
            found.files.append((name, entry.stat().st_size))
        elif entry.is_symlink():
            found.broken.append(name)
    elif ending in UNREAD:
        found.unread[ending] += 1


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of a person's: hidden, or the system's."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_image(name: str) -> bool:
    """Whether a file is an image by its name, and no hidden one."""
    return not hidden(name) and name[name.rfind(".") :].lower() in SUFFIXES


def is_ours(names: Sequence[str]) -> bool:
    """Whether a folder with these entries was made by attar."""
    return not OURS.isdisjoint(names) or set(names) >= _CLAIMED or list(names) == [".lock"]


def visible_folders(path: Path) -> list[Path]:
    """The folders in a folder by name: not hidden, the system's, or attar's own. Raises OSError."""
    found = [entry for entry in path.iterdir() if entry.is_dir() and not hidden(entry.name)]
    return sorted((one for one in found if not is_ours(os.listdir(one))), key=lambda entry: entry.name)  # noqa: PTH208


def of_files(
    files: Sequence[tuple[str, int]],
    labels: Sequence[int],
    open_: Callable[[], Callable[[str], Encoded]],
    where: str,
) -> Examples:
    """Make examples of image files.

    Args:
        files: paths with `/` in them, as `open_` takes them, and sizes in bytes.
        labels: the class of each.
        open_: makes ready to read, and returns the function from a path to an encoded image.
        where: what lies before the path of an image in a message.
    """

    def ready() -> Callable[[int], Encoded]:
        read = open_()
        return lambda index: read(files[index][0])

    return Examples(
        labels=torch.tensor(labels, dtype=torch.int64),
        name=lambda index: f"{where}{files[index][0]}",
        open=ready,
        listing=digest([list(file) for file in files]),
    )


def below(root: Path) -> Callable[[], Callable[[str], Encoded]]:
    """Read files below a folder, for `of_files`."""
    return lambda: lambda name: (root / name).read_bytes()


def _place(path: str) -> tuple[int, int]:
    about = os.stat(path)  # noqa: PTH116
    return about.st_dev, about.st_ino
