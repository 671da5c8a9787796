"""One training in several processes: what they tell each other in a step and after an epoch.

    gradient = mean over processes of (images here x processes / images of all) x gradient here

which is the gradient of the mean loss over all images, whoever has how many of them. Every process takes the same step.
DistributedDataParallel takes the mean, on the backend of the device: NCCL on GPUs, gloo on CPUs. BatchNorm normalises
by the images of its process, or of all with `sync_batch_norm`; its running statistics, which training does not read,
are averaged after an epoch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from attar.errors import ConfigError
from attar.runtime.engine import Engine
from attar.runtime.processes import all_there
from attar.runtime.team import Team
from attar.training.strategies.base import Batch, Part, Strategy, split_batches

if TYPE_CHECKING:
    from attar.training.settings import TrainSettings

_RUNNING = ("running_mean", "running_var")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""Those that `sync_batch_norm` can replace."""


def share(part: Part, team: Team) -> float:
    """Weight of a mean over this process's images in the mean over processes."""
    return len(part.indices) * team.num / part.num


class Gradients:
    """Backward passes of a training: what they leave in the parameters is of the mean loss over all processes.

    Of several processes the whole loss is the forward pass of one module, which torch's DistributedDataParallel wraps,
    so that a strategy may send a batch through the network in several passes and train modules beside it.

    Args:
        trained: all that the optimiser moves, on its device.
        loss: scalar loss of this process's part of a batch.
        engine: its precision is that of the loss.
        team: the processes; with more than one, all must make this at once.
        unused: parameters that have no part in the loss (see `unused_parameters`), and are left without a gradient.
    """

    def __init__(
        self,
        trained: nn.Module,
        loss: Callable[[Batch], Tensor],
        engine: Engine,
        team: Team,
        unused: Sequence[nn.Parameter] = (),
    ) -> None:
        self._loss, self._engine, self._team, self._wrapped = loss, engine, team, None
        if team.num > 1:
            with all_there(team.num, computing=True):
                left_out = set(map(id, unused))
                used = [one for one in trained.parameters() if one.requires_grad and id(one) not in left_out]
                self._wrapped = _wrap(_Loss(used, loss), team)

    def add(
        self, batch: Batch | None, part: Part, scale: Callable[[Tensor], Tensor], *, exchange: bool = True
    ) -> Tensor:
        """Add the gradients of a batch; returns its mean loss, of which each process has a summand times their number.

        Args:
            batch: this process's part; None where it has none of the images.
            part: which part it is.
            scale: of the loss before the backward pass.
            exchange: average the gradients over the processes; false: more batches are to come before that.
        """
        if self._wrapped is None:
            assert batch is not None
            with self._engine.autocast():
                alone = self._loss(batch)
            scale(alone).backward()
            return alone.detach()
        with nullcontext() if exchange else self._wrapped.no_sync():
            with self._engine.autocast():
                loss: Tensor = self._wrapped(batch) * share(part, self._team)
            with all_there(self._team.num, computing=True):
                scale(loss).backward()
        return loss.detach()


class _Loss(nn.Module):
    """A training's loss as the forward pass of what holds its parameters; without a batch 0, with gradients of 0.

    Buffers are not among them: each process has its own statistics, see `average_statistics`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], loss: Callable[[Batch], Tensor]) -> None:
        super().__init__()
        self.trained, self._loss = nn.ParameterList(parameters), loss

    def forward(self, batch: Batch | None) -> Tensor:
        if batch is not None:
            return self._loss(batch)
        return 0.0 * torch.stack([parameter.sum() for parameter in self.trained]).sum()


def _wrap(loss: _Loss, team: Team) -> DistributedDataParallel:
    """DDP over the device's backend."""
    # of 1x1 convolutions in channels_last, whose layout has two names; it costs a copy of a small tensor
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    group = team.device_group or team.group
    wrapped = DistributedDataParallel(loss, process_group=group, gradient_as_bucket_view=True)
    # DDP orders its buckets anew after its first pass, and with them the sums of three or more processes. Were that
    # pass one of a batch, a resumed training would end with other bits than an unbroken one.
    wrapped(None).backward()
    for parameter in loss.trained:
        parameter.grad = None
    return wrapped


def unused_parameters(model: nn.Module, image: Tensor) -> list[nn.Parameter]:
    """The parameters that have no part in the logits of an image (1, c, h, w)."""
    parameters, training = [one for one in model.parameters() if one.requires_grad], model.training
    with torch.enable_grad():
        found = torch.autograd.grad(model.eval()(image).sum(), parameters, allow_unused=True)
    model.train(training)
    return [one for one, gradient in zip(parameters, found, strict=True) if gradient is None]


def synchronize_norms(trained: nn.Module, settings: TrainSettings, engine: Engine, team: Team) -> Callable[[], None]:
    """Where the settings say so, let BatchNorm normalise by the images of all processes; returns what undoes it.

    Raises ConfigError where torch cannot: on a CPU, and for layers that add to BatchNorm.
    """
    if team.num == 1 or not settings.sync_batch_norm:
        return lambda: None
    if engine.device.type != "cuda":
        raise ConfigError(
            f"train.sync_batch_norm is set, and torch has no synchronised BatchNorm on {engine.device.type}",
            expected="CUDA devices",
            fix="--set train.sync_batch_norm=false; each process then normalises by its own images",
        )
    own = {name: module for name, module in trained.named_modules() if isinstance(module, _BatchNorm)}
    if unknown := sorted({type(module).__name__ for module in own.values() if type(module) not in NORMS}):
        raise ConfigError(
            f"train.sync_batch_norm is set, and {', '.join(unknown)} cannot be synchronised",
            expected=f"plain BatchNorm layers: {', '.join(kind.__name__ for kind in NORMS)}",
            fix="--set train.sync_batch_norm=false, or another network",
        )
    for name, module in own.items():
        trained.set_submodule(name, nn.SyncBatchNorm.convert_sync_batchnorm(module, team.device_group))

    def restore() -> None:
        for name, module in own.items():
            trained.set_submodule(name, module.train(trained.get_submodule(name).training))

    return restore


def average_statistics(states: Iterable[Mapping[str, Tensor]], team: Team) -> None:
    """Put the mean over all processes in the place of BatchNorm's running statistics among these tensors by name."""
    found = [value for state in states for name, value in state.items() if name.endswith(_RUNNING)]
    if team.num == 1 or not found:
        return
    flat = team.total(torch.cat([value.reshape(-1) for value in found])) / team.num
    for value, mean in zip(found, flat.split([value.numel() for value in found]), strict=True):
        value.copy_(mean.view_as(value))


def require_enough(strategy: Strategy, team: Team) -> None:
    """Raise ConfigError where a batch has fewer than two new images for each process.

    Of a short last batch some processes have none, but with `sync_batch_norm`, where each must take part.
    """
    if team.num == 1:
        return
    if strategy.num_images < 2 * team.num:
        raise ConfigError(
            f"{team.num} processes train on {strategy.num_images} images",
            expected="at least two for each",
            fix="start fewer processes",
        )
    if strategy.num_fresh < 2 * team.num:
        least = 2 * team.num * -(-strategy.settings.batch_for(strategy.num_images) // strategy.num_fresh)
        raise ConfigError(
            f"{team.num} processes share {strategy.num_fresh} new images in each batch",
            expected="at least two for each",
            fix=f"--set train.batch_size={least}, or start fewer processes",
        )
    num_last = len(split_batches(torch.arange(strategy.num_images), strategy.num_fresh)[-1])
    if strategy.settings.sync_batch_norm and num_last < 2 * team.num:
        raise ConfigError(
            f"train.sync_batch_norm is set, and {team.num} processes share {num_last} new images in the last batch of "
            "an epoch",
            expected="at least two for each",
            fix="another train.batch_size, or fewer processes",
        )


def most_processes(model: nn.Module, strategy: Strategy) -> int:
    """How many processes may share a training so that it is that of one process to rounding; 1: it is not to be shared.

    Not shared are networks that look at a batch as a whole (BatchNorm) or draw by themselves (dropout, stochastic
    depth), mixtures, whose partners would be of the same process, and strategies that say so.
    """
    settings = strategy.settings
    if settings.cutmix + settings.mixup > 0 or not strategy.adds_up or not all(map(_adds_up, model.modules())):
        return 1
    return max(1, min(strategy.num_images, strategy.num_fresh) // 2)


def _adds_up(module: nn.Module) -> bool:
    """Whether a layer in training gives each image the same whatever else is in the batch."""
    if isinstance(module, _BatchNorm):
        return False
    if "drop" in type(module).__name__.lower() or "stochastic" in type(module).__name__.lower():
        return not any(getattr(module, name, 0) for name in ("p", "drop_prob", "prob"))
    return not getattr(module, "dropout", 0) or isinstance(module.dropout, nn.Module)
