"""What a study trains on, the images that judge, and whether every cell of its grid can be trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from attar.artifacts.distilled import load_distilled
from attar.data.loading import RealSet, TrainingSet
from attar.data.sources import Source, open_source, whitened
from attar.data.whitening import measure_whitening
from attar.errors import ConfigError
from attar.evaluation.evaluate import judging_set, require_judges
from attar.evaluation.trials import Subject, distilled_subject
from attar.models.factory import build
from attar.results.records import Labels, Split
from attar.run.pipeline import teacher_of
from attar.run.settings import default_model
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import sha256
from attar.squeeze.teacher_files import load_teacher
from attar.studies.grid import Cell
from attar.studies.settings import StudySettings
from attar.task import Task
from attar.training.loop import check
from attar.training.settings import TrainSettings
from attar.training.strategies import Teaches
from attar.training.strategies.kd import teacher_file


@dataclass(frozen=True)
class StudyData:
    """Images to train on, as a subject that only lacks its train settings, and the real images that judge."""

    task: Task
    source: Source
    subject: Subject
    judge: RealSet
    split: Split
    engine: Engine

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
        return load_teacher([path], self.task, self.engine) if path else None


def open_data(study: StudySettings, engine: Engine, events: Events) -> StudyData:
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
    require_judges(len(judge), split)
    real = RealSet(source.train, source.task.normalization)
    given = len(real), source.size_bytes, "train split"
    subject = Subject("real", "full", "hard", lambda seed: real, study.train, *given)
    return StudyData(source.task, source, subject, judge, split, engine)


def named_models(study: StudySettings, task: Task) -> StudySettings:
    """The same study with the network that `auto` means."""
    default = default_model(task)

    def name(names: tuple[str, ...] | None) -> Any:
        return names and tuple(default if one == "auto" else one for one in names)

    parts = tuple(part.model_copy(update={"models": name(part.models)}) for part in study.grid)
    return study.model_copy(update={"models": name(study.models), "grid": parts})


def _distilled(path: Path, study: StudySettings, source: Source, engine: Engine) -> StudyData:
    distilled, split = load_distilled(path), study.judge.split
    source.task.require_same(distilled.task, "the source", "the distilled dataset")
    labels: Labels = "soft" if study.data.labels == "stored" and distilled.label_kind != "hard" else "hard"
    teacher = teacher_of(distilled, engine) if labels == "soft" else None
    subject = distilled_subject(distilled, study.train, labels, engine, teacher)
    return StudyData(distilled.task, source, subject, judging_set(distilled, source, split), split, engine)
