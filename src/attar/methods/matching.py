"""What sre2l, teddy and fadrm share: how images begin and are looked at, what else weighs, how they are handed over.

The objective stands in each method's own file; the settings and verbs that all have, and functions that each calls,
stand here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from attar.augment.operations import MultiCrop
from attar.config import Config
from attar.losses.statistics import Watched, total_variation
from attar.methods.base import (
    Distillate,
    Generators,
    Metrics,
    Optimised,
    RealImages,
    Synthetic,
    Teacher,
    clamp_pixels,
    random_members,
    whole_pixels,
)
from attar.methods.patches import Patches, PatchSettings
from attar.methods.protocol import SOFT_LABELS
from attar.models.norms import require_batch_norm
from attar.models.resnet import resnet18_for
from attar.task import Task

AUTO_ALPHA = 150.0
"""`alpha_bn: auto` is this over the network's own scale of statistics (`Watched.scale`)."""

Start = Literal["noise", "real", "patches"]

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    **SOFT_LABELS,
    "recover": {
        "iterations": 1000,
        "optimizer": "adam",
        "momentum": 0.5,
        "second_beta": 0.9,
        "schedule": "cosine",
    },
}
"""Defaults of the sections beside the method's: Adam (0.5, 0.9) along a cosine, and soft labels for every epoch."""


class MatchingSettings(Config):
    """How images are looked at, and what each term weighs."""

    alpha_bn: float | Literal["auto"] = "auto"
    """α, the weight of the BatchNorm statistics relative to the classification loss. Deeper teachers have larger
    statistics, so a number has to be tuned for each (published: 0.01 at 224 and 32 px, 1 at 64 px); auto measures them
    in units of the teacher's own and needs no tuning."""
    first_weight: float = Field(10.0, ge=0)
    """Weight of the first BatchNorm layer's statistics; every other layer has 1."""
    alpha_tv: float = Field(0.0, ge=0)
    """Weight of the total variation, which smooths images; published: 0."""
    alpha_l2: float = Field(0.0, ge=0)
    """Weight of the images' L2 norm, which keeps pixels small; published: 0."""
    lr_images: float = Field(0.1, gt=0)
    """Learning rate of the images (Adam); published: 0.25 at 224 and 32 px, 0.1 at 64 px."""
    crop: bool = True
    """Show the teacher a random crop of the images in each step, resized to the full size; false: whole images."""
    crop_min_scale: float = Field(0.08, gt=0, le=1)
    """Smallest fraction of the area that a crop covers."""
    curriculum: float = Field(0.0, ge=0, le=1)
    """Begin with whole images and shrink the crops down to crop_min_scale over this fraction of the iterations (1: all
    of them, as in CDA); 0: no curriculum, as published for SRe2L."""
    curriculum_shape: Literal["cosine", "linear", "step"] = "cosine"
    """How crops shrink under the curriculum: along half a cosine, as CDA publishes; linearly; or all at once at its
    end."""
    flip: bool = True
    """Mirror half of the crops left to right; false for digits and other images that a mirror makes wrong."""
    roll_px: int = Field(32, ge=0)
    """Shift the crops by up to this many pixels in both directions, wrapping around; at most half the size."""
    images_at_once: int | None = Field(None, ge=1)
    """Images of a chunk that a network looks at together; none: all of it. Statistics and gradients are those of the
    whole chunk, to rounding, in the memory of so many. A step takes about half as long again, as each image is looked
    at twice. Where classes have statistics of their own (teddy), whole classes at least are looked at together."""
    start: Start = "noise"
    """What the images start from. noise: unit noise, as published; real: random real images of their class; patches:
    the images of rded, stitched from the real crops that the teacher is surest of."""


MatchingSettingsT = TypeVar("MatchingSettingsT", bound=MatchingSettings)
TeacherT = TypeVar("TeacherT", bound=Teacher)


class ByStatistics(Optimised[MatchingSettingsT, TeacherT]):
    """Base of the methods that match BatchNorm statistics, chunk by chunk; the gradient is their own."""

    separable = True
    mixed_precision = True
    gains_from_bf16 = True
    hands_over_8bit = True
    defaults = DEFAULTS

    def __init__(self, settings: MatchingSettingsT, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        self._patches = Patches(PatchSettings(), task, self.labels())

    def looked_at(self, count: int) -> int:
        """Those that patches are looked for in, where it starts from patches."""
        return self._patches.looked_at(count) if self.settings.start == "patches" else super().looked_at(count)

    def init(self, picked: Tensor, real: RealImages, knowledge: TeacherT, rngs: Generators) -> Synthetic:
        """Unit noise, of each image its own, or real images, or patches of them."""
        return begin(self.settings.start, picked, real, knowledge, rngs, self._patches)

    def learning_rates(self) -> dict[str, float]:
        """Of the images."""
        return {"images": self.settings.lr_images}

    def project(self, synthetic: Synthetic) -> None:
        """Clamp to valid pixels."""
        clamp_pixels(synthetic.variables["images"], self.task.normalization)

    def finish(self, synthetic: Synthetic, knowledge: TeacherT) -> Distillate:
        """Round to whole 8-bit pixels."""
        images = whole_pixels(self.decode(synthetic), self.task.normalization)
        return Distillate(images, synthetic.labels.cpu(), exact_8bit=True)

    @classmethod
    def starts_from_real(cls, settings: MatchingSettingsT) -> bool:
        """Unless the start is noise."""
        return settings.start != "noise"

    @classmethod
    def keeps_pixels_valid(cls, settings: MatchingSettingsT) -> bool:
        """Images end as whole 8-bit pixels."""
        return True

    @classmethod
    def require_teacher(cls, model: nn.Module, name: str) -> None:
        """Without BatchNorm there is nothing to match."""
        require_batch_norm(model, name)

    @classmethod
    def default_model(cls, task: Task) -> str:
        """ResNet-18, its stem by the resolution."""
        return resnet18_for(task.height_px, task.width_px)


def begin(
    start: Start, picked: Tensor, real: RealImages, teacher: Teacher, rngs: Generators, patches: Patches
) -> Synthetic:
    """First images at the places `picked` (b,): unit noise, of each its own, or real images, or patches of them."""
    labels, shape = patches.labels, patches.task.shape
    if start == "real":
        images = real.images(random_members(real.labels, labels, picked, rngs())).clone()
    elif start == "patches":
        images = patches.images(picked, real, teacher, rngs)
    else:
        images = torch.stack([torch.randn(shape, generator=rngs("noise", place)) for place in picked.tolist()])
    return Synthetic(labels[picked], {"images": images})


def class_by_class(labels: Tensor, picked: Tensor) -> Tensor:
    """The indices `picked` (b,) into labels (n,), those of a class side by side."""
    return picked[labels[picked].argsort(stable=True)]


def alpha_of(settings: MatchingSettings, watched: Watched) -> float:
    """α as set, or in the network's own unit."""
    return AUTO_ALPHA / watched.scale() if settings.alpha_bn == "auto" else float(settings.alpha_bn)


def look(settings: MatchingSettings, images: Tensor, rng: torch.Generator, done: float) -> Tensor:
    """One draw of a(x) for a chunk (b, c, h, w): a random crop back to full size, flip and roll."""
    crops = MultiCrop(crop=settings.crop, flip=settings.flip, roll_px=settings.roll_px)
    channels, height, width = images.shape[1:]
    return crops.apply(images, crops.draw(rng, (channels, height, width), smallest_crop(settings, done)))


def smallest_crop(settings: MatchingSettings, done: float) -> float:
    """Smallest part of the area that a crop covers when the part `done` of all iterations lies behind."""
    least, until = settings.crop_min_scale, settings.curriculum
    if done >= until:
        return least
    match settings.curriculum_shape:
        case "cosine":
            left = (1 + math.cos(math.pi * done / until)) / 2
        case "linear":
            left = 1 - done / until
        case "step":
            left = 1.0
    return least + (1 - least) * left


def priors(settings: MatchingSettings, views: Tensor) -> Iterator[Tensor]:
    """The terms α_tv TV(a(x)) and α_l2 mean_i ||a(x_i)||₂, those whose weight is not 0."""
    if settings.alpha_tv:
        yield settings.alpha_tv * total_variation(views)
    if settings.alpha_l2:
        yield settings.alpha_l2 * views.flatten(1).norm(dim=1).mean()


def by_variable(name: str, loss: Tensor, chosen: Tensor, picked: Tensor, synthetic: Synthetic) -> dict[str, Tensor]:
    """The gradient of a loss by a variable, 0 but for its rows `chosen` (b, ...), which stand at `picked` (b,)."""
    (gradient,) = torch.autograd.grad(loss, chosen)
    return {name: torch.zeros_like(synthetic.variables[name]).index_copy_(0, picked, gradient)}


def metrics(loss: Tensor, classification: Tensor, statistics: Tensor, logits: Tensor, labels: Tensor) -> Metrics:
    """What the step tells: the loss, its two main terms, and the mean probability of the images' own classes."""
    with torch.no_grad():
        confidence = logits.softmax(1).gather(1, labels[:, None]).mean()
    terms = {"loss": loss, "classification": classification, "statistics": statistics, "confidence": confidence}
    return {name: value.detach() for name, value in terms.items()}
