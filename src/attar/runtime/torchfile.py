"""What a file of `torch.save` holds, read as data: nothing in it is called.

`torch.load(weights_only=True)` reads tensors and plain values. Two things are added. What programs save beside them (an
`argparse.Namespace`, a scheduler, an array) becomes a `StandIn` that holds nothing, whatever its name is, and numpy's
scalars become plain numbers: no name in the file is looked up. And a file of some hundred bytes can keep an unpickler
busy for ever, by a key that is a tuple of two of a tuple of two, or fill the memory. So a process of its own reads each
file first, with limits on its time and its memory, and only what it survived is read here.

    python -m attar.runtime.torchfile    that process: a line [path, mapped, seconds] in, a line out: null, or why not
"""

from __future__ import annotations

import atexit
import json
import os
import re
import resource
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from attar.errors import ArtifactError
from attar.text import parse_json

MOST_SECONDS, _BYTES_PER_SECOND = 10, 20_000_000
"""Of the processor's time that reading may take, and how many bytes add another second."""
MOST_BYTES, _MOST_COPIES = 1 << 30, 4
"""Memory that reading may take beside that of the numbers; tensors may share numbers, but together have no more than
this times the bytes of the file."""
_HARMFUL = (
    *("builtins", "__builtin__", "os", "posix", "nt", "sys", "subprocess", "importlib", "runpy", "shutil", "socket"),
    *("pickle", "ctypes", "pty", "code", "commands", "webbrowser"),
)
"""Modules that nothing of use comes from: a file that names one is refused, though nothing would be run."""
_OLD_NAMES = (
    *("argparse.Namespace", "numpy.ndarray"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
)
"""What files from before torch 1.6, in which names cannot be listed beforehand, may hold beside tensors and numbers."""


class StandIn:
    """Takes the place of an object that is no plain value: it takes everything, and keeps nothing."""

    def __new__(cls, *_: object, **__: object) -> StandIn:
        """Make it of whatever the object is made of."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Leave out the object's attributes."""


class _Dtype:
    """Numpy's dtype, by its code such as i8."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """A scalar of numpy's as a plain number."""
    known = re.fullmatch(r"[fiu][1248]|b1", dtype.code) and dtype.order in ("<", "=", "|")
    return np.frombuffer(data, dtype.code, 1)[0].item() if known else StandIn()


_PLAIN: dict[str, Any] = {
    "numpy.dtype": _Dtype,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
}


def read_torch(path: Path, what: str, *, mapped: bool = False) -> Any:
    """Read lists, tuples, dictionaries, numbers, texts and dense tensors on the CPU; a StandIn for all else.

    Tensors are contiguous and ask for no gradient. `mapped` leaves their numbers on disk until they are used, where the
    file is of torch 1.6 or later. Raises ArtifactError, in which the file is said to be expected as `what`, where it is
    missing, damaged or hostile.
    """
    try:
        reason = _rehearsed(path, mapped) if path.is_file() else "there is no such file"
        if reason is None:
            return _read(path, mapped)
    except Exception as error:  # it was sound a moment ago
        reason = _reason(error)
    raise ArtifactError(
        f"{path} cannot be read as {what}, and nothing in it was run: {reason}",
        expected="tensors and numbers, in a file written by torch.save",
        fix="fetch it again; or load it where you trust it, torch.save(model.state_dict(), 'weights.pt') or what else "
        "is wanted of it, and give that file",
    )


def read_tensor(path: Path) -> Tensor:
    """Read one tensor; raises ArtifactError for anything else."""
    found = read_torch(path, "a tensor")
    if not isinstance(found, Tensor):
        raise ArtifactError(f"{path} holds a {type(found).__name__}", expected="one tensor")
    return found


def _read(path: Path, mapped: bool) -> Any:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_archive(path, numbers=not mapped)
    names = get_unsafe_globals_in_checkpoint(path) if zipped else [*_OLD_NAMES, *_PLAIN]
    if harmful := [name for name in names if name.partition(".")[0] in _HARMFUL]:
        raise ValueError(f"it calls {', '.join(harmful[:3])}")
    with safe_globals([(_PLAIN.get(name, StandIn), name) for name in names]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of protocols that it may not know all of
        value = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and zipped)
    file_bytes = path.stat().st_size
    left_bytes = _MOST_COPIES * file_bytes
    for tensor in _tensors(value):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise ValueError("it holds a tensor that is sparse, quantised or without numbers")
        left_bytes -= tensor.numel() * tensor.element_size()
        if left_bytes < 0 or tensor.untyped_storage().nbytes() > file_bytes:
            raise ValueError("its tensors are larger than the file")
        tensor.requires_grad_(False)
        tensor.data = tensor.contiguous()
    return value


def _check_archive(path: Path, *, numbers: bool) -> None:
    """Raise ValueError where it unfolds or its directory lies; with `numbers`, also where a sum is wrong."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) != len(members):
            raise ValueError("two of its members have the same name")
        if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
            raise ValueError("it is compressed or encrypted")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its members say they are larger than the file")
        if numbers and (wrong := archive.testzip()):
            raise ValueError(f"{wrong} is damaged: its CRC differs")


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a value, once each, however deep it is and even where it holds itself."""
    seen, left = set[int](), [value]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list | tuple | set):
            left += one


def _reason(error: Exception) -> str:
    """In one line; torch's advice to trust the file is left out."""
    said = re.search(r"WeightsUnpickler error: (.+?)(?= Please use|\n|$)", str(error)) or re.search(
        r"\s*(.+)", str(error)
    )
    return said[1] if said else type(error).__name__


_reading = threading.Lock()


@lru_cache(maxsize=1)
def _reader(_: int) -> subprocess.Popen[str]:
    """The process that reads first, one for each process (by its number) that asks."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "attar.runtime.torchfile"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the one that asks
    )
    atexit.register(_end, process, os.getpid())
    return process


def _end(process: subprocess.Popen[str], owner: int) -> None:
    if os.getpid() == owner:
        process.kill()
        process.communicate()


def _rehearsed(path: Path, mapped: bool) -> str | None:
    """None where another process has read the file within its limits, or the reason why it could not."""
    with _reading:
        process, answer = _reader(os.getpid()), ""
        assert process.stdin
        assert process.stdout
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps([str(path.absolute()), mapped, MOST_SECONDS]) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
        finally:
            if not answer:  # it is gone, or an interruption leaves an answer that must not be taken for another file's
                _reader.cache_clear()
                atexit.unregister(_end)
                _end(process, os.getpid())
    if not answer:
        return f"reading it takes more than {MOST_SECONDS} s or too much memory"
    reason: str | None = parse_json(answer)
    return reason


def _serve() -> None:
    for line in sys.stdin:
        path, mapped, most_seconds = parse_json(line)
        try:
            _limit(Path(path).stat().st_size, most_seconds)
            _read(Path(path), mapped)
            reason = None
        except Exception as error:
            reason = _reason(error)
        print(json.dumps(reason), flush=True)  # noqa: T201


def _limit(file_bytes: int, most_seconds: int) -> None:
    """End this process where it takes too long from now on, and let allocations fail beyond its memory (on Linux)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + most_seconds + file_bytes // _BYTES_PER_SECOND)
    sizes = Path("/proc/self/statm")
    if sizes.exists():
        data_bytes = int(sizes.read_text().split()[5]) * resource.getpagesize()
        _lower(resource.RLIMIT_DATA, data_bytes + MOST_BYTES + _MOST_COPIES * file_bytes)


def _lower(limit: int, most: int) -> None:
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


if __name__ == "__main__":
    _serve()
