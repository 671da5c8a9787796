"""Zipf-LS: all but the true class get soft labels by rank, 1, 1/2, 1/3 ..., from the network's own votes.

    r_c = 1 + number of classes with more votes than c                  (ties share a rank)
    q_c = (1 / r_c) / sum over c' != y of 1 / r_c'                      for c != y
    L = CE(y, p) + weight KL( q || p without y ),                       p without y: softmax over the classes c != y

Each place of the last feature map votes for the class that the classifier gives it. Where the network does not pool a
map into its classifier, the logits themselves are ranked. One view, one pass, no gradient into the votes.

Source: Liang et al., "Efficient One Pass Self-distillation with Zipf's Label Smoothing", ECCV 2022, with weight 0.1 as
in the authors' code for CIFAR-100 (1 for Tiny-ImageNet). As in that code the true class has a rank too.

Differs from the authors' code:

- No exit on an earlier stage, which there votes too and has its own cross-entropy with weight 0.1.
- Maps are not enlarged before they vote.
- Under CutMix and MixUp, which the code does not have, the classes of both images are left out. Under soft labels the
  class that the teacher holds for likeliest is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from attar.config import Config
from attar.models.factory import last_linear
from attar.training.strategies.base import Batch, Strategy, Teaches, keep
from attar.training.strategies.targets import mixed


class ZipfLSSettings(Config):
    """Label smoothing by ranks of the network's own votes."""

    weight: float = Field(default=0.1, ge=0)
    """Weight of the divergence from the ranks; published: 0.1, and 1 for Tiny-ImageNet."""
    dense: bool = True
    """Rank classes by votes over all positions of the last feature map, if there is one; false: by the logits."""


class ZipfLabelSmoothing(Strategy):
    """Smoothing of the labels that follows the order in which the network holds other classes for likely."""

    name = "zipf-ls"
    summary = "all but the true class get 1/rank of the network's own votes, in one view and one pass"
    source = "Liang et al. 2022, Efficient One Pass Self-distillation with Zipf's Label Smoothing (ECCV)"
    Settings = ZipfLSSettings
    _hook: RemovableHandle | None = None
    _classifier: nn.Linear | None = None

    def prepare(self, model: nn.Module, example: Callable[[], Tensor], teacher: Teaches | None) -> None:
        """Listen at the module that gives the last feature map, where there is one."""
        if not self.settings.own(ZipfLSSettings).dense:
            return
        found = _last_map(model, example())
        if found is None:
            return
        place, self._classifier = found
        self._maps: list[Tensor] = []
        self._hook = place.register_forward_hook(lambda _module, _inputs, output: keep(self._maps, output))

    def release(self) -> None:
        """Stop listening."""
        if self._hook:
            self._hook.remove()

    def term(self, logits: Tensor, batch: Batch) -> Tensor:
        """Divergence of the other classes' predictions from their ranks."""
        scores = logits.detach()
        if self._classifier is not None:
            scores = votes(self.whole(self._maps).detach(), self._classifier)
            self._maps.clear()
        others = ~_own_classes(batch, logits.shape[1])
        others = others.repeat(len(logits) // len(others), 1)
        return self.settings.own(ZipfLSSettings).weight * divergence_from_ranks(logits, scores, others)


def divergence_from_ranks(logits: Tensor, scores: Tensor, others: Tensor) -> Tensor:
    """Mean KL(q || p) over classes that are `others`, bool (b, classes); q by ranks of the scores (b, classes)."""
    falling = (-scores).contiguous()
    ranks = 1 + torch.searchsorted(falling.sort(1).values, falling)
    wanted = others / ranks
    wanted = wanted / wanted.sum(1, keepdim=True).clamp(min=1e-12)
    logs = logits.masked_fill(~others, -torch.inf).log_softmax(1).masked_fill(~others, 0.0)
    return F.kl_div(logs, wanted, reduction="batchmean")


def votes(features: Tensor, classifier: nn.Linear) -> Tensor:
    """How many places of maps (b, c, h, w) the classifier gives to each class, (b, classes)."""
    found = classifier(features.flatten(2).transpose(1, 2).to(classifier.weight.dtype)).argmax(2)
    return torch.zeros(len(found), classifier.out_features, device=found.device).scatter_add_(
        1, found, torch.ones_like(found, dtype=torch.float32)
    )


def _own_classes(batch: Batch, num_classes: int) -> Tensor:
    """Classes of each image, bool (b, classes): one, or those of both where it is mixed."""
    targets = batch.targets.argmax(1) if batch.targets.is_floating_point() else batch.targets
    return mixed(F.one_hot(targets, num_classes).float(), batch) > 0


def _last_map(model: nn.Module, image: Tensor) -> tuple[nn.Module, nn.Linear] | None:
    """The module whose map (1, c, h, w), averaged over its places, is the last linear layer's input; and that layer."""
    maps: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            maps.append((module, output))

    training = model.training
    hooks = [module.register_forward_hook(keep) for module in model.modules()]
    with torch.no_grad():
        found = last_linear(model.eval(), image)
    model.train(training)
    for hook in hooks:
        hook.remove()
    if found is None:
        return None
    classifier = model.get_submodule(found[0])
    assert isinstance(classifier, nn.Linear)
    for module, features in reversed(maps):
        pooled = features.mean((2, 3))
        if pooled.shape == found[1].shape and torch.allclose(pooled, found[1], atol=1e-5, rtol=1e-4):
            return module, classifier
    return None
