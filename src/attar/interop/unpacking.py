"""Unpack an archive of stored labels, as they are published: `FKD_cutmix_fp16.tar.gz` and the like.

No name in the archive decides where anything is written: of each member the numbers of its epoch and batch are taken,
and what has none, or is no plain file, is left out or refused.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attar.errors import ArtifactError, AttarError, ResourceError
from attar.runtime.archives import require_end
from attar.runtime.files import new_folder, read_json, write_bytes, write_json

NOTE = "attar-unpacked.json"
"""In the folder: name, size and time of the archive that was unpacked."""
_MOST_BATCH_BYTES = 1 << 28
MOST_UNFOLDED = 50
"""Logits in half precision shrink little; what unfolds to more than this times the archive is no archive of labels."""
_BATCH = re.compile(r"(?:.*/)?epoch_(\d{1,6})/batch_(\d{1,6})\.tar")
_ENDING = re.compile(r"\.(tar(\.(gz|bz2|xz))?|tgz|tbz2?|txz)$", re.IGNORECASE)
_COMPRESSED: Mapping[bytes, Callable[..., Any]] = MappingProxyType(
    {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
)
"""By the first two bytes."""


def unpack_labels(archive: Path) -> Path:
    """Unpack `epoch_E/batch_B.tar` into a folder beside the archive; return that folder.

    It is unpacked again where the folder is of an archive of another name, size or time. Raises ArtifactError where it
    is no such archive, or a hostile one, or the folder is not one that was unpacked here; ResourceError where the disk
    is too small.
    """
    folder = archive.with_name(f"{_ENDING.sub('', archive.name)}-unpacked")
    try:
        status = archive.stat()
        said = {"archive": archive.name, "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
        if _says(folder, said):
            return folder
        with archive.open("rb") as file:
            unfold = _COMPRESSED.get(file.read(2), open)
        with unfold(archive, "rb") as stream, new_folder(folder, replacing=NOTE) as building:
            bounded: Any = _Bounded(stream, MOST_UNFOLDED * status.st_size)
            with tarfile.open(fileobj=bounded, mode="r:") as tar:
                _unpack(tar, building, archive)
            write_json(building / NOTE, said)
    except AttarError:
        raise
    except Exception as error:  # damaged archives raise nearly anything
        raise ArtifactError(
            f"{archive} cannot be unpacked: {error}",
            expected="a tar archive, compressed or not, of epoch_0/batch_0.tar and on",
            fix="fetch it again",
        ) from error
    return folder


def _says(folder: Path, said: Mapping[str, Any]) -> bool:
    """Whether the folder is of the archive that this is said of; raises ArtifactError where it says of none."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / NOTE).is_file():
        raise ArtifactError(
            f"{folder} does not say which archive it was unpacked from",
            expected=f"no such folder, or one with {NOTE}, which is written when attar unpacks",
            fix="move it away, or give it as the labels in place of the archive",
        )
    try:
        return bool(read_json(folder / NOTE) == said)
    except ArtifactError:  # missing or damaged
        return False


class _Bounded:
    """A file whose reads are refused that are large, or lie far behind: headers may say any size."""

    def __init__(self, file: Any, most_bytes: int) -> None:
        self._file, self._most_bytes = file, most_bytes
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        """Read so many bytes; raises ValueError where they are too many."""
        if size > _MOST_BATCH_BYTES or self.tell() + size > self._most_bytes:
            raise ValueError(f"it unfolds to more than {self._most_bytes:,} bytes, or a part of it to {size:,}")
        data: bytes = self._file.read(size)
        return data

    def seek(self, place: int) -> None:
        """Go to a place, which in a compressed file means to unfold it up to there."""
        if place > self._most_bytes:
            raise ValueError(f"it unfolds to more than {self._most_bytes:,} bytes")
        self._file.seek(place)


def _unpack(tar: tarfile.TarFile, folder: Path, archive: Path) -> None:
    left, written = shutil.disk_usage(folder).free, set[Path]()
    for member in tar:
        match = _BATCH.fullmatch(member.name)
        if match is None:
            continue
        left -= member.size
        if not member.isreg() or member.size > _MOST_BATCH_BYTES:
            raise ValueError(f"{member.name!r} of {member.size:,} bytes is no batch of labels")
        if left < 0:
            raise ResourceError(f"no space to unpack {archive}", fix="free some disk, or move it to another one")
        path = folder / f"epoch_{int(match[1])}" / f"batch_{int(match[2])}.tar"
        if path in written:
            raise ValueError(f"it holds {member.name!r} twice")
        file = tar.extractfile(member)
        write_bytes(path, file.read() if file else b"")
        written.add(path)
    require_end(tar)
    if not written:
        raise ValueError("it has no batches of labels in it")
