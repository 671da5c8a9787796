"""Files that are whole or absent: temp file, fsync, rename. Needs no torch."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from attar.errors import ArtifactError, ResourceError
from attar.runtime.reading import read_bytes, require_file
from attar.runtime.refusals import refused
from attar.text import parse_json


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while `path` is written into errors for people."""
    try:
        yield
    except OSError as error:
        raise refused(error, path) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically, making its folder; a reader sees the old bytes or the new, never a part."""
    write_parts(path, [data])


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file as `write_bytes` does, from parts that follow each other: no more than one need be in memory."""
    with new_file(path) as file:
        for part in parts:
            file.write(part)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write into that takes its place at `path` when the block ends well: whole or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)  # of a killed process that had this one's number
            with open(temporary, "xb", opener=unlinked) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


def linked(source: Path, target: Path) -> None:
    """Give a file a second name; copy it where the file system cannot. Files are replaced, never changed."""
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:
            with source.open("rb") as old, new_file(target) as new:
                shutil.copyfileobj(old, new)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def unlinked(path: str, flags: int) -> int:
    """Opener for `open` that follows no link in the place of the file; raises ArtifactError where there is one."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP or not Path(path).is_symlink():
            raise
        raise ArtifactError(
            f"{path} is a link to another file",
            expected="a file of its own: nothing is written through a link",
            fix="delete the link",
        ) from error


@contextmanager
def locked_file(
    path: Path, holding: Path | str, fix: str, *, shared: bool = False, wait: bool = False
) -> Iterator[None]:
    """Hold a lock, which is this file, for this process; raises ArtifactError where another process holds it.

    Any number of processes may hold a `shared` lock at once, which keeps out those that want it alone. `wait` waits for
    the others instead of raising.
    """
    with writing(path):
        if os.path.lexists(path):
            require_file(path)
        file = open(path, "a+", opener=unlinked)  # noqa: SIM115 (closed below; shared locks of NFS want to read)
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise ArtifactError(f"another attar is at work in {holding}", fix=fix) from error
        yield


def require_name(path: Path) -> None:
    """Raise ResourceError for `.`, `..` and `/`: a new folder is renamed to its path, and someone is in these."""
    if path.name in ("", ".."):
        raise ResourceError(
            f"a new folder cannot take the place of {path}",
            expected="the name of a folder",
            fix=f"choose one in it, such as {path / 'new'}, or another",
        )


@contextmanager
def new_folder(path: Path, *, replacing: str | None = None) -> Iterator[Path]:
    """Yield an empty sibling folder that is renamed to `path` when the block ends well: whole or absent.

    Refused (ResourceError) are a `path` without a name, see `require_name`, and a non-empty one, unless it holds a file
    named `replacing`: its old content is then there until the new one is complete. What a killed process left half-made
    is cleared by the next call; while one is at it, another is an ArtifactError.
    """
    require_name(path)
    lock = path.with_name(f".{path.name}.lock.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with locked_file(lock, path, "wait for it, or choose another folder"):
        try:
            with _building(path, replacing) as building:
                yield building
        finally:
            lock.unlink(missing_ok=True)


@contextmanager
def _building(path: Path, replacing: str | None) -> Iterator[Path]:
    building, old = path.with_name(f".{path.name}.new.tmp"), path.with_name(f".{path.name}.old.tmp")
    with writing(path):
        _settle(path, building, old)
        ours = replacing is not None and (path / replacing).is_file()
        if path.exists() and not (path.is_dir() and (ours or not any(path.iterdir()))):
            raise ResourceError(
                f"{path} is already there and not empty" if path.is_dir() else f"{path} is a file",
                expected="a folder that is new or empty",
                fix="choose another folder",
            )
        building.mkdir(parents=True)
    try:
        yield building
        with writing(path):
            _sync_folder(building)
            if path.exists():
                path.rename(old)
            building.rename(path)
            _sync_folder(path.parent)
    finally:
        _settle(path, building, old)


def read_json(path: Path) -> Any:
    """Read a JSON file of plain values (see `reading`); raises ArtifactError where it is missing or no such."""
    try:
        return parse_json(read_bytes(path))
    except ValueError as error:  # of JSON, of UTF-8, of a number of 5,000 digits
        raise ArtifactError(f"{path} is not valid JSON: {error}", fix="make it again; the file is damaged") from error


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Short hash of a JSON-able value, the same whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _settle(path: Path, building: Path, old: Path) -> None:
    for link in (building, old):
        if link.is_symlink():  # not ours
            link.unlink()
    if old.exists() and not path.exists():  # stopped between the two renames
        old.rename(path)
    shutil.rmtree(building, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
