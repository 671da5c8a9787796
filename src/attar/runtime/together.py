"""Processes of this machine that help this one to make files, and end with it.

Each file is a function of the seed and its number, so it does not matter who makes it. Whoever holds the lock of a file
makes it: this process takes the first that is free, helpers take the last. A helper that ends, whatever the reason,
leaves its file to this process, which goes on from its checkpoint and meets the same error if there is one.

    .lock-item-NAME    held while NAME is made

    python -m attar.runtime.together    a helper: a `Job` comes in, pickled by its parent

Needs no torch.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from attar.errors import ArtifactError
from attar.runtime.files import locked_file, writing
from attar.runtime.holding import LOCK
from attar.text import parse_json, shortened

Make = Callable[[int], object]
"""Makes a file, by its number; what it returns is not used."""

START_S = 1.0
"""Seconds of work before helpers are started: each takes some seconds to import torch, and short work needs none."""
_LOOK_S = 0.1
_SPARE = 0.9
"""Of the memory that is free now, what helpers may take."""


@dataclass(frozen=True)
class Job:
    """Files to make.

    Attributes:
        files: all of them; one that is there is left as it is.
        folder: holds the locks.
        opening: gives a helper what makes a file; can be pickled, as can all that it holds. None: nobody helps.
        threads: that OpenMP starts in each helper.
    """

    files: Sequence[Path]
    folder: Path
    opening: Callable[[], Make] | None = None
    threads: int = 1


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Hold an item that one process makes; whether no other does."""
    with ExitStack() as item:
        try:
            item.enter_context(locked_file(folder / f"{LOCK}-item-{name}", f"item {name}", ""))
        except ArtifactError:
            yield False
        else:
            yield True


def make_all(
    job: Job, make: Make, made: Callable[[int], None], helpers: int = 0, say: Callable[[str], None] = lambda _: None
) -> None:
    """Make the files that are not there, with the help of at most so many processes.

    Args:
        job: the files.
        make: makes one in this process.
        made: hears of each file once it is there, in this process.
        helpers: processes, started after `START_S` where files are left and free memory has room for them.
        say: hears why there is no help, or less, once this process has made the next file.

    Raises what `make` raises; helpers have ended then.
    """
    left = list(range(len(job.files)))
    with _helped(job, min(helpers, len(left) - 1), say) as helped:
        take = partial(_take, job, make) if helped else make
        while left:
            there = [k for k in left if job.files[k].exists()]  # those of helpers are counted before the next is begun
            if not there:
                there = list(islice((k for k in left if take(k) is not False), 1))
            if not there:
                time.sleep(_LOOK_S)
            for k in there:
                left.remove(k)
                made(k)
            if helped:
                _tell(helped.fallen(), say)


def room_for(most: int) -> int:
    """How many processes as large as this one was at its largest the free memory has room for, at most `most`."""
    free_bytes = _free_bytes()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most if free_bytes is None else min(most, int(_SPARE * free_bytes) // peak)


def _take(job: Job, make: Make, k: int) -> bool:
    """Make a file; False where another process is at it."""
    with claimed(job.folder, job.files[k].stem) as mine:
        if mine and not job.files[k].exists():
            make(k)
        return mine


@contextmanager
def _helped(job: Job, num: int, say: Callable[[str], None]) -> Iterator[_Helpers | None]:
    """Have helpers inside the block; None where there can be none."""
    if num < 1 or job.opening is None:
        yield None
        return
    try:
        handed = pickle.dumps(job, protocol=5)
    except Exception as error:  # of any object that somebody's images, network or teacher hold
        say(f"one process: what it works on cannot be handed to another ({shortened(str(error))})")
        yield None
        return
    with writing(job.folder):
        job.folder.mkdir(parents=True, exist_ok=True)
    helpers = _Helpers(handed, num, job.threads)
    start = threading.Timer(START_S, helpers.start)
    start.daemon = True
    start.start()
    try:
        yield helpers
    finally:
        start.cancel()
        _tell(helpers.end(), say)
        for lock in job.folder.glob(f"{LOCK}-item-*"):
            lock.unlink(missing_ok=True)


def _tell(reasons: Sequence[str], say: Callable[[str], None]) -> None:
    for reason in reasons:
        say(f"a process that helped has ended, and this one does its work: {reason}")


@dataclass
class _Helpers:
    """At most `num` processes, each of which is handed the same bytes."""

    handed: bytes
    num: int
    threads: int
    _started: list[tuple[subprocess.Popen[bytes], threading.Thread]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: bool = False

    def start(self) -> None:
        for _ in range(room_for(self.num)):
            with self._lock:
                if self._over:
                    return
                try:
                    process = _helper(self.threads)
                except OSError:  # the system starts no more
                    return
                handing = threading.Thread(target=partial(self._hand, process), daemon=True)
                handing.start()
                self._started.append((process, handing))

    def fallen(self) -> list[str]:
        """Why some have ended before their time; of each it is told once."""
        reasons = []
        for process, _ in list(self._started):
            assert process.stdout
            if (status := process.poll()) and not process.stdout.closed:
                reasons.append(_reason(status, process.stdout.read()))
                process.stdout.close()
        return reasons

    def end(self) -> list[str]:
        """End them all; returns why some had ended before their time, as far as that was not told."""
        with self._lock:
            self._over = True
        reasons = self.fallen()
        for process, handing in self._started:
            process.kill()
            process.wait()
            handing.join()
            assert process.stdin
            assert process.stdout
            process.stdout.close()
            with suppress(OSError):
                process.stdin.close()
        return reasons

    def _hand(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin
        with suppress(OSError):  # it has ended
            process.stdin.write(self.handed)
            process.stdin.flush()


def _helper(threads: int) -> subprocess.Popen[bytes]:
    """A process that Ctrl-C spares, and that leaves when its standard input ends, as when this process is gone."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "attar.runtime.together"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _reason(status: int, said: bytes) -> str:
    try:
        return str(parse_json(said.splitlines()[-1]))
    except (IndexError, ValueError):
        return f"signal {-status}" if status < 0 else f"status {status}"


def _free_bytes(system: Path = Path("/")) -> int | None:
    """Bytes that processes can take without swapping, of the machine or its container; None where nothing says so."""
    try:
        free = _numbers(system / "proc/meminfo")["MemAvailable:"] * 1024
    except (OSError, KeyError):
        return None
    group = system / "sys/fs/cgroup"
    with suppress(OSError, ValueError, KeyError):  # no second version of cgroups, or no limit: "max"
        most, used = (int((group / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
        free = min(free, max(0, most - used) + _numbers(group / "memory.stat")["inactive_file"])
    return free


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line, by the word before it."""
    parts = (line.split() for line in path.read_text("ascii").splitlines())
    return {part[0]: int(part[1]) for part in parts if len(part) > 1}


def _serve() -> int:
    try:
        job = pickle.load(sys.stdin.buffer)
        threading.Thread(target=_leave_with_parent, daemon=True).start()
        make = job.opening()
        for k in reversed(range(len(job.files))):
            if not job.files[k].exists():
                _take(job, make, k)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {shortened(str(error), 300)}"), flush=True)  # noqa: T201
        return 1
    return 0


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    _status = _serve()
    sys.stdout.flush()
    os._exit(_status)  # Python's own way out aborts, as a thread still reads
