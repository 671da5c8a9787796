"""Is a stored view one of an image of this size? Needs no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def view_problems(views: npt.NDArray[Any], num_images: int, height: int, width: int) -> list[str]:
    """What is wrong with records VIEW (...): crops and boxes that leave the image, partners that are not there."""
    crop, box, size = views["crop"].astype(int), views["box"].astype(int), np.array([height, width])
    first, last = box[..., :2], box[..., 2:]
    share = views["share"]
    sound = {
        "a crop leaves the image": (crop[..., 2:] >= 1) & (crop[..., :2] + crop[..., 2:] <= size),
        "a box leaves the image": (first <= last) & (last <= size),
        "a partner is not there": views["partner"] < num_images,
        "a share is not in 0..1": (share >= 0) & (share <= 1),
        "a mirror is neither 0 nor 1": views["flip"] <= 1,
    }
    return [what for what, holds in sound.items() if not holds.all()]
