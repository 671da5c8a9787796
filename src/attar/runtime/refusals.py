"""What the operating system refuses (disk, memory, threads), in errors for people. Needs no torch."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

from attar.errors import ResourceError
from attar.text import one_line, shortened

_KEPT = "what was complete is kept, run again to go on"
_SPACE = ("no space left", f"free some disk or choose another --out; {_KEPT}")
_DENIED = ("it may not be written", "choose an --out folder that you may write to")
_FILES = ("too many files are open", f"raise the limit with `ulimit -n 4096`, or start fewer processes; {_KEPT}")
_OTHER = ("the disk refuses", f"see that the disk is there and sound; {_KEPT}")
_ADVICE: Mapping[int, tuple[str, str]] = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: ("no space left in your quota", f"free some of what you hold, or choose another --out; {_KEPT}"),
    errno.EFBIG: (
        "it would be larger than a file may be here",
        f"raise the limit on the size of files (`ulimit -f`, the disk's own), or choose another --out; {_KEPT}",
    ),
    errno.EIO: ("the disk fails", f"look at the system's log (dmesg), and choose an --out on another disk; {_KEPT}"),
    errno.ESTALE: ("the network disk has lost it", f"mount it again; {_KEPT}"),
    errno.EBUSY: ("another program or a mount holds it", f"close what uses it, or choose another --out; {_KEPT}"),
    errno.EXDEV: (
        "a part of it lies on another disk",
        "take away the mount or the link inside the folder, or choose another --out",
    ),
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENAMETOOLONG: ("its name is too long", "choose a shorter --out"),
    errno.EROFS: ("the disk may only be read", "choose an --out folder that you may write to"),
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.ENOMEM: ("not enough memory", f"close other programs; {_KEPT}"),
    errno.EAGAIN: ("the system has none left", f"close other programs, or raise `ulimit -u`; {_KEPT}"),
    **dict.fromkeys(
        (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT, errno.ELOOP),
        ("something else is there, or another program moves it", "choose another --out"),
    ),
}
_MEMORY = (
    *("out of memory", "allocate memory", "not enough memory", "Unable to allocate", "bad_alloc", "ALLOC_FAILED"),
    "Storage size calculation overflowed",
)
_THREADS = (
    "can't start new thread",
    "Resource temporarily unavailable",
    "pthread_create",
    "Thread creation failed",
    "Failed to launch worker thread",
)


def refused(error: OSError, path: Path | None = None) -> ResourceError:
    """The error for a person of what was refused while `path` was written, or elsewhere where it is None."""
    meaning, fix = _ADVICE.get(error.errno or 0, _OTHER)
    code = errno.errorcode.get(error.errno or 0, type(error).__name__)
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else ""
    where = shortened(str(path or name), 200)
    reason = error.strerror or shortened(one_line(error), 200)
    if path is None:
        found = f"{where}: {meaning} ({code}: {reason})" if where else f"{meaning} ({code}: {reason})"
    else:
        other = f", at {shortened(name, 200)}" if name and Path(name).parent != path.parent else ""
        found = f"cannot write {where}: {meaning} ({code}: {reason}{other})"
    return ResourceError(found, fix=fix)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is an allocation that failed, on any device, as far as its words tell."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _MEMORY)
    )


def resource_error(error: BaseException) -> ResourceError | None:
    """The error for a person where the machine, not attar, is what failed: disk, memory or threads; else None."""
    if is_out_of_memory(error):
        reason = shortened((str(error).strip().splitlines() or ["an allocation failed"])[0], 200)
        return ResourceError(
            f"not enough memory: {reason}",
            fix="close other programs, or take a smaller network, --resolution, train.batch_size or --ipc",
        )
    if not isinstance(error, OSError) and any(sign in str(error) for sign in _THREADS):  # Arrow's is an Exception
        return ResourceError(
            f"a thread could not be started: {shortened(one_line(error), 200)}",
            fix="lower --workers, close other programs, or raise `ulimit -u`",
        )
    return refused(error) if isinstance(error, OSError) else None
