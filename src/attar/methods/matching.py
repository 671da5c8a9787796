"""Matching statistics: images that a network takes for their class, and their mixture for the real one's.

    L = CE(φ(a(x)), y) + α R(φ, a(x)) + α_tv TV(a(x)) + α_l2 mean_i ||a(x_i)||₂

a: a random crop back to full size, flip and roll, one draw for the chunk in each step; Adam (0.5, 0.9); pixels clamped
after each step; the last iterate is kept. Shared by sre2l and teddy, which differ in the network φ of a step and in the
statistics that its distance R goes by.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attar.config import Config
from attar.data.augment import MultiCrop
from attar.losses.statistics import Watched, total_variation
from attar.methods.base import (
    Distillate,
    Generators,
    Method,
    Metrics,
    RealImages,
    Synthetic,
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

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Views (b, c, h, w) -> logits (b, classes), and the distance R of their statistics, both with their graphs."""


class MatchingSettings(Config):
    """How images are looked at, and what each term weighs."""

    alpha_bn: float | Literal["auto"] = "auto"
    """α, how much the BatchNorm statistics count beside the classes. A deeper teacher's statistics are larger, so a
    number has to be tuned for each (published: 0.01 at 224 and 32 px, 1 at 64 px); auto measures them in the
    teacher's own unit and needs no tuning."""
    first_weight: float = Field(10.0, ge=0)
    """Weight w of the first BatchNorm layer's statistics; the other layers have 1."""
    alpha_tv: float = Field(0.0, ge=0)
    """Weight of the total variation, which smooths images; published: 0."""
    alpha_l2: float = Field(0.0, ge=0)
    """Weight of the images' norm, which keeps pixels small; published: 0."""
    lr_images: float = Field(0.1, gt=0)
    """Learning rate of the images (Adam); published: 0.25 at 224 and 32 px, 0.1 at 64 px."""
    crop: bool = True
    """Show the teacher a random crop of the images in each step, brought to the full size; false: whole images."""
    crop_min_scale: float = Field(0.08, gt=0, le=1)
    """Smallest part of the area that a crop covers."""
    curriculum: float = Field(0.0, ge=0, le=1)
    """Begin with whole images, and let crops become smaller, down to crop_min_scale, over this part of all iterations
    (1: all of them, as in CDA); 0: no curriculum, as published for SRe2L."""
    curriculum_shape: Literal["cosine", "linear", "step"] = "cosine"
    """How crops become smaller there: along half a cosine, as CDA publishes, in a line, or all at once at its end."""
    flip: bool = True
    """Mirror half of the crops left to right; false for digits and other images that a mirror makes wrong."""
    roll_px: int = Field(32, ge=0)
    """Shift the crops by up to this many pixels in both directions, around the border; at most half the size."""
    start: Literal["noise", "real", "patches"] = "noise"
    """What images begin as. noise: unit noise, as published; real: random real images of their class; patches: the
    images of rded, stitched from the real crops that the teacher is surest of."""


class StatisticsMatching(Method):
    """A method whose images are matched to statistics of the real ones, chunk by chunk."""

    separable = True
    mixed_precision = True
    gains_from_bf16 = True
    defaults = {
        **SOFT_LABELS,
        "recover": {
            "iterations": 1000,
            "optimizer": "adam",
            "momentum": 0.5,
            "second_beta": 0.9,
            "schedule": "cosine",
        },
    }

    def __init__(self, settings: Config, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        self._patches = Patches(PatchSettings(), task, self.labels())

    @abstractmethod
    def judge(self, knowledge: Any, labels: Tensor, rng: torch.Generator, done: float) -> tuple[Judge, float]:
        """Who judges the views of a step, of these classes (b,), and the weight α of the distance that it gives."""

    @property
    def options(self) -> MatchingSettings:
        """The settings, typed."""
        return cast(MatchingSettings, self.settings)

    @classmethod
    def starts_from_real(cls, settings: Config) -> bool:
        """Unless the start is noise."""
        return cast(MatchingSettings, settings).start != "noise"

    @classmethod
    def require_teacher(cls, model: nn.Module, name: str) -> None:
        """Without BatchNorm there is nothing to match."""
        require_batch_norm(model, name)

    @classmethod
    def hands_over_8bit(cls) -> bool:
        """Images end as whole 8-bit pixels."""
        return True

    @classmethod
    def keeps_pixels_valid(cls, settings: Config) -> bool:
        """Images end as whole 8-bit pixels."""
        return True

    @classmethod
    def default_model(cls, task: Task) -> str:
        """ResNet-18, its stem by the resolution."""
        return resnet18_for(task.height_px, task.width_px)

    def learning_rates(self) -> dict[str, float]:
        """That of the images."""
        return {"images": self.options.lr_images}

    def init(self, picked: Tensor, real: RealImages, knowledge: Any, rngs: Generators) -> Synthetic:
        """Unit noise, of each image its own, or real images, or patches of them."""
        labels = self.labels()
        if self.options.start == "real":
            images = real.images(random_members(real.labels, labels, picked, rngs())).clone()
        elif self.options.start == "patches":
            images = self._patches.images(picked, real, knowledge, rngs)
        else:
            shape = self.task.shape
            images = torch.stack([torch.randn(shape, generator=rngs("noise", place)) for place in picked.tolist()])
        return Synthetic(labels[picked], {"images": images})

    def gradient(
        self, synthetic: Synthetic, picked: Tensor, knowledge: Any, rng: torch.Generator, done: float = 0.0
    ) -> tuple[dict[str, Tensor], Metrics]:
        """One look at the chunk through one draw of the crops."""
        options = self.options
        picked = picked[synthetic.labels[picked].argsort(stable=True)]  # the images of a class lie side by side
        labels = synthetic.labels[picked]
        judge, alpha = self.judge(knowledge, labels, rng, done)
        images = synthetic.variables["images"][picked].detach().requires_grad_()
        views = self._look(images, rng, done)
        logits, statistics = judge(views)
        classification = F.cross_entropy(logits, labels)
        loss = classification + alpha * statistics
        if options.alpha_tv:
            loss = loss + options.alpha_tv * total_variation(views)
        if options.alpha_l2:
            loss = loss + options.alpha_l2 * views.flatten(1).norm(dim=1).mean()
        (by_images,) = torch.autograd.grad(loss, images)
        with torch.no_grad():
            confidence = logits.softmax(1).gather(1, labels[:, None]).mean()
        gradient = torch.zeros_like(synthetic.variables["images"]).index_copy_(0, picked, by_images)
        terms = {"loss": loss, "classification": classification, "statistics": statistics, "confidence": confidence}
        return {"images": gradient}, {name: value.detach() for name, value in terms.items()}

    def project(self, synthetic: Synthetic) -> None:
        """Clamp to valid pixels."""
        images = synthetic.variables["images"]
        low, high = self.task.normalization.valid_range(images)
        images.copy_(images.clamp(low, high))

    def finish(self, synthetic: Synthetic, knowledge: Any) -> Distillate:
        """Round to whole 8-bit pixels, which is what is stored and trained on."""
        images = whole_pixels(synthetic.variables["images"], self.task.normalization)
        return Distillate(images, synthetic.labels.cpu(), exact_8bit=True)

    def alpha(self, watched: Watched) -> float:
        """α as set, or in the network's own unit."""
        alpha = self.options.alpha_bn
        return AUTO_ALPHA / watched.scale() if alpha == "auto" else float(alpha)

    def smallest_crop(self, done: float) -> float:
        """Smallest part of the area that a crop covers when the part `done` of all iterations lies behind."""
        least, until = self.options.crop_min_scale, self.options.curriculum
        if done >= until:
            return least
        match self.options.curriculum_shape:
            case "cosine":
                left = (1 + math.cos(math.pi * done / until)) / 2
            case "linear":
                left = 1 - done / until
            case "step":
                left = 1.0
        return least + (1 - least) * left

    def _look(self, images: Tensor, rng: torch.Generator, done: float) -> Tensor:
        crops = MultiCrop(crop=self.options.crop, flip=self.options.flip, roll_px=self.options.roll_px)
        return crops.apply(images, crops.draw(rng, self.task.shape, self.smallest_crop(done)))
