"""Tar archives of files one does not know, read to their true end."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any

_BLOCK_BYTES = tarfile.BLOCKSIZE


def plain_files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Go through the plain files of an open archive, keeping none in memory.

    Raises ValueError where it ends before its end; what `tarfile` raises passes.
    """
    kept: list[tarfile.TarInfo] = vars(tar)["members"]
    for member in tar:
        if member.isreg() and member.sparse is None:
            yield member
        kept.clear()
    require_end(tar)


def require_end(tar: tarfile.TarFile) -> None:
    """Raise ValueError unless an archive that was gone through ends as one does: by a block of zeros, or by nothing.

    `tarfile` takes a header that is damaged or cut off for the end, and leaves out all that follows.
    """
    file: Any = tar.fileobj
    file.seek(tar.offset)
    if any(file.read(_BLOCK_BYTES)):
        raise ValueError(f"it is damaged or cut off at byte {tar.offset:,}")
