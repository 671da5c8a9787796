"""What dm and ncfm share: real and synthetic images of each class, under one draw of augmentation for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from attar.augment.operations import Augmentation, AugmentationName
from attar.config import Config
from attar.methods.base import Generators, KnowledgeT, Optimised, RealImages, Synthetic, random_members
from attar.methods.clusters import central_members
from attar.task import Task


class BothSidesSettings(Config):
    """Settings of every method that looks at real and synthetic images in each step."""

    num_real: int = Field(256, ge=1)
    """Real images of each class in a step, drawn anew every time; more make a step steadier and slower."""
    start: Literal["real", "kmeans", "noise"] = "real"
    """What the images begin as. real: random real images of their class; kmeans: those nearest to the centres of ipc
    clusters of their class's pixels, so that what is learnt begins where a good coreset ends; noise: unit noise."""
    lr_images: float = Field(1.0, gt=0)
    """Learning rate of the images."""
    augment: AugmentationName = "dsa"
    """Random augmentation, shared by the real and the synthetic images of a class: dsa; dsa-noflip for digits; none."""


BothSidesSettingsT = TypeVar("BothSidesSettingsT", bound=BothSidesSettings)


class BothSides(Optimised[BothSidesSettingsT, KnowledgeT]):
    """Base of these methods; the step is their own."""

    separable = False
    mixed_precision = True

    @classmethod
    def starts_from_real(cls, settings: BothSidesSettingsT) -> bool:
        """Unless the start is noise."""
        return settings.start != "noise"

    def learning_rates(self) -> dict[str, float]:
        """Of the images."""
        return {"images": self.settings.lr_images}

    def looked_at(self, count: int) -> int:
        """All of them, to find clusters."""
        return count if self.settings.start == "kmeans" else super().looked_at(count)

    def init(self, picked: Tensor, real: RealImages, knowledge: KnowledgeT, rngs: Generators) -> Synthetic:
        """Begin with real images of each class, or with noise."""
        labels = self.labels()
        if self.settings.start == "noise":
            images = torch.randn((len(picked), *self.task.shape), generator=rngs())
        elif self.settings.start == "kmeans":
            images = real.images(central_members(real, labels, picked, rngs)).clone()
        else:
            images = real.images(random_members(real.labels, labels, picked, rngs())).clone()
        return Synthetic(labels[picked], {"images": images})


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
