"""What lies in a shard, kept in the user's cache folder, so that a shard is listed once.

    ~/.cache/attar/listings/3f9a0c....safetensors    first byte, size and class of each image of one shard

A listing is taken for a shard of the same path, size, inode and times alone, after its digest and its bounds are
checked; anything else is listed anew. ATTAR_CACHE names another folder than ~/.cache/attar, or none where it is empty.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attar.data.usercache import cache_folder, is_own
from attar.errors import AttarError
from attar.runtime.checkpoint import read_tensors, write_tensors
from attar.runtime.files import digest
from attar.runtime.reading import require_file

Label = int | str | None

MOST_BYTES = 1 << 30
"""All listings together; the ones that were not used for longest go first."""
MOST_LABEL_BYTES = 1 << 20
"""Different labels of a shard as text; a shard with more is listed each time."""
_MOST_LISTING_BYTES = 256 << 20
_SETTLED_S = 2.0
"""A shard that was written a moment ago may be written again within the resolution of its times."""
_FORMAT = 1


@dataclass(frozen=True)
class Listing:
    """The images of a shard in order: first byte and size of each, int64 (n,), and what its label is.

    `repeated` counts samples that have the name of the one before.
    """

    start: NDArray[np.int64]
    size: NDArray[np.int64]
    labels: Sequence[Label]
    repeated: int = 0


def identity(shard: Path, column: str | None) -> list[Any] | None:
    """What a listing is known by: where the shard is, what tells it from another there, and the column of labels.

    None where it can't be known, or may change unseen.
    """
    try:
        about = shard.stat()
    except OSError:
        return None
    if time.time() - max(about.st_mtime, about.st_ctime) < _SETTLED_S:
        return None
    times = about.st_mtime_ns, about.st_ctime_ns
    return [_FORMAT, str(shard.absolute()), about.st_size, about.st_dev, about.st_ino, *times, column]


def kept(known: list[Any] | None) -> Listing | None:
    """The listing of a shard of this identity, where there is one that is whole and fits."""
    folder = cache_folder("listings")
    if known is None or folder is None:
        return None
    path = folder / _name(known)
    try:
        if not is_own(folder):
            return None
        require_file(path, _MOST_LISTING_BYTES)
        tensors, note = read_tensors(path)
        if note.get("of") != known:
            return None
        arrays = {name: tensors[name].numpy() for name in ("start", "size", "code")}
        found = _checked(arrays, note, known[2])
        os.utime(path)  # it was used
        return found
    except (AttarError, OSError, KeyError, TypeError, ValueError):
        return None


def keep(known: list[Any] | None, found: Listing) -> None:
    """Keep a listing for the next time; a cache that can't be written is left alone."""
    folder = cache_folder("listings")
    if known is None or folder is None:
        return
    values = list(dict.fromkeys(found.labels))
    places = {value: place for place, value in enumerate(values)}
    if len(json.dumps(values)) > MOST_LABEL_BYTES:
        return
    code = np.fromiter((places[label] for label in found.labels), np.int64, len(found.labels))
    arrays = {"start": found.start, "size": found.size, "code": code}
    note = {"of": known, "values": values, "repeated": found.repeated}
    note["digest"] = _digest(arrays, note)
    with suppress(AttarError, OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_own(folder):
            write_tensors(
                folder / _name(known), {name: torch.from_numpy(value) for name, value in arrays.items()}, note
            )


def tidy() -> None:
    """Remove the listings that were not used for longest, so that all together have no more than MOST_BYTES."""
    folder = cache_folder("listings")
    if folder is None or not folder.is_dir():
        return
    with suppress(OSError):
        files = [(entry.stat(), entry.path) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)]
        total = sum(about.st_size for about, _ in files)
        for about, path in sorted(files, key=lambda file: file[0].st_mtime):
            if total <= MOST_BYTES:
                return
            Path(path).unlink(missing_ok=True)
            total -= about.st_size


def _name(known: list[Any]) -> str:
    """One file for a place and a column: what a shard was before is replaced."""
    return f"{digest([known[0], known[1], known[-1]])}.safetensors"


def _checked(arrays: dict[str, NDArray[np.int64]], note: dict[str, Any], shard_bytes: int) -> Listing:
    """The listing; raises ValueError where it is damaged, or speaks of bytes that the shard does not have."""
    start, size, code = arrays["start"], arrays["size"], arrays["code"]
    values, repeated = note["values"], note["repeated"]
    shapes = {(array.dtype, array.shape) for array in arrays.values()}
    sound = (
        len(shapes) == 1
        and start.dtype == np.int64
        and start.ndim == 1
        and isinstance(repeated, int)
        and isinstance(values, list)
        and all(value is None or (isinstance(value, int | str) and not isinstance(value, bool)) for value in values)
        and note["digest"] == _digest(arrays, note)
    )
    if not sound:
        raise ValueError("a damaged listing")
    if len(start) and (
        min(int(start.min()), int(size.min()), int(code.min())) < 0
        or int(code.max()) >= len(values)
        or bool((start > shard_bytes - size).any())
    ):
        raise ValueError("a listing that does not fit")
    return Listing(start, size, [values[place] for place in code.tolist()], repeated)


def _digest(arrays: dict[str, NDArray[np.int64]], note: dict[str, Any]) -> str:
    content = hashlib.sha256(json.dumps([note["of"], note["values"], note["repeated"]]).encode())
    for name in sorted(arrays):
        content.update(np.ascontiguousarray(arrays[name]).tobytes())
    return content.hexdigest()
