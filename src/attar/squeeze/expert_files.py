"""Experts: how they are trained, and one file each, with what made it.

    squeeze/expert-0000.safetensors     `parameters` (epochs + 1, p) float32, row 0 is the initialisation

Metadata: `expert` (its number), `seed` (its own), `model`, `training` (the settings), `task` (class names, image shape,
normalisation), `precision`, `stack` (how many were trained in one computation), `losses` (mean of each epoch), and
`imported` {file, trajectory} where another program trained it, whose seed and precision are not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import safetensors
from pydantic import Field, model_validator
from torch import Tensor

from attar.config import Change, differences, dump
from attar.errors import ArtifactError
from attar.marks import Mark
from attar.options import Network, Weights
from attar.runtime.checkpoint import write_rows
from attar.runtime.reading import parse_notes, require_file
from attar.runtime.seeding import derive
from attar.squeeze.stacking import unheeded
from attar.task import Normalization, Task
from attar.training.loop import TrainSettings
from attar.training.section import TrainSection

PARAMETERS = "parameters"
_ANEW = "choose another --out, or start over with --fresh"


class ExpertSettings(TrainSection, Weights, Network):
    """How experts are trained, for trajectory matching."""

    changed = {
        "epochs": 20,
        "batch_size": 256,
        "learning_rate": 0.01,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "schedule": "constant",
        "augment": "dsa",
    }

    num_experts: Annotated[int, Mark.GROWS] = Field(default=10, ge=1)
    """How many experts are trained, each from its own initialisation; the papers use 100. Raise it in a run folder and
    the existing ones are kept."""
    experts_at_once: Annotated[int | Literal["auto"], Mark.HOW] = "auto"
    """How many are trained in one computation, which helps small networks on a GPU; auto: one on a CPU; on a GPU what a
    few trial steps show to be fastest, recorded in squeeze/at-once.json. The last bits of a result depend on it."""

    @model_validator(mode="after")
    def _can_be_stacked(self) -> Self:
        if self.experts_at_once != "auto" and self.experts_at_once < 1:
            raise ValueError(f"experts_at_once must be auto or at least 1, and is {self.experts_at_once}")
        if self.experts_at_once not in ("auto", 1) and (setting := unheeded(self)):
            raise ValueError(f"{setting} is for one network at a time: leave experts_at_once at auto or 1")
        return self

    @property
    def training(self) -> TrainSettings:
        """How each of them is trained."""
        return TrainSection(**self.model_dump(include=set(TrainSection.model_fields)))


@dataclass(frozen=True)
class Making:
    """What decides an expert beside its number and its images; `seed` and `precision` are None where not asked."""

    model: str
    training: TrainSettings
    task: Task
    seed: int | None = None
    precision: str | None = None

    def note(self, expert: int) -> dict[str, Any]:
        """Metadata of this expert's file, as far as it is decided before the training."""
        return {
            "expert": expert,
            "seed": None if self.seed is None else derive(self.seed, "expert", expert),
            "model": self.model,
            "training": dump(self.training),
            "task": self.task.to_json(),
            "precision": self.precision,
        }


@dataclass(frozen=True)
class ExpertFile:
    """An expert's file, of which the header alone has been read."""

    path: Path
    expert: int
    epochs: int
    num_parameters: int
    num_bytes: int
    note: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The network's name."""
        return str(self.note["model"])

    @property
    def task(self) -> Task:
        """What it was trained for; raises ArtifactError where that makes no sense."""
        return Task.from_json(self.note["task"])

    @property
    def loss(self) -> float | None:
        """Mean training loss of the last epoch; None where the file does not say."""
        losses = self.note.get("losses")
        last = losses[-1] if isinstance(losses, list) and losses else None
        return float(last) if isinstance(last, int | float) else None

    def require_task(self, task: Task) -> None:
        """Raise ArtifactError unless classes, image shape and normalisation are those that it was trained on."""
        made_for = self.task
        made_for.require_same(task, f"expert {self.expert}", "the source")
        if changed := _renormalized(made_for, task.normalization):
            raise ArtifactError(
                f"{self.path} was trained on images of another normalisation:\n" + _lines(changed),
                expected="the source and the `source` settings that it was made with",
                fix=_ANEW,
            )

    def problem(self, task: Task) -> str | None:
        """Why it cannot be used for this task, in a line; None where it can. Its whitening is a run's own affair."""
        try:
            made_for = self.task
            made_for.require_same(task, f"expert {self.expert}", "the source")
        except ArtifactError as error:
            return error.found
        like = replace(task.normalization, whitening=made_for.normalization.whitening)
        return "was trained on images of another normalisation" if _renormalized(made_for, like) else None

    def require_model(self, model: str) -> None:
        """Raise ArtifactError unless it is a training of this network."""
        if self.model != model:
            raise ArtifactError(f"{self.path} is a {self.model}", expected=model, fix=_ANEW)

    def require(self, making: Making) -> None:
        """Raise ArtifactError, with all that differs, unless it was made like this."""
        self.require_task(making.task)
        self.require_model(making.model)
        changed = differences(self._training(), making.training.model_dump())
        for name, wanted in making.note(self.expert).items():
            if name in ("seed", "precision") and wanted is not None:
                changed += differences({name: self.note.get(name)}, {name: wanted})
        if changed:
            raise ArtifactError(
                f"{self.path} was made with other settings:\n" + _lines(changed),
                expected="the same, to go on with it",
                fix=_ANEW,
            )

    def _training(self) -> dict[str, Any]:
        """All settings of its training; those that came later as they are by default."""
        try:
            return TrainSection(**self.note["training"]).model_dump()
        except ValueError as error:
            raise ArtifactError(
                f"{self.path} has settings that this version does not know: {error}",
                fix="use the version that wrote it, or " + _ANEW,
            ) from error


def expert_path(folder: Path, expert: int) -> Path:
    """File of an expert in the folder of its stage."""
    return folder / f"expert-{expert:04d}.safetensors"


def write_expert(
    path: Path,
    rows: Iterable[Tensor],
    making: Making,
    expert: int,
    stack: int,
    losses: Iterable[float],
    *,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Store parameters (p,) after each epoch, the initialisation first, with one of them in memory at a time.

    `more` is further metadata.
    """
    note = making.note(expert) | {"stack": stack, "losses": list(losses)} | dict(more or {})
    write_rows(path, PARAMETERS, rows, making.training.epochs + 1, note)


def read_expert(path: Path) -> ExpertFile:
    """Read the header of an expert's file; raises ArtifactError where it is missing or no such file."""
    require_file(path, None)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            note = parse_notes(file.metadata(), finite=False)
            num_rows, num_parameters = file.get_slice(PARAMETERS).get_shape()
            number = int(path.stem.removeprefix("expert-"))
        if missing := {"model", "task", "training"} - note.keys():
            raise ValueError(f"it does not say its {' and '.join(sorted(missing))}")
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read as an expert: {error}",
            fix="delete it and run the command that makes it again, which trains this one anew",
        ) from error
    return ExpertFile(path, number, num_rows - 1, num_parameters, path.stat().st_size, note)


def list_experts(folder: Path) -> list[ExpertFile]:
    """The finished experts in a run folder, or in the `squeeze` folder of one, by number; their headers are read.

    Raises ArtifactError where there is none.
    """
    place = folder / "squeeze" if (folder / "squeeze").is_dir() else folder
    paths = sorted(place.glob("expert-[0-9]*.safetensors"))
    if not paths:
        raise ArtifactError(
            f"{folder} holds no finished experts",
            expected="a run folder whose method is tesla or mtt, with squeeze/expert-0000.safetensors in it",
            fix="make some with `attar squeeze SOURCE --method tesla --out RUN`",
        )
    return [read_expert(path) for path in paths]


def _renormalized(made_for: Task, now: Normalization) -> list[Change]:
    return differences(made_for.normalization.to_json(), now.to_json())


def _lines(changed: Iterable[Change]) -> str:
    return "\n".join(f"  - {change}" for change in changed)
