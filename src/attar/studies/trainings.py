"""The trainings of a study: each once, by its number, alone or shared among processes.

    trainings/    a file for each finished training, a checkpoint for one that runs
    study.yaml    the settings as they were last

A finished training is known by its settings, images and seed, and by no name that the study gives it. So a study that
grows, or whose names change, trains only what is new; what it no longer asks for stays in the folder, unused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from attar.artifacts.distilled import load_distilled
from attar.config import dump
from attar.data.loading import RealSet, TrainingSet
from attar.data.sources import Source, open_source, whitened
from attar.data.whitening import measure_whitening
from attar.errors import ConfigError
from attar.evaluation.side_by_side import SideBySide
from attar.evaluation.students import judging_set, require_judges
from attar.evaluation.trials import Subject, Trials, distilled_subject, judge_name
from attar.items import Item
from attar.models.factory import build
from attar.results.records import Labels, Split
from attar.run.pipeline import teacher_of
from attar.run.settings import default_model
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import digest, sha256
from attar.squeeze.teacher_files import TrainedTeacher
from attar.studies.grid import Cell, cells_of, images_seen
from attar.studies.settings import StudySettings
from attar.task import Task
from attar.training.loop import check
from attar.training.settings import TrainSettings
from attar.training.strategies import Teaches
from attar.training.strategies.kd import teacher_file

TRAININGS = "trainings"


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
        self.data = _open_data(settings, engine, events)
        self.settings = _named_models(settings, self.data.task)
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
        judge, judged_by = self.data.judge, self.data.judged_by
        return self.trials.accuracy(training.cell.model, subject, training.seed, judge, judged_by, training.item)

    def finished(self, training: Training) -> float | None:
        """That accuracy where the training is finished."""
        subject = self._subject_of[id(training.cell)]
        return self.trials.finished(training.cell.model, subject, training.seed, self.data.judge, self.data.judged_by)

    def file(self, training: Training) -> Path:
        """What a training leaves once it is finished."""
        subject = self._subject_of[id(training.cell)]
        return self.trials.path(training.cell.model, subject, training.seed, self.data.judge, self.data.judged_by)

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

    def __init__(self, left: Sequence[Training], how: SideBySide) -> None:
        self._left, self._how = {one.name: one for one in left}, how
        self._spent_s: dict[str, float] = {}
        self._seen: dict[str, int] = {}

    def ended(self, training: Training, wall_s: float | None) -> float:
        """Take note of a training that has ended, after these seconds or nobody knows how many.

        Returns the seconds that are left; 0 before any is known.
        """
        model = training.cell.model
        self._left.pop(training.name, None)
        if wall_s is not None:
            self._spent_s[model] = self._spent_s.get(model, 0.0) + wall_s
            self._seen[model] = self._seen.get(model, 0) + training.images_seen
        if not self._seen:
            return 0.0
        mean = sum(self._spent_s.values()) / sum(self._seen.values())
        each = {name: self._spent_s[name] / self._seen[name] for name in self._seen}
        return self._how.seconds(one.images_seen * each.get(one.cell.model, mean) for one in self._left.values())


@dataclass(frozen=True)
class _StudyData:
    """Images to train on, as a subject that only lacks its train settings, and the real images that judge."""

    task: Task
    source: Source
    subject: Subject
    judge: RealSet
    split: Split
    engine: Engine

    @cached_property
    def judged_by(self) -> str:
        """What tells the images that judge from others."""
        return judge_name(self.source, self.split)

    @cached_property
    def images(self) -> TrainingSet:
        """The set to train on."""
        return self.subject.make(0)

    def subject_of(self, cell: Cell) -> Subject:
        """What a cell is trained on. Its names in the study are no part of it, so that they may change."""
        teacher, identity = self._teacher(cell.settings), self.subject.identity
        if path := teacher_file(cell.settings):
            identity = [identity, sha256(path)]
        return replace(
            self.subject, name=cell.settings.strategy, settings=cell.settings, identity=identity, teacher=teacher
        )

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise one ConfigError for all cells that cannot be trained on these images, before any is."""
        problems: dict[str, None] = {}
        for cell in cells:
            try:
                model = build(cell.model, self.task)
                check(model, self.images, cell.settings, self.engine, self._teacher(cell.settings))
            except ConfigError as error:
                problems[f"{cell.name}: {error.found}"] = None
        if problems:
            raise ConfigError(
                "some of the study cannot be trained:\n" + "\n".join(f"  - {problem}" for problem in problems),
                fix="leave these out, with `grid` where others of the same axis are to stay",
            )

    def _teacher(self, settings: TrainSettings) -> Teaches | None:
        path = teacher_file(settings)
        return TrainedTeacher([path], self.task, self.engine) if path else None


def _open_data(study: StudySettings, engine: Engine, events: Events) -> _StudyData:
    """Open what the study is about.

    Raises DataError where the source has no images to judge by, ArtifactError where a distilled set is of another task.
    """
    settings, split = study.data, study.judge.split
    source = open_source(settings.source, settings, events=events)
    if settings.distilled is not None:
        return _distilled(settings.distilled, study, source, engine)
    if settings.zca:
        source = whitened(source, measure_whitening(source.train, source.task.shape, settings.zca_epsilon, events))
    judge = RealSet(source.test if split == "test" else source.validation, source.task.normalization)
    require_judges(len(judge), len(source.validation), split, "--set judge.split=validation")
    real = RealSet(source.train, source.task.normalization)
    given = len(real), source.size_bytes, "train split"
    subject = Subject("real", "full", "hard", lambda seed: real, study.train, *given)
    return _StudyData(source.task, source, subject, judge, split, engine)


def _named_models(study: StudySettings, task: Task) -> StudySettings:
    """The same study with the network that `auto` means."""
    default = default_model(task)

    def name(names: tuple[str, ...] | None) -> Any:
        return names and tuple(default if one == "auto" else one for one in names)

    parts = tuple(part.model_copy(update={"models": name(part.models)}) for part in study.grid)
    return study.model_copy(update={"models": name(study.models), "grid": parts})


def _distilled(path: Path, study: StudySettings, source: Source, engine: Engine) -> _StudyData:
    distilled, split = load_distilled(path), study.judge.split
    source.task.require_same(distilled.task, "the source", "the distilled dataset")
    labels: Labels = "soft" if study.data.labels == "stored" and distilled.label_kind != "hard" else "hard"
    teacher = teacher_of(distilled, engine) if labels == "soft" else None
    subject = distilled_subject(distilled, study.train, labels, engine, teacher)
    return _StudyData(distilled.task, source, subject, judging_set(distilled, source, split), split, engine)
