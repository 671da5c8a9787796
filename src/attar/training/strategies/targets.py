"""What every strategy is made of: targets as probabilities, cross-entropy with them, and divergence between logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from attar.training.settings import TrainSettings

if TYPE_CHECKING:
    from attar.training.strategies.base import Batch


def probabilities(batch: Batch, settings: TrainSettings, num_classes: int) -> Tensor:
    """Targets (b, classes) of a batch at the temperature of its soft labels; not mixed."""
    targets, temperature = batch.targets, settings.temperature
    if not targets.is_floating_point():
        targets = F.one_hot(targets, num_classes).float()
    elif batch.targets_are_logits:
        targets = (targets / temperature).softmax(1)
    elif temperature != 1:
        targets = (targets.log() / temperature).softmax(1)
    return targets


def mixed(targets: Tensor, batch: Batch) -> Tensor:
    """Targets (b, classes), mixed as the images of the batch are."""
    return batch.mix.targets(targets) if batch.mix else targets


def cross_entropy(logits: Tensor, batch: Batch, settings: TrainSettings, smoothing: float | None = None) -> Tensor:
    """Mean cross-entropy of logits (v b, classes), those of v views one behind the other; see `ce`.

    `smoothing` replaces that of the settings.
    """
    smoothing = settings.label_smoothing if smoothing is None else smoothing
    targets = batch.targets
    if batch.targets_are_logits and settings.soft_loss == "mse":
        return F.mse_loss(logits, targets.repeat(len(logits) // len(targets), 1))
    soft = targets.is_floating_point()
    if soft or batch.mix:
        targets = mixed(probabilities(batch, settings, logits.shape[1]), batch)
    if len(targets) != len(logits):
        targets = targets.repeat(len(logits) // len(targets), *[1] * (targets.ndim - 1))
    if not soft:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    loss = F.cross_entropy(logits / settings.temperature, targets, label_smoothing=smoothing)
    return loss * settings.temperature**2 if settings.temperature_squared else loss


def divergence(logits: Tensor, target: Tensor, tau: float) -> Tensor:
    """Mean tau² KL(softmax(target / tau) || softmax(logits / tau)) of logits (b, classes) and targets (b, classes).

    No gradient flows into `target`. Source: Hinton, Vinyals and Dean 2015; tau² keeps the size of the gradient.
    """
    target = (target.detach() / tau).softmax(1)
    return tau**2 * F.kl_div((logits / tau).log_softmax(1), target, reduction="batchmean")
