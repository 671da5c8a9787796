"""ConvNet-D: the network that dataset distillation is measured with (Gidaris and Komodakis 2018).

D blocks of a 3x3 convolution, normalisation, ReLU and 2x2 average pooling, then one linear layer.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

from attar.errors import ConfigError
from attar.models.names import num_groups

Norm = Literal["instance", "batch", "layer", "group", "none"]
NORMS: tuple[str, ...] = get_args(Norm)


class ConvNet(nn.Module):
    """A ConvNet for images (b, channels, h, w); h and w must be at least 2**depth.

    `features` is everything before the linear layer: (b, width * (h >> depth) * (w >> depth)).
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        height_px: int,
        width_px: int,
        *,
        depth: int = 3,
        width: int = 128,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        if min(height_px, width_px) >> depth == 0:
            fits = min(height_px, width_px).bit_length() - 1
            raise ConfigError(
                f"a ConvNet of depth {depth} halves a {height_px}x{width_px} px image away",
                expected=f"depth at most {fits}" if fits else "images of 2 px or more along each side",
                fix=f"use convnet-d{fits}-w{width} or a higher --resolution" if fits else "use a higher --resolution",
            )
        blocks: list[nn.Module] = []
        for i in range(depth):
            blocks += [
                nn.Conv2d(channels if i == 0 else width, width, kernel_size=3, padding=1),
                *norm_layers(norm, width),
                nn.ReLU(),
                nn.AvgPool2d(2),
            ]
        self.features = nn.Sequential(*blocks, nn.Flatten())
        self.classifier = nn.Linear(width * (height_px >> depth) * (width_px >> depth), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def convnet_for(height_px: int, width_px: int) -> str:
    """The published ConvNet for a size, of width 128: depth 3 at 32 px, 4 at 64, 5 at 128; 2 at 8 px."""
    size_px = min(height_px, width_px)
    depth = min(5, max(2 if size_px >= 4 else 1, size_px.bit_length() - 3))
    return f"convnet-d{depth}-w128"


def norm_layers(norm: Norm, channels: int) -> list[nn.Module]:
    """The layer that normalises maps (b, channels, h, w) this way, with scale and shift; none for `none`."""
    match norm:
        case "instance":  # one group per channel: instance normalisation
            return [nn.GroupNorm(channels, channels)]
        case "group":
            return [nn.GroupNorm(num_groups(channels), channels)]
        case "layer":
            return [nn.GroupNorm(1, channels)]
        case "batch":
            return [nn.BatchNorm2d(channels)]
        case "none":
            return []
