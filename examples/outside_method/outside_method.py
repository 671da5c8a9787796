"""A method, a network and a strategy for attar, in a package of their own.

MatchedMeans:

    for each step:
        f = a ConvNet with random weights, drawn anew
        L = sum over classes c of | mean f(A(real images of c)) - mean f(A(synthetic images of c)) |^2
        images <- images - rate * dL/dimages

Source: Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, algorithm 1, equations 4 to 6.
The shortest form of it: all classes share one draw of DSA, where the authors' loop draws for each class.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from attar.augment.operations import Augmentation
from attar.config import Config
from attar.methods.base import Generators, Metrics, Optimised, RealImages, Synthetic, random_members
from attar.models.factory import build, penultimate
from attar.task import Task
from attar.training.strategies.base import Batch, Strategy


class MatchedMeansSettings(Config):
    """Matched means."""

    network: str = "convnet-d3-w128"
    """The network whose random features are matched, a name from `attar list models`."""
    num_real: int = Field(default=256, ge=1)
    """Real images of each class in a step."""
    lr_images: float = Field(default=1.0, gt=0)
    """Learning rate of the images; published: 1 for ten images a class."""
    augment: str = "dsa"
    """Augmentation of real and synthetic images alike."""


class MatchedMeans(Optimised[MatchedMeansSettings, None]):
    """Bring the mean features of synthetic images to those of real ones, under random networks."""

    name = "means"
    summary = "an example: mean features of real and synthetic images brought together under random networks"
    source = "Zhao and Bilen, WACV 2023"
    Settings = MatchedMeansSettings
    knowledge = "none"
    separable = False
    defaults = {"recover": {"iterations": 1000, "optimizer": "sgd", "momentum": 0.5}}

    def init(self, picked: Tensor, real: RealImages, knowledge: None, rngs: Generators) -> Synthetic:
        """Real images, as published."""
        labels = self.labels()
        chosen = random_members(real.labels, labels, picked, rngs("start"))
        return Synthetic(labels[picked], {"images": real.images(chosen).clone()})

    def learning_rates(self) -> dict[str, float]:
        """Of the images."""
        return {"images": self.settings.lr_images}

    def gradient(
        self,
        synthetic: Synthetic,
        picked: Tensor,
        real: RealImages,
        knowledge: None,
        rng: torch.Generator,
        done: float = 0.0,
    ) -> tuple[dict[str, Tensor], Metrics]:
        """Of the squared distances between class means of features."""
        images = synthetic.variables["images"].detach().requires_grad_()
        seed = int(torch.randint(2**31, (), generator=rng))
        network = build(self.settings.network, self.task, seed=seed).to(images.device)
        augmentation = Augmentation(self.settings.augment)
        draw = augmentation.draw(rng, 1, self.task.shape, "batch")
        loss = images.new_zeros(())
        for label in range(self.task.num_classes):
            members = (real.labels == label).nonzero().squeeze(1)
            some = members[torch.randperm(len(members), generator=rng)[: self.settings.num_real]]
            ours = images[synthetic.labels == label]
            theirs = real.images(some).to(images.device)
            both = augmentation.apply(torch.cat([theirs, ours]), draw)
            found = penultimate(network, both)
            loss = loss + (found[: len(some)].mean(0).detach() - found[len(some) :].mean(0)).square().sum()
        (gradient,) = torch.autograd.grad(loss, images)
        return {"images": gradient}, {"loss": loss.detach()}


def depthwise(task: Task) -> nn.Module:
    """Three blocks of a depthwise and a pointwise convolution, for images of any size."""
    layers: list[nn.Module] = [nn.Conv2d(task.channels, 32, 1)]
    for _ in range(3):
        layers += [
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
            nn.Conv2d(32, 32, 1),
            nn.GroupNorm(8, 32),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, task.num_classes))


class ConfidencePenaltySettings(Config):
    """Confidence penalty."""

    beta: float = Field(default=0.1, ge=0)
    """Weight of the entropy of the predictions, which is to stay high."""


class ConfidencePenalty(Strategy):
    """Cross-entropy less the entropy of the predictions (Pereyra et al. 2017)."""

    name = "confidence"
    summary = "penalise confident predictions: cross-entropy less beta times their entropy"
    source = "Pereyra et al. 2017, Regularizing Neural Networks by Penalizing Confident Output Distributions"
    Settings = ConfidencePenaltySettings

    def term(self, logits: Tensor, batch: Batch) -> Tensor:
        """Minus the mean entropy, weighed."""
        logs = logits.log_softmax(1)
        return self.settings.own(ConfidencePenaltySettings).beta * (logs.exp() * logs).sum(1).mean()
