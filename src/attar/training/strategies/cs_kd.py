"""CS-KD: two images of one class must get alike predictions.

    B = [ n images | n partners ],  each partner drawn among all images of the class of the image that it stands for
    L = CE(the n images) + weight tau² KL( softmax(z_partner / tau) || softmax(z / tau) )

No gradient goes into the partners' predictions, which are of a pass of their own, so that BatchNorm sees each half by
itself. An image may be its own partner, under another augmentation. An epoch shows each image once with a loss of its
own, and on average once as a partner.

Source: Yun et al., "Regularizing Class-wise Predictions via Self-knowledge Distillation", CVPR 2020, with tau 4 and
weight 1 of the authors' code for CIFAR-100 (3 for fine-grained classes). As published: sgd, learning_rate 0.1,
weight_decay 1e-4, batch_size 256 (theirs is n: 128), epochs 200, milestones 100 and 150.

Differs from the authors' code:

- `batch_size` counts both halves; theirs counts the first.
- Under CutMix and MixUp, which the code does not have, partners are mixed as their images are.
- Under soft labels the class is the one that the set gives the image, or the likeliest one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from attar.config import Config
from attar.training.mixing import Mix
from attar.training.strategies.base import Batch, Part, Strategy, shard_batch, split_batches
from attar.training.strategies.targets import cross_entropy, divergence


class CSKDSettings(Config):
    """Predictions of two images of one class."""

    weight: float = Field(default=1.0, ge=0)
    """Weight of the consistency loss; published: 1, and 3 for fine-grained classes."""
    tau: float = Field(default=4.0, gt=0)
    """Temperature of both predictions."""


class ClassWise(Strategy):
    """Each image's prediction agrees with that of another image of its class."""

    name = "cs-kd"
    summary = "predictions of two images of one class agree; images are seen twice, once without a loss of their own"
    source = "Yun et al. 2020, Regularizing Class-wise Predictions via Self-knowledge Distillation (CVPR)"
    Settings = CSKDSettings
    repeats = 2
    _labels: Tensor | None = None

    @property
    def num_fresh(self) -> int:
        """Half of a batch."""
        return max(2, self.batch_size // 2)

    def meet(self, labels: Tensor) -> None:
        """Learn who is of one class."""
        self._labels = labels.cpu()

    def batches(self, epoch: int, rng: torch.Generator) -> list[Part]:
        """New images, each once an epoch, then a partner for each."""
        order = torch.randperm(self.num_images, generator=rng)
        partners = self._partners(rng)[order]
        pairs = zip(split_batches(order, self.num_fresh), split_batches(partners, self.num_fresh), strict=True)
        return [shard_batch(new, self.team) + shard_batch(others, self.team) for new, others in pairs]

    def _partners(self, rng: torch.Generator) -> Tensor:
        """An image of the same class for each, drawn alike among all of it."""
        labels = torch.zeros(self.num_images, dtype=torch.int64) if self._labels is None else self._labels
        by_class = labels.argsort(stable=True)
        sizes = labels.bincount()
        firsts = sizes.cumsum(0) - sizes
        drawn = torch.rand(len(labels), generator=rng, dtype=torch.float64)
        return by_class[firsts[labels] + (drawn * sizes[labels]).long()]

    def groups(self, epoch: int, step: int, num: int) -> list[tuple[int, int, int]]:
        """Partners are mixed as their images are."""
        return [(num // 2, epoch, step)] * 2

    def passes(self, num: int) -> list[slice]:
        """The images, then the partners."""
        return [slice(0, num // 2), slice(num // 2, num)]

    def look(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits of both halves; no graph hangs on the partners'."""
        images, half = batch.images, len(batch.indices) // 2
        self.rows = tuple(self.passes(2 * half))
        logits = model(images[:half])
        with torch.no_grad():
            partners = model(images[half:])
        return torch.cat([logits, partners]).float()

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the first half of each view."""
        num = len(batch.indices)
        mix = Mix(batch.mix.groups[:1]) if batch.mix else None
        first = replace(batch, targets=batch.targets[: num // 2], mix=mix)
        return cross_entropy(torch.cat([view[: num // 2] for view in logits.split(num)]), first, self.settings)

    def term(self, logits: Tensor, batch: Batch) -> Tensor:
        """Divergence of each image's prediction from its partner's."""
        own, num = self.settings.own(CSKDSettings), len(batch.indices)
        image, partner = logits[:num].chunk(2)
        return own.weight * divergence(image, partner, own.tau)
