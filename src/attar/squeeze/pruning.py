"""Structured pruning: copies of a network with fewer channels in every layer, by the library torch-pruning.

Channels go in groups that depend on each other, those of the smallest norm first, the same part of each layer
(Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023). The classifier's outputs stay. What is made is a
function of the network and the part alone; it is opened again without the library (`resizing.py`).
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn

from attar.errors import ArtifactError, ConfigError
from attar.models.factory import build, last_linear
from attar.squeeze.resizing import resize
from attar.task import Task


def prune(model: nn.Module, ratio: float, task: Task) -> nn.Module:
    """Copy a network, on the CPU and in evaluation mode, without the part `ratio` (0..1) of each layer's channels.

    Raises ConfigError where the library is not installed or cannot prune it.
    """
    library = _library()
    model = copy.deepcopy(model).cpu().eval().requires_grad_()
    example = torch.zeros(1, *task.shape)
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        last = last_linear(model, example)
        try:
            pruner = library.pruner.BasePruner(
                model,
                example,
                importance=library.importance.GroupMagnitudeImportance(p=2),
                pruning_ratio=ratio,
                ignored_layers=[model.get_submodule(last[0])] if last else [],
                in_channel_groups={},  # its own defaults are shared by all calls
                out_channel_groups={},
                num_heads={},
            )
            pruner.step()
            logits = model(example)
        except Exception as error:  # the library is free to fail in its own ways
            raise _unprunable(model, ratio, str(error) or type(error).__name__) from error
    if logits.shape != (1, task.num_classes):
        raise _unprunable(model, ratio, "it loses classes")
    return model


def require_prunable(name: str, task: Task, ratio: float) -> None:
    """Raise ConfigError unless the network `name` can lose this part of its channels and be opened again."""
    network = build(name, task)
    pruned = prune(network, ratio, task)
    if all(a.shape == b.shape for a, b in zip(network.parameters(), pruned.parameters(), strict=True)):
        raise _unprunable(network, ratio, "no layer has a channel to lose")
    images = torch.linspace(-1, 1, torch.zeros(2, *task.shape).numel()).view(2, *task.shape)
    try:
        resize(network, pruned.state_dict())
        network.load_state_dict(pruned.state_dict())
        with torch.no_grad():
            again = network.eval()(images)
            same = torch.allclose(again, pruned(images), atol=1e-5)
    except (ArtifactError, RuntimeError, ValueError) as error:
        raise _unprunable(network, ratio, str(error)) from error
    if not same:
        raise _unprunable(network, ratio, "what is stored of it would compute something else")


def _library() -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise ConfigError(
            "squeeze.pool=post prunes networks by torch-pruning, which is not installed",
            expected="the package torch-pruning beside attar",
            fix="pip install 'attar[prune]', or --set squeeze.pool=prior",
        ) from error
    return torch_pruning


def _unprunable(model: nn.Module, ratio: float, why: str) -> ConfigError:
    first = (why.strip().splitlines() or ["for reasons that the library does not tell"])[0]
    return ConfigError(
        f"{ratio:.0%} of the channels of this {type(model).__name__} cannot be pruned: {first}",
        expected="a convolutional network with channels to spare, such as a ResNet or a ConvNet",
        fix="lower squeeze.ratios, take another squeeze.model, or --set squeeze.pool=prior",
    )
