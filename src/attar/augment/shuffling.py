"""Patches that change places: an image in n columns and n rows, both in an order of their own.

    columns of w // n pixels, the last one with what is left over, side by side in a drawn order; then rows alike

Source: `ShufflePatches` in the code of RDED (Sun et al. 2024), which shows students the patches of a stitched image in
another order in each epoch. Columns move as a whole, and rows do, so that neighbours in one direction stay in line: of
four patches 4 of the 24 orders are seen.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def orders(uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Turn uniforms (b, n) into orders (b, n): which strip comes first, which second, and so on."""
    return uniforms.argsort(axis=1, kind="stable")


def shuffled(images: Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
    """Images (b, c, h, w) with their rows and columns of patches in these orders (b, n), each image in its own."""
    num, channels, height, width = images.shape
    down, across = (_sources(order, size) for order, size in ((rows, height), (columns, width)))
    down, across = down.to(images.device), across.to(images.device)
    moved = images.gather(2, down[:, None, :, None].expand(num, channels, height, width))
    return moved.gather(3, across[:, None, None, :].expand(num, channels, height, width))


def _sources(order: NDArray[np.int64], size: int) -> Tensor:
    """Where the pixels of one axis come from, (b, size), for strips in these orders (b, n)."""
    num = order.shape[1]
    lengths = np.full(num, size // num)
    lengths[-1] += size % num
    first = np.cumsum(lengths) - lengths
    ends = np.cumsum(lengths[order], axis=1)
    places = np.arange(size)
    strip = (places >= ends[:, :, None]).sum(axis=1)  # which strip of the result a pixel lies in
    begin = np.take_along_axis(ends - lengths[order], strip, axis=1)
    source = np.take_along_axis(first[order], strip, axis=1) + places - begin
    return torch.from_numpy(source)
