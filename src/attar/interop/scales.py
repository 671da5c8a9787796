"""What the values of image tensors are: normalised, pixels of 0..1 or of 0..255, or ZCA whitened.

Told by the range; and where values are signed, by how neighbouring pixels vary together:

    q = mean over neighbours in a row of (x - m) (x' - m),   m = mean of all

Noise, which distilled images are full of, has no part in q. Of CIFAR-10's real images q is 1.4 normalised, 0.06 as
pixels of 0..1 and 0.04 whitened (ε 0.1), at standard deviations of 1.2, 0.25 and 0.26.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from attar.data.named.imagenet import IMAGENETS
from attar.errors import ArtifactError, ConfigError
from attar.normalizations import parse_normalization
from attar.task import Normalization

Kind = Literal["normalized", "unit", "bytes", "zca"]

_SLACK = 0.02
"""How far pixels of 0..1 may leave their range and still be known by it."""
_NORMALIZED_ABOVE, _WHITENED_BELOW = 0.4, 0.15
"""Bounds on q."""

_TRAJECTORIES = {
    "cifar10": "cifar",
    "cifar100": "cifar",
    **dict.fromkeys((*IMAGENETS, "imagenet", "imagenette", "imagewoof"), "imagenet"),
}
_CONDENSATION = {
    "cifar10": "cifar",
    "cifar100": "cifar100",
    "tiny-imagenet": "imagenet",
    **{name: name for name in ("mnist", "fashion-mnist", "svhn")},
}
BY_SOURCE: Mapping[str, Mapping[str, str]] = {"trajectories": _TRAJECTORIES, "condensation": _CONDENSATION}
"""Which of them the code of MTT, TESLA and DATM has for which source, and that of DC, DSA and DM. To the former
CIFAR-100 goes by the constants of CIFAR-10."""


def tell(images: Tensor, name: str) -> Kind:
    """Tell what finite image tensors (n, c, h, w) are; raises ArtifactError where the values leave it open."""
    values = images.float()
    low, high, mean = values.min().item(), values.max().item(), values.mean().item()
    if low >= -_SLACK and high <= 1 + _SLACK:
        return "unit"
    whole = not images.is_floating_point()
    if low >= -0.5 and (1 if whole else 16) < high <= 255.5:
        return "bytes"
    together, spread = _together(values, mean), values.std().item()
    if together >= _NORMALIZED_ABOVE and abs(mean) <= 1 and spread <= 10:
        return "normalized"
    if together <= _WHITENED_BELOW and spread <= 0.6 and low >= -20 and high <= 20:
        if abs(mean) <= 0.1:
            return "zca"
        if 0.2 <= mean <= 0.8:
            return "unit"
    raise ArtifactError(
        f"{name}: what its values are cannot be told: {low:.3g} to {high:.3g}, mean {mean:.3g}, standard deviation "
        f"{spread:.3g}, of neighbouring pixels together {together:.3g}",
        expected="normalised images (together above 0.4), pixels of 0..1 or of 0..255, or ZCA whitened ones",
        fix="say it: --set foreign.pixels=normalized, unit, bytes or zca",
    )


def constants_of(source: str, code: str = "trajectories") -> str:
    """The name in `normalizations` of the constants that published code has for a source; "source" where it has none.

    Args:
        source: a name, the path of a folder or file, or a hub address: its last part tells.
        code: a name in `BY_SOURCE`.
    """
    name = re.split(r"[/\\]", source.removeprefix("hf:").rstrip("/\\"))[-1].partition(":")[0]
    name = name.lower().replace("_", "-").removesuffix("-200")
    return BY_SOURCE[code].get(name, "source")


def normalization_of(text: str, own: Normalization) -> Normalization:
    """The normalisation that a setting names, but for auto, for tensors of a source with statistics `own`.

    Raises ConfigError where it is of another number of channels.
    """
    if text == "source":
        return Normalization(own.mean, own.std)
    found = parse_normalization(text, len(own.mean))
    if len(found.mean) != len(own.mean):
        raise ConfigError(
            f"foreign.normalization={text} has {len(found.mean)} channels, the source {len(own.mean)}",
            expected="a mean and a standard deviation for each channel",
        )
    return found


def _together(values: Tensor, mean: float) -> float:
    centred = values - mean
    if values.shape[3] < 2:
        return 0.0
    return (centred[..., 1:] * centred[..., :-1]).mean().item()
