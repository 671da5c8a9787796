"""easy: the real images of each class that a trained teacher gets right most surely.

    score(x) = CE(φ(x), y)        keep the ipc lowest of each class

Source: the "easy" baseline of studies of distillation and pruning, for instance Sorscher et al., "Beyond neural scaling
laws: beating power law scaling via data pruning", NeurIPS 2022: with few images a class, keep easy ones. There is no
code of one author to differ from. It is rded without crops and without stitching.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from attar.methods.base import RealImages, Teacher
from attar.methods.choosing import AT_ONCE, ByScore, ScoreSettings


class Easy(ByScore[ScoreSettings, Teacher]):
    """Images of the teacher's lowest loss."""

    name = "easy"
    summary = "the real images of each class that a teacher is surest of: its lowest loss"
    source = "Sorscher et al., NeurIPS 2022: with few images, keep easy ones"
    knowledge = "teacher"

    def measured(self, members: Tensor, label: int, real: RealImages, knowledge: Teacher) -> Tensor:
        """The teacher's loss (m, 1); of several networks, by the mean of their logits."""
        logits = torch.cat([knowledge.logits(real.images(part)).float().cpu() for part in members.split(AT_ONCE)])
        losses = F.cross_entropy(logits, torch.full((len(logits),), label), reduction="none")
        return losses.detach()[:, None]
