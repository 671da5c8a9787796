"""How images are shown in views that are replayed, see `attar.augment.views`. Needs no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from attar.config import Config

ALGORITHM = 1
"""Version of what is drawn from a seed. Whoever changes a draw, its order or its meaning counts it up."""

MOST_PATCHES = 16
"""Patches along a side that may change places."""


class ViewSettings(Config):
    """How an image is shown in an epoch."""

    min_scale: float = Field(default=0.08, gt=0, le=1)
    """Smallest part of the image's area that a crop shows; 1: always the whole image."""
    flip: bool = True
    """Mirror left to right, half of the time; false for digits and letters."""
    mix: Literal["none", "cutmix", "mixup"] = "cutmix"
    """Put a box of another image into each (cutmix), blend it with another (mixup), or show it alone (none)."""
    mix_alpha: float = Field(default=1.0, gt=0)
    """The share of an image that is mixed is drawn from Beta(mix_alpha, mix_alpha); published: 1 for cutmix, 0.8 for
    mixup."""
    shuffle_patches: int = Field(default=1, ge=1, le=MOST_PATCHES)
    """Patches along a side that change places in each view before it is cropped: columns and rows of patches come in
    an order drawn anew. 2 is published for the images of rded that are stitched from four; 1: none, as in a set whose
    images are seen one tile at a time."""
