"""DM: distribution matching. Bring the mean features of synthetic images to those of real ones.

    for each step:
        f = the features of a network with random weights, drawn anew
        L = Σ_c || mean_i f(a_c(x_i)) - mean_j f(a_c(s_j)) ||²
        s <- s - lr · dL/ds

x_i are `num_real` real images of class c, s_j its synthetic ones, a_c one draw of DSA that both sides share. Nothing
is trained and nothing is unrolled: a step is one look at the real images and one at the synthetic ones.

Source: Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, algorithm 1, equations 4 to 6.
Published settings: 256 real images of each class, learning rate 1 with momentum 0.5 (10 from 100 images a class on),
20,000 steps, from real images, ConvNet of width 128.

Differs from the authors' code: classes go through a network together, which changes rounding alone; so networks with
BatchNorm, whose features would be of the batch, are refused (theirs normalises them over all classes at once). The
default is 2,000 steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from attar.augment.operations import Augmentation
from attar.config import Config
from attar.methods.base import Metrics, RealImages, Synthetic, clamp_pixels
from attar.methods.both_sides import BothSides, BothSidesSettings, both_sides, of_classes
from attar.models.convnet import convnet_for
from attar.models.factory import build, penultimate
from attar.models.norms import has_batch_norm

_AT_ONCE = 512
"""Real images that a network is shown at once."""


class DmSettings(BothSidesSettings):
    """Settings of distribution matching."""

    network: str = "auto"
    """The network whose random features are matched: a name from `attar list models`, without BatchNorm; auto: the
    ConvNet of width 128 for the resolution."""
    lr_images: float = Field(1.0, gt=0)
    """Learning rate of the images; published: 1 for up to 50 images per class, 10 from 100 on."""
    lossless: bool = False
    """Keep the pixels within 0..1, so that 8-bit images hold the result up to rounding and a teacher that labels them
    knows such images; else they may leave that range, as published."""


class Dm(BothSides[DmSettings, None]):
    """Distribution matching."""

    name = "dm"
    summary = "mean features of real and synthetic images brought together under random networks; trains nothing"
    source = "Zhao and Bilen, WACV 2023, algorithm 1"
    Settings = DmSettings
    knowledge = "none"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "recover": {"iterations": 2000, "momentum": 0.5},
        "train": {"epochs": 1000, "learning_rate": 0.01, "augment": "dsa", "augment_per": "operation"},
    }

    @classmethod
    def problems(cls, settings: DmSettings, sections: Mapping[str, Config]) -> list[str]:
        """A network whose features depend on the rest of the batch has no features of an image."""
        if settings.network == "auto" or not has_batch_norm(settings.network):
            return []
        return [
            f"method.network={settings.network} has BatchNorm, and is random: name one without, such as convnet-d3-w128"
        ]

    @classmethod
    def keeps_pixels_valid(cls, settings: DmSettings) -> bool:
        """Where lossless."""
        return settings.lossless

    def gradient(
        self,
        synthetic: Synthetic,
        picked: Tensor,
        real: RealImages,
        knowledge: None,
        rng: torch.Generator,
        done: float = 0.0,
    ) -> tuple[dict[str, Tensor], Metrics]:
        """Look at both sides through one network and one draw of DSA for each class."""
        images = synthetic.variables["images"].detach().requires_grad_()
        network, augmentation = self._network(rng).to(images.device), Augmentation(self.settings.augment)
        seen, labels = self.seen(images, synthetic.labels)
        theirs, ours = both_sides(seen, labels, real, self.settings.num_real, augmentation, self.task, rng)
        with torch.no_grad():
            wanted = _means(network, theirs)
        loss = (wanted - _means(network, ours)).square().sum()
        (gradient,) = torch.autograd.grad(loss, images)
        return {"images": gradient}, {"loss": loss.detach()}

    def project(self, synthetic: Synthetic) -> None:
        """Clamp to valid pixels, where lossless."""
        if self.settings.lossless:
            clamp_pixels(synthetic.variables["images"], self.task.normalization)

    def _network(self, rng: torch.Generator) -> nn.Module:
        name = self.settings.network
        if name == "auto":
            name = convnet_for(self.task.height_px, self.task.width_px)
        seed = int(torch.randint(2**31, (), generator=rng))
        return build(name, self.task, seed=seed).requires_grad_(False).eval()


def _means(network: nn.Module, classes: list[Tensor]) -> Tensor:
    """Mean features (classes, d), float32, of the images (b, c, h, w) of each class."""
    features = torch.cat([penultimate(network, part) for part in torch.cat(classes).split(_AT_ONCE)])
    return torch.stack([part.float().mean(0) for part in of_classes(features, classes)])
