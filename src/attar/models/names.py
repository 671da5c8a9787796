"""Names of networks, without building any: patterns of attar's own, and what torchvision's and timm's files register.

Importing the libraries takes seconds.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

FAMILIES: tuple[Literal["torchvision", "timm"], ...] = ("torchvision", "timm")
_NORM = r"(?:-(?P<norm>\w+))?"
OWN: dict[str, re.Pattern[str]] = {
    "convnet": re.compile(r"convnet-d(\d+)-w(\d+)" + _NORM),
    "resnet-small": re.compile(r"resnet(\d+)-small" + _NORM),
    "vgg-small": re.compile(r"vgg(\d+)-small" + _NORM),
    "vgg-hidden": re.compile(r"vgg(\d+)-hidden(?P<hidden>\d+)" + _NORM),
    "alexnet": re.compile(r"alexnet-small" + _NORM),
    "resnet-cifar": re.compile(r"resnet(\d+)-(cifar|projected)" + _NORM),
    "resnet-bottleneck": re.compile(r"resnet(\d+)-bottleneck" + _NORM),
    "wrn": re.compile(r"wrn-(\d+)-(\d+)" + _NORM),
    "densenet": re.compile(r"densenet(-bc)?-(\d+)-(\d+)" + _NORM),
    "vit": re.compile(r"(bn)?vit-(?:tiny|d(\d+)-w(\d+))(?:-p(\d+))?"),
}
"""Patterns of attar's own names, by family."""
SHAPES = (
    "convnet-dDEPTH-wWIDTH[-NORM]",
    "resnetDEPTH-small[-NORM]",
    "vgg11-small[-NORM]",
    "vgg16-hidden512[-NORM]",
    "alexnet-small[-NORM]",
    "resnetDEPTH-cifar[-NORM]",
    "resnetDEPTH-projected[-NORM]",
    "resnetDEPTH-bottleneck[-NORM]",
    "wrn-DEPTH-FACTOR[-NORM]",
    "densenet[-bc]-DEPTH-GROWTH[-NORM]",
    "[bn]vit-tiny[-pPATCH]",
    "[bn]vit-dDEPTH-wWIDTH[-pPATCH]",
)
"""The same for a person."""
_REGISTERED = re.compile(r"^@register_model(?:\(.*\))?\n(?:@.*(?:\n(?!def|@).*)*\n)*def (\w+)", re.MULTILINE)
"""A builder that its library registers, further decorators between."""


def num_groups(channels: int) -> int:
    """Groups of channels that GroupNorm takes: of 16 each, or of the next number above that divides them all."""
    return next(num for num in range(max(1, channels // 16), 0, -1) if channels % num == 0)


@cache
def library_names(family: str) -> tuple[str, ...]:
    """Every network that a library registers, as its own list has them; none where it isn't installed."""
    spec = find_spec(family)
    if spec is None or spec.origin is None:
        return ()
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return tuple(sorted(name for file in files for name in _REGISTERED.findall(file.read_text("utf-8"))))
