"""MTT: matching training trajectories, by automatic differentiation through all N steps.

    θ ← θ₀
    for i in 0..N-1:  θ ← θ - β ∇_θ loss(f_θ(a_i(x_{b_i})), y_{b_i})      every graph kept
    L = ||θ - θ*||² / ||θ₀ - θ*||²;  differentiate L by images, targets and β

Source: Cazenavette et al., CVPR 2022, algorithm 1. Memory grows with N; `tesla` gives the same gradient
without that. Kept as the reference and for small N.

Differs from the authors' code: log β is learnt, so that β stays positive; labels may be soft.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.losses.trajectory import Matching, MatchingGradient
from attar.methods.trajectory import TrajectoryMatching, TrajectorySettings


class MTT(TrajectoryMatching[TrajectorySettings]):
    """Trajectory matching, unrolled."""

    name = "mtt"
    summary = "trajectory matching by unrolling N steps: the reference, memory grows with N"
    source = "Cazenavette et al., CVPR 2022, algorithm 1"

    def matching_gradient(self, problem: Matching, images: Tensor, targets: Tensor, rate: Tensor) -> MatchingGradient:
        """Differentiate through the whole unrolled training."""
        return unrolled(problem, images, targets, rate)


def unrolled(
    problem: Matching, images: Tensor, targets: Tensor, rate: Tensor, *, detach: bool = False
) -> MatchingGradient:
    """Loss and gradient by reverse mode over the unrolled steps.

    `detach=True` cuts the parameters between the steps, so that each step's gradient sees its own batch
    only: the reference for tesla's published formula.
    """
    images, targets, rate = (value.detach().requires_grad_() for value in (images, targets, rate))
    theta = problem.start.detach()
    moved = torch.zeros_like(theta)
    for i, picked in enumerate(problem.batches):
        theta_i = (theta + moved).detach() if detach else theta + moved
        theta_i = theta_i if theta_i.requires_grad else theta_i.requires_grad_()
        loss = problem.step_loss(i, theta_i, images[picked], targets[picked])
        (g,) = torch.autograd.grad(loss, theta_i, create_graph=True)
        moved = moved - rate * g
    distance = problem.distance(theta + moved)
    by_images, by_targets, by_rate = torch.autograd.grad(distance, (images, targets, rate))
    return MatchingGradient(distance.detach(), by_images, by_targets, by_rate)
