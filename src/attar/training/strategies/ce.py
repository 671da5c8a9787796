"""Cross-entropy: the plain way to train.

    hard labels    L = - log softmax(f(x))_y
    soft labels    L = - sum_c p_c log softmax(f(x))_c   =   KL(p || softmax f(x)) + entropy of p, a constant

Label smoothing s replaces the target p by (1 - s) p + s / classes, a hard label being a p of one 1.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from attar.training.strategies.base import Batch, Strategy


class CrossEntropy(Strategy):
    """Cross-entropy with hard or soft labels, by what the training set gives."""

    name = "ce"
    summary = "cross-entropy with hard or soft labels"

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of a batch."""
        logits = model(batch.images).float()
        return F.cross_entropy(logits, batch.targets, label_smoothing=self.settings.label_smoothing)
