"""What is to be learnt: the classes and the shape and scale of the images.

Every artifact carries its task, so that a teacher, a source and a distilled dataset whose class
order or normalisation disagree are told apart before any work starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from attar.errors import ArtifactError


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation of the training split's pixels, in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Turn pixels (n, c, h, w), uint8 or float in 0..1, into normalised float images."""
        scaled = pixels.float().div(255) if pixels.dtype == torch.uint8 else pixels
        return (scaled - self._column(self.mean, scaled)) / self._column(self.std, scaled)

    def pixels(self, images: Tensor) -> Tensor:
        """Turn normalised images (n, c, h, w) back into float pixels; unclamped, so 0..1 may be left."""
        return images * self._column(self.std, images) + self._column(self.mean, images)

    def valid_range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bound (c, 1, 1) of normalised images whose pixels lie in 0..1."""
        mean, std = self._column(self.mean, like), self._column(self.std, like)
        return -mean / std, (1 - mean) / std

    @staticmethod
    def _column(values: Sequence[float], like: Tensor) -> Tensor:
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1)


@dataclass(frozen=True)
class Task:
    """Class names in label order, channels, image size in pixels and normalisation."""

    class_names: tuple[str, ...]
    channels: int
    height_px: int
    width_px: int
    normalization: Normalization

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are 0..num_classes-1."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (c, h, w) of one image."""
        return self.channels, self.height_px, self.width_px

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Task:
        """Read what `to_json` wrote; raises ArtifactError where a field is missing or of the wrong kind."""
        try:
            norm = values["normalization"]
            return cls(
                class_names=tuple(str(name) for name in values["class_names"]),
                channels=int(values["channels"]),
                height_px=int(values["height_px"]),
                width_px=int(values["width_px"]),
                normalization=Normalization(
                    tuple(float(v) for v in norm["mean"]), tuple(float(v) for v in norm["std"])
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"a task description could not be read: {error!r}",
                expected="class_names, channels, height_px, width_px, normalization {mean, std}",
                fix="run `attar verify` on the folder it came from",
            ) from error

    def require_same(self, other: Task, mine: str, theirs: str) -> None:
        """Raise ArtifactError unless class order, image shape and normalisation agree."""
        if self.class_names != other.class_names:
            place = next(
                (i for i, (a, b) in enumerate(zip(self.class_names, other.class_names, strict=False)) if a != b),
                min(self.num_classes, other.num_classes),
            )
            raise ArtifactError(
                f"the classes of {theirs} differ from those of {mine}: class {place} is "
                f"{_name(other.class_names, place)!r} there and {_name(self.class_names, place)!r} here",
                expected=f"the same {self.num_classes} class names in the same order",
                fix="use the source that it was made from, or make it again from this one",
            )
        if self.shape != other.shape:
            raise ArtifactError(
                f"images of {theirs} have shape {other.shape} (channels, height, width), those of {mine} {self.shape}",
                expected="the same shape",
                fix="pass the --resolution that the other one was made with",
            )


def _name(names: Sequence[str], index: int) -> str:
    return names[index] if index < len(names) else "(none)"
