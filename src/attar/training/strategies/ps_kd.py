"""PS-KD: targets that are more and more the network's own predictions of the past epoch.

    L = CE( (1 - alpha_t) y + alpha_t p_{t-1}(x),  p_t(x) ),        alpha_t = alpha t / T in epoch t = 1..T

p_{t-1}(x) is what the network predicted for the image when it last saw it, softmax of its logits; at first, y.
One row of predictions is kept for each training image, on the device: classes x images x 4 bytes.

With CutMix or MixUp both images' targets are mixed. What is predicted for a mixture is nobody's prediction and is not
kept, so an image's row is of the last time that it was shown unmixed. (The authors' code has no mixing.)

Several processes that train together exchange their predictions after the first and the last step of an epoch: within
one an image is predicted by one process, but under dlb the first batch shares images with the epoch before.

Source: Kim et al., "Self-Knowledge Distillation with Progressive Refinement of Targets", ICCV 2021; alpha 0.8.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attar.config import Config
from attar.training.strategies.base import Batch, Strategy
from attar.training.strategies.targets import mixed, probabilities

_ROWS_AT_ONCE = 1 << 16
"""Predictions that processes send each other at a time."""


class PSKDSettings(Config):
    """Progressive refinement of targets."""

    alpha: float = Field(default=0.8, ge=0, le=1)
    """Weight of the network's own predictions in the targets of the last epoch."""


class ProgressiveTargets(Strategy):
    """Targets that the past epoch's predictions refine."""

    name = "ps-kd"
    summary = "targets are refined by the past epoch's own predictions, more and more"
    source = "Kim et al. 2021, Self-Knowledge Distillation with Progressive Refinement of Targets (ICCV)"
    Settings = PSKDSettings
    remembers_images = True

    _past = torch.zeros(0, 0)
    """Predictions (n, classes); a row of zeros has none yet."""
    _when = torch.zeros(0, dtype=torch.int64)
    """When (n,) this process last predicted each since it met the others, by step and row; 0: it has not."""

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy with refined targets; the predictions become those of the past."""
        settings, own = self.settings, self.settings.own(PSKDSettings)
        tau = settings.temperature if batch.targets.is_floating_point() else 1.0
        labels = probabilities(batch, settings, logits.shape[1])
        if not len(self._past):
            self._past = labels.new_zeros(self.num_images, logits.shape[1])
            self._when = torch.zeros(self.num_images, dtype=torch.int64)
        self._past = self._past.to(logits.device)
        past = self._past[batch.indices.to(logits.device)]
        alpha = own.alpha * (batch.epoch + 1) / settings.epochs
        past = torch.where(past.any(1, keepdim=True), past, labels)
        refined = mixed((1 - alpha) * labels + alpha * past, batch).repeat(len(logits) // len(labels), 1)
        self._keep((logits[: len(labels)].detach() / tau).softmax(1), batch)
        return F.cross_entropy(logits / tau, refined, label_smoothing=settings.label_smoothing)

    def synchronize(self) -> None:
        """Take over what other processes predicted later than this one."""
        if self.team.num == 1:
            return
        last, owner = torch.stack([found["when"] for found in self.team.collect({"when": self._when})]).max(0)
        for rows in last.nonzero().squeeze(1).split(_ROWS_AT_ONCE):
            mine = (owner[rows] == self.team.rank).unsqueeze(1).to(self._past.device)
            self._past[rows.to(mine.device)] = self.team.total(self._past[rows.to(mine.device)] * mine)
        self._when.zero_()

    def common(self) -> dict[str, Tensor]:
        """The predictions."""
        return {"past": self._past}

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        """Take back what `common` gave."""
        self._past = memory["past"]
        self._when = torch.zeros(len(self._past), dtype=torch.int64)

    def _keep(self, predicted: Tensor, batch: Batch) -> None:
        own = slice(None) if batch.mix is None else batch.mix.own
        indices = batch.indices[own]
        self._past[indices.to(predicted.device)] = predicted[own]
        if batch.rows is not None:
            self._when[indices] = (batch.step + 1 << 32) + batch.rows[own] + 1
