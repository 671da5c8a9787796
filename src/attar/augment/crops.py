"""Random crops that are brought back to full size: which ones (as torchvision's RandomResizedCrop), and how.

Bilinear between the pixels of the crop and of no others, as torchvision's `resized_crop`; a crop is never larger
than the result, so that nothing needs to be smoothed first. A crop is (top, left, height, width) in whole pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

RATIO = (3 / 4, 4 / 3)
"""Range of a crop's width over height; its logarithm is uniform."""
_ATTEMPTS = 10
"""Sizes that are tried before a crop is the whole image, or the largest centred part of it within `RATIO`."""
NUM_UNIFORMS = 2 + 2 * _ATTEMPTS
"""Uniform numbers that one crop takes: where it begins, down and across, and area and ratio of each attempt."""

Floats = NDArray[np.float64]


def choose(uniforms: Floats, min_scale: float, height: int, width: int) -> NDArray[np.int64]:
    """Turn uniforms (b, NUM_UNIFORMS) in 0..1 (1 excluded) into crops (b, 4) of `min_scale`..1 of the area."""
    low, high = map(math.log, RATIO)
    area = (min_scale + uniforms[:, 2::2] * (1 - min_scale)) * (height * width)
    ratio = np.exp(low + uniforms[:, 3::2] * (high - low))
    sizes = np.rint(np.sqrt(np.stack([area / ratio, area * ratio], 2)))
    fits: NDArray[np.bool_] = np.all((sizes > 0) & (sizes <= [height, width]), axis=2)
    fitted, first = fits.any(axis=1, keepdims=True), fits.argmax(axis=1)
    size = np.where(fitted, sizes[np.arange(len(sizes)), first], _largest(height, width)).astype(np.int64)
    room = np.array([height, width]) - size + 1
    corner = np.where(fitted, whole(uniforms[:, :2], room), (room - 1) // 2)
    return np.concatenate([corner, size], axis=1)


def tiles(places: Tensor, grid: int, height: int, width: int) -> Tensor:
    """Crops int64 (b, 4) of the tiles at `places` (b,), row by row, of images that hold `grid` by `grid` of them.

    Where a side is not a multiple of `grid`, the first tiles have a pixel more.
    """
    where, sizes = torch.stack([places // grid, places % grid], 1), torch.tensor([height, width])
    first = where * (sizes // grid) + where.minimum(sizes % grid)
    return torch.cat([first, sizes // grid + (where < sizes % grid)], 1)


def cut(images: Tensor, places: Tensor, grid: int) -> Tensor:
    """The tile at `places` (b,) of each of the images (b, c, h, w), brought to full size; see `tiles`."""
    return resized(images, tiles(places, grid, *images.shape[2:])) if grid > 1 else images


def apart(images: Tensor, grid: int) -> Tensor:
    """All tiles of images (n, c, h, w), those of an image one after another: (n grid², c, h, w); see `cut`."""
    places, held = torch.arange(len(images) * grid**2), grid**2
    return cut(images[places // held], places % held, grid)


def whole(uniforms: Floats, num: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn uniforms in 0..1 into whole numbers in 0..num-1."""
    return np.minimum((uniforms * num).astype(np.int64), np.asarray(num, np.int64) - 1)


def resized(images: Tensor, crops: Tensor, flips: Tensor | None = None) -> Tensor:
    """Cut images (b, c, h, w), each by its own crop (b, 4), and bring them back to full size.

    Those are mirrored left to right where `flips` (b,) is true. A row's bits don't depend on the other rows.
    """
    rows, columns = (spread(crops, axis, size) for axis, size in enumerate(images.shape[2:]))
    if flips is not None:
        columns = mirrored(columns, flips)
    return sample(images, columns.unsqueeze(1), rows.unsqueeze(2))


def spread(crops: Tensor, axis: int, size: int) -> Tensor:
    """Where a view of `size` pixels reads a crop along one axis (0 down, 1 across): pixels, float64 (b, size)."""
    first, length = crops[:, axis, None], crops[:, axis + 2, None]
    places = (torch.arange(size, dtype=torch.float64) + 0.5) * length / size - 0.5
    return first + places.clamp_min(0).minimum(length - 1)


def mirrored(columns: Tensor, flips: Tensor) -> Tensor:
    """Reverse those rows of (b, w) for which `flips` (b,) is true."""
    return torch.where(flips.unsqueeze(1), columns.flip(1), columns)


def relative(places: Tensor, extent: int, like: Tensor) -> Tensor:
    """Turn pixels into -1..1 over `extent` pixels, on the device and with the type of the images."""
    return ((2 * places + 1) / extent - 1).to(like.device, like.dtype)


def sample(images: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Read images at `columns` and `rows`, in pixels, which broadcast to (b, h, w)."""
    height, width = images.shape[2:]
    return sample_grid(images, relative(columns, width, images), relative(rows, height, images))


def sample_grid(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read images at x and y in -1..1, which broadcast to (b, h, w)."""
    grid = x.new_empty((*torch.broadcast_shapes(x.shape, y.shape), 2))  # `torch.stack` takes five times as long
    grid[..., 0], grid[..., 1] = x, y
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _largest(height: int, width: int) -> tuple[int, int]:
    return min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))
