"""What dm and ncfm share: real and synthetic images of each class, under one draw of augmentation for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from attar.augment.operations import Augmentation, AugmentationName
from attar.methods import mosaics
from attar.methods.base import Distillate, Generators, KnowledgeT, Optimised, RealImages, Synthetic, random_members
from attar.methods.clusters import central_members, nearest_to_centres
from attar.task import Task


class BothSidesSettings(mosaics.TiledSettings):
    """Settings of every method that looks at real and synthetic images in each step."""

    num_real: int = Field(256, ge=1)
    """Real images of each class in a step, drawn anew every time; more make a step steadier and slower."""
    start: Literal["real", "kmeans", "noise"] = "real"
    """What the images begin as. real: random real images of their class; kmeans: those nearest to the centres of ipc
    clusters of their class's pixels (four times as many where each holds four), so that what is learnt begins where a
    good coreset ends; noise: unit noise."""
    lr_images: float = Field(1.0, gt=0)
    """Learning rate of the images."""
    augment: AugmentationName = "dsa"
    """Random augmentation, shared by the real and the synthetic images of a class: dsa; dsa-noflip for digits; none."""


BothSidesSettingsT = TypeVar("BothSidesSettingsT", bound=BothSidesSettings)


class BothSides(Optimised[BothSidesSettingsT, KnowledgeT]):
    """Base of these methods; the step is their own."""

    separable = False
    mixed_precision = True

    def __init__(self, settings: BothSidesSettingsT, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        if settings.tiles > 1:
            mosaics.require_room(task)

    @classmethod
    def starts_from_real(cls, settings: BothSidesSettingsT) -> bool:
        """Unless the start is noise."""
        return settings.start != "noise"

    def learning_rates(self) -> dict[str, float]:
        """Of the images."""
        return {"images": self.settings.lr_images}

    def looked_at(self, count: int) -> int:
        """All of them, to find clusters."""
        return count if self.settings.start == "kmeans" else min(count, self.ipc * self.settings.tiles**2)

    def init(self, picked: Tensor, real: RealImages, knowledge: KnowledgeT, rngs: Generators) -> Synthetic:
        """Begin with real images of each class, or with noise."""
        labels = self.labels()
        if self.settings.start == "noise":
            images = torch.randn((len(picked), *self.task.shape), generator=rngs())
        elif self.settings.tiles > 1:
            images = self._tiled(picked, real, rngs)
        elif self.settings.start == "kmeans":
            images = real.images(central_members(real, labels, picked, rngs)).clone()
        else:
            images = real.images(random_members(real.labels, labels, picked, rngs())).clone()
        return Synthetic(labels[picked], {"images": images})

    def finish(self, synthetic: Synthetic, knowledge: KnowledgeT) -> Distillate:
        """The images, and how many each holds."""
        return replace(super().finish(synthetic, knowledge), tiles=self.settings.tiles)

    def seen(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What networks see of images (n, c, h, w) and what each shows: all of them, or the four tiles of each."""
        if self.settings.tiles == 1:
            return images, labels
        return mosaics.unfold(images), labels.repeat(mosaics.TILES)

    def _tiled(self, picked: Tensor, real: RealImages, rngs: Generators) -> Tensor:
        """Images (b, c, h, w) of four each, for the places `picked` (b,); a class with too few begins again."""
        labels, images = self.labels(), torch.empty(len(picked), *self.task.shape)
        for label in labels[picked].unique().tolist():
            members, ours = (real.labels == label).nonzero().squeeze(1), labels == label
            count, rng = min(len(members), mosaics.TILES * self.ipc), rngs("class", label)
            if self.settings.start == "kmeans":
                kept = members[nearest_to_centres(real.images(members).flatten(1), count, rng)]
            else:
                kept = members[torch.randperm(len(members), generator=rng)[:count]]
            ranks, there = (ours.cumsum(0) - 1)[picked], ours[picked]
            images[there] = mosaics.stitched(real, kept, ranks[there], int(ours.sum()), self.task)
        return images


def both_sides(
    images: Tensor,
    labels: Tensor,
    real: RealImages,
    num_real: int,
    augmentation: Augmentation,
    task: Task,
    rng: torch.Generator,
) -> tuple[list[Tensor], list[Tensor]]:
    """Real images (r, c, h, w) and synthetic ones (s, c, h, w) of each class, on the device of `images`.

    Args:
        images: (n, c, h, w), as `BothSides.seen` gives them; gradients flow to them.
        labels: of these, int64 (n,).
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
        ours.append(augmentation.apply(images[(labels == label).nonzero().squeeze(1)], draw))
    return theirs, ours


def of_classes(values: Tensor, classes: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Values (Σ b, ...) of all images, cut into those of each class, as many as its images (b, c, h, w)."""
    parts: tuple[Tensor, ...] = values.split([len(one) for one in classes])
    return parts
