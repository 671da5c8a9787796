"""What dm and ncfm share: real and synthetic images of each class, under one draw of augmentation for both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attar.augment.operations import Augmentation
from attar.methods.base import RealImages, Synthetic
from attar.task import Task


def both_sides(
    images: Tensor,
    synthetic: Synthetic,
    real: RealImages,
    num_real: int,
    augmentation: Augmentation,
    task: Task,
    rng: torch.Generator,
) -> tuple[list[Tensor], list[Tensor]]:
    """Real images (r, c, h, w) and synthetic ones (s, c, h, w) of each class, on the device of `images`.

    Args:
        images: (n, c, h, w), what the state stands for; gradients flow to them.
        synthetic: the state, for its labels (n,).
        real: what `num_real` of each class are drawn from, or all where a class has fewer.
        num_real: at least 1.
        augmentation: one draw of it is applied to both sides of a class.
        task: classes and shape.
        rng: decides all.
    """
    theirs, ours = list[Tensor](), list[Tensor]()
    for label in range(task.num_classes):
        draw = augmentation.draw(rng, 1, task.shape, "batch")
        members = (real.labels == label).nonzero().squeeze(1)
        sample = real.images(members[torch.randperm(len(members), generator=rng)[:num_real]])
        theirs.append(augmentation.apply(sample.to(images.device), draw))
        ours.append(augmentation.apply(images[(synthetic.labels == label).nonzero().squeeze(1)], draw))
    return theirs, ours


def of_classes(values: Tensor, classes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Values (Σ b, ...) of all images, cut into those of each class, as many as its images (b, c, h, w)."""
    parts: tuple[Tensor, ...] = values.split([len(one) for one in classes])
    return parts
