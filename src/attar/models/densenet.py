"""DenseNets of the CIFAR experiments: each layer sees the maps of all layers before it in its stage.

    densenet-D-K       D = 3n + 4: three stages of n layers, a layer being normalisation, ReLU and a 3x3 convolution
                       to K more channels; 16 channels before the first
    densenet-bc-D-K    D = 6n + 4: a 1x1 convolution to 4K channels goes before each 3x3, each transition leaves half of
                       the channels; 2K channels before the first

Between stages: normalisation, ReLU, a 1x1 convolution and a 2x2 average pool.

Source: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017, without dropout. DLB's authors call
`densenet-bc-40-12` DenseNet-40-12 in their code, which initialises convolutions by fan-in; here it is fan-out.
torchvision's and timm's DenseNets have bottlenecks, BatchNorm and four stages behind a stem for 224 px.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attar.errors import ConfigError
from attar.models.convnet import Norm
from attar.models.stages import ThreeStages, activation, convolution, require_positions
from attar.task import Task

_STEM_WIDTH = 16
BOTTLENECK = 4
_COMPRESSION = 2
"""Of densenet-bc: channels before a transition for each behind it."""


class _Grown(nn.Module):
    """Maps (b, c, h, w), with those that `layer` makes of them behind."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (b, c + growth, h, w)."""
        return torch.cat([maps, self.layer(maps)], 1)


def densenet(
    name: str, depth: int, growth: int, task: Task, norm: Norm = "batch", *, compact: bool = False
) -> nn.Module:
    """Make the DenseNet `name`, with bottlenecks and compression where it is `compact`; raises ConfigError at other
    depths than it can have.
    """
    per_layer = 2 if compact else 1
    num, rest = divmod(depth - 4, 3 * per_layer)
    if num < 1 or rest or growth < 1:
        raise ConfigError(
            f"{name}: no such DenseNet of {depth} layers that grow by {growth}",
            expected=f"{3 * per_layer}n + 4 layers, such as 40 or 100, and a growth of at least 1",
            fix=f"use densenet{'-bc' * compact}-40-12, for example",
        )
    require_positions(name, norm, min(task.height_px, task.width_px))
    width = 2 * growth if compact else _STEM_WIDTH
    stem, layers = convolution(task.channels, width), list[nn.Module]()
    for stage in range(3):
        grown = [_grown(norm, width + i * growth, growth, compact) for i in range(num)]
        width += num * growth
        end = activation(norm, width)
        if stage < 2:
            there = width // _COMPRESSION if compact else width
            end, width = [*end, convolution(width, there, 1), nn.AvgPool2d(2)], there
        layers.append(nn.Sequential(*grown, *end))
    return ThreeStages(stem, layers, width, task.num_classes)


def _grown(norm: Norm, here: int, growth: int, compact: bool) -> nn.Module:
    before = list[nn.Module]()
    if compact:
        before, here = [*activation(norm, here), convolution(here, BOTTLENECK * growth, 1)], BOTTLENECK * growth
    return _Grown(nn.Sequential(*before, *activation(norm, here), convolution(here, growth)))
