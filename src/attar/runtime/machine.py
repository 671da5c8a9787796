"""What a machine can be asked for, by name; `engine.py` says whether this one has it. Needs no torch."""

from __future__ import annotations

import os
import re
import threading
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator

from attar.errors import ConfigError, ResourceError, nearest

DEVICES = ("auto", "cpu", "cuda", "mps")
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


def device_name(device: Any) -> str:
    """The name of a device, which torch.device objects have too: one of `DEVICES`, or one GPU of several as `cuda:1`.

    Raises ConfigError for any other.
    """
    name = str(device)
    if name not in DEVICES and not re.fullmatch(r"cuda:\d{1,3}", name):
        known = [*DEVICES, "cuda:0"]
        meant = name.lower().replace("gpu", "cuda")
        raise ConfigError(f"unknown device {name!r}", expected=nearest(meant, known))
    return name


if TYPE_CHECKING:  # what callers may give is wider than what validation makes of it
    Device: TypeAlias = Any
else:
    Device = Annotated[str, BeforeValidator(device_name)]


def available_cores() -> int:
    """Processor cores that this process may run on."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def require_threads(num: int, what: str) -> None:
    """Raise ConfigError where more threads or processes are asked for, as `what`, than are of use on this machine."""
    cores = os.cpu_count() or 1
    most = max(64, 4 * cores)
    if num > most:
        raise ConfigError(
            f"{what} is {num:,}, and this machine has {cores} CPU core{'s' * (cores > 1)}",
            expected=f"at most {most} here",
            fix=f"give {cores} or fewer",
        )


def require_startable(num: int) -> None:
    """Raise ResourceError where the system doesn't let so many threads run at once.

    They are started and ended again: OpenMP, whose threads torch computes with, ends the process from C where it cannot
    start one, and no limit (`ulimit -u`, a container's) need be asked for by name.
    """
    over, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(num):
            started.append(threading.Thread(target=over.wait, daemon=True))
            started[-1].start()
    except (RuntimeError, MemoryError) as error:
        started.pop()
        raise ResourceError(
            f"the system starts {len(started)} of {num} threads: {error}",
            expected=f"{num} threads that compute side by side",
            fix="lower --workers, close other programs, or raise `ulimit -u` or the container's limit of processes",
        ) from error
    finally:
        over.set()
        for thread in started:
            thread.join()
