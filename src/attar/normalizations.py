"""Normalisations by name: the constants that published code has, and how a setting states one.

imagenet, cifar, cifar100, svhn, mnist, fashion-mnist    constants in published code
half, unit                                               pixels brought to -1..1, pixels left at 0..1
0.5,0.5,0.5/0.25,0.25,0.25                               means, then standard deviations, one for each channel
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from attar.errors import ConfigError, unknown
from attar.task import Normalization

PUBLISHED: Mapping[str, Normalization] = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar": Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Normalization((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": Normalization((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": Normalization((0.1307,), (0.3081,)),
    "fashion-mnist": Normalization((0.2861,), (0.3530,)),
}
"""Constants of DC and DSA, MTT, TESLA and DATM, and of most training code for these datasets."""
_OF_ANY_WIDTH = {"half": (0.5, 0.5), "unit": (0.0, 1.0)}
NAMES = (*PUBLISHED, *_OF_ANY_WIDTH)
EXAMPLE = "0.5,0.5,0.5/0.25,0.25,0.25"


def parse_normalization(text: str, channels: int = 3, *, beside: tuple[str, ...] = ()) -> Normalization:
    """A name in `NAMES`, or means and standard deviations.

    Args:
        text: what a setting says.
        channels: of `half` and `unit`, which suit any number; the constants have their own.
        beside: other words that the setting knows, for the error.

    Raises ConfigError for anything else.
    """
    if text in PUBLISHED:
        return PUBLISHED[text]
    if text in _OF_ANY_WIDTH:
        mean, std = _OF_ANY_WIDTH[text]
        return Normalization((mean,) * channels, (std,) * channels)
    if not re.fullmatch(r"[\d.,/ ]+", text):
        raise unknown("normalisation", text, [*beside, *NAMES, EXAMPLE])
    try:
        means, stds = (tuple(float(value) for value in part.split(",")) for part in text.split("/"))
    except ValueError:
        means, stds = (), ()
    if not means or len(means) != len(stds) or min(stds) <= 0:
        raise ConfigError(f"{text!r} is no normalisation", expected=f"such as {EXAMPLE}")
    return Normalization(means, stds)
