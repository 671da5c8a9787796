"""el2n: real images by how far young networks are from their labels.

    EL2N(x, y) = mean over experts of || softmax(f_θ(x)) - onehot(y) ||₂        θ: after epoch `epoch` of each training

Low is easy. Source: Paul, Ganguli and Dziugaite, "Deep Learning on a Data Diet: Finding Important Examples Early in
Training", NeurIPS 2021, definition 2.2. Published: ten ResNet-18 after 20 of 200 epochs, the hardest kept over all
classes together.

The score is that of the authors' code (`l2_error` in scores.py, mean over runs), which asks networks in evaluation mode
about images as they are. Differs from it: networks are those of the kind of knowledge `trajectories`, which keeps
parameters after every epoch, and so without BatchNorm; as many are kept of each class; and the easiest by default, as
with few images a class hard ones teach nothing (`keep: hardest` is theirs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attar.config import Config
from attar.methods.base import RealImages, Trajectories
from attar.methods.choosing import ByScore, ScoreSettings, answers, error_norm


class El2nSettings(ScoreSettings):
    """Settings of EL2N."""

    epoch: int = Field(2, ge=1)
    """Epoch of each expert's training at which it is asked; at most squeeze.epochs. Early epochs tell easy from hard,
    late ones have learnt all images."""


class El2n(ByScore[El2nSettings, Trajectories]):
    """Images by the error of young networks."""

    name = "el2n"
    summary = "real images by the norm of young networks' errors: the easiest, or the hardest"
    source = "Paul et al., NeurIPS 2021, definition 2.2"
    Settings = El2nSettings
    knowledge = "trajectories"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "recover": {"iterations": 0},
        "squeeze": {"num_experts": 5, "epochs": 3},
    }
    _scores: Tensor | None = None

    @classmethod
    def problems(cls, settings: El2nSettings, sections: Mapping[str, Config]) -> list[str]:
        """The epoch must be one that experts reach."""
        trained = getattr(sections["squeeze"], "epochs", settings.epoch)
        found = super().problems(settings, sections)
        if settings.epoch > trained:
            found.append(
                f"method.epoch={settings.epoch} is more than squeeze.epochs={trained}: no expert goes that far"
            )
        return found

    def measured(self, members: Tensor, label: int, real: RealImages, knowledge: Trajectories) -> Tensor:
        """Mean of the experts' norms (m, 1); all images are scored when the first class asks."""
        if self._scores is None:
            thetas = [
                knowledge.segment(k, self.settings.epoch - 1, self.settings.epoch).target
                for k in range(knowledge.num_experts)
            ]
            norms = [
                torch.cat([error_norm(logits, labels) for logits, labels in answers(theta, real, knowledge)])
                for theta in thetas
            ]
            self._scores = torch.stack(norms).mean(0)
        return self._scores[members][:, None]
