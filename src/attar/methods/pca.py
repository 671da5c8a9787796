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
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attar.methods.base import RealImages, Teacher
from attar.methods.choosing import AT_ONCE, ByScore, ScoreSettings, error_norm
from attar.models.resnet import resnet18_for
from attar.task import Task


class PcaSettings(ScoreSettings):
    """Settings of PCA; the probe's are in squeeze, the views' in train."""

    tiles: Literal[1, 2] = 2
    """Images along a side that each image holds; published: 2, so four of half the side. 1: each is one."""


class Pca(ByScore[PcaSettings, Teacher]):
    """Prune, combine, augment."""

    name = "pca"
    summary = "the real images that a short training gets right first, four to an image; for hard labels"
    source = "Xiao et al., arXiv 2502.06434"
    Settings = PcaSettings
    knowledge = "teacher"
    makes = "combined real images"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "recover": {"iterations": 0},
        "squeeze": {"epochs": 5},
        "evaluate": {"protocol": "pca"},
    }

    @classmethod
    def default_model(cls, task: Task) -> str:
        """ResNet-18, its stem by the resolution."""
        return resnet18_for(task.height_px, task.width_px)

    @torch.no_grad()
    def measured(self, members: Tensor, label: int, real: RealImages, knowledge: Teacher) -> Tensor:
        """The norm of the probe's error (m, 1)."""
        logits = torch.cat([knowledge.logits(real.images(part)).cpu() for part in members.split(AT_ONCE)])
        return error_norm(logits, torch.full((len(logits),), label))[:, None]
