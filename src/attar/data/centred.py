"""The centre of enlarged images: how published code tests networks that learnt from crops, where objects are larger.

Source: torchvision's `Resize(side)` (bilinear; the shorter side becomes `side`) and `CenterCrop`, in 8 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attar.data.loading import Split


class CentredSplit:
    """A split whose images are enlarged to `side` px, their shorter side, and cut back to their own size."""

    def __init__(self, split: Split, side: int) -> None:
        self.labels = split.labels
        self._split, self._side = split, side

    def __len__(self) -> int:
        return len(self._split)

    def pixels(self, indices: Tensor) -> Tensor:
        """Pixels uint8 (b, c, h, w) of these indices (b,); raises ValueError where images are larger than `side`."""
        pixels = self._split.pixels(indices)
        height, width = pixels.shape[2:]
        shorter = min(height, width)
        if self._side < shorter:
            raise ValueError(f"images of {height}x{width} px cannot be enlarged to {self._side}")
        size = self._side * height // shorter, self._side * width // shorter
        larger = F.interpolate(pixels.float(), size, mode="bilinear", align_corners=False)
        top, left = (round((size[axis] - own) / 2) for axis, own in enumerate((height, width)))
        return larger[..., top : top + height, left : left + width].round_().clamp_(0, 255).to(torch.uint8)
