"""What a machine can be asked for, by name; `engine.py` says whether this one has it. Needs no torch."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator

from attar.errors import ConfigError, unknown

DEVICES = ("auto", "cpu", "cuda", "mps")
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


def device_name(device: Any) -> str:
    """The name of a device, which torch.device objects have too: one of `DEVICES`, or one GPU of several as `cuda:1`.

    Raises ConfigError for any other.
    """
    name = str(device)
    if name not in DEVICES and not re.fullmatch(r"cuda:\d{1,3}", name):
        raise unknown("device", name, [*DEVICES, "cuda:0"])
    return name


if TYPE_CHECKING:  # what callers may give is wider than what validation makes of it
    Device: TypeAlias = Any
else:
    Device = Annotated[str, BeforeValidator(device_name)]


def require_threads(num: int, what: str) -> None:
    """Raise ConfigError where more threads or processes are asked for, as `what`, than are of use on this machine."""
    cores = os.cpu_count() or 1
    most = max(64, 4 * cores)
    if num > most:
        raise ConfigError(
            f"{what} is {num:,}, and this machine has {cores} processor{'s' * (cores > 1)}",
            expected=f"at most {most} here",
            fix=f"give {cores} or fewer",
        )
