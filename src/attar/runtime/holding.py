"""A folder that one attar at a time works in: locked, free of links that lead elsewhere, and of what was killed there.

Whoever made the folder may have laid links in it, so nothing in it is written through one. Needs no torch.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attar.errors import ArtifactError
from attar.runtime.files import locked_file, writing

LOCK = ".lock"
_TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp")
"""Names that `attar.runtime.files.new_file` gives to files while they are written, with the number of the process."""


@contextmanager
def held(folder: Path, inner: Sequence[str] = ()) -> Iterator[None]:
    """Hold a folder for this process, and remove the temporary files of processes that are gone.

    `inner` are the names of folders in it that are written into. Raises ArtifactError where another attar is at work
    in it, or where one of them, or a folder in one, is a link.
    """
    with _locked(folder):
        for one in [folder, *(below for name in inner for below in _folders(folder / name))]:
            _tidy(one)
        for lock in folder.glob(f"{LOCK}-*"):  # of shards, none of which is at work
            lock.unlink(missing_ok=True)
        yield


@contextmanager
def held_with_others(folder: Path, inner: Sequence[str] = ()) -> Iterator[None]:
    """Hold a folder together with others that do the same, each in files of its own; see `held`.

    Nothing is removed: temporary files may be those of processes on other machines.
    """
    with _locked(folder, shared=True):
        for name in inner:
            list(_folders(folder / name))
        yield


@contextmanager
def _locked(folder: Path, *, shared: bool = False) -> Iterator[None]:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked_file(folder / LOCK, folder, "wait for it, stop it, or choose another --out", shared=shared):
        yield


def _folders(top: Path) -> Iterator[Path]:
    """This folder and all in it, where it is there; raises ArtifactError for a link."""
    if top.is_symlink():
        raise ArtifactError(
            f"{top} is a link to another folder",
            expected="a folder of its own: nothing is written through a link in a run folder",
            fix="move what it leads to here in its place; the run folder itself may be a link",
        )
    if top.is_dir():
        yield top
        try:
            entries = sorted(os.scandir(top), key=lambda entry: entry.name)
        except FileNotFoundError:  # another shard has removed it meanwhile
            return
        for entry in entries:
            if (top / entry.name).is_dir():  # unlike the entry, it takes a link that leads round to itself as none
                yield from _folders(top / entry.name)


def _tidy(folder: Path) -> None:
    for entry in os.scandir(folder):
        made = _TEMPORARY.fullmatch(entry.name)
        if made and entry.is_file(follow_symlinks=False) and not _alive(int(made[1])):
            with writing(folder / entry.name):
                (folder / entry.name).unlink(missing_ok=True)


def _alive(process: int) -> bool:
    """Whether a process of this number is there, on this machine, that is not this one."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
