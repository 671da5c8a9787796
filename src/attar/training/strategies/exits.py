"""What strategies share that leave a network behind its stages: the stages, their maps, and bottlenecks for these."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from attar.errors import ConfigError
from attar.training.strategies.base import keep

_POOLS = (nn.MaxPool2d, nn.AvgPool2d)


class StageMaps:
    """Listens at the ends of a network's stages, until `release`; not in inference mode, in which networks are tested.

    Args:
        model: the network; raises ConfigError where it has no two stages.
        strategy: name of the strategy that listens, for the error.
    """

    def __init__(self, model: nn.Module, strategy: str) -> None:
        self._model, self._kept = model, list[Tensor]()
        self._hooks = [stage.register_forward_hook(self._keep) for stage in stages(model, strategy)]

    def example(self, image: Tensor) -> tuple[list[Tensor], int]:
        """Maps (1, c_k, h_k, w_k) of one image (1, c, h, w), stage by stage, and the number of classes."""
        training = self._model.training
        with torch.no_grad():
            num_classes: int = self._model.eval()(image).shape[1]
        self._model.train(training)
        return self.take(lambda parts: parts[-1]), num_classes

    def take(self, whole: Callable[[Sequence[Tensor]], Tensor]) -> list[Tensor]:
        """Maps of the last batch, stage by stage, each put together of all that its stage gave by `Strategy.whole`."""
        num = len(self._hooks)
        maps = [whole(self._kept[k::num]) for k in range(num)]
        self._kept.clear()
        return maps

    def release(self) -> None:
        """Stop listening."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        keep(self._kept, output)


def stages(model: nn.Module, strategy: str) -> list[nn.Module]:
    """The modules whose outputs are the ends of the network's stages, in order; raises ConfigError below two."""
    children = dict(model.named_children())
    found = [module for name, module in children.items() if re.fullmatch(r"layer\d+", name)]
    if "stages" in children:
        found = list(children["stages"].children())
    elif not found and isinstance(children.get("features"), nn.Sequential):
        found = [module for module in children["features"].children() if isinstance(module, _POOLS)]
    if len(found) < 2:
        raise ConfigError(
            f"{type(model).__name__} has no stages to leave at, for the strategy {strategy}",
            expected="a ResNet (layer1, layer2, ...), a timm network with `stages`, or a ConvNet, VGG or AlexNet",
            fix="--model resnet18-small or convnet-d3-w128, or another strategy",
        )
    return found


def bottleneck(found: Tensor, last: Tensor) -> nn.Sequential:
    """From maps such as `found` (b, c, h, w) to maps as wide, and as large within a place, as `last`.

    Three convolutions, 1x1, k x k with stride k, 1x1, each with BatchNorm and ReLU; a quarter as wide within.
    """
    width, middle = last.shape[1], max(1, last.shape[1] // 4)
    step = tuple(max(1, here // there) for here, there in zip(found.shape[2:], last.shape[2:], strict=True))
    return nn.Sequential(
        *_convolution(found.shape[1], middle, (1, 1)),
        *_convolution(middle, middle, (step[0], step[1])),
        *_convolution(middle, width, (1, 1)),
    )


def _convolution(here: int, there: int, step: tuple[int, int]) -> list[nn.Module]:
    return [nn.Conv2d(here, there, step, stride=step, bias=False), nn.BatchNorm2d(there), nn.ReLU()]
