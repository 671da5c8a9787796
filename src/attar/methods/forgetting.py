"""forgetting: real images by how often trainings learn and then forget them.

    right_t(x) = [ argmax f_θ_t(x) = y ]                     after epoch t = 1..E of an expert's training
    events(x)  = Σ_t right_{t-1}(x) · (1 - right_t(x))       and E where x is never right
    score(x)   = mean over experts of events(x), those that are right in more epochs first where that is equal

Low is easy. Source: Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning", ICLR
2019, definitions 1 and 2, algorithm 1. Published: one training of 200 epochs; an image that is never learnt counts as
forgotten infinitely often; the least forgotten are dropped.

Differs from the authors' code: an image is looked at after every epoch, without augmentation, by the parameters that
the kind of knowledge `trajectories` keeps; theirs looks at it in the mini-batch in which it is trained on, augmented
and once an epoch too. Its counts are these (it sums over trainings and leaves ties in the order of the images). As many
are kept of each class, the least forgotten by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from attar.methods.base import RealImages, Trajectories
from attar.methods.choosing import ByScore, ScoreSettings, answers


class ForgettingSettings(ScoreSettings):
    """Settings of the choice by forgetting events."""


class Forgetting(ByScore[ForgettingSettings, Trajectories]):
    """Images by their forgetting events."""

    name = "forgetting"
    summary = "real images by how often trainings forget them: the least, or the most forgotten"
    source = "Toneva et al., ICLR 2019, algorithm 1"
    Settings = ForgettingSettings
    knowledge = "trajectories"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "recover": {"iterations": 0},
        "squeeze": {"num_experts": 3, "epochs": 20},
    }
    _scores: Tensor | None = None

    def measured(self, members: Tensor, label: int, real: RealImages, knowledge: Trajectories) -> Tensor:
        """Mean events (m, 1); all images are counted when the first class asks."""
        if self._scores is None:
            self._scores = forgetting_score(
                torch.stack([_history(real, knowledge, k) for k in range(knowledge.num_experts)])
            )
        return self._scores[members][:, None]


def forgetting_score(right: Tensor) -> Tensor:
    """Mean forgetting events (n,) over trainings of a history bool (trainings, epochs, n).

    The rarer an image is right, the more is added, but less than a single event counts: that orders ties.
    """
    trainings, epochs = right.shape[:2]
    events = (right[:, :-1] & ~right[:, 1:]).sum(1)
    events = torch.where(right.any(1), events, epochs).float().mean(0)
    return events + (1 - right.float().mean((0, 1))) / (2 * trainings)


def _history(real: RealImages, experts: Trajectories, k: int) -> Tensor:
    """Whether expert k is right: bool (epochs, n), after each; what random weights get right is no memory."""
    thetas = (experts.segment(k, t - 1, t).target for t in range(1, experts.num_epochs + 1))
    rows = [
        torch.cat([logits.argmax(1) == labels for logits, labels in answers(theta, real, experts)]) for theta in thetas
    ]
    return torch.stack(rows)
