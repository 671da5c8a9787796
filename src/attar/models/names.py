"""Names of the networks of torchvision and timm, read off their source files: importing them takes seconds."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

FAMILIES: tuple[Literal["torchvision", "timm"], ...] = ("torchvision", "timm")
_REGISTERED = re.compile(r"^@register_model(?:\(.*\))?\n(?:@.*(?:\n(?!def|@).*)*\n)*def (\w+)", re.MULTILINE)
"""A builder that its library registers, further decorators between."""


@cache
def library_names(family: str) -> tuple[str, ...]:
    """Every network that a library registers, as its own list has them; none where it isn't installed."""
    spec = find_spec(family)
    if spec is None or spec.origin is None:
        return ()
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return tuple(sorted(name for file in files for name in _REGISTERED.findall(file.read_text("utf-8"))))
