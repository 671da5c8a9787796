"""DDGSD: two distorted views of each image agree, in their predictions and, on average, in their features.

    L = CE(both views) + alpha tau² ( KL(p_b || p_a) + KL(p_a || p_b) ) / 2 + mu || mean F_a - mean F_b ||²

p at temperature tau, no gradient into the first of each KL. F are the inputs of the last linear layer; the last term is
the maximum mean discrepancy of the two views' features in a linear kernel. `batch_size` counts views: half as many
images in a batch, each twice, so that an epoch takes twice the steps of `ce` and an image seen costs the same.

With CutMix or MixUp both views are of the same mixture: partners, boxes and shares are alike, crops and mirrors differ.

Source: Xu and Liu, "Data-Distortion Guided Self-Distillation for Deep Neural Networks", AAAI 2019. The authors have
published no code: tau, alpha and mu are ours, not the paper's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from attar.config import Config
from attar.errors import ConfigError
from attar.models.factory import last_linear
from attar.training.settings import TrainSettings
from attar.training.strategies.base import Batch, Strategy, Teaches, keep
from attar.training.strategies.targets import divergence


class DDGSDSettings(Config):
    """Two distorted views of each image."""

    alpha: float = Field(default=1.0, ge=0)
    """Weight of the consistency of predictions."""
    tau: float = Field(default=3.0, gt=0)
    """Temperature of both predictions."""
    mu: float = Field(default=0.005, ge=0)
    """Weight of the consistency of mean features."""


class DDGSD(Strategy):
    """Each image twice in a batch, and both views must agree."""

    name = "ddgsd"
    summary = "two augmented views of each image agree in predictions (KL) and mean features (MMD)"
    source = "Xu and Liu 2019, Data-Distortion Guided Self-Distillation for Deep Neural Networks (AAAI)"
    Settings = DDGSDSettings
    views = 2
    _hook: RemovableHandle | None = None

    def __init__(self, settings: TrainSettings, num_images: int) -> None:
        super().__init__(settings, num_images)
        self.adds_up = not settings.own(DDGSDSettings).mu  # mean features are those of a process's own images

    def prepare(self, model: nn.Module, example: Callable[[], Tensor], teacher: Teaches | None) -> None:
        """Listen at the last linear layer; raises ConfigError where there is none."""
        self._features: list[Tensor] = []
        found = _last_linear(model, example())
        self._hook = model.get_submodule(found).register_forward_pre_hook(
            lambda _, inputs: keep(self._features, inputs[0])
        )

    def release(self) -> None:
        """Stop listening."""
        if self._hook:
            self._hook.remove()

    def term(self, logits: Tensor, batch: Batch) -> Tensor:
        """Divergence of each view from the other, and of their mean features."""
        own = self.settings.own(DDGSDSettings)
        first, second = logits.chunk(2)
        kl = (divergence(first, second, own.tau) + divergence(second, first, own.tau)) / 2
        features = self.whole(self._features).float().flatten(1)
        self._features.clear()
        here, there = features.chunk(2)
        return own.alpha * kl + own.mu * (here.mean(0) - there.mean(0)).square().sum()


def _last_linear(model: nn.Module, image: Tensor) -> str:
    training = model.training
    with torch.no_grad():
        found = last_linear(model.eval(), image)
    model.train(training)
    if found is None:
        raise ConfigError(
            f"{type(model).__name__} has no features to compare: it does not end in a linear layer",
            expected="a network that ends in nn.Linear, for the strategy ddgsd",
            fix="use a ConvNet or a ResNet, for example convnet-d3-w128",
        )
    return found[0]
