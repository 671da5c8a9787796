"""Statistics of a layer's input, over all images and class by class: of a batch with a gradient, of a set exactly.

    μ_c = mean of the values of class c, per channel        σ²_c = mean of their squares - μ_c²  (biased)

A layer's input is (b, c) or (b, c, ...), its rows in the order of the images. Where it has several rows an image
(tokens), they count alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

CACHED = 1 << 18
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
    """Images by their classes; made once for all layers, as making it waits for the device."""

    present: Tensor
    """The classes that are there, int64 (k,), ascending."""
    member: Tensor
    """Which images are of them: 0 or 1, int64 (k, b)."""

    @classmethod
    def of(cls, labels: Tensor) -> Grouping:
        """Group images of these classes, int64 (b,)."""
        present, place = labels.unique(return_inverse=True)
        return cls(present, F.one_hot(place, len(present)).T)

    def rows(self, num: int) -> Tensor:
        """Which of `num` rows are of the classes: 0 or 1, int64 (k, num); images have equally many rows each."""
        return self.member.repeat_interleave(num // self.member.shape[1], 1)


class Sums:
    """Sums of a layer's input and of its square by class, in float64: exact to rounding, whatever the batches are.

    Attributes:
        counts: values per channel of each class: float64 (classes,).
        sums: of values, and of their squares: float64 (classes, 2, c).
    """

    def __init__(self, num_classes: int, num_channels: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.sums = torch.zeros(num_classes, 2, num_channels, dtype=torch.float64, device=device)

    def add(self, x: Tensor, images: Grouping) -> None:
        """Take in an input (b, c, ...) of images of these classes, on its device."""
        values = x.detach().flatten(2) if x.ndim > 2 else x.detach().unsqueeze(2)
        rows = torch.cat([_row_sums(some) for some in values.split(_num_at_once(values))])
        member = images.rows(len(x)).double()
        self.counts[images.present] += member.sum(1) * values.shape[2]
        self.sums[images.present] += (member @ rows.flatten(1)).unflatten(1, rows.shape[1:])

    def statistics(self) -> LayerStatistics:
        """What was summed up, on the CPU; zeros for a class without images."""
        means = self.sums / self.counts.clamp_min(1)[:, None, None]
        whole = self.sums.sum(0) / self.counts.sum().clamp_min(1)
        class_mean, class_var = _moments(means[:, 0], means[:, 1])
        return LayerStatistics(*_moments(whole[0], whole[1]), class_mean, class_var)


def class_moments(x: Tensor, images: Grouping) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of each class of a batch, with a gradient, in float32 at least.

    Args:
        x: input (b, c, ...) of a layer.
        images: by class, on its device.

    Returns the part of the rows that is of each class that is there (k,), their means and variances (k, c).
    """
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    values = values if x.ndim > 2 else values.unsqueeze(2)
    places, flat = list(range(2, values.ndim)), [1] * (values.ndim - 2)
    member = images.rows(len(x))
    num = member.sum(1)
    with torch.autocast(x.device.type, enabled=False):
        share = (member / num.unsqueeze(1)).to(values)
        of_each = values.mean(places)
        mean = share @ of_each
        # the squares of what is near 0 lose no digits
        about = member.T.to(values) @ mean.detach()
        apart = values - about.view(*about.shape, *flat)
        var = share @ apart.square().mean(places) - (share @ (of_each - about)).square()
    return num.to(values) / len(x), mean, var


def class_distance(x: Tensor, images: Grouping, target: LayerStatistics) -> Tensor:
    """Mean over the rows of x (b, c, ...) of ||μ_c - mean_c||₂ + ||σ²_c - var_c||₂, c being the row's class."""
    assert target.class_mean is not None, "statistics without classes"
    assert target.class_var is not None, "statistics without classes"
    part, mean, var = class_moments(x, images)
    wanted = target.class_mean[images.present], target.class_var[images.present]
    apart = (mean - wanted[0]).norm(dim=1) + (var - wanted[1]).norm(dim=1)
    distance: Tensor = (part * apart).sum()
    return distance


def _row_sums(values: Tensor) -> Tensor:
    """Sums over the places of values (b, c, n) and of their squares: float64 (b, 2, c)."""
    values = values.double()
    return torch.stack([values.sum(2), values.square().sum(2)], 1)


def _num_at_once(values: Tensor) -> int:
    """How many rows of (b, c, n) are widened at once: on the CPU as many as stay in its cache, a third of the time."""
    return max(1, CACHED // values[0].numel()) if values.device.type == "cpu" else len(values)


def _moments(mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    return mean.float().cpu(), (square - mean.square()).clamp_min(0).float().cpu()
