"""Knowledge distillation from a given teacher.

    L = (1 - alpha) CE(y, softmax(f(x))) + alpha tau² KL( softmax(phi(x) / tau) || softmax(f(x) / tau) )

phi is the frozen teacher, which looks at the very pixels that the network sees, mixed where they are.

Source: Hinton, Vinyals and Dean 2015, section 2; alpha 0.9 and tau 4 as Tian et al. 2020 (CRD) compare methods on
CIFAR, since the paper itself leaves them open.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from attar.errors import ConfigError
from attar.options import GivenTeacher
from attar.training.settings import TrainSettings
from attar.training.strategies.base import Batch, Strategy, Teaches
from attar.training.strategies.targets import cross_entropy, divergence


class KDSettings(GivenTeacher):
    """Knowledge distillation."""

    alpha: float = Field(default=0.9, ge=0, le=1)
    """Weight of the teacher; the labels have the rest."""
    tau: float = Field(default=4.0, gt=0)
    """Temperature of both networks."""


class KnowledgeDistillation(Strategy):
    """Match a teacher's softened predictions on the same pixels."""

    name = "kd"
    summary = "match the softened predictions of a given teacher (train.kd.teacher)"
    source = "Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network"
    Settings = KDSettings

    def prepare(self, model: nn.Module, example: Callable[[], Tensor], teacher: Teaches | None) -> None:
        """Take the teacher; raises ConfigError where there is none."""
        if teacher is None:
            raise _no_teacher()
        self._teacher = teacher

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy and divergence from the teacher."""
        own = self.settings.own(KDSettings)
        taught = self._teacher.logits(batch.seen(len(logits) // len(batch.indices))).to(logits)
        loss = cross_entropy(logits, batch, self.settings)
        return (1 - own.alpha) * loss + own.alpha * divergence(logits, taught, own.tau)


def teacher_file(settings: TrainSettings) -> Path | None:
    """The file of kd's teacher; None where the strategy is another.

    Raises ConfigError where kd has no teacher, or one that is no file, or a teacher is given to another strategy.
    """
    taught, path = KnowledgeDistillation.name in settings.strategy.split("+"), settings.own(KDSettings).teacher
    if taught and path is None:
        raise _no_teacher()
    if path is not None and not taught:
        raise ConfigError(
            f"a teacher was given, and the strategy {settings.strategy} has no use for it",
            expected="the strategy kd, or a sum with it such as dlb+kd",
            fix="--strategy kd, or leave --teacher out",
        )
    if path is not None and not Path(path).is_file():
        raise ConfigError(f"the teacher {path} is not a file", expected="the model.safetensors of another training")
    return None if path is None else Path(path)


def _no_teacher() -> ConfigError:
    return ConfigError(
        "the strategy kd has no teacher",
        expected="a trained network that knows the same classes",
        fix="attar train ... --strategy kd --teacher FILE, the model.safetensors of another training",
    )
