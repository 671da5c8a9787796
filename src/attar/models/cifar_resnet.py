"""The ResNets of the CIFAR experiments: 6n + 2 layers of 16, 32 and 64 channels, and their wide relatives.

    resnetD-cifar    D = 6n + 2: a 3x3 convolution, three stages of n basic blocks, one linear layer; between stages the
                     shortcut takes every second position and is filled up with zeros, so that it has no parameters
                     (option A of the paper)
    resnetD-projected    the same, with a 1x1 convolution in these shortcuts (option B), as in DLB's code
    resnetD-bottleneck   D = 9n + 2: n bottlenecks a stage, 64, 128 and 256 channels without; DLB's ResNet-110
    wrn-D-K          D = 6n + 4: the same, K times as wide, with normalisation and ReLU before each convolution, and a
                     1x1 convolution where the shortcut changes its width
    wrn-D-K          D = 9n + 2: n bottlenecks a stage, K times as wide within, 64, 128 and 256 channels without; the
                     WRN-20-8 of the papers on self-distillation, whose name the first paper does not have

Sources: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2; Zagoruyko and Komodakis,
"Wide Residual Networks", BMVC 2016 (without dropout); the released code of DLB (Shen et al., CVPR 2022) for projections
and bottlenecks, where the last layer's bias starts at random, here at 0. Blocks are torchvision's and timm's.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from attar.errors import ConfigError
from attar.models.convnet import Norm, norm_layers
from attar.models.stages import ThreeStages, activation, convolution, require_positions
from attar.task import Task

WIDTHS = (16, 32, 64)
"""Channels of the three stages; of the stem those of the first."""
BOTTLENECK = 4
"""How much wider a bottleneck is without than within, before it is widened."""


class PaddedShortcut(nn.Module):
    """Maps (b, c, h, w) at every second position, with channels of zeros before and behind: twice as many."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (b, 2c, h / 2, w / 2), rounded up."""
        more = maps.shape[1] // 2
        return F.pad(maps[:, :, ::2, ::2], (0, 0, 0, 0, more, maps.shape[1] - more))


def cifar_resnet(name: str, depth: int, task: Task, norm: Norm = "batch", *, projected: bool = False) -> nn.Module:
    """Make the ResNet `name` of 6n + 2 layers, its shortcuts with 1x1 convolutions where they are `projected`.

    Raises ConfigError at other depths.
    """
    from torchvision.models.resnet import BasicBlock

    if depth < 8 or depth % 6 != 2:
        nearest = max(8, 6 * round((depth - 2) / 6) + 2)
        raise ConfigError(
            f"{name}: no ResNet for CIFAR has {depth} layers",
            expected="6n + 2 of them: 20, 32, 44, 56 or 110, for example",
            fix=f"use resnet{nearest}-{name.split('-')[1]}, or resnet18-small for the wider ones with four stages",
        )
    require_positions(name, norm, min(task.height_px, task.width_px))

    def block(here: int, there: int, stride: int) -> nn.Module:
        padded = _projection(norm, here, there, stride) if projected else PaddedShortcut()
        shortcut = padded if stride > 1 else None
        made: nn.Module = BasicBlock(here, there, stride, shortcut, norm_layer=partial(_norm, norm))
        return made

    here, layers = WIDTHS[0], list[nn.Module]()
    for width in WIDTHS:
        places = [(here, 1 if width == WIDTHS[0] else 2), *[(width, 1)] * (depth // 6 - 1)]
        layers.append(nn.Sequential(*[block(before, width, stride) for before, stride in places]))
        here = width
    return ThreeStages(_stem(task, norm), layers, here, task.num_classes)


def bottleneck_resnet(name: str, depth: int, task: Task, norm: Norm = "batch") -> nn.Module:
    """Make the ResNet `name` of bottlenecks, 9n + 2 layers; raises ConfigError at other depths."""
    if depth < 11 or depth % 9 != 2:
        nearest = max(11, 9 * round((depth - 2) / 9) + 2)
        raise ConfigError(
            f"{name}: no ResNet of bottlenecks in three stages has {depth} layers",
            expected="9n + 2 of them: 11, 20, 29, 56 or 110, for example",
            fix=f"use resnet{nearest}-bottleneck, or resnet50-small for the wider ones with four stages",
        )
    require_positions(name, norm, min(task.height_px, task.width_px))
    return _of_bottlenecks(depth // 9, 1, task, norm)


def wide_resnet(name: str, depth: int, factor: int, task: Task, norm: Norm = "batch") -> nn.Module:
    """Make the wide ResNet `name`; raises ConfigError where its depth is neither 6n + 4 nor 9n + 2."""
    if factor < 1:
        raise ConfigError(f"{name} has no channels", expected="a factor of at least 1")
    require_positions(name, norm, min(task.height_px, task.width_px))
    if depth >= 10 and depth % 6 == 4:
        return _of_basic_blocks(depth // 6, factor, task, norm)
    if depth >= 11 and depth % 9 == 2:
        return _of_bottlenecks(depth // 9, factor, task, norm)
    raise ConfigError(
        f"{name}: no wide ResNet has {depth} layers",
        expected="6n + 4 of them (10, 16, 22, 28, 40), or 9n + 2 with bottlenecks (20)",
        fix=f"use wrn-{max(10, 6 * round((depth - 4) / 6) + 4)}-{factor}, for example",
    )


def _of_basic_blocks(num: int, factor: int, task: Task, norm: Norm) -> nn.Module:
    from timm.layers.create_conv2d import create_conv2d
    from timm.models.resnetv2 import PreActBasic, ResNetStage

    def normalised(width: int, **_: object) -> nn.Module:
        return nn.Sequential(*activation(norm, width))

    here, layers = WIDTHS[0], list[nn.Module]()
    for width in WIDTHS:
        stage = ResNetStage(
            here,
            width * factor,
            stride=1 if width == WIDTHS[0] else 2,
            dilation=1,
            depth=num,
            bottle_ratio=1.0,
            block_fn=PreActBasic,
            conv_layer=create_conv2d,
            norm_layer=normalised,
        )
        here = width * factor
        layers.append(stage)
    layers[-1] = nn.Sequential(layers[-1], *activation(norm, here))
    return ThreeStages(convolution(task.channels, WIDTHS[0]), layers, here, task.num_classes)


def _of_bottlenecks(num: int, factor: int, task: Task, norm: Norm) -> nn.Module:
    from torchvision.models.resnet import Bottleneck

    def block(here: int, width: int, stride: int) -> nn.Module:
        there = width * BOTTLENECK
        changes = _projection(norm, here, there, stride) if here != there else None
        inner = partial(_norm, norm)
        made: nn.Module = Bottleneck(here, width, stride, changes, base_width=64 * factor, norm_layer=inner)
        return made

    here, layers = WIDTHS[0], list[nn.Module]()
    for width in WIDTHS:
        first = block(here, width, 1 if width == WIDTHS[0] else 2)
        here = width * BOTTLENECK
        layers.append(nn.Sequential(first, *[block(here, width, 1) for _ in range(num - 1)]))
    return ThreeStages(_stem(task, norm), layers, here, task.num_classes)


def _projection(norm: Norm, here: int, there: int, stride: int) -> nn.Module:
    return nn.Sequential(convolution(here, there, 1, stride), _norm(norm, there))


def _stem(task: Task, norm: Norm) -> nn.Module:
    return nn.Sequential(convolution(task.channels, WIDTHS[0]), *activation(norm, WIDTHS[0]))


def _norm(norm: Norm, width: int) -> nn.Module:
    return next(iter(norm_layers(norm, width)), nn.Identity())
