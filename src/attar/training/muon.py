"""Muon: steps along the nearest orthogonal matrix to the momentum, for kernels and matrices; AdamW for all else.

    M <- mu M + (1 - mu) g          G = (1 - mu) g + mu M  under Nesterov, else M        g as a matrix (out, -1)
    X = G / ||G||_F;   n times   X <- a X + (b A + c A²) X,  A = X X^T            a, b, c = 3.4445, -4.7750, 2.0315
    W <- (1 - rate decay) W - rate 0.2 sqrt(max(rows, columns)) X

Kernels of convolutions are matrices of one row a channel that they make. The last factor gives X the root mean square
of AdamW's steps, so that one rate and one decay serve both parts (Liu et al. 2025, Muon is Scalable for LLM Training).
`torch.optim.Muon` does the same for matrices alone, in bfloat16: it refuses kernels, and has no second part.

Source: Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks. As in their code for small images,
kernels are taken, and the classifier, norms and biases are AdamW's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315
_RMS = 0.2
"""Root mean square of a step of AdamW, about."""


class Muon(torch.optim.Optimizer):
    """Muon for groups with `matrices`, AdamW for the others.

    Args:
        params: groups as for any optimiser; see `split`.
        lr: of both parts.
        momentum: 0..1, of the matrices.
        nesterov: look ahead by one step.
        weight_decay: decoupled, of both parts.
        ns_steps: Newton-Schulz steps, 1 or more; 3 bring singular values near 1 for most, 5 for nearly all.
        betas: of AdamW.
        eps: of AdamW.

    Raises ValueError for values out of range.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.01,
        ns_steps: int = 3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not (lr >= 0 and 0 <= momentum < 1 and weight_decay >= 0 and ns_steps >= 1):
            raise ValueError("muon takes lr and weight_decay from 0, a momentum from 0 to below 1, and ns_steps from 1")
        own = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "betas": tuple(betas), "eps": eps}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "matrices": False, **own})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            one_step = self._orthogonal if group["matrices"] else self._adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    one_step(parameter, parameter.grad, group)
        return loss

    def _orthogonal(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        moved = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
        moved.lerp_(grad, 1 - group["momentum"])
        wanted = grad.lerp(moved, group["momentum"]) if group["nesterov"] else moved
        matrix = wanted.flatten(1)
        factor = _RMS * math.sqrt(max(matrix.shape))
        parameter.sub_(orthogonalized(matrix, group["ns_steps"]).reshape(wanted.shape), alpha=group["lr"] * factor)

    def _adamw(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        (first, second), num = group["betas"], state["step"]
        state["exp_avg"].lerp_(grad, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(grad, grad, value=1 - second)
        scale = state["exp_avg_sq"].sqrt().div_(math.sqrt(1 - second**num)).add_(group["eps"])
        parameter.addcdiv_(state["exp_avg"], scale, value=-group["lr"] / (1 - first**num))


def orthogonalized(matrix: Tensor, num_steps: int) -> Tensor:
    """A matrix (rows, columns) with its singular values brought near 1, by Newton-Schulz steps in its own precision."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    found: Tensor = wide / wide.norm().clamp(min=1e-7)
    for _ in range(num_steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), found, beta=_A)
    return found if wide is matrix else found.T


def split(model: nn.Module, groups: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups, each as its kernels and matrices (`matrices`: True) and the rest, with the last linear layer."""
    layers = [one for one in model.modules() if isinstance(one, nn.Linear | nn.modules.conv._ConvNd)]
    linear = [one for one in layers if isinstance(one, nn.Linear)]
    mine = {id(one.weight) for one in layers if not linear or one is not linear[-1]}
    found = []
    for group in groups:
        for matrices in (True, False):
            params = [one for one in group["params"] if (id(one) in mine) == matrices]
            found += [{**group, "params": params, "matrices": matrices}] if params else []
    return found
