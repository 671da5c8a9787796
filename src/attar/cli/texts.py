"""Words for the terminal, and words from it."""

from __future__ import annotations

import json
from typing import Any

import typer


def duration(seconds: float) -> str:
    """`90 s`, `12 min`, `3.5 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(num_bytes: float) -> str:
    """`340 B`, `12 KiB`, `3 MiB`, `1.5 GiB`."""
    if num_bytes < 2**10:
        return f"{num_bytes:.0f} B"
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.1f} GiB"
    return f"{num_bytes / 2**20:.0f} MiB" if num_bytes >= 2**20 else f"{num_bytes / 2**10:.0f} KiB"


def print_json(value: Any) -> None:
    """Print plain values on stdout."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
