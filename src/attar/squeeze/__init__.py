"""Squeeze: from real images to the knowledge that a method needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attar.config import Config, dump
from attar.data.loading import RealSet
from attar.data.sources import Source
from attar.marks import Mark, is_marked
from attar.methods.base import KnowledgeKind
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.squeeze.experts import make_experts
from attar.squeeze.pool import PoolSettings, TrainedPool, make_pool
from attar.squeeze.replay_buffers import import_experts
from attar.squeeze.teachers import TeacherSettings, TrainedTeacher, make_teacher
from attar.squeeze.trajectories import Experts, ExpertSettings
from attar.task import Task


class NoSqueeze(Config):
    """The method needs no knowledge beyond the images."""


SETTINGS: dict[KnowledgeKind, type[Config]] = {
    "none": NoSqueeze,
    "teacher": TeacherSettings,
    "pool": PoolSettings,
    "trajectories": ExpertSettings,
}
"""Settings of the `squeeze` section by the kind of knowledge."""


def decisive(settings: Config) -> dict[str, Any]:
    """What of the settings decides the knowledge, plain; the rest says how it is made."""
    fields = type(settings).model_fields
    return {name: value for name, value in dump(settings).items() if not is_marked(fields[name], Mark.HOW)}


def squeeze(source: Source, settings: Config, *, seed: int, folder: Path, engine: Engine, events: Events) -> list[str]:
    """Make what is missing of the knowledge; returns the names of its files in `folder`."""
    data = RealSet(source.train, source.task.normalization)
    if isinstance(settings, ExpertSettings) and settings.weights is not None:
        validation = RealSet(source.validation, source.task.normalization)
        return import_experts(validation, source.task, settings, folder=folder, engine=engine, events=events)
    if isinstance(settings, ExpertSettings):
        return make_experts(data, source.task, settings, seed=seed, folder=folder, engine=engine, events=events)
    if isinstance(settings, TeacherSettings):
        validation = RealSet(source.validation, source.task.normalization)
        if isinstance(settings, PoolSettings):
            return make_pool(
                data, validation, source.task, settings, seed=seed, folder=folder, engine=engine, events=events
            )
        return make_teacher(
            data, validation, source.task, settings, seed=seed, folder=folder, engine=engine, events=events
        )
    return []


def open_knowledge(settings: Config, task: Task, folder: Path, engine: Engine) -> Any:
    """Open what `squeeze` made: Experts, a TrainedPool, a TrainedTeacher, or None."""
    if isinstance(settings, ExpertSettings):
        return Experts(folder, task, settings, engine)
    if isinstance(settings, PoolSettings):
        return TrainedPool(folder, task, settings, engine)
    if isinstance(settings, TeacherSettings):
        return TrainedTeacher(folder, task, engine)
    return None
