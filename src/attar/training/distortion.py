"""How the images of a batch are shown: augmentation, RandAugment, CutOut, then CutMix or MixUp, on their device.

Each draw is a function of (seed, epoch, step, view); the mix is of (seed, epoch, step) alone, so that all views of a
batch are of the same mixtures.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from attar.augment import randaugment
from attar.augment.operations import Augmentation
from attar.errors import ConfigError
from attar.runtime.seeding import generator
from attar.task import Normalization
from attar.training.mixing import Mix, draw_mixed
from attar.training.settings import TrainSettings
from attar.training.strategies.base import Part


class Distortion:
    """The augmentation of one training.

    Args:
        settings: what is done to images.
        seed: with epoch, step and view, the source of all draws.
        normalization: of the images; RandAugment needs it, as it is about pixels.

    Raises ConfigError where RandAugment is asked for and pixels cannot be had.
    """

    def __init__(self, settings: TrainSettings, seed: int, normalization: Normalization | None) -> None:
        self._settings, self._seed = settings, seed
        self._augmentation = Augmentation(settings.augment, settings.augment_mode)
        self._normalization = normalization
        if settings.randaugment and (normalization is None or normalization.whitening is not None):
            raise ConfigError(
                "randaugment changes pixels, and there are only normalised or whitened images here",
                expected="real images of a source",
                fix="--set train.randaugment=0; `augment` takes color, rotate, scale, crop, cutout and flip",
            )

    def view(self, images: Tensor, epoch: int, step: int, which: int, mix: Mix | None, part: Part) -> Tensor:
        """Show normalised images (b, c, h, w) under their augmentation `which`, mixed as `mix` says.

        They are the rows of `part` of a batch, for all of which is drawn.
        """
        settings, (channels, height, width) = self._settings, images.shape[1:]
        rng = generator(self._seed, "train", "augment", epoch, step, which)
        drawn = self._augmentation.draw(rng, part.num, (channels, height, width), settings.augment_per)
        if part.num > 1:
            drawn = {name: values if len(values) == 1 else values[part.rows] for name, values in drawn.items()}
        images = self._augmentation.apply(images, drawn)
        if settings.randaugment:
            rng = generator(self._seed, "train", "randaugment", epoch, step, which)
            images = self._randaugmented(images, rng, part)
        if settings.cutout_px:
            rng = generator(self._seed, "train", "cutout", epoch, step, which)
            images = cut_out(images, rng, settings.cutout_px, part)
        return images if mix is None else mix.images(images)

    def mix(self, groups: Sequence[tuple[int, int, int]], height: int, width: int) -> Mix | None:
        """Draw how groups of (size, epoch, step) are mixed; None: none of them is."""
        if not self._settings.cutmix and not self._settings.mixup:
            return None
        drawn = [
            draw_mixed(self._settings, generator(self._seed, "train", "mix", epoch, step), size, height, width)
            for size, epoch, step in groups
        ]
        return None if all(group.share == 1 for group in drawn) else Mix(tuple(drawn))

    def _randaugmented(self, images: Tensor, rng: torch.Generator, part: Part) -> Tensor:
        assert self._normalization is not None
        every = randaugment.draw(rng, self._settings.randaugment, part.num)
        drawn = randaugment.RandDraw(every.operation[:, part.rows], every.sign[:, part.rows])
        pixels = self._normalization.pixels(images).clamp(0, 1)
        return self._normalization.normalize(randaugment.apply(pixels, drawn, self._settings.randaugment_magnitude))


def cut_out(images: Tensor, rng: torch.Generator, side_px: int, part: Part) -> Tensor:
    """Blank a square of each image (b, c, h, w) about a pixel drawn anywhere, so that some of it may lie outside.

    Blank is 0, the mean pixel. Source: DeVries and Taylor 2017.
    """
    inside = []
    for size in images.shape[2:]:
        first = torch.randint(size, (part.num, 1), generator=rng)[part.rows] - side_px // 2
        places = torch.arange(size)
        inside.append(((places >= first) & (places < first + side_px)).to(images.device))
    return images.masked_fill((inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1), 0.0)
