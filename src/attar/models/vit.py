"""Vision transformers for any resolution, with LayerNorm or, for recovery, with BatchNorm.

    vit-tiny[-pP]        DeiT-Tiny: width 192, depth 12, 3 heads (Touvron et al., ICML 2021)
    bnvit-tiny[-pP]      BN-ViT: BatchNorm1d over all tokens of a batch in the place of every LayerNorm, and one
                         more between the two linear layers of each MLP (Yao et al., ICCV Workshops 2021, as SRe2L
                         uses them, Yin et al., NeurIPS 2023)
    vit-dD-wW[-pP], bnvit-dD-wW[-pP]    any depth and width, such as bnvit-d2-w48-p8 for tests and CPUs

P is the side of a patch in pixels; where it is not named, see `default_patch_px`. Everything but the
normalisation is timm's VisionTransformer.
"""

from __future__ import annotations

import math
from typing import Any, cast

from torch import Tensor, nn

from attar.errors import ConfigError
from attar.models.names import OWN

_TINY_DEPTH, _TINY_WIDTH, _HEAD_WIDTH = 12, 192, 64
_MOST_PATCH_PX = 32


class TokenBatchNorm(nn.Module):
    """BatchNorm1d over every token of every image: tokens (b, n, width) to the same shape.

    `bn` sees (b * n, width), so that who reads the inputs of BatchNorm layers meets rows and channels alone.
    """

    def __init__(self, width: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.bn = nn.BatchNorm1d(width, device=device, dtype=dtype)

    def forward(self, tokens: Tensor) -> Tensor:
        """Normalise each channel over images and tokens."""
        normalised: Tensor = self.bn(tokens.flatten(0, -2))
        return normalised.view(tokens.shape)


def vit(name: str, num_classes: int, channels: int, height_px: int, width_px: int) -> nn.Module:
    """Make the transformer `name` for images (b, channels, h, w).

    Raises ConfigError where the image is no whole number of patches, or the transformer has no layers.
    """
    from timm.layers.mlp import Mlp
    from timm.models.vision_transformer import VisionTransformer

    parts = OWN["vit"].fullmatch(name)
    assert parts is not None  # the catalogue lets no other name through
    depth, width = int(parts[2] or _TINY_DEPTH), int(parts[3] or _TINY_WIDTH)
    if min(depth, width) < 1:
        raise ConfigError(f"{name} has no layers", expected="a depth and a width of at least 1")
    patch_px = int(parts[4]) if parts[4] else default_patch_px(height_px, width_px)
    require_whole_patches(name, (height_px, width_px), (patch_px, patch_px))
    model = VisionTransformer(
        img_size=(height_px, width_px),
        patch_size=patch_px,
        in_chans=channels,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=_num_heads(width),
        norm_layer=TokenBatchNorm if parts[1] else None,
    )
    if parts[1]:
        for mlp in (module for module in model.modules() if isinstance(module, Mlp)):  # then: fc1, BatchNorm, GELU, fc2
            mlp.act = nn.Sequential(TokenBatchNorm(cast("nn.Linear", mlp.fc1).out_features), mlp.act)
    return model


def default_patch_px(height_px: int, width_px: int) -> int:
    """Side of a patch: 16 px from 128 px on, 8 from 48, 4 from 16, else 2; half of that where it alone fits."""
    size_px = min(height_px, width_px)
    patch_px = next(patch for least, patch in ((128, 16), (48, 8), (16, 4), (0, 2)) if size_px >= least)
    common = math.gcd(height_px, width_px)
    return patch_px // 2 if common % patch_px and not common % (patch_px // 2) else patch_px


def require_whole_patches(name: str, size_px: tuple[int, int], patch_px: tuple[int, int]) -> None:
    """Raise ConfigError where an image (h, w) is no whole number of patches (h, w): its rim would be cut off."""
    if min(patch_px) >= 1 and not any(side % patch for side, patch in zip(size_px, patch_px, strict=True)):
        return
    common = math.gcd(*size_px)
    most = min(_MOST_PATCH_PX, min(size_px) // 2)
    fitting = [patch for patch in range(2, most + 1) if common % patch == 0]
    nearest = min(fitting, key=lambda patch: abs(patch - patch_px[0]), default=0)
    raise ConfigError(
        f"{name} cuts images into patches of {patch_px[0]}x{patch_px[1]} px, "
        f"and {size_px[0]}x{size_px[1]} px is no whole number of them",
        expected="a height and a width that are multiples of the patch's",
        fix="use another --resolution"
        + (f", or patches of {nearest} px, as in vit-tiny-p{nearest}" if fitting else ""),
    )


def _num_heads(width: int) -> int:
    """Heads of 64 channels each, as nearly as the width can be parted."""
    return max(heads for heads in range(1, max(1, width // _HEAD_WIDTH) + 1) if width % heads == 0)
