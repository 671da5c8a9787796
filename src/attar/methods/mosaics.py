"""Images of four whole real ones, two by two: which real images an image holds, and how they are shrunk.

Shared by the coresets, which store such images, and cim, dm and ncfm, which optimise them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from attar.config import Config
from attar.errors import ConfigError
from attar.methods.base import RealImages
from attar.methods.patches import stitch
from attar.task import Task

SIDE = 2
"""Tiles along a side of a synthetic image."""
TILES = SIDE**2
"""Real images in a synthetic one."""


class TiledSettings(Config):
    """Settings of methods whose images may hold others."""

    tiles: Literal[1, 2] = 1
    """Images along a side that each image holds. 1: each is one image; 2: four of half the side, which networks see one
    at a time, enlarged: more variety in as many bytes, where images have pixels to spare."""


def require_room(task: Task) -> None:
    """Raise ConfigError where an image has no four quarters."""
    if min(task.height_px, task.width_px) < 2:
        raise ConfigError(
            f"images of {task.width_px}x{task.height_px} px can't hold four others",
            expected="two pixels or more a side",
            fix="a method that keeps images whole, such as easy; dm, ncfm and pca do with --set method.tiles=1",
        )


def members(kept: Tensor, ranks: Tensor, per_class: int) -> Tensor:
    """Real images int64 (b, 4) of a class's synthetic images ranked `ranks` (b,) of `per_class`, tile by tile.

    Of n images, image r holds those of `kept` (m,), the best first, that are ranked r, n + r, 2n + r and 3n + r; a
    class with too few begins again.
    """
    places = ranks[:, None] + per_class * ranks.new_tensor(range(TILES))
    return kept[places % len(kept)]


def stitched(real: RealImages, kept: Tensor, ranks: Tensor, per_class: int, task: Task) -> Tensor:
    """Images (b, c, h, w) of four real ones each, `members` of `kept`, shrunk smoothly."""
    tiles = members(kept, ranks, per_class).unbind(1)
    return mosaic([real.images(tile) for tile in tiles], task.shape[1:])


def mosaic(tiles: Sequence[Tensor], size: tuple[int, int], shrink: Literal["smooth", "nearest"] = "smooth") -> Tensor:
    """Images (b, c, *size) of four whole ones (b, c, h, w), row by row, each shrunk to its quarter.

    smooth: bilinear, averaging what is lost; nearest: every second pixel.
    """
    height, width = size
    found = []
    for k, whole in enumerate(tiles):
        quarter = (height + 1 - k // 2) // 2, (width + 1 - k % 2) // 2
        if shrink == "nearest":
            found.append(F.interpolate(whole, quarter, mode="nearest"))
        else:
            found.append(F.interpolate(whole, quarter, mode="bilinear", antialias=True))
    return stitch(found)


def unfold(images: Tensor) -> Tensor:
    """The four tiles of images (b, c, h, w), each enlarged to the images' size: (4b, c, h, w), tile by tile.

    Bilinear; differentiable. The first half of an odd side has the pixel more.
    """
    height, width = images.shape[2:]
    rows, columns = (height + 1) // 2, (width + 1) // 2
    halves = ((slice(0, rows), slice(rows, None)), (slice(0, columns), slice(columns, None)))
    tiles = [images[:, :, down, across] for down in halves[0] for across in halves[1]]
    return torch.cat([F.interpolate(tile, (height, width), mode="bilinear", align_corners=False) for tile in tiles])
