"""Experts that another run trained: taken as they are, so that many runs are compared under the same ones."""

from __future__ import annotations

from pathlib import Path

from attar.errors import ArtifactError
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import linked
from attar.squeeze.expert_files import ExpertSettings, Making, expert_path, list_experts, read_expert
from attar.task import Task


def is_own(path: Path) -> bool:
    """Whether this is a run folder with experts, or the `squeeze` folder of one."""
    return any(True for place in (path / "squeeze", path) for _ in place.glob("expert-[0-9]*.safetensors"))


def adopt_experts(task: Task, settings: ExpertSettings, *, folder: Path, engine: Engine, events: Events) -> list[str]:
    """Give the first experts of `settings.weights` a second name in `folder`; returns the names of their files.

    A file system that knows no second names is given copies. Several processes share the experts.

    Raises ArtifactError, before anything is written, where there are fewer, or where they were trained by other
    settings or for another task.
    """
    assert settings.weights is not None
    found, making = list_experts(Path(settings.weights)), Making(settings.model, settings.training, task)
    if len(found) < settings.num_experts:
        raise ArtifactError(
            f"{settings.weights} holds {len(found)} experts",
            expected=f"squeeze.num_experts={settings.num_experts} of them",
            fix=f"--set squeeze.num_experts={len(found)}, or train more there",
        )
    paths = [expert_path(folder, expert) for expert in range(settings.num_experts)]
    for expert in [*found[: len(paths)], *(read_expert(path) for path in paths if path.exists())]:
        try:
            expert.require(making)
        except ArtifactError as error:
            raise ArtifactError(
                error.found,
                expected="the source and the squeeze settings that they were trained by",
                fix="give those, such as the recipe of that run, or leave squeeze.weights out to train experts here",
            ) from error
    with events.progress("squeeze: experts", len(paths)) as bar:
        for k in engine.share(range(len(paths))):
            if not paths[k].exists():
                linked(found[k].path, paths[k])
            bar.advance()
    engine.barrier(paths)
    return [path.name for path in paths]
