"""A step of training and its second-order products as compiled functions.

    gradient(θ, x, y)       g = ∇_θ loss(θ, x, y)
    products(θ, x, y, λ)    <g, λ> and its gradients by θ, x and y

Each is traced into one graph of torch's operations, forward and back, and compiled by inductor once for each shape of
a batch. Nothing is kept for a backward pass, so memory is one step's, and operations between convolutions are fused.
Results are the eager ones to rounding; where an activation is so near to 0 that rounding decides its sign, gradients
differ by that one activation's part. Measured by `python benchmarks/compiled.py`.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from attar.errors import ConfigError
from attar.losses.trajectory import Loss

Function = Callable[..., tuple[Tensor, ...]]


class Products(NamedTuple):
    """s = <g, λ> of a step's gradient g, and its gradients by images (b, c, h, w), targets (b, classes) and θ (p,)."""

    s: Tensor
    images: Tensor
    targets: Tensor
    theta: Tensor


class CompiledStep:
    """Both functions of one training loss, compiled when a batch of a new shape comes.

    Args:
        loss: of parameters, images and targets alone: what it draws or reads beside them at the first call stays.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._compiled: dict[tuple[object, ...], Function] = {}

    def gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        """g (p,) of a batch, without a graph."""
        (g,) = self._run(self._gradient, theta, images, targets)
        return g

    def products(self, theta: Tensor, images: Tensor, targets: Tensor, lam: Tensor) -> Products:
        """<g, λ> of a batch, and where it goes."""
        return Products(*self._run(self._products, theta, images, targets, lam))

    def _gradient(self, theta: Tensor, images: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        theta = theta.detach().requires_grad_()
        return torch.autograd.grad(self._loss(theta, images, targets), theta)

    def _products(self, theta: Tensor, images: Tensor, targets: Tensor, lam: Tensor) -> tuple[Tensor, ...]:
        theta, images, targets = (one.detach().requires_grad_() for one in (theta, images, targets))
        (g,) = torch.autograd.grad(self._loss(theta, images, targets), theta, create_graph=True)
        s = g @ lam
        return s, *torch.autograd.grad(s, (images, targets, theta))

    def _run(self, function: Function, *inputs: Tensor) -> tuple[Tensor, ...]:
        inputs = tuple(one.detach() for one in inputs)
        key = (function.__name__, *((one.shape, one.dtype, one.device) for one in inputs))
        if key not in self._compiled:
            self._compiled[key] = _compiled(function, inputs)
        with torch.no_grad():
            return self._compiled[key](*inputs)


def require_compiler() -> None:
    """Raise ConfigError where this machine has no C++ compiler, which inductor calls on every device."""
    named = os.environ.get("CXX")
    if any(shutil.which(name) for name in ([named] if named else ["g++", "clang++", "c++"])):
        return
    raise ConfigError(
        f"method.compile=true, but {f'CXX={named} names no program' if named else 'there is no C++ compiler'} here",
        expected="a C++ compiler, which torch compiles the step with: g++ or clang++, or what CXX names",
        fix="install one (Debian: apt install g++), or leave method.compile false: the same images to rounding",
    )


def _compiled(function: Function, inputs: tuple[Tensor, ...]) -> Function:
    from torch.fx.experimental.proxy_tensor import make_fx  # seconds of imports, which only this needs

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # else it warns that there is no GPU
    graph = make_fx(lambda *args: function(*args))(*inputs)  # of a bound method it would count `self`
    compiled: Function = torch.compile(graph, fullgraph=True, dynamic=False)
    return compiled
