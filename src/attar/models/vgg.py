"""VGG for small images (Simonyan and Zisserman 2015), as distilled images are judged with.

3x3 convolutions, each followed by normalisation and ReLU, with a 2x2 max-pool after each group, then the mean over
what is left of the image and one linear layer. torchvision's VGG has the same convolutions, but two hidden layers of
4096 behind them, which suit 224 px; the original has no normalisation.

With `hidden` there are two hidden layers of so many units before the last one, as DLB's authors have of 512 (Shen et
al. 2022; their weights start as ours: those of linear layers with a standard deviation of 0.01).

Source: the released code of DC, DSA and MTT (Zhao et al. 2021, Cazenavette et al. 2022), where `VGG11` has instance
and `VGG11BN` batch normalisation. Differs from it: the mean over positions (at 32 px there is one) takes other sizes.
"""

from __future__ import annotations

from torch import Tensor, nn

from attar.errors import ConfigError
from attar.models.convnet import Norm, norm_layers

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the five groups."""
LAYERS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each group, by the number of layers with weights in the original."""


class SmallVgg(nn.Module):
    """A VGG for images (b, channels, h, w) of at least 32 px; raises ConfigError for smaller ones and other depths."""

    def __init__(
        self,
        num_classes: int,
        channels: int,
        height_px: int,
        width_px: int,
        *,
        depth: int = 11,
        norm: Norm = "instance",
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        if hidden is not None and hidden < 1:
            raise ConfigError(f"a VGG with hidden layers of {hidden} units", expected="at least 1 in each")
        if depth not in LAYERS:
            raise ConfigError(
                f"there is no VGG of depth {depth}",
                expected=f"a depth among {', '.join(map(str, LAYERS))}",
                fix="use vgg11-small, for example",
            )
        if min(height_px, width_px) < 2 ** len(WIDTHS):
            raise ConfigError(
                f"a VGG halves a {height_px}x{width_px} px image {len(WIDTHS)} times, and nothing would be left",
                expected=f"images of at least {2 ** len(WIDTHS)} px",
                fix="use a higher --resolution, or convnet-d3-w128",
            )
        layers: list[nn.Module] = []
        for width, num in zip(WIDTHS, LAYERS[depth], strict=True):
            for _ in range(num):
                layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), *norm_layers(norm, width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier: nn.Module = nn.Linear(channels, num_classes)
        if hidden is not None:
            first, second = nn.Linear(channels, hidden), nn.Linear(hidden, hidden)
            last = nn.Linear(hidden, num_classes)
            self.classifier = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
            self._start_as_dlb()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits

    def _start_as_dlb(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
