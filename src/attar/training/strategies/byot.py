"""BYOT: be your own teacher. Exits from the middle of the network learn from its end, and are dropped afterwards.

    L = CE(y, p_C) + sum_i [ (1 - alpha) CE(y, p_i) + alpha KL( softmax(z_C / tau) || softmax(z_i / tau) ) ]
                   + lam sum_j || A_j F_j + a_j - F_C ||

over the exits i, one behind each stage of the network but the last; C is the network itself. F_C is its last feature
map, averaged over space; no gradient flows into z_C and F_C. The features term is over all exits j but the deepest: a
linear layer (A_j, a_j) of each adapts its features, and the norm is the root of the sum of squares over the whole
batch, so that it grows with the root of the batch size; lam 0.03 goes with batches of 128. A network of two stages has
one exit, which is the deepest, and no such term.

An exit is a bottleneck of three convolutions (1x1, k x k with stride k down to the size of the last map, 1x1 to its
width), each with BatchNorm and ReLU, then an average over space and a linear layer. Exits and adaptations are trained
along with the network, under the same optimiser.

Networks with stages: those with layer1, layer2, ... (ResNets of attar, torchvision and timm, attar's DenseNets), with
`stages` (timm), and those whose `features` are one sequence with pooling (ConvNet, VGG, AlexNet). Others are refused.

Source: Zhang et al., "Be Your Own Teacher", ICCV 2019, and the code that its authors released with the journal version
(Zhang, Bao and Ma, "Self-Distillation: Towards Efficient and Compact Neural Networks"): alpha 0.3, tau 3 without tau²,
lam 0.03 and the features term are that code's. A comment in it says that the conference version had the squared
distance without an adaptation.

Differs from the authors' code:

- Exits are the bottlenecks of the conference paper, a quarter as wide within as the last map (the code has 128, which
  is that for ResNet-18, but no longer calls them). The code runs each map through an attention mask of its own
  (separable convolutions, a sigmoid), then through one separable convolution pair for every stage that is left.
- `spares: shallowest` is what a comment in the code says; what the code does is the default, `deepest`.
- The features are averaged over all positions; the code takes the mean of 4x4 of them, which is all at 32 px.
- Only the network is judged, at the last epoch; the code keeps the best epoch of the mean of all exits' logits. It also
  trains under AutoAugment and CutOut, which is a matter of the augmentation here.
- Each of several processes that share a batch has the norm of its own part, scaled to the size of the whole batch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from attar.config import Config
from attar.training.strategies.base import Batch, Strategy, Teaches
from attar.training.strategies.exits import StageMaps, bottleneck
from attar.training.strategies.targets import cross_entropy, divergence


class BYOTSettings(Config):
    """Exits that learn from the network's end."""

    alpha: float = Field(default=0.3, ge=0, le=1)
    """Weight of the network's own predictions in the exits; the labels have the rest."""
    tau: float = Field(default=3.0, gt=0)
    """Temperature of both predictions."""
    lam: float = Field(default=0.03, ge=0)
    """Weight of the distance of the exits' adapted features from the network's; 0: none, and nothing adapts them."""
    spares: Literal["deepest", "shallowest", "none"] = "deepest"
    """The exit whose features need not come near: the one next to the end, as the authors' code does; the first, as a
    comment in it says; or none of them."""


class BYOT(Strategy):
    """Exits behind the stages of the network learn from its end."""

    name = "byot"
    summary = "extra exits behind each stage learn from the network's end (ResNets, ConvNets, VGG, AlexNet)"
    source = "Zhang et al. 2019, Be Your Own Teacher: Improve the Performance of CNNs via Self Distillation (ICCV)"
    Settings = BYOTSettings
    adds_up = False  # the exits have BatchNorm
    _stages: StageMaps | None = None

    def prepare(self, model: nn.Module, example: Callable[[], Tensor], teacher: Teaches | None) -> None:
        """Build the exits; raises ConfigError where the network has no stages to leave at."""
        self._stages = StageMaps(model, self.name)
        (*maps, last), num_classes = self._stages.example(image := example())
        exits = [Exit(found, last, num_classes) for found in maps]
        for exit_ in self._adapting(exits):
            exit_.adaptation = nn.Linear(last.shape[1], last.shape[1])
        self.extra = nn.ModuleList(exits).to(image.device)

    def _adapting(self, exits: list[Exit]) -> list[Exit]:
        """Exits whose features are to come near the network's."""
        own = self.settings.own(BYOTSettings)
        if not own.lam:
            return []
        return exits[own.spares == "shallowest" : len(exits) - (own.spares == "deepest")]

    def release(self) -> None:
        """Stop listening."""
        if self._stages:
            self._stages.release()

    def term(self, logits: Tensor, batch: Batch) -> Tensor:
        """What the exits lose, all together."""
        assert isinstance(self.extra, nn.ModuleList)
        assert self._stages is not None
        *maps, last = self._stages.take(self.whole)
        features = last.float().mean((2, 3)).detach()
        pairs = zip(self.extra, maps, strict=True)
        return torch.stack([self._loss(exit_, found, features, logits, batch) for exit_, found in pairs]).sum()

    def _loss(self, exit_: nn.Module, found: Tensor, last: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        own = self.settings.own(BYOTSettings)
        early, adapted = exit_(found)
        kl = divergence(early.float(), logits, own.tau) / own.tau**2
        loss = (1 - own.alpha) * cross_entropy(early.float(), batch, self.settings) + own.alpha * kl
        if adapted is None:
            return loss
        # the loop weighs this by the process's part of all images, but the norm goes with the root of that part
        share = 1.0 if batch.num_of_all is None else len(batch.indices) / batch.num_of_all
        distance: Tensor = torch.linalg.vector_norm(adapted.float() - last)
        return loss + own.lam * distance / math.sqrt(share)


class Exit(nn.Module):
    """From a feature map (b, c, h, w) to logits (b, classes) and features as wide as the `last` map."""

    def __init__(self, found: Tensor, last: Tensor, num_classes: int) -> None:
        super().__init__()
        width = last.shape[1]
        self.bottleneck = bottleneck(found, last)
        self.classifier = nn.Linear(width, num_classes)
        self.adaptation: nn.Linear | None = None
        """What brings its features near the network's."""

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (b, classes) and adapted features (b, width); None where nothing adapts them."""
        features = self.bottleneck(maps).mean((2, 3))
        return self.classifier(features), self.adaptation(features) if self.adaptation else None
