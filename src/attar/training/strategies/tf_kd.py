"""Tf-KD: a virtual teacher, right with probability a and alike to all other classes.

    u = a for the label, (1 - a) / (C - 1) for every other class
    L = (1 - alpha) CE(y, p) + alpha KL( softmax(u / tau) || p ),     p = softmax(f(x))

Source: Yuan et al., "Revisiting Knowledge Distillation via Label Smoothing Regularization", CVPR 2020, section 5 (Tf-KD
reg), with alpha, tau and a of the authors' code for ResNet-18 on CIFAR-100. As in that code, tau softens the teacher
alone (the paper's equation softens both), and u goes into the softmax as it is. The code takes a mean over classes and
multiplies it by 100: here it is the sum over classes, which for 100 of them is the same.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attar.config import Config
from attar.training.strategies.base import Batch, Strategy
from attar.training.strategies.targets import cross_entropy, mixed, probabilities


class TfKDSettings(Config):
    """A virtual teacher."""

    alpha: float = Field(default=0.1, ge=0, le=1)
    """Weight of the virtual teacher; the labels have the rest."""
    tau: float = Field(default=20.0, gt=0)
    """Temperature of the virtual teacher."""
    correct: float = Field(default=0.99, gt=0, lt=1)
    """Probability that it gives the label."""


class VirtualTeacher(Strategy):
    """Labels, and a made-up teacher who is nearly always right."""

    name = "tf-kd"
    summary = "a virtual teacher that is right with 0.99 and alike to all other classes, beside the labels"
    source = "Yuan et al. 2020, Revisiting Knowledge Distillation via Label Smoothing Regularization (CVPR)"
    Settings = TfKDSettings

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy and divergence from the virtual teacher."""
        own, num_classes = self.settings.own(TfKDSettings), logits.shape[1]
        others = (1 - own.correct) / max(1, num_classes - 1)
        labels = mixed(probabilities(batch, self.settings, num_classes), batch)
        teacher = ((others + (own.correct - others) * labels) / own.tau).softmax(1)
        teacher = teacher.repeat(len(logits) // len(teacher), 1)
        kl = F.kl_div(logits.log_softmax(1), teacher, reduction="batchmean")
        return (1 - own.alpha) * cross_entropy(logits, batch, self.settings) + own.alpha * kl
