"""CutMix and MixUp within a batch: who is mixed with whom, and what becomes of images and targets.

    CutMix   image = image outside a box, partner inside      share = 1 - area of the box
    MixUp    image = share x image + (1 - share) x partner    share ~ Beta(alpha, alpha)
    target   = share x own + (1 - share) x partner's

One draw of box or share for a group, partners by a permutation of it, as published. A group is the whole batch, unless
the strategy says otherwise: a group that comes back in a later batch has the draw that it had.

Sources: Yun et al. 2019 (CutMix, used in half of the batches on CIFAR, in all on ImageNet), Zhang et al. 2018 (MixUp).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from attar.training.settings import TrainSettings

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Mixed:
    """One group of images that are mixed among themselves."""

    partner: Tensor
    """Place (n,) in the group of the image that each is mixed with, int64, on the CPU."""
    share: float = 1.0
    """Part of each that is its own, 0..1; 1: it is not mixed."""
    box: Box | None = None
    """CutMix: top, left, bottom and right (exclusive) in pixels; None: MixUp."""

    def images(self, images: Tensor) -> Tensor:
        """Mixed images (n, c, h, w), or maps or rows (n, ...) where there is no box."""
        if self.share == 1:
            return images
        partners = images[self.partner.to(images.device)]
        if self.box is None:
            return torch.lerp(partners, images, self.share)
        top, left, bottom, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed

    def targets(self, targets: Tensor) -> Tensor:
        """Mixed targets (n, classes)."""
        if self.share == 1:
            return targets
        return torch.lerp(targets[self.partner.to(targets.device)], targets, self.share)


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed: its groups, one behind the other."""

    groups: tuple[Mixed, ...]

    @property
    def sizes(self) -> list[int]:
        """Images of each group."""
        return [len(group.partner) for group in self.groups]

    @property
    def own(self) -> Tensor:
        """Which images (b,) are shown as they are, bool on the CPU."""
        return torch.cat([torch.full((len(group.partner),), group.share == 1) for group in self.groups])

    def images(self, images: Tensor) -> Tensor:
        """Mixed images (b, c, h, w)."""
        parts = images.split(self.sizes)
        return torch.cat([group.images(part) for group, part in zip(self.groups, parts, strict=True)])

    def targets(self, targets: Tensor) -> Tensor:
        """Mixed targets (b, classes) of probabilities."""
        parts = targets.split(self.sizes)
        return torch.cat([group.targets(part) for group, part in zip(self.groups, parts, strict=True)])


def draw_mixed(settings: TrainSettings, rng: torch.Generator, num: int, height: int, width: int) -> Mixed:
    """Draw whether and how a group of `num` images of this size in pixels is mixed."""
    which, place = torch.rand(2, generator=rng, dtype=torch.float64).tolist()
    partner = torch.randperm(num, generator=rng)
    down, across = torch.rand(2, generator=rng, dtype=torch.float64).tolist()
    if which >= settings.cutmix + settings.mixup:
        return Mixed(partner)
    share = beta(place, settings.mix_alpha)
    if which >= settings.cutmix:
        return Mixed(partner, share)
    box = _box(1 - share, int(down * height), int(across * width), height, width)
    area = (box[2] - box[0]) * (box[3] - box[1])
    return Mixed(partner, 1 - area / (height * width), box)


def _box(area: float, row: int, column: int, height: int, width: int) -> Box:
    """A box of this part of the image about a centre, clipped at the border."""
    half_height, half_width = (int(size * math.sqrt(area)) // 2 for size in (height, width))
    return (
        max(row - half_height, 0),
        max(column - half_width, 0),
        min(row + half_height, height),
        min(column + half_width, width),
    )


def beta(uniform: float, alpha: float) -> float:
    """The value of Beta(alpha, alpha) below which this part, 0..1, of all values lies."""
    if alpha == 1:
        return uniform
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    return float(betaincinv(alpha, alpha, uniform))
