"""Statistics of a layer's input, over all images and class by class: of a whole set, and how far a batch's are away.

    μ_c = mean of the values of class c, per channel        σ²_c = mean of their squares - μ_c²  (biased)

A layer's input is (b, c) or (b, c, ...), its rows in the order of the images. Where it has several rows an image
(tokens), they count alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)
"""Devices that have no such numbers: what they measure is summed up on the CPU."""
_CACHED = 1 << 18
"""Values that a processor's cache holds in float64."""


@dataclass(frozen=True)
class LayerStatistics:
    """Mean and biased variance of a layer's input, float32: over all images (c,), and of each class (classes, c).

    The class-wise ones are None where nobody asked for them.
    """

    mean: Tensor
    var: Tensor
    class_mean: Tensor | None = None
    class_var: Tensor | None = None


class Grouping(NamedTuple):
    """Images in the order of their classes; made once for all layers, as making it waits for the device."""

    present: Tensor
    """The classes that are there, int64 (k,), ascending."""
    counts: Tensor
    """How many images each of them has, int64 (k,)."""
    sizes: tuple[int, ...]
    """The same, off the device."""

    @classmethod
    def of(cls, labels: Tensor) -> Grouping:
        """Group images of these classes, int64 (b,); raises ValueError where a class comes after a higher one."""
        present, counts = labels.unique_consecutive(return_counts=True)
        classes, sizes = torch.stack([present, counts]).tolist()
        if any(later <= earlier for earlier, later in pairwise(classes)):
            raise ValueError("images must come in the order of their classes, the lowest first")
        return cls(present, counts, tuple(sizes))

    def part(self, like: Tensor) -> Tensor:
        """The part of the images that is of each class (k,), of the type and on the device of `like`."""
        return self.counts.to(like) / sum(self.sizes)

    def rows(self, num: int) -> tuple[int, ...]:
        """How many of `num` rows each class has; images have equally many rows each."""
        each = num // sum(self.sizes)
        return tuple(size * each for size in self.sizes)


class Sums:
    """Sums of a layer's input and of its square by class, in float64: exact to rounding, whatever the batches are.

    Attributes:
        counts: values per channel of each class: float64 (classes,).
        sums: of values, and of their squares: float64 (classes, 2, c).
    """

    def __init__(self, num_classes: int, num_channels: int, device: torch.device | str = "cpu") -> None:
        home = "cpu" if torch.device(device).type in WITHOUT_FLOAT64 else device
        self.counts = torch.zeros(num_classes, dtype=torch.float64, device=home)
        self.sums = torch.zeros(num_classes, 2, num_channels, dtype=torch.float64, device=home)

    def add(self, x: Tensor, images: Grouping) -> None:
        """Take in an input (b, c, ...) of images of these classes, both on one device."""
        x, present, counts = (some.detach().to(self.sums.device) for some in (x, images.present, images.counts))
        values = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
        rows = torch.cat([_row_sums(some) for some in values.split(_num_at_once(values))])
        self.counts[present] += counts * (x.numel() // x.shape[1] // sum(images.sizes))
        self.sums[present] += torch.stack([part.sum(0) for part in rows.split(images.rows(len(x)))])

    def statistics(self) -> LayerStatistics:
        """What was summed up, on the CPU; zeros for a class without images."""
        means = self.sums / self.counts.clamp_min(1)[:, None, None]
        whole = self.sums.sum(0) / self.counts.sum().clamp_min(1)
        class_mean, class_var = _moments(means[:, 0], means[:, 1])
        return LayerStatistics(*_moments(whole[0], whole[1]), class_mean, class_var)


def class_distance(mean: Tensor, var: Tensor, images: Grouping, target: LayerStatistics) -> Tensor:
    """Mean over the images of ||μ_c - mean_c||₂ + ||σ²_c - var_c||₂, c being the image's class.

    Args:
        mean: μ_c of each class that is there (k, c).
        var: σ²_c, biased (k, c).
        images: by class.
        target: statistics with those of each class.
    """
    assert target.class_mean is not None, "statistics without classes"
    assert target.class_var is not None, "statistics without classes"
    wanted = target.class_mean[images.present], target.class_var[images.present]
    apart = (mean - wanted[0]).norm(dim=1) + (var - wanted[1]).norm(dim=1)
    distance: Tensor = (images.part(apart) * apart).sum()
    return distance


def _row_sums(values: Tensor) -> Tensor:
    """Sums over the places of values (b, c, n) and of their squares: float64 (b, 2, c)."""
    values = values.double()
    return torch.stack([values.sum(2), values.square().sum(2)], 1)


def _num_at_once(values: Tensor) -> int:
    """How many rows of (b, c, n) are widened at once: on the CPU as many as stay in its cache, a third of the time."""
    return max(1, _CACHED // values[0].numel()) if values.device.type == "cpu" else len(values)


def _moments(mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    return mean.float().cpu(), (square - mean.square()).clamp_min(0).float().cpu()
