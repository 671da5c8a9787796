"""The trainings of a study: each once, by its number, alone or shared among processes.

    trainings/    a file for each finished training, a checkpoint for one that runs
    study.yaml    the settings as they were last

A finished training is known by its settings, images and seed, and by no name that the study gives it. So a study that
grows, or whose names change, trains only what is new; what it no longer asks for stays in the folder, unused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.config import dump
from attar.errors import DivergedError
from attar.evaluation.trials import Trials
from attar.items import Item
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import digest
from attar.studies.data import named_models, open_data
from attar.studies.grid import Cell, cells_of, images_seen
from attar.studies.settings import StudySettings

TRAININGS = "trainings"
Outcome = float | DivergedError
"""Accuracy in percent of a training, or why it has none."""
Ended = Callable[[int, Outcome, float], None]
"""Hears the number of a training that has ended, how, and after how many seconds."""


@dataclass(frozen=True)
class Training:
    """One training: a cell of the grid and a seed."""

    cell: Cell
    seed: int
    images_seen: int

    @property
    def item(self) -> Item:
        """For events, progress and errors."""
        cell = self.cell
        return Item(
            f"{cell.name}/seed {self.seed}",
            "cell",
            cell.name,
            network=cell.model,
            strategy=cell.strategy,
            variant=cell.variant,
            label_noise=cell.noise,
            seed=self.seed,
        )

    @property
    def name(self) -> str:
        """For a person."""
        return self.item.name


class Study:
    """An open study: its data, cells and trainings.

    Args:
        settings: the file.
        engine: device and precision.
        events: log and progress.
        folder: of the finished trainings.

    Raises ConfigError where some of the grid cannot be trained on the data, before any training.
    """

    def __init__(self, settings: StudySettings, engine: Engine, events: Events, folder: Path) -> None:
        cells_of(settings)  # what is wrong with the file is told before the source is opened
        self.data = open_data(settings, engine, events)
        self.settings = named_models(settings, self.data.task)
        self.engine, self.events, self.folder = engine, events, folder
        self.cells = cells_of(self.settings)
        self.data.check(self.cells)
        self.subjects = [self.data.subject_of(cell) for cell in self.cells]
        self.trainings = [
            Training(cell, seed, images_seen(cell.settings, self.data.subject.num_images))
            for cell in self.cells
            for seed in cell.seeds
        ]
        self._subject_of = dict(zip(map(id, self.cells), self.subjects, strict=True))
        self.trials = Trials(self.data.task, self.data.source, engine, events, folder / TRAININGS, "study")

    def accuracy(self, training: Training) -> float:
        """Accuracy in percent on the split that judges, trained now where it is not finished."""
        subject = self._subject_of[id(training.cell)]
        judge, split = self.data.judge, self.data.split
        return self.trials.accuracy(training.cell.model, subject, training.seed, judge, split, training.item)

    def outcome(self, number: int) -> Outcome:
        """What the training of this number comes to; one that diverges leaves the others alone."""
        try:
            return self.accuracy(self.trainings[number])
        except DivergedError as error:
            return error

    def finished(self, training: Training) -> float | None:
        """That accuracy where the training is finished."""
        subject = self._subject_of[id(training.cell)]
        return self.trials.finished(training.cell.model, subject, training.seed, self.data.judge, self.data.split)

    def missing(self) -> list[int]:
        """Numbers of the trainings that are not finished, those of the first seed of every cell first."""
        left: dict[str, int] = {}  # two names for the same settings are one training
        for number, one in enumerate(self.trainings):
            if self.finished(one) is None:
                left.setdefault(digest([one.cell.model, dump(one.cell.settings), one.seed]), number)
        return sorted(left.values(), key=self._turn)

    def _turn(self, number: int) -> int:
        training = self.trainings[number]
        return training.cell.seeds.index(training.seed)


class Clock:
    """How long the rest of a study takes, from the trainings that have ended since it was started.

    Time is counted per image seen, for each network by itself; one that has none yet is taken to be like the rest.
    """

    def __init__(self, left: Sequence[Training], jobs: int = 1) -> None:
        self._left, self._jobs = {one.name: one for one in left}, jobs
        self._spent_s: dict[str, float] = {}
        self._seen: dict[str, int] = {}

    def ended(self, training: Training, wall_s: float) -> float:
        """Take note of a training that has ended; returns the seconds that are left."""
        model = training.cell.model
        self._left.pop(training.name, None)
        self._spent_s[model] = self._spent_s.get(model, 0.0) + wall_s
        self._seen[model] = self._seen.get(model, 0) + training.images_seen
        mean = sum(self._spent_s.values()) / sum(self._seen.values())
        each = {name: self._spent_s[name] / self._seen[name] for name in self._seen}
        return sum(one.images_seen * each.get(one.cell.model, mean) for one in self._left.values()) / self._jobs


def train_here(study: Study, numbers: Sequence[int], ended: Ended) -> None:
    """Train these in this process; `ended` hears of each."""
    for number in numbers:
        started_s = time.monotonic()
        reached = study.outcome(number)
        ended(number, reached, time.monotonic() - started_s)
