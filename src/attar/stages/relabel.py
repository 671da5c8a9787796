"""Relabel: give the recovered images their labels.

    method     as the method hands them over: classes, or probabilities that it learnt
    teacher    one soft label an image, of the image as it is
    epochs     for each epoch of training and each image, logits on a replayed view (FKD), stored behind a codec
    online     the same, made during training by the teacher, which is stored instead

Source of `epochs`: Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022, as
SRe2L uses it. Views are replayed from a seed; see `attar.augment.views`.

    relabel/labels-*.safetensors    shards that are there are not made again
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from attar.artifacts.labelling import Labelling
from attar.augment import crops
from attar.augment.views import Views, ViewSettings
from attar.config import parse_bytes
from attar.labels.codecs import CODECS
from attar.labels.plan import LabelPlan, choose_plan
from attar.labels.writing import write_labels
from attar.methods.base import Distillate, Images
from attar.options import Budget
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.seeding import derive
from attar.task import Task
from attar.training.soft import CarriedTeacher, Teacher, one_label_each

BATCH = 256


class RelabelSettings(ViewSettings, Budget):
    """The labels of the distilled dataset."""

    labels: Literal["method", "teacher", "epochs", "online"] = "method"
    """method: labels as the method hands them over, mostly plain classes; teacher: one soft label per image, from the
    squeezed networks; epochs: a soft label per image and epoch, for the view of it (cropped, mirrored, mixed) that
    training will show in that epoch; online: the same, made during training by the teacher, which is stored instead of
    the labels."""
    epochs: int | None = Field(None, ge=1)
    """How many epochs of labels are stored; none: as many as train spends on soft labels. A longer training goes
    through them again, in a different order for each image."""
    codec: str = "auto"
    """How a label is stored: fp16 (all logits), q8 or q4 (8 or 4 bits per class), topk (the `keep` highest logits), pca
    (principal components of the logits, in `keep` bytes). auto: q8, or what label_budget chooses."""
    keep: int = Field(0, ge=0)
    """How many logits topk keeps of a label, or how many bytes pca takes; 0: 10, or half the classes if that is
    less."""
    members: Literal["all", "strongest"] | tuple[int, ...] = "all"
    """Which of the squeezed networks label, by the mean of their logits: all; strongest, by validation accuracy; or a
    list of their numbers (in a pool, 0 is the weakest and -1 the strongest)."""

    @field_validator("members")
    @classmethod
    def _some(cls, members: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if not members:
            raise ValueError("name at least one network, or all")
        return members

    @field_validator("codec")
    @classmethod
    def _known_codec(cls, name: str) -> str:
        if name != "auto" and name not in CODECS:
            raise ValueError(f"no such codec; known: auto, {', '.join(CODECS)}")
        return name

    @field_validator("label_budget")
    @classmethod
    def _size(cls, text: str | None) -> str | None:
        if text is not None:
            parse_bytes(text)
        return text


def relabel(
    distillate: Distillate,
    teacher: Teacher | None,
    settings: RelabelSettings,
    *,
    task: Task,
    train_epochs: int,
    seed: int,
    folder: Path,
    engine: Engine,
    events: Events,
) -> tuple[Distillate, Labelling | None]:
    """Label the images; what is returned is for `write_distilled`.

    Args:
        distillate: images, as recovered.
        teacher: who labels; may be None where labels are those of the method.
        settings: which labels, which views, which codec.
        task: classes and image shape.
        train_epochs: epochs that students will be trained for.
        seed: of the views.
        folder: of the stage, for the label shards.
        engine: device, precision, and this process's share.
        events: progress.
    """
    if settings.labels == "method":
        return distillate, None
    assert teacher is not None, "settings are checked against what is squeezed"
    if settings.labels == "teacher":
        return replace(distillate, soft_labels=_of_each(teacher, distillate)), None
    plain = replace(distillate, soft_labels=None)
    views = Views(settings, derive(seed, "relabel"), len(distillate.labels), task.shape, distillate.tiles)
    if settings.labels == "online":
        assert isinstance(teacher, CarriedTeacher)
        return plain, Labelling("online", views=views.to_json(), teacher={path.name: path for path in teacher.paths})
    plan = label_plan(settings, len(distillate.labels), task.num_classes, train_epochs)
    _write(plan, plain.images, views, teacher.logits, folder, engine, events)
    return plain, Labelling("epochs", plan=plan, folder=folder, views=views.to_json())


def label_plan(settings: RelabelSettings, num_images: int, num_classes: int, train_epochs: int) -> LabelPlan:
    """What is stored; raises ConfigError where the budget is too small for any."""
    epochs = min(settings.epochs or train_epochs, train_epochs)
    if settings.label_budget is not None:
        return choose_plan(parse_bytes(settings.label_budget), num_images, num_classes, epochs)
    codec = "q8" if settings.codec == "auto" else settings.codec
    keep = (settings.keep or max(1, min(10, num_classes // 2))) if CODECS[codec].keeps else 0
    return LabelPlan(codec, num_classes, num_images, epochs, keep)


def _of_each(teacher: Teacher, distillate: Distillate) -> Tensor:
    """A soft label (n, classes) for each image; the mean of those that it holds, where it holds others."""
    images, held = distillate.images, distillate.tiles**2

    def seen(indices: Tensor) -> Tensor:
        return crops.cut(images[indices // held], indices % held, distillate.tiles)

    labels = one_label_each(teacher, seen, len(images) * held)
    return labels.view(len(images), held, -1).mean(1) if held > 1 else labels


def _write(
    plan: LabelPlan,
    images: Images,
    views: Views,
    logits: Callable[[Tensor], Tensor],
    folder: Path,
    engine: Engine,
    events: Events,
) -> None:
    def of_epoch(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in torch.arange(len(images)).split(BATCH):
            shown = views.apply(lambda i: images[i], torch.full_like(indices, epoch), indices, engine.device)
            with engine.autocast():
                found = logits(shown)
            yield indices, found.float().cpu()

    with events.progress("relabel: epochs of soft labels", plan.num_epochs) as bar:
        rank, num = engine.processes.rank, engine.processes.num
        names = write_labels(folder, plan, of_epoch, rank=rank, world_size=num, after_epoch=lambda _: bar.advance())
    engine.barrier(folder / name for name in names)
