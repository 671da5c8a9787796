"""Numbers and settings as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def count(number: int) -> str:
    """`50000` -> `50,000`."""
    return f"{number:,}"


def size(num_bytes: float) -> str:
    """`4912` -> `4.9 kB`; a kB is 1000 bytes."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" or num_bytes >= 99.5 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def duration(wall_s: float) -> str:
    """`200` -> `3 min 20 s`."""
    if wall_s < 60:
        return f"{wall_s:.1f} s"
    minutes, seconds = divmod(round(wall_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def roughly(seconds: float) -> str:
    """An estimate: `90 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def binary_size(num_bytes: float) -> str:
    """Of memory or disk: `340 B`, `12 KiB`, `3 MiB`, `1.5 GiB`."""
    if num_bytes < 2**10:
        return f"{num_bytes:.0f} B"
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.1f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.0f} KiB"


def setting(value: Any) -> str:
    """One setting in a table, as YAML would have it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {setting(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(setting(part) for part in value) or "none"
    return str(value)
