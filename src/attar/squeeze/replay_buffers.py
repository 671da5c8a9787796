"""Experts that the code of MTT, TESLA or DATM trained: `replay_buffer_0.pt` and on.

Each file is a list of trajectories, a trajectory a list of epochs from the initialisation on, an epoch the list of the
network's parameters in the order of its modules: convolution's weight and bias, norm's weight and bias, block by block,
then those of the linear layer. A ConvNet here has the same parameters in the same order, and is the same function of
them, but for group normalisation (4 groups there) and grey images (padded by 3 there), which are refused.

Their images were normalised by constants of published code, or ZCA whitened: `source.normalization` or `source.zca`
brings the task there. Which it was is in no file, so the first expert's accuracy is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.data.loading import RealSet, batches, plainly
from attar.errors import ArtifactError, ConfigError
from attar.models.convnet import ConvNet
from attar.models.factory import build
from attar.models.flat import FlatModel
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.torchfile import read_torch
from attar.squeeze.class_order import require_class_order, weak
from attar.squeeze.expert_files import ExpertSettings, Making, expert_path, read_expert, write_expert
from attar.task import Task

NAME = "replay_buffer_*.pt"
JUDGED = 1000
"""Real images that the first expert is tried on, at most."""
BATCH = 256


@dataclass(frozen=True)
class Trajectory:
    """One trajectory in a file: `epochs` lists of parameters, the initialisation first."""

    file: Path
    place: int
    epochs: Sequence[Sequence[Tensor]]

    @property
    def where(self) -> str:
        """For an error."""
        return f"{self.file}, trajectory {self.place}"


def is_buffers(path: Path) -> bool:
    """Whether this is such a file, or a folder of some."""
    return path.match(NAME) or (path.is_dir() and any(path.glob(NAME)))


def buffer_files(path: Path) -> list[Path]:
    """The file itself, or those in a folder by number; raises ArtifactError where there is none."""
    files = sorted(path.glob(NAME), key=_number) if path.is_dir() else [path] * path.is_file()
    if not files:
        raise ArtifactError(
            f"there are no experts at {path}",
            expected="replay_buffer_0.pt of MTT, TESLA or DATM, or the folder that it lies in",
            fix="correct squeeze.weights, or leave it out to train experts here",
        )
    return files


def import_experts(
    validation: RealSet, task: Task, settings: ExpertSettings, *, folder: Path, engine: Engine, events: Events
) -> list[str]:
    """Store the first experts of `settings.weights` that are not there yet; returns the names of all their files.

    Of each the epochs that the settings ask for are kept. Several processes share the experts.

    Raises ConfigError for a network that theirs is not the same as, ArtifactError where the files hold fewer experts or
    epochs, or another network's parameters, and DataError where the classes stand in another order.
    """
    assert settings.weights is not None
    flat = FlatModel(_same_network(settings.model, task))
    making = Making(settings.model, settings.training, task)
    paths = [expert_path(folder, expert) for expert in range(settings.num_experts)]
    for path in paths:
        if path.exists():
            read_expert(path).require(making)
    found = _trajectories(buffer_files(Path(settings.weights)), settings.num_experts)
    if len(found) < settings.num_experts:
        raise ArtifactError(
            f"{settings.weights} holds {len(found)} experts",
            expected=f"squeeze.num_experts={settings.num_experts} of them",
            fix=f"--set squeeze.num_experts={len(found)}" if found else "give files that hold some",
        )
    for trajectory in found:
        _require_fitting(trajectory, flat.module, settings)
    if engine.leads:
        _judge(flat, _row(found[0], settings.epochs), validation, task, settings, events, engine)
    engine.barrier()
    with events.progress("squeeze: experts", len(paths)) as bar:
        for expert in engine.share(range(len(paths))):
            if not paths[expert].exists():
                rows = _rows(found[expert], settings.epochs)
                imported = {"file": found[expert].file.name, "trajectory": found[expert].place}
                write_expert(paths[expert], rows, making, expert, 1, (), more={"imported": imported})
            bar.advance()
    engine.barrier(paths)
    return [path.name for path in paths]


def _same_network(model: str, task: Task) -> torch.nn.Module:
    """The network, if theirs of the same name is the same function of its parameters."""
    network = build(model, task)
    groups = {m.num_groups / m.num_channels for m in network.modules() if isinstance(m, torch.nn.GroupNorm)}
    if isinstance(network, ConvNet) and groups <= {1.0} and task.channels > 1:
        return network
    raise ConfigError(
        f"experts of other programs are not taken for {model} on images of {task.channels} channels",
        expected="a ConvNet with instance normalisation or none, on colour images: theirs is the same function of the "
        "same parameters there",
        fix="--set squeeze.model=convnet-d3-w128, or leave squeeze.weights out to train experts here",
    )


def _trajectories(files: Sequence[Path], num: int) -> list[Trajectory]:
    """The first `num` of them, or as many as there are; their numbers stay on disk."""
    found: list[Trajectory] = []
    for file in files:
        if len(found) < num:
            found += [Trajectory(file, place, epochs) for place, epochs in enumerate(_read(file))]
    return found[:num]


def _read(file: Path) -> list[Any]:
    loaded = read_torch(file, "experts", mapped=True)
    if not isinstance(loaded, list) or not all(map(_is_trajectory, loaded)):
        raise ArtifactError(
            f"{file} holds no experts",
            expected="a list of trajectories, each a list of epochs, each a list of the network's parameters",
            fix="give the replay_buffer_*.pt that buffer.py of MTT or TESLA wrote",
        )
    return loaded


def _is_trajectory(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(epoch, list) and all(isinstance(parameter, Tensor) for parameter in epoch) for epoch in value
    )


def _require_fitting(trajectory: Trajectory, network: torch.nn.Module, settings: ExpertSettings) -> None:
    """Raise ArtifactError unless it has the epochs, and every one the network's parameters in their order."""
    if len(trajectory.epochs) <= settings.epochs:
        had = max(0, len(trajectory.epochs) - 1)
        raise ArtifactError(
            f"{trajectory.where} has {had} epochs",
            expected=f"squeeze.epochs={settings.epochs}, beside the initialisation",
            fix=f"--set squeeze.epochs={had}, which must reach max_start_epoch + expert_epochs - 1",
        )
    named = [(name, tuple(parameter.shape)) for name, parameter in network.named_parameters()]
    for epoch, parameters in enumerate(trajectory.epochs[: settings.epochs + 1]):
        shapes = [tuple(parameter.shape) for parameter in parameters]
        if shapes == [shape for _, shape in named]:
            continue
        odd = next((i for i, (a, b) in enumerate(zip(shapes, named, strict=False)) if a != b[1]), None)
        what = (
            f"{len(shapes)} parameters and not {len(named)}"
            if odd is None
            else f"{shapes[odd]} as parameter {odd} and not {named[odd][1]} ({named[odd][0]})"
        )
        raise ArtifactError(
            f"{trajectory.where} is not of {settings.model}: epoch {epoch} has {what}",
            expected=f"the parameters of {settings.model} for these images and classes, in the order of its layers",
            fix="name the network that they were trained as: squeeze.model=convnet-dDEPTH-wWIDTH, and its --resolution",
        )


def _rows(trajectory: Trajectory, epochs: int) -> Iterator[Tensor]:
    return (_row(trajectory, epoch) for epoch in range(epochs + 1))


def _row(trajectory: Trajectory, epoch: int) -> Tensor:
    """Parameters (p,) float32 after an epoch; raises ArtifactError where they are no finite numbers."""
    row = torch.cat([parameter.detach().float().reshape(-1) for parameter in trajectory.epochs[epoch]])
    if not bool(row.isfinite().all()):
        raise ArtifactError(
            f"{trajectory.where} holds values that are not finite numbers after epoch {epoch}",
            expected="a training that went well",
            fix="leave the file out, or fetch it again",
        )
    return row


@torch.no_grad()
def _judge(
    flat: FlatModel,
    last: Tensor,
    validation: RealSet,
    task: Task,
    settings: ExpertSettings,
    events: Events,
    engine: Engine,
) -> None:
    """Tell how the first expert does on real images, in whose order of classes it must have been trained."""
    if not len(validation):
        return
    flat.module.to(engine.device)
    last, indices = last.to(engine.device), torch.arange(min(JUDGED, len(validation)))
    found = [
        flat(last, images.to(engine.device)).argmax(1).cpu()
        for _, images, _ in batches(plainly(validation), indices.split(BATCH), prefetch=1)
    ]
    labels, predicted = validation.labels[indices], torch.cat(found)
    require_class_order(labels, predicted, task)
    accuracy = 100 * float((labels == predicted).float().mean())
    events.emit("squeeze", "imported", weights=Path(settings.weights or "").name, validation_accuracy=accuracy)
    events.say(
        f"experts from {settings.weights}: the first gets {accuracy:.1f} % of {len(labels)} validation images right "
        f"after epoch {settings.epochs}"
    )
    if weak(accuracy, task.num_classes):
        events.say(
            "warning: that is next to chance. Were their images whitened (--set source.zca=true), or other ones?"
        )


def _number(path: Path) -> tuple[int, str]:
    digits = re.search(r"(\d+)$", path.stem)
    return int(digits[1]) if digits else 0, path.name
