"""The distilled dataset: a folder that is a Hugging Face dataset repository, and the object it is read as.

    README.md  preview.png         the dataset card and its picture
    data/train-*.parquet           image (8-bit PNG), label, image_id
    pixels-*.safetensors           float32 normalised images, where 8 bits are not enough
    labels-*.safetensors           float16 probabilities, where labels are soft
    teacher/                       networks that training needs, where it does
    attar.json                     what it is, from what, and how it was made
    SHA256SUMS                     of all of these

The same distillate and provenance give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from attar.artifacts import card
from attar.artifacts import description as about
from attar.artifacts.arrays import Array, read_rows, write_rows
from attar.artifacts.checks import image_problems, label_problems, measure, soft_label_problems
from attar.artifacts.checksums import damage, read_sums, write_sums
from attar.artifacts.description import Description, Files, describe, locate, read_description
from attar.artifacts.parquet import Bytes8, quantise, read_shard, write_shards
from attar.errors import ArtifactError, DivergedError
from attar.methods.base import Distillate
from attar.runtime.files import new_folder, write_bytes, write_json, write_text
from attar.runtime.seeding import generator
from attar.task import Task

if TYPE_CHECKING:
    from attar.data.loading import TensorSet

EIGHT_BIT_TOLERANCE = 0.01
"""How far float rounding may move a real pixel from its level of 0..255."""


@dataclass(frozen=True, eq=False)
class Distilled:
    """A distilled dataset in memory, on the CPU.

    `images` (n, c, h, w) float32 normalised; `labels` (n,) int64; `soft_labels` (n, classes) float32
    probabilities or None; `learning_rate` learnt for training on them or None; `info` is attar.json; `sizes`
    are the bytes that training needs: images, labels, teacher, total.
    """

    path: Path
    task: Task
    images: Tensor
    labels: Tensor
    soft_labels: Tensor | None
    learning_rate: float | None
    info: dict[str, Any]
    sizes: dict[str, int]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def targets(self) -> Tensor:
        """What to train towards: the soft labels (n, classes) where there are some, else the labels (n,)."""
        return self.labels if self.soft_labels is None else self.soft_labels

    @property
    def exact_8bit(self) -> bool:
        """Whether the images are whole 8-bit pixels, normalised."""
        return bool(self.info["pixels"] == "uint8")

    def pixels(self) -> Tensor:
        """Pixels (n, c, h, w), float; 0..1 where the images are valid, unclamped where they are not."""
        return self.task.normalization.pixels(self.images)

    def dataset(self) -> TensorDataset:
        """A torch dataset of (image, target): normalised (c, h, w), and a label or its (classes,)."""
        return TensorDataset(self.images, self.targets)

    def loader(self, batch_size: int = 64, *, shuffle: bool = True, seed: int = 0) -> DataLoader[Any]:
        """Batches of (images, targets); a new order each epoch, the same orders for the same seed."""
        return DataLoader(self.dataset(), batch_size, shuffle=shuffle, generator=generator(seed, "loader"))

    def training_set(self) -> TensorSet:
        """The images and targets as attar's own loops take them."""
        from attar.data.loading import TensorSet

        return TensorSet(self.images, self.targets)


def write_distilled(
    folder: Path, distillate: Distillate, task: Task, provenance: Mapping[str, Any] | None = None
) -> Distilled:
    """Write a distilled dataset, whole or not at all, and read it back; one that is there is replaced.

    Args:
        folder: where; must be new, empty or a distilled dataset.
        distillate: what a method handed over.
        task: its classes, image shape and normalisation.
        provenance: fields of `attar.artifacts.description.Provenance`: method, summary, paper, ipc, seed,
            precision, settings, knowledge, command, source {name, fingerprint, licence, num_train_images},
            and any more. Plain values, the same on each identical run: no times, hardware, or paths.

    Raises:
        ArtifactError: shapes, labels or classes disagree, or soft labels aren't probabilities.
        DivergedError: an image isn't finite, or absurdly large.
        ResourceError: the folder holds other files, or cannot be written.
    """
    pixels = _pixels(distillate, task)
    soft = _soft_labels(distillate, task)
    with new_folder(folder, replacing=about.NAME) as building:
        files = _write_data(building, distillate, pixels, soft, task)
        description = describe(
            provenance or {},
            num_images=len(pixels),
            task=task.to_json(),
            pixels="uint8" if distillate.exact_8bit else "float32",
            image_range=None if distillate.exact_8bit else _range(distillate.images),
            soft_labels=None if soft is None else "float16",
            learning_rate=distillate.learning_rate,
            sizes=measure(building, files),
            files=files.model_dump(),
        )
        _write_words(building, description, card.preview(pixels, distillate.labels.numpy()))
    return load_distilled(folder)


def load_distilled(path: Path | str) -> Distilled:
    """Read a distilled dataset, and check the bytes of what is read.

    Args:
        path: its folder, or a run folder that holds one as `distilled/`.

    Raises:
        ArtifactError: not a folder, not a distilled dataset, or damaged.
    """
    folder = locate(path)
    description = read_description(folder)
    files = description.files
    _require_intact(folder, about.NAME, *files.images, *files.pixels, *files.soft_labels)
    task = Task.from_json(description.task.model_dump())
    shards = [read_shard(folder / name, task.shape) for name in files.images]
    labels = torch.from_numpy(np.concatenate([shard.labels for shard in shards]))
    if files.pixels:
        images = _read(folder, files.pixels, "images", "float32", task.shape)
    else:
        stored = torch.from_numpy(np.concatenate([shard.pixels for shard in shards]))
        images = task.normalization.normalize(stored)
    soft = (
        _read(folder, files.soft_labels, "soft_labels", "float16", (task.num_classes,)).float()
        if files.soft_labels
        else None
    )
    _require_agreement(folder, description, images, labels, soft)
    return Distilled(
        path=folder,
        task=task,
        images=images,
        labels=labels,
        soft_labels=soft,
        learning_rate=description.learning_rate,
        info=description.to_json(),
        sizes=description.sizes.model_dump(),
    )


def _pixels(distillate: Distillate, task: Task) -> Bytes8:
    """Check images and labels; give the 8-bit pixels, exact or as previews."""
    images, labels = distillate.images, distillate.labels
    if images.dtype != torch.float32 or tuple(images.shape) != (len(labels), *task.shape) or not len(labels):
        raise ArtifactError(
            f"images {images.dtype} {tuple(images.shape)} with {len(labels)} labels",
            expected=f"float32 ({len(labels)}, {', '.join(map(str, task.shape))}), at least one image",
        )
    if problems := label_problems(labels.numpy(), task.num_classes):
        raise ArtifactError(problems[0])
    if problems := image_problems(images.numpy()):
        raise DivergedError(problems[0], fix="lower the learning rate of the images and run again")
    pixels = quantise(images.numpy(), task.normalization.mean, task.normalization.std)
    if distillate.exact_8bit:
        off = (task.normalization.pixels(images) * 255 - torch.from_numpy(pixels)).abs().max().item()
        if off > EIGHT_BIT_TOLERANCE:
            raise ArtifactError(f"images said to be 8-bit pixels are up to {off:.3g} levels away from such")
    return pixels


def _soft_labels(distillate: Distillate, task: Task) -> Array | None:
    if distillate.soft_labels is None:
        return None
    shape = len(distillate.labels), task.num_classes
    if tuple(distillate.soft_labels.shape) != shape:
        raise ArtifactError(f"soft labels {tuple(distillate.soft_labels.shape)}", expected=f"{shape}")
    soft: Array = distillate.soft_labels.to(torch.float16).numpy()
    if problems := soft_label_problems(soft):
        raise ArtifactError(problems[0])
    return soft


def _write_data(
    building: Path,
    distillate: Distillate,
    pixels: Bytes8,
    soft: Array | None,
    task: Task,
) -> Files:
    labels = distillate.labels.long().numpy()
    exact = distillate.exact_8bit
    return Files(
        images=tuple(write_shards(building, pixels, labels, task.class_names)),
        pixels=() if exact else tuple(write_rows(building, "pixels", "images", distillate.images.numpy())),
        soft_labels=() if soft is None else tuple(write_rows(building, "labels", "soft_labels", soft)),
    )


def _write_words(building: Path, description: Description, picture: bytes) -> None:
    write_json(building / about.NAME, description.to_json())
    write_bytes(building / card.PREVIEW, picture)
    write_text(building / card.README, card.render(description))
    write_sums(building)


def _read(folder: Path, names: tuple[str, ...], tensor: str, dtype: str, shape: tuple[int, ...]) -> Tensor:
    rows = [read_rows(folder / name, tensor, dtype, shape) for name in names]
    return torch.from_numpy(np.concatenate(rows))


def _range(images: Tensor) -> tuple[float, float]:
    return images.min().item(), images.max().item()


def _require_intact(folder: Path, *names: str) -> None:
    sums = read_sums(folder)
    if problems := [problem for name in names if (problem := damage(folder, name, sums))]:
        raise ArtifactError(
            f"the distilled dataset {folder} is damaged: {'; '.join(problems)}",
            expected="the bytes that SHA256SUMS lists",
            fix="fetch it again, or make it again; `attar verify` tells all that is wrong",
        )


def _require_agreement(
    folder: Path, description: Description, images: Tensor, labels: Tensor, soft: Tensor | None
) -> None:
    counts = {len(images), len(labels), len(labels) if soft is None else len(soft), description.num_images}
    if len(counts) > 1 or label_problems(labels.numpy(), len(description.task.class_names)):
        raise ArtifactError(
            f"the files of the distilled dataset {folder} disagree with each other",
            fix="run `attar verify` on it to see where",
        )
