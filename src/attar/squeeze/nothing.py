"""Knowledge of the kind `none`: the images themselves are all that the method looks at."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from attar.config import Config
from attar.data.sources import Source
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.squeeze.knowledge import Knowledge, Members
from attar.squeeze.rehearsal import Estimate, Rehearsal
from attar.task import Task


class NoSqueeze(Config):
    """The method needs no knowledge beyond the images."""


class NoKnowledge(Knowledge[NoSqueeze, None]):
    """Nothing is made, and nobody labels."""

    name = "none"
    turn = 3
    Settings = NoSqueeze
    gives_labels = False

    def make(
        self, source: Source, settings: NoSqueeze, *, seed: int, folder: Path, engine: Engine, events: Events
    ) -> list[str]:
        """There are no files."""
        return []

    def open(self, settings: NoSqueeze, task: Task, folder: Path, engine: Engine) -> None:
        """There is nothing to open."""

    def stand_in(self, settings: NoSqueeze, labels: Tensor, num_classes: int) -> tuple[NoSqueeze, Tensor]:
        """The same, of no images."""
        return settings, torch.arange(0)

    def rehearse(self, settings: NoSqueeze, rehearsal: Rehearsal) -> list[Estimate]:
        """It costs nothing."""
        return []

    def needs_images(self, settings: NoSqueeze) -> None:
        """Nothing is made of them."""

    def labeller(self, opened: None, members: Members) -> None:
        """Nobody."""
