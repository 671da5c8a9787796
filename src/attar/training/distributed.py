"""One training in several processes: what they tell each other in a step and after an epoch.

    gradient = mean over processes of (images here x processes / images of all) x gradient here

which is the gradient of the mean loss over all images, whoever has how many of them. Every process takes the same step.
BatchNorm normalises by the images of its process, as `DistributedDataParallel` does; its running statistics, which
training does not read, are averaged after an epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from attar.errors import ConfigError
from attar.runtime.team import Team
from attar.training.strategies.base import Part, Strategy

RUNNING = ("running_mean", "running_var")


def share(part: Part, team: Team) -> float:
    """Weight of a mean over this process's images in the mean over processes."""
    return len(part.indices) * team.num / part.num


def average_gradients(parameters: Sequence[nn.Parameter], losses: Sequence[Tensor], team: Team) -> list[Tensor]:
    """Put the mean over all processes in the place of every gradient; returns that of the losses (scalars).

    A parameter that no process has a gradient for is left without one; the others have theirs in their own layout,
    which fused optimisers rely on.
    """
    if team.num == 1:
        return list(losses)
    like = parameters[0]
    has = torch.tensor([parameter.grad is not None for parameter in parameters]).to(like)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    told = [torch.stack([loss.to(like) for loss in losses]), has, *(gradient.reshape(-1) for gradient in gradients)]
    heard = team.total(torch.cat(told)).split([len(piece) for piece in told])
    for parameter, any_has, gradient in zip(parameters, heard[1].tolist(), heard[2:], strict=True):
        mean = (gradient / team.num).view(parameter.shape)
        parameter.grad = torch.empty_like(parameter).copy_(mean) if any_has else None
    return list((heard[0] / team.num).unbind())


def average_statistics(states: Iterable[Mapping[str, Tensor]], team: Team) -> None:
    """Put the mean over all processes in the place of BatchNorm's running statistics among these tensors by name."""
    found = [value for state in states for name, value in state.items() if name.endswith(RUNNING)]
    if team.num == 1 or not found:
        return
    flat = team.total(torch.cat([value.reshape(-1) for value in found])) / team.num
    for value, mean in zip(found, flat.split([value.numel() for value in found]), strict=True):
        value.copy_(mean.view_as(value))


def require_enough(strategy: Strategy, team: Team) -> None:
    """Raise ConfigError where a batch has fewer than two new images for each process."""
    if team.num == 1:
        return
    if strategy.num_images < 2 * team.num:
        raise ConfigError(
            f"{team.num} processes train on {strategy.num_images} images",
            expected="at least two for each",
            fix="start fewer processes",
        )
    if strategy.num_fresh < 2 * team.num:
        least = 2 * team.num * -(-strategy.settings.batch_size // strategy.num_fresh)
        raise ConfigError(
            f"{team.num} processes share {strategy.num_fresh} new images in each batch",
            expected="at least two for each",
            fix=f"--set train.batch_size={least}, or start fewer processes",
        )
