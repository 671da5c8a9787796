"""Batches for a training, on its device, and what a training may do with views that are replayed.

Real images that fit are kept on a GPU as uint8, and are gathered and normalised there; other images are read, decoded
where need be, and normalised on the processor, ahead in a thread. The same bits either way.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial

import torch
from torch import Tensor

from attar.augment.replayed import ReplayedSet
from attar.data.loading import MemorySplit, RealSet, TensorSet, TrainingSet, batches, plainly
from attar.errors import ConfigError
from attar.runtime.engine import Engine
from attar.task import Normalization
from attar.training.strategies import Strategy

_PART_OF_MEMORY = 0.25
"""Of a GPU's free memory that pixels may take."""


class Feed:
    """What a training reads: batches of normalised images with their targets, both on the engine's device.

    Args:
        data: hard or soft, or a ReplayedSet, whose views are a function of the epoch.
        engine: the device.
        replay: show a ReplayedSet's views, with the logits of each; false: its images as they are, and their classes.
    """

    def __init__(self, data: TrainingSet, engine: Engine, *, replay: bool = True) -> None:
        self._data, self._device, self._replay = data, engine.device, replay
        self._resident = _resident(data, engine.device)

    def batches(
        self, epoch: int, order: Sequence[Tensor], view_epochs: Sequence[Tensor] = ()
    ) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
        """Yield (indices, images, targets) for each batch of indices in `order`; indices stay on the CPU.

        `view_epochs` has, for each batch of a ReplayedSet, the epoch of each view; without it all are of this epoch.
        """
        read = self._read(epoch)
        if view_epochs and isinstance(self._data, ReplayedSet):
            read, order = (
                partial(_of_epochs, self._data),
                [torch.stack(pair) for pair in zip(order, view_epochs, strict=True)],
            )
        for asked, images, targets in batches(read, order, prefetch=self._prefetch):
            indices = asked if asked.ndim == 1 else asked[0]
            yield indices, images.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)

    def _read(self, epoch: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        if self._replay and isinstance(self._data, ReplayedSet):
            return partial(self._data.batch, epoch)
        if self._resident is None:
            return plainly(self._data)
        resident = self._resident
        return lambda indices: (resident.images(indices), self._data.targets(indices))

    @property
    def _prefetch(self) -> int:
        return 0 if self._resident or isinstance(self._data, TensorSet) else 2


def _of_epochs(data: ReplayedSet, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Views and logits of pairs (2, b) of an image and an epoch, of which those of an epoch stand together."""
    epochs, nums = pairs[1].unique_consecutive(return_counts=True)
    parts = [data.batch(int(epoch), part) for epoch, part in zip(epochs, pairs[0].split(nums.tolist()), strict=True)]
    images, logits = zip(*parts, strict=True)
    return torch.cat(images), torch.cat(logits)


class ResidentPixels:
    """Pixels uint8 (n, c, h, w) on a device, normalised there to the bits that the processor makes."""

    def __init__(self, pixels: Tensor, normalization: Normalization) -> None:
        self._pixels = pixels

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, device=pixels.device).view(-1, 1, 1)

        # by tensors on the device: a GPU divides by a number of the processor's inexactly, as a product
        self._whole, self._mean, self._std = column([255.0]), column(normalization.mean), column(normalization.std)

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (b, c, h, w) of these indices (b,)."""
        picked = self._pixels.index_select(0, indices.to(self._pixels.device, non_blocking=True))
        return (picked.float() / self._whole - self._mean) / self._std


def _resident(data: TrainingSet, device: torch.device) -> ResidentPixels | None:
    """The pixels on a GPU, where the set has such and they fit."""
    if device.type != "cuda" or not isinstance(data, RealSet) or not isinstance(data.split, MemorySplit):
        return None
    if data.normalization.whitening is not None:
        return None
    first = data.split.pixels(torch.tensor([0]))
    if first.numel() * len(data) > _PART_OF_MEMORY * torch.cuda.mem_get_info(device)[0]:
        return None
    return ResidentPixels(data.split.pixels(torch.arange(len(data))).to(device), data.normalization)


def view_epochs(data: TrainingSet, strategy: Strategy, epoch: int, order: Sequence[Tensor]) -> Sequence[Tensor]:
    """The epochs whose views the images of every batch of an epoch show; none where no views are replayed."""
    return strategy.view_epochs(epoch, order, _mixed(data)) if isinstance(data, ReplayedSet) else ()


def require_logits(data: TrainingSet, soft_loss: str) -> None:
    """Raise ConfigError where soft labels are to be learnt as logits, and they are probabilities."""
    if soft_loss == "mse" and not isinstance(data, ReplayedSet) and data.targets(torch.tensor([0])).is_floating_point():
        raise ConfigError(
            "train.soft_loss is mse, which compares logits, and these soft labels are probabilities, one an image",
            expected="labels of views (relabel.labels=epochs or online), or hard ones",
            fix="--set train.soft_loss=cross-entropy",
        )


def require_replayable(data: TrainingSet, strategy: Strategy, name: str) -> None:
    """Raise ConfigError where views are replayed and the strategy `name` cannot do what it says with them."""
    if not isinstance(data, ReplayedSet):
        return
    if strategy.views > 1:
        raise ConfigError(
            f"the strategy {name} compares {strategy.views} views of an image, and these images have soft labels for "
            "one view an epoch: all of them would be the same",
            expected="images with hard labels, or one soft label each",
            fix="another strategy, such as dlb, or relabel.labels=teacher",
        )
    if strategy.remembers_images and _mixed(data):
        raise ConfigError(
            f"the strategy {name} remembers predictions by image, and these views are mixtures of images",
            expected="views of one image each (relabel.mix=none)",
            fix="another strategy, such as dlb, or relabel without a mix",
        )


def _mixed(data: ReplayedSet) -> bool:
    return data.views.settings.mix != "none"
