"""Wrong labels on purpose: how well does a strategy learn from training labels of which some are wrong?

    symmetric   another class, each of the others alike
    pairflip    the next class, the last one becoming the first

Of n images exactly round(fraction n) are chosen, and every one of them gets a class that is not its own: 0.4 means
that 40 % of the labels are wrong. (Where a paper draws among all classes, its own among them, r is r (C - 1) / C here.)
Which labels are flipped, and to what, is a function of the seed alone. What judges is left clean.

Source: symmetric and pair flipping as in Han et al. 2018 (Co-teaching), there by chance for each image.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attar.augment.replayed import ReplayedSet
from attar.data.loading import TrainingSet
from attar.errors import ConfigError, DataError
from attar.options import NoiseKind
from attar.runtime.seeding import generator

if TYPE_CHECKING:
    from attar.training.settings import TrainSettings


@dataclass(frozen=True)
class LabelNoise:
    """Training labels of which some are wrong."""

    labels: Tensor
    """Class of each image: int64 (n,)."""
    flipped: Tensor
    """Indices of those that are wrong: int64 (m,), ascending."""
    kind: NoiseKind

    def to_json(self) -> dict[str, Any]:
        """How many labels are wrong, and a hash of which they are and of what they became."""
        changed = torch.stack([self.flipped, self.labels[self.flipped]])
        return {
            "kind": self.kind,
            "flipped": len(self.flipped),
            "of": len(self.labels),
            "digest": hashlib.sha256(changed.numpy().tobytes()).hexdigest()[:16],
        }


def corrupt(labels: Tensor, fraction: float, kind: NoiseKind, seed: int) -> LabelNoise:
    """Give round(`fraction` n) of the labels int64 (n,) another class among those that occur.

    Raises DataError where there is one class only.
    """
    classes, place = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise DataError("label noise needs another class to take", expected="images of two classes or more")
    rng = generator(seed, "train", "noise")
    flipped = torch.randperm(len(labels), generator=rng)[: round(fraction * len(labels))].sort().values
    further = torch.ones(len(flipped), dtype=torch.int64)
    if kind == "symmetric":
        further = torch.randint(1, len(classes), (len(flipped),), generator=rng)
    wrong = labels.clone()
    wrong[flipped] = classes[(place[flipped] + further) % len(classes)]
    return LabelNoise(wrong, flipped, kind)


def wrong_labels(data: TrainingSet, settings: TrainSettings, seed: int) -> LabelNoise | None:
    """The wrong labels that the settings ask for; raises ConfigError where the set has soft labels."""
    replayed = isinstance(data, ReplayedSet)
    if replayed and settings.cutmix + settings.mixup > 0:
        raise ConfigError(
            "train.cutmix and train.mixup mix images, and these views are mixed already, with labels of their own",
            expected="images with hard labels, or one soft label each",
            fix="--set train.cutmix=0 --set train.mixup=0; the views' mix is relabel.mix",
        )
    if not settings.label_noise:
        return None
    if replayed or data.targets(torch.tensor([0])).is_floating_point():
        raise ConfigError(
            "train.label_noise makes classes wrong, and these images have soft labels",
            expected="images whose labels are classes",
            fix="--set train.label_noise=0",
        )
    return corrupt(data.labels, settings.label_noise, settings.noise_kind, seed)
