"""FADRM: recovery that is brought back to real patches after each block of steps, at two resolutions in turn.

    P = the images of rded, stitched from the real crops that the teacher is surest of
    x = P at the side s_1
    for block k = 1..K:
        optimiser anew;  for each of its steps:  φ = the teachers, each in its turn
            L = CE(φ(a(x)), y) + α_bn Σ_l w_l ( ||μ_l(a(x)) - mean_l||₂ + ||σ²_l(a(x)) - var_l||₂ )
            one step of Adam on x, clamped to valid pixels                         w_first = 10, other w_l = 1
        but for the last:  x <- (1 - r) x + r P, both brought to the side s_{k+1}

The objective is that of sre2l; one cosine runs over all blocks. With several teachers (squeeze.more_models) it is
FADRM+, and soft labels are of the mean of their logits.

Source: Cui, Bi, Luo, Zhao, Liu and Shen, "FADRM: Fast and Accurate Data Residual Matching for Dataset Distillation",
NeurIPS 2025, arXiv 2506.24125. Published for ImageNet-1K: four blocks of 500 steps at 200, 224, 200 and 224 px, r =
0.5, rate 0.25, α_bn = 0.01; at 32 and 64 px all blocks at the full side.

Differs from the authors' code: P is made here, as rded makes it, where theirs is downloaded; the roll and the kept
pixels are as in sre2l; labels are of networks in evaluation mode, theirs of the statistics of each batch of 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attar.config import Config
from attar.errors import ConfigError
from attar.losses.statistics import Watched
from attar.methods import matching
from attar.methods.base import (
    Generators,
    Metrics,
    RealImages,
    Synthetic,
    Teacher,
)
from attar.methods.matching import ByStatistics, MatchingSettings
from attar.task import Task

_SMALLER_FROM_PX = 128
"""From this size on `sides: auto` takes every second block at a smaller side."""
_SMALLER = 0.893
"""That side as a part of the full one: 200 px of 224, as published."""

Side = Annotated[float, Field(gt=0, le=1)]


class FadrmSettings(MatchingSettings):
    """Settings of FADRM: those of recovery, the blocks and the residual."""

    changed = {"start": "patches"}

    sides: Literal["auto"] | tuple[Side, ...] = "auto"
    """Height and width of the images in each block of steps, as parts of the full ones; as many blocks, equally long,
    as there are sides. auto: 0.893, 1, 0.893 and 1 from 128 px on, as published at 224, and four times 1 below."""
    residual: float = Field(0.5, ge=0, le=1)
    """r, the part of the real patches in the images after every block but the last; 0: none, 1: they begin anew."""


class Fadrm(ByStatistics[FadrmSettings, Teacher]):
    """Fast and accurate data residual matching."""

    name = "fadrm"
    summary = "recovery that is mixed with real patches after each block of steps, under one teacher or several in turn"
    source = "Cui et al., NeurIPS 2025, arXiv 2506.24125"
    Settings = FadrmSettings
    knowledge = "teacher"
    defaults = {**matching.DEFAULTS, "recover": {**matching.DEFAULTS["recover"], "iterations": 2000}}

    def __init__(self, settings: FadrmSettings, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        self._watched: dict[int, Watched] = {}

    @property
    def sides(self) -> tuple[float, ...]:
        """Side of each block as a part of the full one."""
        if self.settings.sides != "auto":
            return self.settings.sides
        large = min(self.task.height_px, self.task.width_px) >= _SMALLER_FROM_PX
        return (_SMALLER if large else 1.0, 1.0) * 2

    def init(self, picked: Tensor, real: RealImages, knowledge: Teacher, rngs: Generators) -> Synthetic:
        """The patches, at the side of the first block; they stay beside the images."""
        begun = matching.begin(self.settings.start, picked, real, knowledge, rngs, self._patches)
        patches = begun.variables["images"]
        self._require_sides(patches[:1], knowledge)
        return Synthetic(begun.labels, {"images": self._at(0, patches).clone()}, {"patches": patches})

    def gradient(
        self,
        synthetic: Synthetic,
        picked: Tensor,
        real: RealImages,
        knowledge: Teacher,
        rng: torch.Generator,
        done: float = 0.0,
    ) -> tuple[dict[str, Tensor], Metrics]:
        """One look of the teacher whose turn it is at the chunk, through one draw of the crops."""
        settings = self.settings
        teacher = self._watch(knowledge, synthetic.taken % len(knowledge.models))
        picked = matching.class_by_class(synthetic.labels, picked)
        labels = synthetic.labels[picked]
        images = synthetic.variables["images"][picked].detach().requires_grad_()

        views = matching.look(settings, images, rng, done)
        logits, statistics = teacher(views)
        classification = F.cross_entropy(logits, labels)
        loss = classification
        if teacher.norms:
            loss = loss + matching.alpha_of(settings, teacher) * statistics
        for prior in matching.priors(settings, views):
            loss = loss + prior

        gradient = matching.by_variable("images", loss, images, picked, synthetic)
        return gradient, matching.metrics(loss, classification, statistics, logits, labels)

    def turns(self) -> tuple[float, ...]:
        """Where a block ends and another begins."""
        num = len(self.sides)
        return tuple(k / num for k in range(1, num))

    def turn(self, synthetic: Synthetic, k: int) -> None:
        """Bring images and patches to the side of the next block, and mix them."""
        images, patches = (self._at(k + 1, of) for of in (synthetic.variables["images"], synthetic.fixed["patches"]))
        synthetic.variables["images"] = images.lerp(patches, self.settings.residual)

    def decode(self, synthetic: Synthetic) -> Tensor:
        """The images at their full side."""
        return _resized(synthetic.variables["images"], self.task.shape[1:])

    @classmethod
    def problems(cls, settings: FadrmSettings, sections: Mapping[str, Config]) -> list[str]:
        """Noise is nothing to come back to, and there must be a block."""
        found = []
        if settings.start == "noise":
            found.append("fadrm comes back to real images after each block: method.start must be patches or real")
        if not settings.sides:
            found.append("method.sides is empty: name the side of each block, or auto")
        return found

    @torch.no_grad()
    def _require_sides(self, image: Tensor, knowledge: Teacher) -> None:
        """Raise ConfigError where a teacher cannot take an image (1, c, h, w) at the side of each block."""
        for block, part in enumerate(self.sides):
            for model in knowledge.models if part < 1 else ():
                try:
                    model(self._at(block, image).to(next(model.parameters()).device))
                except RuntimeError as error:
                    raise ConfigError(
                        f"{type(model).__name__} takes images of {self.task.height_px} px alone, and block {block + 1} "
                        f"of fadrm has {part:g} of that",
                        expected="a network that takes images of any size, such as a ResNet",
                        fix="--set method.sides=[1,1,1,1]",
                    ) from error

    def _at(self, block: int, images: Tensor) -> Tensor:
        """Images (n, c, h, w) at the side of a block."""
        part = self.sides[block]
        height, width = (max(1, round(part * side)) for side in self.task.shape[1:])
        return _resized(images, (height, width))

    def _watch(self, knowledge: Teacher, k: int) -> Watched:
        if k not in self._watched:
            self._watched[k] = Watched(
                knowledge.models[k], self.settings.first_weight, at_once=self.settings.images_at_once
            )
        return self._watched[k]


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear and not smoothed, as published; the same tensor where it has the size (h, w)."""
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False)
