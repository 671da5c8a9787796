"""A `.zip` or `.tar` of class folders, with or without folders of splits above them: read in place, not unpacked.

Members are read where they lie, in any order, from several threads; no name in the archive is ever a path of this
machine. A folder that holds all the others, as archives of a folder have it, is passed over.
"""

from __future__ import annotations

import itertools
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from attar.data.examples import Found, split_named
from attar.data.raster import Encoded
from attar.data.readers.base import Reader
from attar.data.readers.folders import sort_out
from attar.data.readers.shards import sample_name
from attar.data.walking import OURS, UNREAD, Walked, hidden, is_image, of_files
from attar.errors import DataError
from attar.options import Reading
from attar.runtime.archives import plain_files
from attar.runtime.events import Events

MOST_MEMBER_BYTES = 1 << 28
_LOOKED_AT = 200
"""Members by which an archive of class folders is told from shards."""


@dataclass(frozen=True)
class _Member:
    """A file in an archive: its size unfolded, its place (in a tar) and its own name (in a zip)."""

    size: int
    start: int
    name: str


def read_archive(path: Path) -> Found:
    """List the images of an archive; none is opened.

    Raises DataError where it is damaged or encrypted, or a member is too large to be an image; and as `read_folder`.
    """
    try:
        members, repeated = _listed(_of_zip(path) if zipfile.is_zipfile(path) else _of_tar(path))
    except (zipfile.BadZipFile, tarfile.TarError, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise DataError(
            f"{path} can't be read as an archive: {error}",
            expected="a .zip, or a .tar that is not compressed, of a folder of images for each class",
            fix="fetch it again, or unpack it and give the folder",
        ) from error
    walked, top = _walked(members, str(path))
    classed = sort_out(walked, f"{path}: {top}".rstrip("/ :"))
    opening = _zip_reader(path, members) if zipfile.is_zipfile(path) else _tar_reader(path, members)
    splits = {
        split: of_files([(f"{top}{name}", size) for name, size in files], labels, opening, f"{path}: ")
        for split, (files, labels) in classed.splits.items()
    }
    notes = [f"{path}: names that come more than once, of which the last is read: {repeated:,}"] if repeated else []
    return Found(classed.class_names, splits, None, notes + walked.notes(str(path)) + classed.notes)


def is_archive(path: Path) -> bool:
    """Whether it is a zip, or a tar of folders of images; a tar with labels beside the images is a shard."""
    if not path.is_file() or path.suffix.lower() not in (".zip", ".tar"):
        return False
    if path.suffix.lower() == ".zip":
        return True
    try:
        with tarfile.open(path, "r:") as tar:
            names = [member.name for member in itertools.islice(tar, _LOOKED_AT) if member.isreg()]
    except (tarfile.TarError, OSError, ValueError, EOFError):
        return False
    samples = [found for name in names if (found := sample_name(name))]
    pictured = {name for name, ending in samples if is_image(f"x.{ending}")}
    told = any(name in pictured and ending.rpartition(".")[2] in ("cls", "json", "txt") for name, ending in samples)
    return not told and any(is_image(name.rpartition("/")[2]) for name in names if "/" in name.removeprefix("./"))


def _of_zip(path: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise ValueError("it is encrypted")
            if not info.is_dir():
                yield _Member(info.file_size, info.header_offset, info.filename)


def _of_tar(path: Path) -> Iterator[_Member]:
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in plain_files(tar):
            yield _Member(member.size, member.offset_data, member.name)


def _listed(members: Iterator[_Member]) -> tuple[dict[str, _Member], int]:
    """Members by their path, without hidden ones, and how many are there again under the name of an earlier one."""
    found: dict[str, _Member] = {}
    repeated = 0
    for member in members:
        parts = [part for part in PurePosixPath(member.name.replace("\\", "/")).parts if part not in ("/", ".", "..")]
        if not parts or any(map(hidden, parts)):
            continue
        if is_image(parts[-1]) and member.size > MOST_MEMBER_BYTES:
            raise ValueError(f"{member.name} says that it has {member.size:,} bytes")
        name = "/".join(parts)
        repeated += name in found
        found[name] = member
    return found, repeated


def _walked(members: Mapping[str, _Member], where: str) -> tuple[Walked, str]:
    """What lies in an archive as `walk` has it, from the innermost folder that holds everything; and that folder."""
    ours = {name.rpartition("/")[0] for name in members if name.rpartition("/")[2] in OURS} - {""}
    kept = {name: one for name, one in members.items() if not any(name.startswith(f"{made}/") for made in ours)}
    images = [name for name in kept if is_image(name.rpartition("/")[2])]
    top = ""
    while (firsts := {name.removeprefix(top).partition("/") for name in images}) and len({f[0] for f in firsts}) == 1:
        first = next(iter(firsts))[0]
        if split_named(first) or not all("/" in one[2] for one in firsts):
            break
        top += f"{first}/"
    walked = Walked(ours=[name.removeprefix(top) for name in sorted(ours) if name.startswith(top)])
    walked.files = [(name.removeprefix(top), kept[name].size) for name in images if name.startswith(top)]
    below = (str(parent) for name, _ in walked.files for parent in PurePosixPath(name).parents)
    walked.folders = sorted(set(below) - {"."})
    walked.unread.update(ending for name in kept if (ending := PurePosixPath(name).suffix.lower()) in UNREAD)
    return walked, top


def _zip_reader(path: Path, members: Mapping[str, _Member]) -> Callable[[], Callable[[str], Encoded]]:
    def ready() -> Callable[[str], Encoded]:
        archive = zipfile.ZipFile(path)  # its own lock lets several threads read
        return lambda name: archive.read(members[name].name)

    return ready


def _tar_reader(path: Path, members: Mapping[str, _Member]) -> Callable[[], Callable[[str], Encoded]]:
    def read(name: str) -> Encoded:
        with path.open("rb", buffering=0) as file:
            file.seek(members[name].start)
            data: Any = file.read(members[name].size)
            return bytes(data)

    return lambda: read


def _read(path: str, how: Reading, events: Events) -> Found:
    return read_archive(Path(path))


READER = Reader(
    "archives",
    "ARCHIVE",
    "a .zip or .tar of class folders, with or without train/, val/ and test/; it is not unpacked",
    _read,
    is_archive,
    rank=40,
)
