"""What a dataset that goes by a name is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from attar.data.examples import Examples, Found
from attar.data.raster import Encoded, Pixels


@dataclass(frozen=True)
class NamedSource:
    """Real images that a user asks for by name."""

    name: str
    summary: str
    """A line on what stands behind the name."""
    read: Callable[[Path | None, bool], Found]
    """From `data_dir`, the folder that the user names or None, and `download`, whether missing files may be fetched
    into it. Raises DataError where files are needed and missing, or aren't the ones that were published."""
    without_images: Callable[[], Found] | None = None
    """Its classes, and what else is known of it, where they can be told without its images."""


def of_arrays(pixels: Pixels, labels: list[int], what: str) -> Examples:
    """Wrap pixels uint8 (n, h, w) or (n, h, w, 3) that are in memory already; `what` names one of them."""

    def read(index: int) -> Encoded:
        image: Pixels = pixels[index]
        return image

    return Examples(
        labels=torch.tensor(labels),
        name=lambda index: f"{what} {index}",
        open=lambda: read,
        listing=hashlib.sha256(pixels.tobytes()).hexdigest(),
    )
