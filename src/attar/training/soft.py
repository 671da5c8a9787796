"""What a distilled dataset is trained on: its images with hard labels, or with the soft ones that it holds or makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from attar.artifacts.distilled import Distilled
from attar.data.loading import TensorSet, TrainingSet
from attar.data.replayed import ReplayedSet
from attar.data.stored_views import StoredViews
from attar.data.views import Views
from attar.errors import ConfigError
from attar.labels.store import LabelStore


class Teacher(Protocol):
    """Who labels images."""

    def logits(self, images: Tensor) -> Tensor:
        """Logits (b, classes) of normalised images (b, c, h, w)."""

    def soft_labels(self, images: Tensor) -> Tensor:
        """Probabilities (b, classes) of normalised images (b, c, h, w)."""


def soft_set(distilled: Distilled, teacher: Teacher | None, device: torch.device) -> TrainingSet:
    """The images with their soft labels: one each, or logits on the replayed views of each epoch.

    Raises ConfigError where the labels are to be made in training and there is no teacher.
    """
    if distilled.label_kind == "epochs":
        store = distilled.label_store
        assert store is not None
        if isinstance(store, LabelStore):
            return _replayed(distilled, store, device)
        data: TrainingSet = store.training_set(distilled.images_at, distilled.labels, device)
        return data
    if distilled.label_kind == "online":
        if teacher is None:
            raise ConfigError(
                f"the labels of {distilled.path} are made during training, and its teacher was not opened",
                fix="relabel with labels stored (relabel.labels=epochs)",
            )
        return _replayed(distilled, teacher.logits, device)
    return distilled.training_set()


def labelled_by(
    teacher: Teacher, images: Tensor, labels: Tensor, views: Mapping[str, Any] | None, device: torch.device
) -> TrainingSet:
    """Other images (n, c, h, w) labelled as the distilled ones were: the same views, or one soft label each."""
    if views is None:
        data = TensorSet(images, teacher.soft_labels(images).cpu())
        data.labels = labels  # a soft label may be highest at another class
        return data
    like = Views.from_json(views)
    own = Views(like.settings, like.seed, len(labels), like.shape)
    return ReplayedSet(lambda indices: images[indices], labels, own, teacher.logits, device)


def _replayed(distilled: Distilled, source: Any, device: torch.device) -> ReplayedSet:
    assert distilled.views is not None
    stored = isinstance(source, LabelStore) and source.plan.views
    views = StoredViews(source, distilled.views) if stored else Views.from_json(distilled.views)
    return ReplayedSet(distilled.images_at, distilled.labels, views, source, device)
