"""The trajectory-matching objective, shared by mtt and tesla.

Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, equation 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(parameters θ (p,), images (b, c, h, w), targets (b, classes)) -> scalar training loss."""
Augment = Callable[[int, Tensor], Tensor]
"""(step i, images (b, c, h, w)) -> as that step sees them."""


@dataclass(frozen=True)
class Matching:
    """One matching problem: N steps of SGD on synthetic batches, from θ₀ and hopefully to θ*.

    `batches[i]` (b,) indexes the synthetic images that step i trains on. `leave_out` is the part of the parameters that
    does not count, those that came nearest to θ* (PAD, Li et al. 2024); which ones is decided at θ_N, and constant.
    """

    start: Tensor
    target: Tensor
    batches: Sequence[Tensor]
    loss: Loss
    augment: Augment
    leave_out: float = 0.0

    def step_loss(self, i: int, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """Training loss of step i, its augmentation included."""
        return self.loss(theta, self.augment(i, images), targets)

    def distance(self, theta: Tensor) -> Tensor:
        """L = ||θ_N - θ*||² / ||θ₀ - θ*||²: 1 where the steps led nowhere, 0 where they reach θ*."""
        errors = (theta - self.target).square()
        return self._counted(theta, errors).sum() / self._initial_distance(theta)

    def distance_gradient(self, theta: Tensor) -> Tensor:
        """dL/dθ_N = 2 (θ_N - θ*) / ||θ₀ - θ*||², 0 for parameters that do not count."""
        return 2 * self._counted(theta, theta - self.target) / self._initial_distance(theta)

    def _initial_distance(self, theta: Tensor) -> Tensor:
        """||θ₀ - θ*||², how far the expert went, over the parameters that count at θ."""
        return self._counted(theta, (self.start - self.target).square()).sum()

    def _counted(self, theta: Tensor, values: Tensor) -> Tensor:
        """Values (p,), those of parameters that do not count at θ (p,) set to 0."""
        num = int(self.leave_out * theta.numel())
        if not num:
            return values
        nearest = (theta.detach() - self.target).square().argsort(stable=True)[:num]
        return values.index_fill(0, nearest, 0.0)


@dataclass(frozen=True)
class MatchingGradient:
    """The loss L and its gradient by images (n, c, h, w), targets (n, classes) and the step size β."""

    loss: Tensor
    images: Tensor
    targets: Tensor
    rate: Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of logits (b, classes) to target probabilities (b, classes)."""
    return -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1).mean()
