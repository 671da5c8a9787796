"""The distilled dataset: a folder that is a Hugging Face dataset repository, and the object it is read as.

    README.md  preview.png         the dataset card and its picture
    data/train-*.parquet           image (8-bit PNG), label, image_id
    pixels-*.safetensors           float32 normalised images, where 8 bits are not enough
    labels-*.safetensors           float16 probabilities, where labels are soft; or labels by epoch and image
    teacher/                       networks that training needs, where it does
    whitening.safetensors          the matrix that images are whitened by, where they are
    attar.json                     what it is, from what, and how it was made
    SHA256SUMS                     of all of these

The same distillate and provenance give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attar.artifacts import card
from attar.artifacts import description as about
from attar.artifacts.arrays import Array, StoredRows, write_rows
from attar.artifacts.checks import Survey, label_problems, measure, soft_label_problems, survey
from attar.artifacts.checksums import damage, read_sums, write_sums
from attar.artifacts.description import Description, Files, LabelKind, describe, locate, read_description
from attar.artifacts.images import ImageArrays, float_images, parts, pixel_images
from attar.artifacts.labelling import Labelling, stored_plan
from attar.artifacts.parquet import Bytes8, quantise, read_labels, write_shards
from attar.artifacts.whitening import with_whitening, write_whitening
from attar.augment import crops
from attar.data.loading import TrainingSet
from attar.errors import ArtifactError, DivergedError
from attar.labels.store import ForeignLabels, LabelStore
from attar.methods.base import Distillate, Images
from attar.runtime.files import new_folder, write_bytes, write_json, write_text
from attar.runtime.seeding import generator
from attar.task import Task

EIGHT_BIT_TOLERANCE = 0.01
"""How far float rounding may move a real pixel from its level of 0..255."""

WHITENED_BYTES = 16 << 20
"""Whitened images that are turned back together: a thousand of the largest, as products round by how many there are."""


@dataclass(frozen=True, eq=False)
class Distilled:
    """A distilled dataset, on the CPU; 8-bit images stay 8-bit until they are asked for.

    `stored` (n, c, h, w) is uint8 pixels, or float32 normalised images: a tensor, or read by index where they are more
    than `attar.data.loading.KEPT_BYTES`; `labels` (n,) int64; `soft_labels`
    (n, classes) float32 probabilities or None; `label_store` holds the labels stored by epoch and image, or is
    None; `views` are the plain values by which labelled views are replayed, or None; `teacher_files` are those of the
    networks that come along; `learning_rate` learnt for training on them or None; `info` is attar.json; `sizes`
    are the bytes that training needs: images, labels, teacher, whitening where there is one, total. Where images are
    whitened, the task's normalisation holds the matrix that came with them, and whitens real images alike.
    """

    path: Path
    task: Task
    stored: Images
    labels: Tensor
    soft_labels: Tensor | None
    learning_rate: float | None
    info: dict[str, Any]
    sizes: dict[str, int]
    label_store: LabelStore | ForeignLabels | None = None
    views: Mapping[str, Any] | None = None
    teacher_files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One image (c, h, w), normalised, and its label or soft label (classes,); -1 is the last one."""
        at = torch.tensor([range(len(self))[index]])
        return self.images_at(at)[0], self.targets[at][0]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image with its label, in order."""
        return (self[index] for index in range(len(self)))

    @property
    def label_kind(self) -> LabelKind:
        """What training is told of each image: hard, soft, epochs or online."""
        kind: LabelKind = self.info["labels"]["kind"]
        return kind

    @property
    def tiles(self) -> int:
        """How many others, along a side, each image holds, to be trained on one at a time; 1: it is one image."""
        return int(self.info.get("tiles", 1))

    @property
    def images(self) -> Tensor:
        """All images (n, c, h, w) float32 normalised; made anew on each access where they are stored in 8 bits."""
        return self._normalized(self.stored[:])

    def images_at(self, indices: Tensor) -> Tensor:
        """Images (b, c, h, w) float32 normalised, of these indices (b,)."""
        return self._normalized(self.stored[indices])

    def _normalized(self, stored: Tensor) -> Tensor:
        return self.task.normalization.normalize(stored) if stored.dtype == torch.uint8 else stored

    @property
    def targets(self) -> Tensor:
        """What each image is labelled with: the soft labels (n, classes) where there are some, else labels (n,)."""
        return self.labels if self.soft_labels is None else self.soft_labels

    @property
    def exact_8bit(self) -> bool:
        """Whether the images are whole 8-bit pixels, normalised."""
        return bool(self.info["pixels"] == "uint8")

    def pixels(self, indices: Tensor | None = None) -> Tensor:
        """Pixels (b, c, h, w), float, of these indices or of all; 0..1 where valid, unclamped where they are not."""
        stored = self.stored[:] if indices is None else self.stored[indices]
        return stored.float().div(255) if stored.dtype == torch.uint8 else self.task.normalization.pixels(stored)

    def pixels_8bit(self, indices: Tensor | None = None) -> Tensor:
        """Pixels uint8 (b, c, h, w) as pictures show them, of these indices or of all; floats clamped and rounded."""
        stored = self.stored[:] if indices is None else self.stored[indices]
        return stored if stored.dtype == torch.uint8 else torch.from_numpy(_shown(stored, self.task))

    def dataset(self) -> Dataset[tuple[Tensor, Tensor]]:
        """A torch dataset of (image, target): normalised (c, h, w), and a label or its (classes,).

        Of images that hold others (`tiles`) it gives each of these, enlarged to full size.
        """
        self.stored[:0]  # what is decoded once is so before workers are started, who then share it
        return _Examples(Apart(self.training_set(), self.tiles))

    def loader(self, batch_size: int = 64, *, shuffle: bool = True, seed: int = 0) -> DataLoader[Any]:
        """Batches of (images, targets); a new order each epoch, the same orders for the same seed."""
        return DataLoader(self.dataset(), batch_size, shuffle=shuffle, generator=generator(seed, "loader"))

    def training_set(self) -> DistilledSet:
        """The images and targets as attar's own loops take them."""
        return DistilledSet(self, self.targets)


class DistilledSet:
    """A distilled dataset as a training set; images are normalised batch by batch.

    Args:
        distilled: the images.
        targets: classes int64 (n,), or probabilities (n, classes).
    """

    def __init__(self, distilled: Distilled, targets: Tensor) -> None:
        self.labels = distilled.labels
        self._distilled, self._targets = distilled, targets

    def __len__(self) -> int:
        return len(self._distilled)

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (b, c, h, w), float32, of these indices (b,)."""
        return self._distilled.images_at(indices)

    def targets(self, indices: Tensor) -> Tensor:
        """Targets of these indices (b,): classes int64 (b,), or probabilities (b, classes)."""
        return self._targets[indices]


class Apart:
    """Each of the images that those of a training set hold, enlarged to full size, with what the whole is labelled.

    Args:
        data: the images and targets.
        tiles: how many others, along a side, each image holds; 1: they are as they were.
    """

    def __init__(self, data: TrainingSet, tiles: int) -> None:
        self.labels = data.labels.repeat_interleave(tiles**2)
        self._data, self._tiles = data, tiles

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (b, c, h, w), float32, of these indices (b,)."""
        held = self._tiles**2
        return crops.cut(self._data.images(indices // held), indices % held, self._tiles)

    def targets(self, indices: Tensor) -> Tensor:
        """Targets of these indices (b,): classes int64 (b,), or probabilities (b, classes)."""
        return self._data.targets(indices // self._tiles**2)


class _Examples(Dataset[tuple[Tensor, Tensor]]):
    def __init__(self, data: Apart) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        picked = torch.tensor(indices)
        return list(zip(self._data.images(picked), self._data.targets(picked), strict=True))


def write_distilled(
    folder: Path,
    distillate: Distillate,
    task: Task,
    provenance: Mapping[str, Any] | None = None,
    labelling: Labelling | None = None,
) -> Distilled:
    """Write a distilled dataset, whole or not at all, and read it back; one that is there is replaced.

    Args:
        folder: where; must be new, empty or a distilled dataset.
        distillate: what a method handed over.
        task: its classes, image shape and normalisation.
        provenance: fields of `attar.artifacts.description.Provenance`: method, summary, paper, ipc, seed,
            precision, settings, knowledge, command, source {name, fingerprint, licence, num_train_images},
            and any more. Plain values, the same on each identical run: no times, hardware, or paths.
        labelling: labels by epoch, or a teacher that comes along; None: the soft labels of the distillate where it
            has some, else its classes.

    Raises:
        ArtifactError: shapes, labels or classes disagree, soft labels aren't probabilities, or label shards are
            missing or damaged.
        DivergedError: an image isn't finite, or absurdly large.
        ResourceError: the folder holds other files, or cannot be written.
    """
    labelling = labelling or Labelling("hard" if distillate.soft_labels is None else "soft")
    seen = _looked_at(distillate, task)
    soft = _soft_labels(distillate, task, labelling)
    with new_folder(folder, replacing=about.NAME) as building:
        labels = distillate.labels.long().numpy()
        shown = dict.fromkeys(card.shown(labels), np.empty(0, np.uint8))
        files = _write_data(building, distillate, shown, soft, task, labelling)
        description = describe(
            provenance or {},
            num_images=seen.num,
            task=task.to_json(),
            pixels="uint8" if distillate.exact_8bit else "float32",
            image_range=None if distillate.exact_8bit else (seen.least, seen.most),
            soft_labels=None if soft is None else "float16",
            labels=labelling.describe(),
            learning_rate=distillate.learning_rate,
            tiles=distillate.tiles,
            sizes=measure(building, files),
            files=files.model_dump(),
        )
        _write_words(building, description, card.preview(shown, labels))
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
    _require_intact(folder, about.NAME, *files.every())
    task = with_whitening(folder, Task.from_json(description.task.model_dump()))
    shards = [folder / name for name in files.images]
    labels = torch.from_numpy(np.concatenate([read_labels(path) for path in shards]))
    if files.pixels:
        stored = float_images(StoredRows([folder / name for name in files.pixels], "images", "F32", task.shape))
    else:
        stored = pixel_images(shards, task.shape)
    soft = _read_soft_labels(folder, files.soft_labels, task.num_classes) if files.soft_labels else None
    _require_agreement(folder, description, stored, labels, soft)
    return Distilled(
        path=folder,
        task=task,
        stored=stored,
        labels=labels,
        soft_labels=soft,
        learning_rate=description.learning_rate,
        info=description.to_json(),
        sizes=description.sizes.model_dump(),
        label_store=_label_store(folder, description),
        views=description.labels.views,
        teacher_files=tuple(folder / name for name in files.teacher),
    )


def _label_store(folder: Path, description: Description) -> LabelStore | None:
    plan = stored_plan(description)
    return None if plan is None else LabelStore(folder, plan)


def _looked_at(distillate: Distillate, task: Task) -> Survey:
    """Check images and labels; tell what values the images have."""
    images, labels = distillate.images, distillate.labels
    if images.dtype != torch.float32 or tuple(images.shape) != (len(labels), *task.shape) or not len(labels):
        raise ArtifactError(
            f"images {images.dtype} {tuple(images.shape)} with {len(labels)} labels",
            expected=f"float32 ({len(labels)}, {', '.join(map(str, task.shape))}), at least one image",
        )
    if problems := label_problems(labels.numpy(), task.num_classes):
        raise ArtifactError(problems[0])
    seen = survey(ImageArrays(images))
    if problems := seen.problems():
        raise DivergedError(problems[0], fix="lower the learning rate of the images and run again")
    return seen


def _pixels(distillate: Distillate, task: Task, shown: dict[int, Bytes8]) -> Iterator[Bytes8]:
    """The 8-bit pixels (c, h, w) of each image, exact or as previews; those at the places in `shown` are kept there."""
    place = 0
    for images in parts(distillate.images, None if task.normalization.whitening is None else WHITENED_BYTES):
        for pixels in _quantised(images, distillate.exact_8bit, task):
            if place in shown:
                shown[place] = pixels.copy()
            yield pixels
            place += 1


def _quantised(images: Tensor, exact: bool, task: Task) -> Bytes8:
    pixels = _shown(images, task)
    off = (task.normalization.pixels(images) * 255 - torch.from_numpy(pixels)).abs().max().item() if exact else 0.0
    if off > EIGHT_BIT_TOLERANCE:
        raise ArtifactError(f"images said to be 8-bit pixels are up to {off:.3g} levels away from such")
    return pixels


def _shown(images: Tensor, task: Task) -> Bytes8:
    """Normalised images as 8-bit pixels, clamped and rounded."""
    scale = task.normalization
    if scale.whitening is None:
        return quantise(images.numpy(), scale.mean, scale.std)
    return quantise(scale.pixels(images).numpy(), (0.0,) * task.channels, (1.0,) * task.channels)


def _soft_labels(distillate: Distillate, task: Task, labelling: Labelling) -> Array | None:
    if (labelling.kind == "soft") != (distillate.soft_labels is not None):
        raise ArtifactError(
            f"labels of the kind {labelling.kind} for images {_with(distillate)} soft labels of their own",
            expected="soft labels for the kind soft, and only there",
        )
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
    shown: dict[int, Bytes8],
    soft: Array | None,
    task: Task,
    labelling: Labelling,
) -> Files:
    labels = distillate.labels.long().numpy()
    exact, images = distillate.exact_8bit, ImageArrays(distillate.images)
    stored, teacher = labelling.place(building)
    whitening = task.normalization.whitening
    if whitening is not None:
        write_whitening(building, whitening)
    return Files(
        images=tuple(write_shards(building, _pixels(distillate, task, shown), labels, task.class_names)),
        pixels=() if exact else tuple(write_rows(building, "pixels", "images", images, "F32")),
        soft_labels=() if soft is None else tuple(write_rows(building, "labels", "soft_labels", soft, "F16")),
        labels=tuple(stored),
        teacher=tuple(teacher),
        whitening=None if whitening is None else about.WHITENING,
    )


def _write_words(building: Path, description: Description, picture: bytes) -> None:
    write_json(building / about.NAME, description.to_json())
    write_bytes(building / card.PREVIEW, picture)
    write_text(building / card.README, card.render(description))
    write_sums(building)


def _read_soft_labels(folder: Path, names: tuple[str, ...], num_classes: int) -> Tensor:
    rows = StoredRows([folder / name for name in names], "soft_labels", "F16", (num_classes,))
    return torch.from_numpy(rows[:]).float()


def _with(distillate: Distillate) -> str:
    return "without" if distillate.soft_labels is None else "with"


def _require_intact(folder: Path, *names: str) -> None:
    sums = read_sums(folder)
    if problems := [problem for name in names if (problem := damage(folder, name, sums))]:
        raise ArtifactError(
            f"the distilled dataset {folder} is damaged: {'; '.join(problems)}",
            expected="the bytes that SHA256SUMS lists",
            fix="fetch it again, or make it again; `attar verify` tells all that is wrong",
        )


def _require_agreement(
    folder: Path, description: Description, stored: Images, labels: Tensor, soft: Tensor | None
) -> None:
    counts = {len(stored), len(labels), len(labels) if soft is None else len(soft), description.num_images}
    if len(counts) > 1 or label_problems(labels.numpy(), len(description.task.class_names)):
        raise ArtifactError(
            f"the files of the distilled dataset {folder} disagree with each other",
            fix="run `attar verify` on it to see where",
        )
