"""MixSKD: what a network makes of a mixture of two images is the mixture of what it makes of the two.

    x~ = share x + (1 - share) x',  y~ and any a~ alike;    share ~ Beta(alpha, alpha), x' by a permutation of the batch

    L = sum_k [ CE(y, z_k(x)) + mixed CE(y~, z_k(x~)) ]                              k = 1..K; K is the network itself
      + mixed [ CE(y~, h(F~)) + CE(y~, h(F(x~))) ]                                   the self-teacher h
      + logits tau² sum_k<K [ KL(z_k(x~) || z~_k) + KL(z~_k || z_k(x~)) ]
      + logits tau² [ KL(h(F(x~)) || z~_K) + KL(h(F~) || z_K(x~)) ]
      + features sum_k mean (F~_k - F_k(x~))²
      + adversarial sum_k BCE( D_k tells F~_k from F_k(x~) )

z_k are logits, of a branch behind each stage of the network but the last and of the network; F_k are the last maps of a
branch, and of the network; z~ and F~ are interpolated between those of two images. KL(p || q) is of softmax at tau, no
gradient flows into p. The self-teacher averages all F_k over space, puts them side by side, and has two linear layers.
A discriminator D_k has two linear layers over the averaged F_k, 128 wide within, with ReLU. Branches, self-teacher and
discriminators are trained along with the network, under the same optimiser, and dropped afterwards.

Images and mixtures go through the network together, so that BatchNorm sees both. `batch_size` counts both: half as many
images in a batch, each by itself and in a mixture, so that an epoch takes twice the steps of `ce`. An image seen costs
the same, but for the branches. Other strategies cannot be added, as they would give mixtures the label of one image.

Networks with stages: those with layer1, layer2, ... (ResNets of attar, torchvision and timm, attar's DenseNets), with
`stages` (timm), and those whose `features` are one sequence with pooling (ConvNet, VGG, AlexNet). Others are refused.

Source: Yang et al., "MixSKD: Self-Knowledge Distillation from Mixup for Image Recognition", ECCV 2022, as the authors'
code has it: all weights 1, tau 3, alpha 0.4 for CIFAR-100 (0.2 in the script for ImageNet). For CIFAR-100: sgd,
nesterov, learning_rate 0.1, weight_decay 5e-4, batch_size 128 (theirs is of images: 64), epochs 205, warmup_epochs 5,
milestones 105 and 155; a ResNet-18 has 80.32, by plain training 76.24, by MixUp 78.68.

Differs from the authors' code:

- A branch is byot's bottleneck of three convolutions. In the code it is all later stages of the network once more, so
  that those of a ResNet-18 have more parameters than the network.
- The code for CIFAR-100 computes what `mixed` weighs and leaves it out of the sum: mixtures have no labels, and the
  self-teacher stays as it was drawn (`mixed: 0`). The code for ImageNet has it, and so has the default here.
- The code minimises the discriminators' loss over all parameters: the network helps them, against the features term.
  So does the default here; `fool` reverses the gradient that the network gets.
- The self-teacher's first layer is a 1x1 convolution in the code, in front of the average over space: the same numbers.
- Under CutMix and MixUp, which the code does not have beside it, mixtures are of mixtures. Under soft labels mixtures
  have those of both. Each of several processes mixes its own images, all with the same share.
- Only the network is judged, at the last epoch; the code keeps the best epoch of the best exit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attar.config import Config
from attar.training.mixing import Mixed, beta
from attar.training.strategies.base import Batch, Part, Strategy, Teaches
from attar.training.strategies.exits import StageMaps, bottleneck
from attar.training.strategies.targets import cross_entropy, divergence

_HIDDEN = 128
"""Width within a discriminator."""


class MixSKDSettings(Config):
    """Mixtures of images against interpolations of what each image gives."""

    alpha: float = Field(default=0.4, gt=0)
    """The share of an image in its mixture is drawn from Beta(alpha, alpha); the authors' code: 0.4 for CIFAR-100, 0.2
    for ImageNet."""
    tau: float = Field(default=3.0, gt=0)
    """Temperature of all predictions that are to agree."""
    mixed: float = Field(default=1.0, ge=0)
    """Weight of the mixtures' labels, for the network, its branches and the self-teacher. In the authors' code for
    CIFAR-100 it is 0 in effect."""
    logits: float = Field(default=1.0, ge=0)
    """Weight of the agreement of predictions."""
    features: float = Field(default=1.0, ge=0)
    """Weight of the mean squared difference of feature maps."""
    adversarial: float = Field(default=1.0, ge=0)
    """Weight of the discriminators, which tell interpolated feature maps from those of mixtures; 0: there are none."""
    fool: bool = False
    """Train the network to mislead the discriminators; false: to help them, as the authors' code does."""


class MixSKD(Strategy):
    """Each image by itself and in a mixture; feature maps and predictions follow the mixture."""

    name = "mixskd"
    summary = "a mixture of two images must give the mixture of what each gives, at exits too; images are seen twice"
    source = "Yang et al. 2022, MixSKD: Self-Knowledge Distillation from Mixup for Image Recognition (ECCV)"
    Settings = MixSKDSettings
    adds_up = False  # the branches have BatchNorm
    alone = True
    _stages: StageMaps | None = None
    _mixtures: tuple[Mixed, ...] = ()
    """How this process mixes its part of each batch of the epoch."""

    @property
    def num_fresh(self) -> int:
        """Half of a batch; the other half are mixtures of these."""
        return max(2, self.batch_size // 2)

    @property
    def showings(self) -> int:
        """Each image by itself, and as many mixtures as there are images."""
        return 2

    def prepare(self, model: nn.Module, example: Callable[[], Tensor], teacher: Teaches | None) -> None:
        """Build what is trained beside the network; raises ConfigError where it has no stages to leave at."""
        self._stages = StageMaps(model, self.name)
        maps, num_classes = self._stages.example(image := example())
        self.extra = Beside(maps, num_classes, bool(self.settings.own(MixSKDSettings).adversarial)).to(image.device)

    def release(self) -> None:
        """Stop listening."""
        if self._stages:
            self._stages.release()

    def batches(self, epoch: int, rng: torch.Generator) -> list[Part]:
        """Each image once; how each batch is mixed is drawn here too."""
        parts = super().batches(epoch, rng)
        alpha = self.settings.own(MixSKDSettings).alpha
        self._mixtures = tuple(_draw(part, alpha, rng) for part in parts)
        return parts

    def look(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (2 b, classes) of the images, then of their mixtures."""
        images = batch.images
        shown = torch.cat([images, self._mixtures[batch.step].images(images)])
        self.rows = (slice(0, len(shown)),)
        logits: Tensor = model(shown).float()
        return logits

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the images, and of the mixtures with the targets of both images."""
        images, mixtures = logits.chunk(2)
        return cross_entropy(images, batch, self.settings) + self._on_mixtures(mixtures, batch)

    def term(self, logits: Tensor, batch: Batch) -> Tensor:
        """What branches, self-teacher and discriminators lose, and how far mixtures are from interpolations."""
        own, mixture = self.settings.own(MixSKDSettings), self._mixtures[batch.step]
        assert isinstance(self.extra, Beside)
        assert self._stages is not None
        maps, early = self.extra.branches(self._stages.take(self.whole))
        pairs = [_pair(found, mixture) for found in maps]
        taught = [self.extra.teach(found) for found in zip(*pairs, strict=True)]
        losses = [self.supervised(found, batch) for found in early]
        losses += [self._on_mixtures(found, batch) for found in taught]
        losses += [own.logits * _both_ways(*_pair(found, mixture), own.tau) for found in early]
        losses += [
            own.logits * divergence(*pair, own.tau) for pair in zip(_pair(logits, mixture), taught[::-1], strict=True)
        ]
        losses += [own.features * F.mse_loss(*pair) for pair in pairs]
        if own.adversarial:
            losses += [own.adversarial * loss for loss in self.extra.tell_apart(pairs, own.fool)]
        return torch.stack(losses).sum()

    def _on_mixtures(self, logits: Tensor, batch: Batch) -> Tensor:
        """Weighed cross-entropy of logits (b, classes) of mixtures: the mean of that with each image's target."""
        mixture = self._mixtures[batch.step]
        row_of_partner = mixture.partner.argsort().to(logits.device)
        first, second = (cross_entropy(found, batch, self.settings) for found in (logits, logits[row_of_partner]))
        return self.settings.own(MixSKDSettings).mixed * (mixture.share * first + (1 - mixture.share) * second)


class Beside(nn.Module):
    """What is trained beside the network: branches behind its stages, a self-teacher, discriminators.

    Args:
        maps: of the network's stages (1, c_k, h_k, w_k), first to last.
        num_classes: logits of a branch.
        discriminating: whether there are discriminators.
    """

    def __init__(self, maps: Sequence[Tensor], num_classes: int, discriminating: bool) -> None:
        super().__init__()
        *early, last = maps
        width = last.shape[1]
        self.bottlenecks = nn.ModuleList([bottleneck(found, last) for found in early])
        self.classifiers = nn.ModuleList([nn.Linear(width, num_classes) for _ in early])
        self.teacher = nn.Sequential(nn.Linear(len(maps) * width, width, bias=False), nn.Linear(width, num_classes))
        judges = [nn.Sequential(nn.Linear(width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 2)) for _ in maps]
        self.discriminators = nn.ModuleList(judges if discriminating else [])

    def branches(self, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Last maps (n, width, h_k, w_k) of each branch, then of the network, and the branches' logits; float32."""
        *early, last = maps
        found = [branch(here) for branch, here in zip(self.bottlenecks, early, strict=True)]
        logits = [head(here.mean((2, 3))).float() for head, here in zip(self.classifiers, found, strict=True)]
        return [here.float() for here in (*found, last)], logits

    def teach(self, maps: Sequence[Tensor]) -> Tensor:
        """The self-teacher's logits (b, classes), float32, for last maps (b, width, h_k, w_k)."""
        logits: Tensor = self.teacher(torch.cat([found.mean((2, 3)) for found in maps], 1)).float()
        return logits

    def tell_apart(self, pairs: Sequence[tuple[Tensor, Tensor]], fool: bool) -> list[Tensor]:
        """Binary cross-entropy of each discriminator, of pairs of interpolated maps and maps of mixtures.

        `fool`: the maps get the opposite gradient.
        """
        losses = []
        for judge, pair in zip(self.discriminators, pairs, strict=True):
            features = torch.cat(pair).mean((2, 3))
            features = 2 * features.detach() - features if fool else features
            which = torch.eye(2, device=features.device).repeat_interleave(len(pair[0]), 0)
            losses.append(F.binary_cross_entropy_with_logits(judge(features).float(), which))
        return losses


def _both_ways(logits: Tensor, others: Tensor, tau: float) -> Tensor:
    """Divergence of each of two logits (b, classes) from the other."""
    return divergence(logits, others, tau) + divergence(others, logits, tau)


def _pair(found: Tensor, mixture: Mixed) -> tuple[Tensor, Tensor]:
    """Interpolations (b, ...) of what images gave, and what mixtures gave, of both (2 b, ...)."""
    images, mixtures = found.chunk(2)
    return mixture.images(images), mixtures


def _draw(part: Part, alpha: float, rng: torch.Generator) -> Mixed:
    """Mixed with each other are images of one process; the share is that of all."""
    drawn = torch.rand(1 + part.num, generator=rng, dtype=torch.float64)
    return Mixed(drawn[1:][part.rows].argsort(), beta(float(drawn[0]), alpha))
