"""BatchNorm layers of a network: where a teacher keeps the statistics of the images it was trained on."""

from __future__ import annotations

from torch import nn

from attar.errors import ConfigError
from attar.task import Normalization, Task

KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """Every BatchNorm layer (1d, 2d) with running statistics, in the order of registration.

    In attar's, torchvision's and timm's networks this is the order in which they run, the one nearest to the
    image first.
    """
    return [module for module in model.modules() if isinstance(module, KINDS) and module.running_mean is not None]


def require_batch_norm(model: nn.Module, name: str) -> None:
    """Raise ConfigError where the network `name` keeps no BatchNorm statistics, saying what to use instead."""
    if batch_norms(model):
        return
    raise ConfigError(
        f"{name} has no BatchNorm layers, so it keeps no statistics of the images that it was trained on",
        expected="a teacher with BatchNorm running statistics, which synthetic images are matched to",
        fix="use resnet18-small (small images), resnet18, convnet-d3-w128-batch or bnvit-tiny as squeeze.model",
    )


def has_batch_norm(name: str) -> bool:
    """Whether the network of this name keeps BatchNorm statistics; False for names that are not known."""
    from attar.models.factory import build

    for size_px in (64, 224):
        task = Task(("a", "b"), 3, size_px, size_px, Normalization((0.5,) * 3, (0.5,) * 3))
        try:
            return bool(batch_norms(build(name, task)))
        except ConfigError:
            continue  # not at this size, or not at all: who builds it in earnest will say
    return False
