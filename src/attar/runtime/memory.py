"""Memory: kept for the next step, and running out of it told to a person."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from attar.errors import ResourceError
from attar.runtime.refusals import is_out_of_memory

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""Of mallopt, from glibc's malloc.h."""


@contextmanager
def enough_memory(work: str, fix: str) -> Iterator[None]:
    """Turn a failed allocation inside the block, on any device, into a ResourceError that says `fix`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or ["out of memory"])[0]
        raise ResourceError(f"not enough memory for {work}: {reason}", fix=fix) from error


def keep_freed_memory() -> bool:
    """Let this process keep what it frees on the CPU, up to 2 GB, for what it allocates next; whether it could.

    glibc gives each block of more than 32 MB back to the system, and takes it anew, page by page, in every step of a
    training: with 256 images of 32 px that is half of the time. Other allocators are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, 2**31 - 1)])
