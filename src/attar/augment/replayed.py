"""A training set whose views are replayed: every epoch's crops, flips and mixes, with a teacher's logits for each.

Only the seed of the views is stored. The logits were stored when the images were relabelled, or are made now.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attar.augment.views import Views
from attar.labels.pairing import paired_epochs
from attar.labels.store import LabelStore


class ReplayedSet:
    """Images under replayed views, with logits: what training with soft labels reads.

    Args:
        images: normalised images (b, c, h, w) of indices (b,).
        labels: classes int64 (n,).
        views: of these n images.
        teacher: logits (b, classes) for views (b, c, h, w), or the store that holds them.
        device: where views are made.
    """

    def __init__(
        self,
        images: Callable[[Tensor], Tensor],
        labels: Tensor,
        views: Views,
        teacher: Callable[[Tensor], Tensor] | LabelStore,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(labels) != views.num_images:
            raise ValueError(f"{len(labels)} labels for the views of {views.num_images} images")
        self.images, self.labels, self.views = images, labels, views
        self._teacher, self.device = teacher, device

    def __len__(self) -> int:
        return len(self.labels)

    def targets(self, indices: Tensor) -> Tensor:
        """Classes int64 (b,) of these indices (b,)."""
        return self.labels[indices]

    def batch(self, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Views (b, c, h, w) of an epoch of training, and the teacher's logits (b, classes) for them."""
        if not isinstance(self._teacher, LabelStore):
            views = self.views.apply(self.images, torch.full_like(indices, epoch), indices, self.device)
            return views, self._teacher(views)
        stored = paired_epochs(epoch, indices, self._teacher.num_epochs, self.views.seed)
        views = self.views.apply(self.images, stored, indices, self.device)
        return views, self._teacher.read(stored, indices)
