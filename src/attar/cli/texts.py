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


def split(text: str | None) -> list[str] | None:
    """`a,b` as its words; None stays None."""
    return [part.strip() for part in text.split(",") if part.strip()] if text is not None else None


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """The arguments of a command but those of these names."""
    return {name: value for name, value in values.items() if name not in names}


def use_threads(workers: int | None) -> None:
    """Let torch use so many CPU threads; None leaves it as it is."""
    if workers:
        import torch

        torch.set_num_threads(workers)
