"""Training strategies by name. A new one is a file here and a line in `strategies`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from attar.training.strategies.base import Batch, Part, Strategy, Teaches, split_batches
from attar.training.strategies.byot import OwnTeacher
from attar.training.strategies.ce import CrossEntropy
from attar.training.strategies.composed import find
from attar.training.strategies.ddgsd import TwoViews
from attar.training.strategies.dlb import LastBatch
from attar.training.strategies.kd import KnowledgeDistillation
from attar.training.strategies.label_smoothing import LabelSmoothing
from attar.training.strategies.ps_kd import ProgressiveTargets
from attar.training.strategies.tf_kd import VirtualTeacher

if TYPE_CHECKING:
    from attar.training.settings import TrainSettings

__all__ = ["Batch", "Part", "Strategy", "Teaches", "find", "num_batches", "strategies"]


def num_batches(settings: TrainSettings, num_images: int) -> int:
    """Batches of an epoch over so many images, such as twice as many for dlb."""
    strategy = find(settings.strategy, strategies())(settings, num_images)
    return len(split_batches(torch.arange(num_images), strategy.num_fresh))


def strategies() -> dict[str, type[Strategy]]:
    """Every strategy by its name."""
    kinds: tuple[type[Strategy], ...] = (
        CrossEntropy,
        LabelSmoothing,
        LastBatch,
        TwoViews,
        ProgressiveTargets,
        VirtualTeacher,
        OwnTeacher,
        KnowledgeDistillation,
    )
    return {kind.name: kind for kind in kinds}
