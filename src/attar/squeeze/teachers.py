"""Knowledge of the kind `teacher`: one network trained on the real set, frozen.

squeeze/teacher.safetensors    its state, with model name, task and validation accuracy as metadata
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from attar.data.loading import RealSet
from attar.models.catalog import build, penultimate
from attar.runtime.checkpoint import read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.seeding import derive
from attar.task import Task
from attar.training.loop import TrainSettings, accuracy, fit

TEACHER = "teacher.safetensors"


class TeacherSettings(TrainSettings):
    """How a teacher is trained."""

    changed = {
        "epochs": 30,
        "batch_size": 128,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "augment": "flip_crop",
    }

    model: str = "auto"
    """The teacher's network; auto: a ConvNet, its depth by the resolution."""


def make_teacher(
    data: RealSet,
    validation: RealSet,
    task: Task,
    settings: TeacherSettings,
    *,
    seed: int,
    folder: Path,
    engine: Engine,
    events: Events,
) -> list[str]:
    """Train the teacher and store it; returns its files."""
    model = build(settings.model, task, seed=derive(seed, "teacher"))
    training = TrainSettings(**settings.model_dump(include=set(TrainSettings.model_fields)))
    checkpoint = folder / "checkpoint.safetensors"
    fit(
        model,
        data,
        training,
        seed=seed,
        engine=engine,
        events=events,
        name="teacher",
        stage="squeeze",
        checkpoint=checkpoint,
    )
    reached = accuracy(model, validation, engine)
    events.emit("squeeze", "teacher", model=settings.model, validation_accuracy=reached)
    note = {"model": settings.model, "task": task.to_json(), "validation_accuracy": reached}
    write_tensors(folder / TEACHER, model.state_dict(), note)
    checkpoint.unlink(missing_ok=True)
    return [TEACHER]


class TrainedTeacher:
    """A teacher read from its folder, in evaluation mode."""

    def __init__(self, folder: Path, task: Task, engine: Engine) -> None:
        state, note = read_tensors(folder / TEACHER)
        Task.from_json(note["task"]).require_same(task, "the teacher", "the source")
        self.model = build(note["model"], task)
        self.model.load_state_dict(state)
        self.model.to(engine.device).eval().requires_grad_(False)
        self._device = engine.device

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Input (b, d) of the last linear layer for normalised images (b, c, h, w)."""
        return penultimate(self.model, images.to(self._device))

    @torch.no_grad()
    def soft_labels(self, images: Tensor) -> Tensor:
        """Probabilities (b, classes) for normalised images (b, c, h, w)."""
        logits: Tensor = self.model(images.to(self._device))
        return logits.softmax(dim=1)
