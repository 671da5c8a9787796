"""A set as another format holds it, read and checked: what is opened to be judged, or written as one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from attar.artifacts.checks import image_problems, label_problems, soft_label_problems
from attar.artifacts.distilled import Distilled, write_distilled
from attar.artifacts.images import NormalizedPixels
from attar.config import merge
from attar.data.loading import Split
from attar.errors import ArtifactError, ConfigError
from attar.interop.fkd import FkdLabels
from attar.interop.folder import require_new
from attar.methods.base import Distillate
from attar.task import Task


@dataclass(frozen=True)
class Origin:
    """What is known of the real images that a set was made from.

    `task` gives class names, shape and statistics; `name` is that of the source, such as cifar10, and `train` its
    training images, by which whitened tensors are whitened; both may be missing.
    """

    task: Task
    name: str = ""
    train: Split | None = None


@dataclass(frozen=True, eq=False)
class Loaded:
    """Images, labels and what they are, on the CPU.

    `stored` (n, c, h, w) is uint8 pixels, or float32 images on the scale of `task.normalization`; `labels` (n,) int64;
    `soft_labels` (n, classes) float32 probabilities or None. `image_bytes` and `label_bytes` are those of the files.
    `fkd` are labels that were stored by epoch, or None. Raises ArtifactError where the values make no sense.
    """

    path: Path
    task: Task
    stored: Tensor
    labels: Tensor
    provenance: Mapping[str, Any]
    image_bytes: int
    label_bytes: int
    soft_labels: Tensor | None = None
    learning_rate: float | None = None
    fkd: FkdLabels | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """How its authors train on it, by sections."""
    tiles: int = 1
    """Images in each along a side."""
    read_as: str = ""
    """In words what its values were taken to be, where the files do not say it."""

    def __post_init__(self) -> None:
        problems = label_problems(self.labels.numpy(), self.task.num_classes)
        if self.stored.dtype != torch.uint8:
            problems += image_problems(self.stored.numpy())
        if self.soft_labels is not None:
            problems += soft_label_problems(self._half().numpy())
        if problems:
            logits = " or, where the soft labels are logits, say so: --set foreign.soft_labels=logits"
            soft = "soft labels" in "".join(problems)
            raise ArtifactError(
                f"{self.path}: {'; '.join(problems)}", fix=f"fetch or save them again{logits if soft else ''}"
            )
        if self.tiles > min(self.task.height_px, self.task.width_px):
            raise ConfigError(
                f"{self.path}: foreign.tiles={self.tiles} for images of {self.task.width_px}x{self.task.height_px} px",
                expected="as many images along a side as each holds: 1, or 2 with `factor: 2`",
                fix="leave foreign.tiles out, or lower it",
            )

    def open(self) -> Distilled:
        """The set as attar's own loops take it; nothing is written."""
        kind = "epochs" if self.fkd else "hard" if self.soft_labels is None else "soft"
        labels = self.fkd.size_bytes if self.fkd else self.label_bytes
        sizes = {"images": self.image_bytes, "labels": labels, "teacher": 0}
        whitening = self.task.normalization.whitening
        if whitening is not None and whitening.mean is not None:
            sizes["whitening"] = 4 * (len(whitening.mean) + whitening.triangle.numel())
        pixels = "uint8" if self.stored.dtype == torch.uint8 else "float32"
        return Distilled(
            path=self.path,
            task=self.task,
            stored=self.stored,
            labels=self.labels,
            soft_labels=None if self.soft_labels is None else self._half().float(),
            learning_rate=self.learning_rate,
            info={
                **self.provenance,
                "settings": dict(self.settings),
                "pixels": pixels,
                "labels": {"kind": kind},
                "tiles": self.tiles,
            },
            sizes={**sizes, "total": sum(sizes.values())},
            label_store=self.fkd,
            views=self.fkd.views.to_json() if self.fkd else None,
        )

    def write(self, out: Path, *, overwrite: bool) -> Distilled:
        """Write it as a distilled dataset and read that back; `out` must be new or empty, unless `overwrite`.

        Labels stored by epoch come along with the views that they are of, logits as they are (float16).
        """
        require_new(out, overwrite=overwrite)
        exact = self.stored.dtype == torch.uint8
        images = NormalizedPixels(self.stored, self.task.normalization) if exact else self.stored
        distillate = Distillate(images, self.labels, self.soft_labels, self.learning_rate, exact, self.tiles)
        made = {**self.provenance, "settings": merge(self.provenance.get("settings", {}), self.settings)}
        if self.fkd is None:
            return write_distilled(out, distillate, self.task, made)
        with TemporaryDirectory(prefix=f".{out.name}-labels-", dir=_nearest(out)) as folder:
            return write_distilled(out, distillate, self.task, made, self.fkd.labelling(Path(folder)))

    def _half(self) -> Tensor:
        """Probabilities at the precision of a distilled dataset, so that a set is judged alike before and after."""
        assert self.soft_labels is not None
        return self.soft_labels.half()


def _nearest(path: Path) -> Path:
    """The innermost folder above a path that is there: on the same disk, so that files need not be copied."""
    return next(folder for folder in path.resolve().parents if folder.is_dir())
