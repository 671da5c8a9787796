"""RandAugment for a whole batch at once, each image with operations of its own.

`num` operations of the 14 below, one after the other, each drawn alike for each image, at one magnitude M of 0..30:

    identity, auto-contrast, equalise       no magnitude
    brightness, colour, contrast, sharpness    blend by 1 ± 0.9 M/30 with black, grey, the mean, a blur
    shear x, y by ± 0.3 M/30       translate x, y by ± 150/331 of the size M/30       rotate by ± 30° M/30
    posterise to 8 - round(4 M/30) bits        solarise from 1 - M/30 on

What comes in from outside is black. Source: Cubuk et al. 2020; operations, ranges and signs as torchvision has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_HIGHEST = 30
_GREY = (0.2989, 0.587, 0.114)
_LEVELS = 256


class RandDraw(NamedTuple):
    """What is drawn for b images: tensors (num, b) on the CPU."""

    operation: Tensor
    """Places in `NAMES`, int64."""
    sign: Tensor
    """+1 or -1, of operations that go both ways, float32."""


def draw(rng: torch.Generator, num: int, num_images: int) -> RandDraw:
    """Draw `num` operations for each image."""
    operation = torch.randint(len(NAMES), (num, num_images), generator=rng)
    sign = torch.randint(2, (num, num_images), generator=rng) * 2.0 - 1
    return RandDraw(operation, sign)


def apply(pixels: Tensor, drawn: RandDraw, magnitude: int) -> Tensor:
    """Augment pixels (b, c, h, w) in 0..1 by what was drawn, at a magnitude of 0..30."""
    part = magnitude / _HIGHEST
    for operation, sign in zip(drawn.operation, drawn.sign, strict=True):
        changed = pixels.clone()
        for place, name in enumerate(NAMES):
            members = (operation == place).nonzero().squeeze(1)
            if len(members):
                there = members.to(pixels.device)
                changed[there] = _OPERATIONS[name](pixels[there], part * sign[members].to(pixels))
        pixels = changed
    return pixels


def _blend(pixels: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    factor = 1 + 0.9 * strength.view(-1, 1, 1, 1)
    return (other + factor * (pixels - other)).clamp(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    return (pixels * pixels.new_tensor(_GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _blurred(pixels: Tensor) -> Tensor:
    """Smoothed by a 3x3 kernel with 5 in its middle; the outermost pixels stay."""
    if min(pixels.shape[2:]) < 3:
        return pixels
    channels = pixels.shape[1]
    kernel = pixels.new_tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13
    inner = F.conv2d(pixels, kernel.expand(channels, 1, 3, 3), groups=channels)
    blurred = pixels.clone()
    blurred[:, :, 1:-1, 1:-1] = inner
    return blurred


def _auto_contrast(pixels: Tensor) -> Tensor:
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    stretched = (pixels - low) / (high - low).clamp_min(1 / _LEVELS)
    return torch.where(high > low, stretched, pixels)


def _equalised(pixels: Tensor) -> Tensor:
    """Each channel's histogram flattened, as Pillow does it on 256 levels."""
    levels = (pixels * (_LEVELS - 1)).round().long().flatten(2)
    counts = torch.zeros(*levels.shape[:2], _LEVELS, dtype=torch.int64, device=pixels.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    highest = levels.amax(2, keepdim=True)
    step = (counts.sum(2, keepdim=True) - counts.gather(2, highest)) // (_LEVELS - 1)
    table = (counts.cumsum(2) - counts + step // 2) // step.clamp_min(1)
    mapped = table.clamp(0, _LEVELS - 1).gather(2, levels)
    flat = torch.where(step > 0, mapped, levels)
    return (flat.float() / (_LEVELS - 1)).to(pixels.dtype).view_as(pixels)


def _posterised(pixels: Tensor, strength: Tensor) -> Tensor:
    bits = 8 - (4 * strength.abs()).round()
    width = (2 ** (8 - bits)).view(-1, 1, 1, 1)
    levels = (pixels * (_LEVELS - 1)).round()
    return (levels / width).floor() * width / (_LEVELS - 1)


def _moved(pixels: Tensor, rows: list[list[Tensor]]) -> Tensor:
    """Read each pixel where an affine map of -1..1 (x, y, 1) -> (x, y) points; rows of (b,) coefficients."""
    matrices = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _shear_x(pixels: Tensor, strength: Tensor) -> Tensor:
    one, zero, ratio = torch.ones_like(strength), torch.zeros_like(strength), pixels.shape[2] / pixels.shape[3]
    return _moved(pixels, [[one, 0.3 * strength * ratio, zero], [zero, one, zero]])


def _shear_y(pixels: Tensor, strength: Tensor) -> Tensor:
    one, zero, ratio = torch.ones_like(strength), torch.zeros_like(strength), pixels.shape[3] / pixels.shape[2]
    return _moved(pixels, [[one, zero, zero], [0.3 * strength * ratio, one, zero]])


def _translate_x(pixels: Tensor, strength: Tensor) -> Tensor:
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _moved(pixels, [[one, zero, -2 * 150 / 331 * strength], [zero, one, zero]])


def _translate_y(pixels: Tensor, strength: Tensor) -> Tensor:
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _moved(pixels, [[one, zero, zero], [zero, one, -2 * 150 / 331 * strength]])


def _rotate(pixels: Tensor, strength: Tensor) -> Tensor:
    angle, ratio = math.radians(30) * strength, pixels.shape[2] / pixels.shape[3]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _moved(pixels, [[cos, -sin * ratio, zero], [sin / ratio, cos, zero]])


_OPERATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "identity": lambda pixels, _: pixels,
        "auto-contrast": lambda pixels, _: _auto_contrast(pixels),
        "equalise": lambda pixels, _: _equalised(pixels),
        "brightness": lambda pixels, strength: _blend(pixels, torch.zeros_like(pixels), strength),
        "colour": lambda pixels, strength: _blend(pixels, _grey(pixels), strength),
        "contrast": lambda pixels, strength: _blend(pixels, _grey(pixels).mean((2, 3), keepdim=True), strength),
        "sharpness": lambda pixels, strength: _blend(pixels, _blurred(pixels), strength),
        "posterise": _posterised,
        "solarise": lambda pixels, strength: torch.where(
            pixels >= 1 - strength.abs().view(-1, 1, 1, 1), 1 - pixels, pixels
        ),
        "shear x": _shear_x,
        "shear y": _shear_y,
        "translate x": _translate_x,
        "translate y": _translate_y,
        "rotate": _rotate,
    }
)
NAMES = tuple(_OPERATIONS)
"""The operations, in the order of their numbers."""
