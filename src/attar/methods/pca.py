"""PCA: prune, combine, augment. Easy whole images, four to an image; students look at one at a time.

    prune      score(x) = || softmax(φ(x)) - onehot(y) ||₂ by a probe φ that was trained for a few epochs;
               keep the 4 · ipc lowest of each class
    combine    shrink each to half the side, and stitch four: image j of n holds those ranked j, n + j, 2n + j, 3n + j
    augment    a view of a student is one of the four, and a random crop within it (`train.augment: rrc_flip`)

For hard labels. Source: Xiao, Liu, He and Wang, "Rethinking Large-scale Dataset Compression: Shifting Focus From Labels
to Images", arXiv 2502.06434. ImageNet-1K, ResNet-18, IPC 10/50/100, hard labels: 22.8/39.1/45.5, random real images
4.6/20.6/31.7.

Differs from the authors' code: there is none to be had yet (their repository has the benchmark alone). Which of the
images kept share one is our choice; several probes (squeeze.more_models) speak by the mean of their logits, where the
paper takes the mean of their norms; pixels are stored rounded, as whole 8-bit values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from attar.config import Config
from attar.methods import mosaics
from attar.methods.base import Distillate, Generators, RealImages, Selector, Synthetic, Teacher, whole_pixels
from attar.methods.choosing import AT_ONCE, error_norm
from attar.methods.mosaics import TILES
from attar.models.resnet import resnet18_for
from attar.task import Task


class PcaSettings(Config):
    """PCA has no settings of its own: the probe's are in squeeze, the views' in train."""


class Pca(Selector[PcaSettings, Teacher]):
    """Prune, combine, augment."""

    name = "pca"
    summary = "the real images that a short training gets right first, four to an image; for hard labels"
    source = "Xiao et al., arXiv 2502.06434"
    Settings = PcaSettings
    knowledge = "teacher"
    separable = True
    makes = "combined real images"
    hands_over_8bit = True
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "recover": {"iterations": 0},
        "squeeze": {"epochs": 5},
        "evaluate": {"protocol": "pca"},
    }

    def __init__(self, settings: PcaSettings, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        self._kept: dict[int, Tensor] = {}

    @classmethod
    def keeps_pixels_valid(cls, settings: PcaSettings) -> bool:
        """Images end as whole 8-bit pixels."""
        return True

    @classmethod
    def default_model(cls, task: Task) -> str:
        """ResNet-18, its stem by the resolution."""
        return resnet18_for(task.height_px, task.width_px)

    def looked_at(self, count: int) -> int:
        """All of them, to find the easiest."""
        return count

    def init(self, picked: Tensor, real: RealImages, knowledge: Teacher, rngs: Generators) -> Synthetic:
        """Keep the easiest of each class that is asked for, and stitch them."""
        labels = self.labels()
        images = torch.empty(len(picked), *self.task.shape)
        for label in labels[picked].unique().tolist():
            if label not in self._kept:
                self._kept[label] = self._easiest(label, real, knowledge)
            ours = labels == label
            ranks, there = (ours.cumsum(0) - 1)[picked], ours[picked]
            images[there] = mosaics.stitched(real, self._kept[label], ranks[there], int(ours.sum()), self.task)
        return Synthetic(labels[picked], {"images": images})

    def finish(self, synthetic: Synthetic, knowledge: Teacher) -> Distillate:
        """Shrinking leaves values between the pixels: round to whole ones."""
        images = whole_pixels(synthetic.variables["images"], self.task.normalization)
        return Distillate(images, synthetic.labels.cpu(), exact_8bit=True, tiles=2)

    @torch.no_grad()
    def _easiest(self, label: int, real: RealImages, teacher: Teacher) -> Tensor:
        """Indices of the class's real images, the easiest first, 4 · ipc or all."""
        members = (real.labels == label).nonzero().squeeze(1)
        scores = []
        for part in members.split(AT_ONCE):
            logits = teacher.logits(real.images(part)).cpu()
            scores.append(error_norm(logits, torch.full((len(part),), label)))
        return members[torch.cat(scores).argsort(stable=True)][: TILES * self.ipc]
