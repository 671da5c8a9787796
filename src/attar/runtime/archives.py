"""Tar archives of files one does not know, read to their true end."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any

BLOCK_BYTES = tarfile.BLOCKSIZE


def plain_files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Go through the plain files of an open archive, keeping none in memory.

    `tarfile` takes a header that is damaged or cut off for the end, and leaves out all that follows. Here the end is
    what a tar archive ends with: a block of zeros, or nothing.

    Raises ValueError where the archive goes on in another way; what `tarfile` raises passes.
    """
    kept: list[tarfile.TarInfo] = vars(tar)["members"]
    for member in tar:
        if member.isreg() and member.sparse is None:
            yield member
        kept.clear()
    file: Any = tar.fileobj
    file.seek(tar.offset)
    if any(file.read(BLOCK_BYTES)):
        raise ValueError(f"it is damaged or cut off at byte {tar.offset:,}")
