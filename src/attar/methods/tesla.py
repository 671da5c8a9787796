"""TESLA: trajectory matching with one step's graph alive at a time.

    for i in 0..N-1:    θ_{i+1} = θ_i - β g_i,   g_i = ∇_θ loss(f_{θ_i}(a_i(x_{b_i})), y_{b_i})     no graph
    λ_N = 2 (θ_N - θ*) / ||θ₀ - θ*||²
    for i in N-1..0:    s = <g_i, λ_{i+1}>                                                          one graph
                        dL/dx_{b_i} -= β ds/dx     dL/dy_{b_i} -= β ds/dy     dL/dβ -= s
                        λ_i = λ_{i+1} - β ds/dθ_i                                                   exact
                        λ_i = λ_N                                                                   published

Sources: Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023,
section 3.2, for the idea and for `gradient=published`; the adjoint of gradient descent (reverse-mode
differentiation with recomputation) for `gradient=exact`.

Differs from the authors' code: `exact`, the default, keeps the dependence of θ_i on earlier batches, which
the published formula leaves out, so that it equals mtt's gradient; the factor 2 of λ_N is kept; log β is learnt.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from attar.losses.trajectory import Matching, MatchingGradient
from attar.methods.trajectory import TrajectoryMatching, TrajectorySettings


class TeslaSettings(TrajectorySettings):
    """Settings of trajectory matching at constant memory."""

    gradient: Literal["exact", "published"] = "exact"
    """exact: the true gradient, by the adjoint recursion; published: the authors' formula, which leaves out
    how each step depends on the batches before it."""


class Tesla(TrajectoryMatching):
    """Trajectory matching at constant memory."""

    name = "tesla"
    summary = "trajectory matching at constant memory, with the exact gradient (or as published)"
    source = "Cui et al., ICML 2023, section 3.2; adjoint recursion"
    Settings = TeslaSettings

    def matching_gradient(self, problem: Matching, images: Tensor, targets: Tensor, rate: Tensor) -> MatchingGradient:
        """Sweep forward without graphs, then backward with one."""
        exact = cast(TeslaSettings, self.settings).gradient == "exact"
        return adjoint(problem, images, targets, rate, exact=exact)


def adjoint(
    problem: Matching, images: Tensor, targets: Tensor, rate: Tensor, *, exact: bool = True
) -> MatchingGradient:
    """Loss and gradient with memory for one step's graph and the N+1 parameter vectors."""
    images, targets, rate = images.detach(), targets.detach(), rate.detach()
    thetas = [problem.start.detach()]
    for i, picked in enumerate(problem.batches):
        theta = thetas[-1].requires_grad_()
        (g,) = torch.autograd.grad(problem.step_loss(i, theta, images[picked], targets[picked]), theta)
        thetas.append(theta.detach() - rate * g)

    lam = problem.distance_gradient(thetas[-1])
    by_images, by_targets, by_rate = (
        torch.zeros_like(images),
        torch.zeros_like(targets),
        torch.zeros_like(rate),
    )
    for i, picked in reversed(list(enumerate(problem.batches))):
        theta = thetas[i].detach().requires_grad_()
        x, y = images[picked].requires_grad_(), targets[picked].requires_grad_()
        (g,) = torch.autograd.grad(problem.step_loss(i, theta, x, y), theta, create_graph=True)
        s = g @ lam
        if exact and i > 0:
            by_x, by_y, by_theta = torch.autograd.grad(s, (x, y, theta))
            lam = lam - rate * by_theta
        else:
            by_x, by_y = torch.autograd.grad(s, (x, y))
        by_images.index_add_(0, picked, by_x, alpha=-float(rate))
        by_targets.index_add_(0, picked, by_y, alpha=-float(rate))
        by_rate -= s.detach()
    return MatchingGradient(problem.distance(thetas[-1]), by_images, by_targets, by_rate)
