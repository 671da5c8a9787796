"""Knowledge of the kind `trajectories`: experts, their parameters kept after every epoch.

Each expert is a function of the seed and its number. Where the rate is constant, the first epochs of a longer training
are a shorter one, so that `epochs` need not go beyond the last one that is matched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from attar.data.loading import RealSet
from attar.data.sources import Source
from attar.errors import ArtifactError
from attar.methods.base import Segment
from attar.models.factory import build
from attar.models.flat import FlatModel
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.squeeze.expert_files import PARAMETERS, ExpertSettings, Making, expert_path, read_expert
from attar.squeeze.experts import make_experts
from attar.squeeze.knowledge import Knowledge, Members
from attar.squeeze.own_experts import adopt_experts, is_own
from attar.squeeze.rehearsal import Estimate, Rehearsal
from attar.squeeze.replay_buffers import buffer_files, import_experts, is_buffers
from attar.task import Task

BATCH = 256
"""Images that a network is asked about together."""


class Experts:
    """Trained experts, read from disk row by row.

    Raises ArtifactError where one is missing, or was made for another task, network or training.
    """

    def __init__(self, folder: Path, task: Task, settings: ExpertSettings, engine: Engine) -> None:
        self.flat = FlatModel(build(settings.model, task).to(engine.device).eval())
        self.learning_rate = settings.learning_rate / (1 - settings.momentum)  # what a step of plain SGD would take
        self.num_experts, self.num_epochs = settings.num_experts, settings.epochs
        self.device, self._folder = engine.device, folder
        self._require_all(Making(settings.model, settings.training, task))

    def segment(self, expert: int, first: int, last: int) -> Segment:
        """Parameters of an expert after epoch `first` and after epoch `last` (0 is the start)."""
        start, target = self.rows(expert, (first, last))
        return Segment(start, target, f"expert {expert}, epochs {first} to {last}")

    def rows(self, expert: int, epochs: Iterable[int]) -> Iterator[Tensor]:
        """Parameters (p,) of an expert after each of these epochs, on the device, read one after the other."""
        path = expert_path(self._folder, expert)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                rows = file.get_slice(PARAMETERS)
                for epoch in epochs:
                    yield rows[epoch].to(self.device)
        except (FileNotFoundError, safetensors.SafetensorError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", fix="squeeze again with --fresh") from error

    def labeller(self, epochs: Sequence[int]) -> ExpertLabels:
        """All experts as they were after each of these epochs: who labels by the mean of their probabilities."""
        return ExpertLabels(self, epochs)

    def _require_all(self, making: Making) -> None:
        for expert in range(self.num_experts):
            found = read_expert(expert_path(self._folder, expert))
            found.require(making)
            if found.num_parameters != self.flat.size:
                raise ArtifactError(
                    f"{found.path} holds {found.num_parameters:,} parameters an epoch",
                    expected=f"{self.flat.size:,}, as {making.model} has",
                    fix="squeeze again with --fresh",
                )


class ExpertLabels:
    """Labels by the mean of what all experts say as they were after some of their epochs.

    Parameters are read one epoch of one expert at a time, and none is kept.
    """

    def __init__(self, experts: Experts, epochs: Sequence[int]) -> None:
        self._experts, self._epochs = experts, tuple(epochs)

    @torch.no_grad()
    def soft_labels(self, images: Tensor) -> Tensor:
        """Mean of the probabilities (b, classes), float32, for normalised images (b, c, h, w)."""
        experts = self._experts
        parts = images.to(experts.device).split(BATCH)
        sums = [torch.zeros((), device=experts.device)] * len(parts)
        for expert in range(experts.num_experts):
            for theta in experts.rows(expert, self._epochs):
                for k, part in enumerate(parts):
                    sums[k] = sums[k] + experts.flat(theta, part).float().softmax(dim=1)
        return torch.cat(sums) / (experts.num_experts * len(self._epochs))

    def logits(self, images: Tensor) -> Tensor:
        """Logarithms of these probabilities: logits (b, classes) that stand for the mean."""
        return self.soft_labels(images).clamp_min(1e-12).log()


class TrajectoryKnowledge(Knowledge[ExpertSettings, Experts]):
    """Experts that were trained here, or by the code of others."""

    name = "trajectories"
    Settings = ExpertSettings

    def make(
        self, source: Source, settings: ExpertSettings, *, seed: int, folder: Path, engine: Engine, events: Events
    ) -> list[str]:
        """Train experts, or take them; see `make_experts`, `adopt_experts` and `import_experts`."""
        if settings.weights is not None and is_own(Path(settings.weights)):
            return adopt_experts(source.task, settings, folder=folder, engine=engine, events=events)
        if settings.weights is not None:
            validation = RealSet(source.validation, source.task.normalization)
            return import_experts(validation, source.task, settings, folder=folder, engine=engine, events=events)
        data = RealSet(source.train, source.task.normalization)
        return make_experts(data, source.task, settings, seed=seed, folder=folder, engine=engine, events=events)

    def open(self, settings: ExpertSettings, task: Task, folder: Path, engine: Engine) -> Experts:
        """The experts, whose parameters are read when they are asked for."""
        return Experts(folder, task, settings, engine)

    def stand_in(self, settings: ExpertSettings, labels: Tensor, num_classes: int) -> tuple[ExpertSettings, Tensor]:
        """One expert of an image a class, of as many epochs."""
        if settings.weights is not None and not is_own(Path(settings.weights)):
            buffer_files(Path(settings.weights))
        few = torch.cat([(labels == label).nonzero()[:1, 0] for label in range(num_classes)])
        return settings.model_copy(update={"num_experts": 1, "experts_at_once": 1, "weights": None}), few

    def rehearse(self, settings: ExpertSettings, rehearsal: Rehearsal) -> list[Estimate]:
        """The trainings one by one, or the files alone."""
        num, num_bytes = settings.num_experts, settings.num_experts * rehearsal.num_bytes
        if settings.weights:
            return [Estimate("squeeze", "experts read", num, 0.0, num_bytes, "expert", range(num))]
        steps = num * rehearsal.real_steps(settings, settings.epochs)
        step_s, at_once = rehearsal.real_step_s(settings, settings.model), settings.experts_at_once
        stacks = range(math.ceil(num / (1 if at_once == "auto" else at_once)))
        items = "expert" if len(stacks) == num else "stack of experts"
        return [Estimate("squeeze", "training steps", steps, step_s, num_bytes, items, stacks)]

    def labeller(self, opened: Experts, members: Members) -> ExpertLabels:
        """All finished experts together: what one of them says is not theirs to choose among."""
        return opened.labeller((opened.num_epochs,))

    def networks(self, settings: ExpertSettings) -> tuple[str, ...]:
        """Every expert is a training of the same."""
        return (settings.model,)

    def require_network(self, network: nn.Module) -> None:
        """Raise ConfigError where its parameters are not all its state."""
        FlatModel(network)

    def meant_by(self, given: Mapping[str, Any]) -> str | None:
        """Files of experts."""
        weights = given.get("weights")
        return (
            "the weights that were given for squeeze are experts"
            if weights and (is_buffers(Path(str(weights))) or is_own(Path(str(weights))))
            else None
        )
