"""Running out of memory, told to a person."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attar.errors import ResourceError

_SIGNS = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")


@contextmanager
def enough_memory(work: str, fix: str) -> Iterator[None]:
    """Turn a failed allocation inside the block, on any device, into a ResourceError that says `fix`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in _SIGNS):
            raise
        reason = (str(error).strip().splitlines() or ["out of memory"])[0]
        raise ResourceError(f"not enough memory for {work}: {reason}", fix=fix) from error
