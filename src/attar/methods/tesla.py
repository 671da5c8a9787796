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
With labels=expert the mean of what all θ* say that a step may draw is stored; theirs are those of the last step's.
With compile=true the g_i, and <g_i, λ> with its gradients, are compiled functions, and no graph is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from attar.config import parse_bytes
from attar.losses.compiled import CompiledStep, Products, require_compiler
from attar.losses.trajectory import Matching, MatchingGradient
from attar.methods.trajectory import TrajectoryMatching, TrajectorySettings
from attar.task import Task


class TeslaSettings(TrajectorySettings):
    """Settings of trajectory matching in bounded memory."""

    gradient: Literal["exact", "published"] = "exact"
    """How the images' gradient is computed. exact: the true one, by going back through the N steps one at a time;
    published: the formula of TESLA's authors, which leaves out how each step depends on the batches before it."""
    checkpoint_every: int = Field(1, ge=1)
    """Of the parameters after each of the N steps keep every k-th, and compute those between again: less memory for
    large networks and many steps, for the time of one more gradient a step. 1 keeps all."""
    graph_memory: str = "1GB"
    """Memory, such as 500MB, for the graphs of the last of the N steps; the graphs of the others are computed again.
    Where all fit it takes mtt's time, where few do about a quarter more. However many the steps, it takes no more
    memory than this, unless one step alone needs more. Results differ by rounding alone."""

    compile: bool = False
    """Compile a step of training and its second-order products at the first iteration, which takes minutes. Each is
    then up to twice as fast, in the memory of one step, whatever graph_memory says. Needs a C++ compiler; results are
    the same to rounding."""

    @field_validator("graph_memory")
    @classmethod
    def _size(cls, text: str) -> str:
        parse_bytes(text)
        return text


class Tesla(TrajectoryMatching[TeslaSettings]):
    """Trajectory matching in bounded memory."""

    name = "tesla"
    typical = True
    summary = "trajectory matching in bounded memory, with the exact gradient (or as published)"
    source = "Cui et al., ICML 2023, section 3.2; adjoint recursion"
    Settings = TeslaSettings

    def __init__(self, settings: TeslaSettings, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        self._graph_bytes = 0
        self._compiled: CompiledStep | None = None

    @classmethod
    def require_machine(cls, settings: TeslaSettings) -> None:
        """With compile=true a compiler."""
        if settings.compile:
            require_compiler()

    def slow_start(self) -> str:
        """It compiles, where asked to."""
        return "compiling the steps first, which takes minutes" if self.settings.compile else ""

    def rehearsed(self) -> Tesla:
        """Without compiling, which would take longer than a rehearsal may: a plan is of eager steps."""
        return Tesla(self.settings.model_copy(update={"compile": False}), self.task, self.ipc)

    def matching_gradient(self, problem: Matching, images: Tensor, targets: Tensor, rate: Tensor) -> MatchingGradient:
        """Sweep forward without graphs, then backward with one."""
        if self.settings.compile:
            self._compiled = self._compiled or CompiledStep(problem.loss)
        elif not self._graph_bytes:
            self._graph_bytes = graph_bytes(problem, images, targets)
        return adjoint(
            problem,
            images,
            targets,
            rate,
            exact=self.settings.gradient == "exact",
            checkpoint_every=self.settings.checkpoint_every,
            keep_graphs=parse_bytes(self.settings.graph_memory) // self._graph_bytes if self._graph_bytes else 0,
            compiled=self._compiled,
        )


def adjoint(
    problem: Matching,
    images: Tensor,
    targets: Tensor,
    rate: Tensor,
    *,
    exact: bool = True,
    checkpoint_every: int = 1,
    keep_graphs: int = 0,
    compiled: CompiledStep | None = None,
) -> MatchingGradient:
    """Loss and gradient with memory for one step's graph and the kept parameter vectors.

    Of θ₀..θ_N every `checkpoint_every`-th is kept and those between are computed again, at most
    N / checkpoint_every + checkpoint_every vectors at a time for one more gradient a step; 1 keeps all. The graphs of
    the last `keep_graphs` steps are kept as well and need not be made again; the last one's always is, as going back
    begins there. `compiled`, of the problem's loss, takes the steps without any graph.
    """
    images, targets, rate = images.detach(), targets.detach(), rate.detach()
    num, beta = len(problem.batches), float(rate)
    plain = num if compiled else max(0, num - max(1, keep_graphs))
    kept = {0: problem.start.detach()}
    for first in range(0, plain, checkpoint_every):
        last = min(first + checkpoint_every, plain)
        kept[last] = _descend(problem, images, targets, rate, kept[first], first, last, compiled)[-1]
    end, steps = kept[plain], list[_Step]()
    for i in range(plain, num):
        steps.append(_Step.taken(problem, images, targets, end, i))
        end = end - rate * steps[-1].gradient.detach()

    lam = problem.distance_gradient(end)
    by_images, by_targets, by_rate = torch.zeros_like(images), torch.zeros_like(targets), torch.zeros_like(rate)
    thetas: list[Tensor] = []
    for i, picked in reversed(list(enumerate(problem.batches))):
        if not steps and not thetas:
            first = i - i % checkpoint_every
            thetas = [kept[first], *_descend(problem, images, targets, rate, kept[first], first, i, compiled)]
        if compiled:
            found = _compiled_products(problem, images, targets, thetas.pop(), i, lam, compiled)
        else:
            step = steps.pop() if steps else _Step.taken(problem, images, targets, thetas.pop(), i)
            found = step.products(lam, by_theta=exact and i > 0)
        if exact:
            lam = lam - rate * found.theta
        by_images.index_add_(0, picked, found.images, alpha=-beta)
        by_targets.index_add_(0, picked, found.targets, alpha=-beta)
        by_rate -= found.s
    return MatchingGradient(problem.distance(end), by_images, by_targets, by_rate)


def graph_bytes(problem: Matching, images: Tensor, targets: Tensor) -> int:
    """Bytes that autograd holds to go back through the largest step: of distinct storages of saved tensors.

    Of the network alone, whose graph does not depend on what is drawn: so many graphs are kept in a resumed run, too.
    """
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    largest = max(range(len(problem.batches)), key=lambda i: len(problem.batches[i]))
    bare = replace(problem, augment=lambda _, x: x)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step = _Step.taken(bare, images.detach(), targets.detach(), problem.start, largest)
    del step
    return sum(held.values())


@dataclass(frozen=True)
class _Step:
    """A step of SGD with its graph: θ_i (p,), batch (b, c, h, w), its targets (b, classes), and g_i (p,) of them."""

    theta: Tensor
    x: Tensor
    y: Tensor
    gradient: Tensor

    @classmethod
    def taken(cls, problem: Matching, images: Tensor, targets: Tensor, theta: Tensor, i: int) -> _Step:
        picked, theta = problem.batches[i], theta.detach().requires_grad_()
        x, y = images[picked].requires_grad_(), targets[picked].requires_grad_()
        (g,) = torch.autograd.grad(problem.step_loss(i, theta, x, y), theta, create_graph=True)
        return cls(theta, x, y, g)

    def products(self, lam: Tensor, *, by_theta: bool) -> Products:
        """<g_i, λ> and its gradients; by θ_i 0 where it is not asked for."""
        s = self.gradient @ lam
        by_x, by_y, *more = torch.autograd.grad(s, (self.x, self.y, self.theta) if by_theta else (self.x, self.y))
        return Products(s.detach(), by_x, by_y, more[0] if more else torch.zeros_like(self.theta))


def _compiled_products(
    problem: Matching, images: Tensor, targets: Tensor, theta: Tensor, i: int, lam: Tensor, compiled: CompiledStep
) -> Products:
    """Those of step i; only the augmentation, which is drawn anew in each, is gone back through by a graph."""
    picked = problem.batches[i]
    x = images[picked].requires_grad_()
    seen = problem.augment(i, x)
    found = compiled.products(theta, seen, targets[picked], lam)
    (by_x,) = torch.autograd.grad(seen, x, found.images)
    return found._replace(images=by_x)


def _descend(
    problem: Matching,
    images: Tensor,
    targets: Tensor,
    rate: Tensor,
    theta: Tensor,
    first: int,
    last: int,
    compiled: CompiledStep | None,
) -> list[Tensor]:
    """Parameters after each of the steps first..last-1 of SGD from `theta`, without graphs."""
    thetas = []
    for i in range(first, last):
        picked = problem.batches[i]
        theta, x, y = theta.detach().requires_grad_(), images[picked], targets[picked]
        if compiled:
            g = compiled.gradient(theta, problem.augment(i, x), y)
        else:
            (g,) = torch.autograd.grad(problem.step_loss(i, theta, x, y), theta)
        theta = theta.detach() - rate * g
        thetas.append(theta)
    return thetas
