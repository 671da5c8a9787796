"""What is stored: codec, counts, and how the labels fall into files; and the choice that a budget leaves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from attar.errors import ArtifactError, ConfigError, unknown
from attar.labels.codec import Codec
from attar.labels.codecs import CODECS

SHARD_BYTES = 64_000_000
SHARD_LABELS = 500_000
"""A file ends before it grows past one of these, where one epoch does not: what a killed run makes again."""
_FEWEST_EPOCHS = 20
"""A budget prunes epochs no further than this before it turns to a coarser codec, and to a quarter of it after."""

VIEW = np.dtype(
    [("crop", "<u2", (4,)), ("partner", "<u4"), ("box", "<u2", (4,)), ("share", "<f4"), ("flip", "u1")], align=False
)
"""A view, as `attar.augment.views.ViewDraw` has it, but for the partner's crop and mirror, which its own record has."""


@dataclass(frozen=True)
class Shard:
    """One file of stored labels: its name, and the stored epochs first..first+num-1 in it."""

    name: str
    first: int
    num: int


@dataclass(frozen=True)
class LabelPlan:
    """All that decides the files of a label store. Raises ConfigError for values that make no sense."""

    codec: str
    """A name in CODECS."""
    num_classes: int
    num_images: int
    num_epochs: int
    """Stored epochs."""
    keep: int = 0
    """How much is kept of a label: the k of topk, the bytes of pca; 0 for codecs that keep all."""
    epochs_per_shard: int = 0
    """Stored epochs in each file but the last; 0 lets SHARD_BYTES and SHARD_LABELS decide, once for all."""
    views: bool = False
    """Whether the views stand beside the labels: those of other programs, which no seed draws again."""

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise unknown("label codec", self.codec, CODECS)
        if self.num_classes < 2 or self.num_images < 1 or self.num_epochs < 1 or self.epochs_per_shard < 0:
            raise ConfigError(
                f"labels of {self.num_images} images in {self.num_classes} classes for {self.num_epochs} epochs",
                expected="at least 1 image, 2 classes and 1 epoch",
            )
        per_epoch = self.bytes_per_label * self.num_images
        if not self.epochs_per_shard:
            fit = min(SHARD_BYTES // per_epoch, SHARD_LABELS // self.num_images, self.num_epochs)
            object.__setattr__(self, "epochs_per_shard", max(1, fit))

    @cached_property
    def coder(self) -> Codec:
        """The codec, made for these classes."""
        return CODECS[self.codec](self.num_classes, self.keep)

    @property
    def bytes_per_label(self) -> int:
        """Bytes of one label: of one image in one epoch."""
        return self.coder.record.itemsize

    @property
    def total_bytes(self) -> int:
        """Bytes of all labels and tables, without the files' headers of some hundred bytes each."""
        each = self.bytes_per_label + (VIEW.itemsize if self.views else 0)
        return each * self.num_images * self.num_epochs + self.table_bytes * len(self.shards)

    @property
    def writing_bytes(self) -> int:
        """About the most memory that a file takes while it is written: its labels, and twice as the file's bytes."""
        return 3 * self.bytes_per_label * self.num_images * self.epochs_per_shard

    @property
    def table_bytes(self) -> int:
        """Bytes that each file holds once for all of its labels."""
        return sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in self.coder.tables.values())

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The files, in order of their epochs; a function of the plan alone."""
        firsts = range(0, self.num_epochs, self.epochs_per_shard)
        return tuple(
            Shard(
                f"labels-{place:05d}-of-{len(firsts):05d}.safetensors",
                first,
                min(self.epochs_per_shard, self.num_epochs - first),
            )
            for place, first in enumerate(firsts)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; `views` only where there are some."""
        values = asdict(self)
        return values if self.views else {name: value for name, value in values.items() if name != "views"}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> LabelPlan:
        """Read what `to_json` wrote; raises ArtifactError where it makes no sense."""
        try:
            return cls(**values)
        except (TypeError, ValueError, OverflowError, MemoryError) as error:
            raise ArtifactError(f"a label plan could not be read: {error}", fix="make the labels again") from error


def choose_plan(budget_bytes: int, num_images: int, num_classes: int, num_epochs: int) -> LabelPlan:
    """The plan within a budget that loses least, by the order of `rungs`, with as many stored epochs as fit.

    Raises ConfigError that names the smallest size where none fits.
    """

    def plan(codec: str, keep: int, stored: int) -> LabelPlan:
        return LabelPlan(codec, num_classes, num_images, stored, keep)

    for codec, keep, fewest in rungs(num_classes, num_epochs):
        stored = min(num_epochs, budget_bytes // (plan(codec, keep, 1).bytes_per_label * num_images))
        while stored >= fewest:
            if (found := plan(codec, keep, stored)).total_bytes <= budget_bytes:
                return found
            stored -= 1  # tables take some of it
    raise ConfigError(
        f"labels of {num_images:,} images in {num_classes:,} classes do not fit into {budget_bytes:,} bytes",
        expected=f"at least {plan('pca', 1, 1).total_bytes:,} bytes",
        fix="a larger label budget, or labels made in training (relabel.labels=online)",
    )


def rungs(num_classes: int, num_epochs: int) -> Iterator[tuple[str, int, int]]:
    """Codec, `keep` and the fewest stored epochs, from what loses least to what is smallest.

    What benchmarks/labels.py measures: epochs can be pruned far for nothing, as long as each label is near the
    teacher's; below a sixth of a byte a class labels blur, in however many epochs; topk blurs them sooner.
    """

    def part(of: int) -> int:
        return max(1, -(-num_classes // of))

    yield "fp16", 0, num_epochs
    yield "q8", 0, min(num_epochs, _FEWEST_EPOCHS)
    yield "pca", part(4), min(num_epochs, _FEWEST_EPOCHS)
    yield "pca", part(6), min(num_epochs, _FEWEST_EPOCHS // 4)
    yield "pca", part(12), min(num_epochs, _FEWEST_EPOCHS // 4)
    yield "pca", part(25), 2 if num_epochs > 1 else 1
    yield "pca", 1, 1
