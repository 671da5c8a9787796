"""What the networks that papers made for 32 px have in common: a 3x3 stem, three stages, a mean, one linear layer.

The image is halved between the stages, so that 32 px end as 8x8 positions and 64 px as 16x16.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from attar.errors import ConfigError
from attar.models.convnet import Norm, norm_layers

_LEAST_PX = 8
"""Smallest image of which a last stage with instance normalisation has more than one position."""


class ThreeStages(nn.Module):
    """A network for images (b, channels, h, w) of any size from about 8 px.

    Args:
        stem: from images to maps.
        layers: the three stages, which are called layer1 to layer3 as in every ResNet.
        width: channels of the last stage's maps.
        num_classes: of the logits.
    """

    def __init__(self, stem: nn.Module, layers: Sequence[nn.Module], width: int, num_classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.layer1, self.layer2, self.layer3 = layers
        self.fc = nn.Linear(width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        maps = self.layer3(self.layer2(self.layer1(self.stem(images))))
        logits: Tensor = self.fc(maps.mean((2, 3)))
        return logits


def convolution(here: int, there: int, kernel_px: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size, but for its stride."""
    return nn.Conv2d(here, there, kernel_px, stride=stride, padding=kernel_px // 2, bias=False)


def activation(norm: Norm, width: int) -> list[nn.Module]:
    """Normalisation and ReLU of maps (b, width, h, w)."""
    return [*norm_layers(norm, width), nn.ReLU()]


def require_positions(name: str, norm: Norm, size_px: int) -> None:
    """Raise ConfigError where instance normalisation in the last stage would be of single values: all would be 0."""
    if norm == "instance" and size_px < _LEAST_PX:
        raise ConfigError(
            f"{name} leaves one position of a {size_px} px image, and instance normalisation makes that 0",
            expected=f"images of at least {_LEAST_PX} px",
            fix=f"use {name.removesuffix('-instance')}, or a higher --resolution",
        )
