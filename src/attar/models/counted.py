"""Parameters and normalisation of attar's own networks, counted from their names: building one takes torch and seconds.

Each family is stated once more, in layers without weights. A test compares the counts with the networks themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from attar.models.names import OWN, num_groups

_CHANNELS, _SIZE_PX, _NUM_CLASSES = 3, 32, 10
_DEFAULT_NORMS = {"convnet": "instance", "vgg-small": "instance", "alexnet": "none"}
_VGG_WIDTHS = (64, 128, 256, 512, 512)
_VGG_LAYERS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_ALEXNET_LAYERS = ((128, 5), (192, 5), (256, 3), (192, 3), (192, 3))
_RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_STAGES = (16, 32, 64)
"""Channels of the stages of the networks made for CIFAR."""
_BOTTLENECK = 4


def counted(name: str) -> tuple[int, str] | None:
    """Parameters and normalisation of one of attar's networks for 10 classes at 32 px.

    None where the name is none of them, or no network can be made of it: who builds it says why.
    """
    for family, pattern in OWN.items():
        if parts := pattern.fullmatch(name):
            norm = parts.groupdict().get("norm") or _DEFAULT_NORMS.get(family, "batch")
            net = _Layers(norm)
            try:
                _FAMILIES[family](net, parts)
            except ValueError:
                return None
            return net.parameters, ", ".join(sorted(net.kinds)) or "none"
    return None


@dataclass
class _Layers:
    """Counts layers as a network is described."""

    norm: str
    parameters: int = 0
    kinds: set[str] = field(default_factory=set)

    def convolve(self, here: int, there: int, kernel_px: int = 3, *, bias: bool = False, num: int = 1) -> None:
        """`num` convolutions from and to so many channels."""
        self.parameters += num * (kernel_px**2 * here * there + bias * there)

    def normalise(self, width: int, num: int = 1) -> None:
        """`num` layers with scale and shift over maps of `width` channels, where the network has any."""
        match self.norm:
            case "none":
                return
            case "batch":
                kind = "BatchNorm"
            case "instance":
                kind = "InstanceNorm"
            case "layer" | "group":
                groups = 1 if self.norm == "layer" else num_groups(width)
                kind = "InstanceNorm" if groups == width else "GroupNorm"
            case _:
                raise ValueError(self.norm)
        self.kinds.add(kind)
        self.parameters += 2 * width * num

    def connect(self, here: int, there: int = _NUM_CLASSES) -> None:
        """A linear layer, to the classes where nothing else is said."""
        self.parameters += here * there + there


def _require(true: bool) -> None:
    if not true:
        raise ValueError("no such network")


def _convnet(net: _Layers, parts: re.Match[str]) -> None:
    depth, width = int(parts[1]), int(parts[2])
    _require(1 <= depth < _SIZE_PX.bit_length() and width >= 1)
    _plain(net, [(width, 3)] * depth)
    net.connect(width * (_SIZE_PX >> depth) ** 2)


def _vgg(net: _Layers, parts: re.Match[str]) -> None:
    _require(int(parts[1]) in _VGG_LAYERS)
    groups = zip(_VGG_WIDTHS, _VGG_LAYERS[int(parts[1])], strict=True)
    _plain(net, [(width, 3) for width, num in groups for _ in range(num)])
    here = _VGG_WIDTHS[-1]
    if hidden := parts.groupdict().get("hidden"):
        _require(int(hidden) >= 1)
        net.connect(here, int(hidden))
        net.connect(int(hidden), int(hidden))
        here = int(hidden)
    net.connect(here)


def _alexnet(net: _Layers, parts: re.Match[str]) -> None:
    _plain(net, _ALEXNET_LAYERS)
    net.connect(_ALEXNET_LAYERS[-1][0] * (_SIZE_PX >> 3) ** 2)


def _plain(net: _Layers, layers: Iterable[tuple[int, int]]) -> None:
    """Convolutions of these widths and kernels, each normalised."""
    here = _CHANNELS
    for width, kernel_px in layers:
        net.convolve(here, width, kernel_px, bias=True)
        net.normalise(width)
        here = width


def _small_resnet(net: _Layers, parts: re.Match[str]) -> None:
    depth, here = int(parts[1]), 64
    _require(depth in _RESNET_BLOCKS)
    _stem(net, here)
    for width, num in zip((64, 128, 256, 512), _RESNET_BLOCKS[depth], strict=True):
        if depth < 50:
            _basic(net, here, width, num, projected=True)
            here = width
        else:
            _bottlenecks(net, here, width, width * _BOTTLENECK, num)
            here = width * _BOTTLENECK
    net.connect(here)


def _cifar_resnet(net: _Layers, parts: re.Match[str]) -> None:
    num, rest = divmod(int(parts[1]) - 2, 6)
    _require(num >= 1 and not rest)
    here = _STAGES[0]
    _stem(net, here)
    for width in _STAGES:
        _basic(net, here, width, num, projected=parts[2] == "projected")
        here = width
    net.connect(here)


def _bottleneck_resnet(net: _Layers, parts: re.Match[str]) -> None:
    num, rest = divmod(int(parts[1]) - 2, 9)
    _require(num >= 1 and not rest)
    _three_of_bottlenecks(net, num, 1)


def _wide_resnet(net: _Layers, parts: re.Match[str]) -> None:
    depth, factor = int(parts[1]), int(parts[2])
    _require(factor >= 1 and depth >= 10)
    if depth % 6 != 4:
        _require(depth % 9 == 2)
        return _three_of_bottlenecks(net, depth // 9, factor)
    here = _STAGES[0]
    net.convolve(_CHANNELS, here)
    for width in (factor * stage for stage in _STAGES):
        net.normalise(here)
        net.normalise(width, 2 * (depth // 6) - 1)
        net.convolve(here, width)
        net.convolve(width, width, num=2 * (depth // 6) - 1)
        if here != width:
            net.convolve(here, width, 1)
        here = width
    net.normalise(here)
    return net.connect(here)


def _three_of_bottlenecks(net: _Layers, num: int, factor: int) -> None:
    here = _STAGES[0]
    _stem(net, here)
    for width in _STAGES:
        _bottlenecks(net, here, width * factor, width * _BOTTLENECK, num)
        here = width * _BOTTLENECK
    net.connect(here)


def _densenet(net: _Layers, parts: re.Match[str]) -> None:
    compact, growth = bool(parts[1]), int(parts[3])
    num, rest = divmod(int(parts[2]) - 4, 6 if compact else 3)
    _require(num >= 1 and not rest and growth >= 1)
    width = 2 * growth if compact else 16
    net.convolve(_CHANNELS, width)
    for stage in range(3):
        for here in (width + i * growth for i in range(num)):
            net.normalise(here)
            if compact:
                net.convolve(here, _BOTTLENECK * growth, 1)
                net.normalise(_BOTTLENECK * growth)
            net.convolve(_BOTTLENECK * growth if compact else here, growth)
        width += num * growth
        net.normalise(width)
        if stage < 2:
            there = width // 2 if compact else width
            net.convolve(width, there, 1)
            width = there
    net.connect(width)


def _vit(net: _Layers, parts: re.Match[str]) -> None:
    depth, width, patch_px = int(parts[2] or 12), int(parts[3] or 192), int(parts[4] or 4)
    _require(min(depth, width, patch_px) >= 1 and _SIZE_PX % patch_px == 0)
    net.convolve(_CHANNELS, width, patch_px, bias=True)
    net.parameters += width * (2 + (_SIZE_PX // patch_px) ** 2)  # the token of the class, and all positions
    block = _Layers("batch")
    block.normalise(width, 2)
    block.connect(width, 3 * width)
    block.connect(width, width)
    block.connect(width, 4 * width)
    block.connect(4 * width, width)
    if parts[1]:
        block.normalise(4 * width)
    net.parameters += depth * block.parameters
    net.normalise(width)
    net.connect(width)
    net.kinds = {"BatchNorm" if parts[1] else "LayerNorm"}


def _stem(net: _Layers, width: int) -> None:
    net.convolve(_CHANNELS, width)
    net.normalise(width)


def _basic(net: _Layers, here: int, width: int, num: int, *, projected: bool) -> None:
    """Blocks of two convolutions; a 1x1 convolution where the width changes and shortcuts are `projected`."""
    net.convolve(here, width)
    net.convolve(width, width, num=2 * num - 1)
    net.normalise(width, 2 * num)
    if projected and here != width:
        net.convolve(here, width, 1)
        net.normalise(width)


def _bottlenecks(net: _Layers, here: int, inner: int, there: int, num: int) -> None:
    """Blocks of a 1x1, a 3x3 and a 1x1 convolution; the first has a 1x1 convolution in its shortcut."""
    net.convolve(here, inner, 1)
    net.convolve(there, inner, 1, num=num - 1)
    net.convolve(inner, inner, num=num)
    net.convolve(inner, there, 1, num=num)
    net.normalise(inner, 2 * num)
    net.normalise(there, num)
    net.convolve(here, there, 1)
    net.normalise(there)


_FAMILIES: dict[str, Callable[[_Layers, re.Match[str]], None]] = {
    "convnet": _convnet,
    "resnet-small": _small_resnet,
    "vgg-small": _vgg,
    "vgg-hidden": _vgg,
    "alexnet": _alexnet,
    "resnet-cifar": _cifar_resnet,
    "resnet-bottleneck": _bottleneck_resnet,
    "wrn": _wide_resnet,
    "densenet": _densenet,
    "vit": _vit,
}
