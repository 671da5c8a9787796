"""Distances between the statistics of a batch, at the input of every BatchNorm, and those that it has learnt.

    R_l = ||mean(z_l) - mean_l||_2 + ||var(z_l) - var_l||_2        z_l: input of layer l, per channel

over batch and space (2d) or batch and tokens (1d), with the biased variance. mean_l and var_l may be others than those
learnt, such as those that were measured on the real images, and class-wise ones may be mixed in. Source: Yin et al.,
"Dreaming to Distill", CVPR 2020, equation 4; Yin et al., "Squeeze, Recover and Relabel", NeurIPS 2023, equation 10.

In the channels' own unit, which is attar's, z_l is standardised by what is learnt, and layers of any width count alike:

    R_l = ||(mean(z_l) - mean_l) / std_l||_2 / sqrt(c) + ||(var(z_l) - var_l) / var_l||_2 / sqrt(c)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attar.losses.class_statistics import Grouping, LayerStatistics, class_distance
from attar.losses.moments import NormAndMoments, of_all, precise
from attar.losses.recomputed import Recomputed
from attar.losses.winograd import FrozenConv, suits

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm


class WatchedNorm(nn.Module):
    """A frozen BatchNorm that notes the statistics of its input, and says how far such are from a target.

    The statistics are of float32 at least, whatever the input is: of float64 where both are.

    Args:
        norm: a BatchNorm with running statistics.
        target: what the statistics of its input are held against; None: those that it has learnt.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, norm: BatchNorm, target: LayerStatistics | None = None) -> None:
        super().__init__()
        assert norm.running_mean is not None, "a BatchNorm without running statistics has nothing to match"
        learnt = {"mean": norm.running_mean, "var": norm.running_var, "weight": norm.weight, "bias": norm.bias}
        for name, value in learnt.items():
            self.register_buffer(name, None if value is None else value.detach().to(precise(value), copy=True))
        self.eps = norm.eps
        self.target = target
        self.standardised = False
        """Whether distances are in the channels' own unit."""
        self.images: Grouping | None = None
        """The images of the next forward pass by class, in the order of their classes, where the classes count."""
        self.moments: list[tuple[Tensor, Tensor]] = []
        """Mean and variance (k, c) of the input of each forward pass since it was last emptied, with their graphs: of
        the whole (k = 1), or of each class in it."""

    @property
    def aim(self) -> LayerStatistics:
        """What the statistics of the input are held against."""
        return self.target or LayerStatistics(self.mean, self.var)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (b, c) or (b, c, ...) by the running statistics, as a BatchNorm in evaluation mode."""
        sizes = (len(x),) if self.images is None else self.images.rows(len(x))
        out: Tensor
        out, mean, var = NormAndMoments.apply(x, self.mean, self.var, self.weight, self.bias, self.eps, sizes)
        self.moments.append((mean, var))
        return out

    def distance(self, mean: Tensor, var: Tensor) -> Tensor:
        """R_l of moments (c,)."""
        if self.standardised:
            return _apart_standardised(mean, var, self.aim, self.eps)
        return _apart(mean, var, self.aim)

    def class_distance(self, mean: Tensor, var: Tensor, images: Grouping, class_share: float) -> Tensor:
        """R_l of moments (k, c) of each class of these images, of which the part `class_share` is class-wise."""
        of_class = class_distance(mean, var, images, self.aim)
        if class_share == 1:
            return of_class
        return self.distance(*of_all(images.part(mean), mean, var)).lerp(of_class, class_share)


class _Part(NamedTuple):
    """Images that are looked at together."""

    num: int
    grouping: Grouping | None = None


class Watched:
    """A frozen copy of a network whose BatchNorms are watched.

    Args:
        model: its weights are copied; without a BatchNorm that has running statistics the sum of R_l is 0.
        first_weight: w of the first layer; those of the others are 1.
        targets: statistics of each BatchNorm's input to hold it against, on the model's device and in the order of
            `attar.models.norms.batch_norms`; None: those that were learnt.
        standardised: take distances in the channels' own unit; they are never class-wise then.
        at_once: images that are looked at together, in whole classes where these count; None: all. Statistics and
            gradients are those of all, to rounding.
    """

    def __init__(
        self,
        model: nn.Module,
        first_weight: float = 1.0,
        targets: Sequence[LayerStatistics] | None = None,
        *,
        standardised: bool = False,
        at_once: int | None = None,
    ) -> None:
        frozen = _replaced(copy.deepcopy(model)).eval().requires_grad_(False)
        self.model: nn.Module = frozen.to(memory_format=torch.channels_last)
        self.norms = [module for module in self.model.modules() if isinstance(module, WatchedNorm)]
        self.weights = [first_weight if k == 0 else 1.0 for k in range(len(self.norms))]
        self._scale: float | None = None
        self._at_once, self._owners = at_once, list[int]()
        for norm, target in zip(self.norms, targets or (), strict=targets is not None):
            norm.target = target
        for norm in self.norms:
            norm.standardised = standardised

    def __call__(self, images: Tensor, labels: Tensor | None = None, class_share: float = 0.0) -> tuple[Tensor, Tensor]:
        """Logits (b, classes) and the weighted sum of R_l, both with their graphs.

        Of each R_l the part `class_share`, 0..1, is class-wise: the mean over the images, of classes `labels` (b,), of
        the distance between the statistics of the image's class in the batch and those of that class in the targets.
        For that, images come in the order of their classes, the lowest first; else ValueError is raised.
        """
        assert not (class_share and self.norms[0].standardised), "class-wise distances are plain"
        images = images.contiguous(memory_format=torch.channels_last)
        grouping = Grouping.of(labels) if labels is not None and class_share else None
        parts = self._parts(len(images), grouping)
        sizes = tuple(part.num for part in parts)
        if len(parts) == 1:
            logits, *moments = self._look(images, grouping)
        else:
            logits, *moments = Recomputed.apply(images, sizes, lambda k, part: self._look(part, parts[k].grouping))
        terms = []
        share = moments[0].new_tensor(sizes) / len(images) if moments and len(parts) > 1 else None
        for k, mean, var in zip(self._owners, moments[::2], moments[1::2], strict=True):
            norm = self.norms[k]
            if grouping is not None:
                distance = norm.class_distance(mean, var, grouping, class_share)
            elif share is not None:
                distance = norm.distance(*of_all(share, mean, var))
            else:
                distance = norm.distance(mean[0], var[0])
            terms.append(self.weights[k] * distance)
        logits = logits.to(precise(logits))
        return logits, torch.stack(terms).sum() if terms else logits.new_zeros(())

    @torch.no_grad()
    def first_variance(self, images: Tensor) -> float:
        """The variance of the first layer's input over that which it is held against, channels summed: 1: as large."""
        parts = self._parts(len(images), None)
        seen = [self._look(some, None)[1:3] for some in images.split([part.num for part in parts])]
        means, variances = (torch.cat(both) for both in zip(*seen, strict=True))
        share = variances.new_tensor([part.num for part in parts]) / len(images)
        _, variance = of_all(share, means, variances)
        return float(variance.sum() / self.norms[0].aim.var.sum())

    def _look(self, images: Tensor, grouping: Grouping | None) -> tuple[Tensor, ...]:
        """Logits, and mean and variance (k, c) of the input of each norm as often as it is passed."""
        for norm in self.norms:
            norm.images = grouping
        logits = self.model(images)
        self._owners = [k for k, norm in enumerate(self.norms) for _ in norm.moments]
        found = [moment for norm in self.norms for both in norm.moments for moment in both]
        for norm in self.norms:
            norm.moments.clear()
        return logits, *found

    def _parts(self, num: int, grouping: Grouping | None) -> list[_Part]:
        """Parts of `num` images, each of whole classes where these count."""
        most = self._at_once or num
        if grouping is None:
            return [_Part(min(most, num - first)) for first in range(0, num, most)]
        parts, first = [], 0
        while first < len(grouping.sizes):
            last = first + 1
            while last < len(grouping.sizes) and sum(grouping.sizes[first : last + 1]) <= most:
                last += 1
            cut = slice(first, last)
            some = Grouping(grouping.present[cut], grouping.counts[cut], grouping.sizes[cut])
            parts.append(_Part(sum(some.sizes), some))
            first = last
        return parts

    def scale(self) -> float:
        """The weighted sum of ||std_l||_2 + ||var_l||_2 of the targets: the unit in which R is large or small.

        In the channels' own unit each of the two is 1.
        """
        if self.norms[0].standardised:
            return 2 * sum(self.weights)
        if self._scale is None:  # reading it waits for the device
            sizes = [norm.aim.var.sqrt().norm() + norm.aim.var.norm() for norm in self.norms]
            self._scale = sum(w * float(size) for w, size in zip(self.weights, sizes, strict=True))
        return self._scale


def total_variation(images: Tensor) -> Tensor:
    """Sum of the L2 norms of the differences to the four kinds of neighbours, over all images (b, c, h, w)."""
    across = images[..., 1:] - images[..., :-1]
    down = images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., 1:, :-1] - images[..., :-1, 1:]
    rising = images[..., 1:, 1:] - images[..., :-1, :-1]
    total: Tensor = across.norm() + down.norm() + falling.norm() + rising.norm()
    return total


def _apart(mean: Tensor, var: Tensor, aim: LayerStatistics) -> Tensor:
    distance: Tensor = (mean - aim.mean).norm() + (var - aim.var).norm()
    return distance


def _apart_standardised(mean: Tensor, var: Tensor, aim: LayerStatistics, eps: float) -> Tensor:
    learnt = aim.var + eps
    distance: Tensor = ((mean - aim.mean) * learnt.rsqrt()).norm() + ((var - aim.var) / learnt).norm()
    return distance / math.sqrt(len(aim.mean))


def _replaced(model: Any) -> Any:
    """The network with a watched norm for each that has statistics, and convolutions that need not learn."""
    if isinstance(model, BatchNorm) and model.running_mean is not None:
        return nn.Sequential(WatchedNorm(model), *model.children())  # timm's norms have their activation inside
    if suits(model):
        return FrozenConv(model)
    for name, child in model.named_children():
        setattr(model, name, _replaced(child))
    return model
