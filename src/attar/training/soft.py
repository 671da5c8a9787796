"""What a distilled dataset is trained on: its images with hard labels, or with the soft ones that it holds or makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from attar.artifacts.distilled import Distilled
from attar.augment.replayed import ReplayedSet
from attar.augment.stored_views import StoredViews
from attar.augment.views import Views
from attar.data.loading import TrainingSet
from attar.errors import ConfigError
from attar.labels.store import LabelStore
from attar.methods.base import Labeller

Teacher: TypeAlias = Labeller
"""Who labels images, as whoever trains on them calls it."""
_ASKED_BYTES = 64 << 20
"""Of float images that a teacher is asked about together, where each gets one label."""


@runtime_checkable
class CarriedTeacher(Teacher, Protocol):
    """A teacher that goes with a dataset whose labels are made in training."""

    paths: Sequence[Path]
    """Files of its networks, as `attar.squeeze.teacher_files` reads them."""


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


class _Relabelled:
    """The images of a set with a soft label each.

    Args:
        data: the images, and their classes.
        targets: probabilities (n, classes).
    """

    def __init__(self, data: TrainingSet, targets: Tensor) -> None:
        self.labels = data.labels  # a soft label may be highest at another class
        self._data, self._targets = data, targets

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (b, c, h, w), float32, of these indices (b,)."""
        return self._data.images(indices)

    def targets(self, indices: Tensor) -> Tensor:
        """Probabilities (b, classes) of these indices (b,)."""
        return self._targets[indices]


def labelled_by(
    teacher: Teacher, data: TrainingSet, views: Mapping[str, Any] | None, device: torch.device
) -> TrainingSet:
    """Other images labelled as the distilled ones were: the same views, or one soft label each."""
    if views is None:
        return _Relabelled(data, one_label_each(teacher, data.images, len(data)))
    like = Views.from_json(views)
    own = Views(like.settings, like.seed, len(data), like.shape)
    return ReplayedSet(data.images, data.labels, own, teacher.logits, device)


def one_label_each(teacher: Teacher, images: Callable[[Tensor], Tensor], num: int) -> Tensor:
    """Probabilities (num, classes) on the CPU, for normalised images (b, c, h, w) of indices (b,)."""
    size = max(1, _ASKED_BYTES // (4 * images(torch.tensor([0])).numel()))
    return torch.cat([teacher.soft_labels(images(indices)).cpu() for indices in torch.arange(num).split(size)])


def _replayed(distilled: Distilled, source: Any, device: torch.device) -> ReplayedSet:
    assert distilled.views is not None
    stored = isinstance(source, LabelStore) and source.plan.views
    views = StoredViews(source, distilled.views) if stored else Views.from_json(distilled.views)
    return ReplayedSet(distilled.images_at, distilled.labels, views, source, device)
