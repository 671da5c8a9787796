"""What must hold of the values of a distilled dataset: asked before it is written and when it is verified.

Each function returns the problems that it found, in words for a person. Needs no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from attar.artifacts.arrays import Array, Rows, spans
from attar.artifacts.description import IMAGE_LIMIT, Files
from attar.data.columns import column_bytes


@dataclass
class Survey:
    """The values of normalised images, seen a part after the other."""

    num: int = 0
    least: float = math.inf
    most: float = -math.inf
    _bad: list[int] = field(default_factory=list)

    def add(self, images: Array) -> None:
        """Look at some more images (b, c, h, w)."""
        bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
        self._bad += (bad + self.num).tolist()
        self.num += len(images)
        if not len(bad):
            self.least = min(self.least, float(images.min(initial=np.inf)))
            self.most = max(self.most, float(images.max(initial=-np.inf)))

    def problems(self, low: float = -IMAGE_LIMIT, high: float = IMAGE_LIMIT) -> list[str]:
        """Problems of images that should be finite and lie in low..high."""
        if self._bad:
            which = f"{len(self._bad)} of {self.num} images"
            return [f"{which} hold values that are not finite, the first is {self._bad[0]}"]
        if self.least < low or self.most > high:
            return [f"image values reach from {self.least:g} to {self.most:g}, outside {low:g}..{high:g}"]
        return []


def survey(images: Rows) -> Survey:
    """Look at all of normalised images (n, c, h, w)."""
    seen = Survey()
    for part in spans(images.shape):
        seen.add(images[part])
    return seen


def image_problems(images: Rows, low: float = -IMAGE_LIMIT, high: float = IMAGE_LIMIT) -> list[str]:
    """Problems of normalised images (n, c, h, w) that should be finite and lie in low..high."""
    return survey(images).problems(low, high)


def label_problems(labels: Array, num_classes: int) -> list[str]:
    """Problems of labels (n,) that should lie in 0..num_classes-1."""
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if not len(bad):
        return []
    return [
        f"{len(bad)} of {len(labels)} labels lie outside 0..{num_classes - 1}, "
        f"the first is {labels[bad[0]]} of image {bad[0]}"
    ]


def soft_label_problems(probabilities: Array) -> list[str]:
    """Problems of float16 probabilities (n, classes) that should be finite, not negative and sum to 1."""
    parts = [probabilities[part] for part in spans(probabilities.shape)]
    if not all(np.isfinite(part).all() for part in parts):
        return ["soft labels hold values that are not finite"]
    problems = ["soft labels hold negative values"] if any((part < 0).any() for part in parts) else []
    sums = np.concatenate([np.zeros(0), *(part.astype(np.float64).sum(axis=1) for part in parts)])
    off = np.abs(sums - 1)
    if (off > _sum_tolerance(probabilities.shape[1])).any():
        worst = int(off.argmax())
        problems.append(f"the soft labels of image {worst} sum to {sums[worst]:g}, not to 1")
    return problems


def _sum_tolerance(num_classes: int) -> float:
    """How far float16 rounding moves a sum of probabilities: half a unit in the last place of each.

    2**-11 of each normal value, so of their sum, and 2**-25 of each value too small to be normal; then room
    for the float32 that they were computed in.
    """
    return 2.0**-11 + num_classes * 2.0**-25 + 1e-5


def measure(folder: Path, files: Files) -> dict[str, int]:
    """Bytes that training on the dataset needs: images, labels, teacher, whitening where there is one, total."""
    shards = [folder / name for name in files.images]
    images = (
        sum((folder / name).stat().st_size for name in files.pixels)
        if files.pixels
        else sum(column_bytes(shard, "image.bytes") for shard in shards)
    )
    soft = sum((folder / name).stat().st_size for name in (*files.soft_labels, *files.labels))
    labels = sum(column_bytes(shard, "label") for shard in shards) + soft
    teacher = sum((folder / name).stat().st_size for name in files.teacher)
    sizes = {"images": images, "labels": labels, "teacher": teacher}
    if files.whitening:
        sizes["whitening"] = (folder / files.whitening).stat().st_size
    return {**sizes, "total": sum(sizes.values())}
