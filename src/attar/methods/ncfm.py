"""NCFM: match the characteristic functions of the features of synthetic and real images.

    φ_X(t) = mean over x in X of exp(i <t, f(x) / ||f(x)||>)                         t_1..t_k ~ N(0, I)
    D(T, S) = mean_t sqrt( α (|φ_T| - |φ_S|)² + β · 2 (|φ_T| |φ_S| - Re φ_T φ_S*) )
    for each step:
        (θ₀, θ_E) = the start and the end of an expert's training;   u ~ U(0, 1)
        f = the features under u θ₀ + (1 - u) θ_E
        L = Σ_c w · D(f(a_c(T_c)), f(a_c(S_c))) + v · CE(f_θ_E(a_c(S_c)), c)         a_c: one draw for both sides

The first term is the difference of the amplitudes, the second that of the phases; with α = β they add up to
α |φ_T - φ_S|². Where all of φ agrees all moments do, where dm compares the first alone.

Source: Wang et al., "Dataset Distillation with Neural Characteristic Function: A Minmax Perspective", CVPR 2025,
equations 5 to 9. Published settings for CIFAR: 20 networks of 60 epochs, 1,024 real images of each class, 4,096
frequencies, w = 300, α = β = 1/2, v = 1, 20,000 steps of AdamW at 0.01 on pixels in 0..1, four small images in each.

Differs from the authors' code: one step goes down the sum over all classes, where theirs takes one for each class and
term; features are those of the experts of `trajectories`, trained as these are; its rate falls along a cosine, theirs
where the loss stands still. Frequencies are drawn anew in each step, as in every configuration that they publish
(`sampling_net: False`); the network of the paper that learns to draw them is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attar.augment.operations import Augmentation
from attar.methods.base import (
    Metrics,
    RealImages,
    Synthetic,
    Trajectories,
    clamp_pixels,
)
from attar.methods.both_sides import BothSides, BothSidesSettings, both_sides, of_classes
from attar.models.factory import penultimate

_LEAST_PHASE = 1e-12
"""As published: the root of 0 has no gradient."""


class NcfmSettings(BothSidesSettings):
    """Settings of the matching of characteristic functions."""

    num_real: int = Field(1024, ge=1)
    """Real images of each class in a step, drawn anew every time."""
    tiles: Literal[1, 2] = 2
    """Images along a side that each image holds; published: 2 (`factor`), so four of half the side. 1: each is one."""
    num_frequencies: int = Field(4096, ge=1)
    """Frequencies t at which the two functions are compared, drawn anew in each step."""
    amplitude: float = Field(0.5, ge=0, le=1)
    """α, the weight of the amplitudes' difference, which stands for diversity; the phases' weight is 1 - α."""
    weight: float = Field(300.0, gt=0)
    """w, the weight of the distance relative to the classification loss."""
    calibration: float = Field(1.0, ge=0)
    """v, the weight of the classification loss under the finished expert; 0 leaves it out."""
    lr_images: float = Field(0.04, gt=0)
    """Learning rate of the normalised images (Adam); published: 0.01 on pixels in 0..1, which is about 0.04 here."""
    augment: str = "color_crop_cutout"
    """Random augmentations, applied in sequence and shared by the real and the synthetic images of a class."""


class Ncfm(BothSides[NcfmSettings, Trajectories]):
    """Neural characteristic function matching."""

    name = "ncfm"
    summary = "characteristic functions of real and synthetic features matched under half-trained networks"
    source = "Wang et al., CVPR 2025, equations 5 to 9"
    Settings = NcfmSettings
    knowledge = "trajectories"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "recover": {"iterations": 2000, "optimizer": "adam", "momentum": 0.9, "schedule": "cosine"},
        "train": {"epochs": 1000, "learning_rate": 0.01, "augment": "dsa", "augment_per": "operation"},
    }

    @classmethod
    def keeps_pixels_valid(cls, settings: NcfmSettings) -> bool:
        """Pixels are clamped after each step."""
        return True

    def gradient(
        self,
        synthetic: Synthetic,
        picked: Tensor,
        real: RealImages,
        knowledge: Trajectories,
        rng: torch.Generator,
        done: float = 0.0,
    ) -> tuple[dict[str, Tensor], Metrics]:
        """Look at both sides through one network between an expert's start and its end."""
        settings, experts = self.settings, knowledge
        images = synthetic.variables["images"].detach().requires_grad_()
        expert = int(torch.randint(experts.num_experts, (), generator=rng))
        whole = experts.segment(expert, 0, experts.num_epochs)
        first, last = whole.start.to(images), whole.target.to(images)
        part = float(torch.rand((), generator=rng))
        network = experts.flat.at(part * first + (1 - part) * last)
        augmentation = Augmentation(settings.augment, "all")
        seen, labels = self.seen(images, synthetic.labels)
        theirs, ours = both_sides(seen, labels, real, settings.num_real, augmentation, self.task, rng)

        looked = torch.cat(ours)
        with torch.no_grad():
            wanted = torch.cat([penultimate(network, one) for one in theirs]).float()
        found = penultimate(network, looked).float()
        frequencies = torch.randn(settings.num_frequencies, found.shape[1], generator=rng).to(found)
        pairs = zip(of_classes(wanted, theirs), of_classes(found, ours), strict=True)
        distance = torch.stack(
            [characteristic_distance(real_ones, made, frequencies, settings.amplitude) for real_ones, made in pairs]
        ).sum()
        loss = settings.weight * distance
        if settings.calibration:
            logits = experts.flat(last, looked).float()
            labels = torch.repeat_interleave(torch.arange(len(ours)), torch.tensor([len(one) for one in ours]))
            losses = F.cross_entropy(logits, labels.to(logits.device), reduction="none")
            loss = loss + settings.calibration * sum(one.mean() for one in of_classes(losses, ours))
        (gradient,) = torch.autograd.grad(loss, images)
        return {"images": gradient}, {"loss": loss.detach(), "distance": distance.detach() / len(ours)}

    def project(self, synthetic: Synthetic) -> None:
        """Clamp to valid pixels."""
        clamp_pixels(synthetic.variables["images"], self.task.normalization)


def characteristic_distance(real: Tensor, made: Tensor, frequencies: Tensor, amplitude: float = 0.5) -> Tensor:
    """D (a scalar) of features (r, d) and (s, d), each brought to unit length, at frequencies (k, d).

    `amplitude` is α, and β is 1 - α. About 0 where both hold the same vectors.
    """
    real_t, made_t = (F.normalize(features, dim=1) @ frequencies.T for features in (real, made))
    real_re, real_im, made_re, made_im = (
        real_t.cos().mean(0),
        real_t.sin().mean(0),
        made_t.cos().mean(0),
        made_t.sin().mean(0),
    )
    real_size, made_size = torch.hypot(real_re, real_im), torch.hypot(made_re, made_im)
    by_size = (real_size - made_size).square()
    by_phase = (2 * (real_size * made_size - real_re * made_re - real_im * made_im)).clamp_min(_LEAST_PHASE)
    return (amplitude * by_size + (1 - amplitude) * by_phase).sqrt().mean()
