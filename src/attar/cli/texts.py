"""What commands print, for people and for programs."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

from attar.visible import visible, visible_json


def print_json(value: Any) -> None:
    """Print plain values on stdout."""
    shown = (sys.stdout.encoding or "").lower().startswith("utf")
    typer.echo(visible_json(json.dumps(value, indent=2, ensure_ascii=not shown)))


def echo(text: str, *, err: bool = False) -> None:
    """Print a text, which may hold names that other people gave, on stdout or stderr."""
    stream = sys.stderr if err else sys.stdout
    encoding = stream.encoding or "utf-8"  # typer itself would write UTF-8 where the terminal has less
    typer.echo(visible(text).encode(encoding, "backslashreplace").decode(encoding), err=err)
