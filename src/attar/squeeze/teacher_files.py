"""A teacher's networks on disk, and the teacher that is read from them.

    squeeze/teacher.safetensors       the teacher proper: its state, BatchNorm statistics with it
    squeeze/teacher-01.safetensors    the first of the others, and so on
    squeeze/other-classes.safetensors rows of the teacher proper's last layer for classes that the source has not:
                                      weight (m, d), bias (m,); metadata: layer, the path of that layer

Metadata of each: `model`, `task` (class names, normalisation), `validation_accuracy` (percent, or null without
validation images), `weights` (null where it was trained here), and `renormalization` {mean, std} where the network
itself takes images of another normalisation than the task's, `normalization` {name, by, mean, std, fits} where the
weights are from elsewhere (see `normalizing.py`), `pruned` {ratio} where channels were cut from it. A distilled dataset
whose labels are made in training carries such files, and the members of a pool are such files too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from attar.errors import ArtifactError, ConfigError
from attar.models.factory import penultimate
from attar.models.parts import in_parts
from attar.models.weights import OtherClasses, assemble
from attar.runtime.checkpoint import read_note, read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.files import write_bytes
from attar.squeeze.resizing import resize
from attar.task import Normalization, Task

TEACHER = "teacher.safetensors"
OTHER_CLASSES = "other-classes.safetensors"


def file_name(k: int) -> str:
    """File of network `k`; 0 is the teacher proper."""
    return f"teacher-{k:02d}.safetensors" if k else TEACHER


def teacher_paths(folder: Path) -> list[Path]:
    """The teacher's files in a folder, the teacher proper first; raises ArtifactError where it is missing."""
    if not (folder / TEACHER).is_file():
        raise ArtifactError(f"{folder / TEACHER} is missing", fix="run the command that makes it again")
    return [folder / TEACHER, *sorted(folder.glob("teacher-[0-9]*.safetensors"))]


def write_other_classes(path: Path, others: OtherClasses) -> None:
    """Store what a network knows besides the classes of the task."""
    tensors = {"weight": others.weight} | ({} if others.bias is None else {"bias": others.bias})
    write_tensors(path, tensors, {"layer": others.layer})


def lacks_other_classes(folder: Path) -> bool:
    """Whether the teacher proper of a folder says that it knows more classes, and their file is gone."""
    gone = (folder / TEACHER).exists() and not (folder / OTHER_CLASSES).exists()
    return gone and bool(read_note(folder / TEACHER).get("other_classes"))


def read_other_classes(folder: Path) -> OtherClasses | None:
    """What the teacher proper of a folder knows besides the classes of the task; None: nothing."""
    path = folder / OTHER_CLASSES
    if not path.exists():
        return None
    tensors, note = read_tensors(path)
    return OtherClasses(note["layer"], tensors["weight"], tensors.get("bias"))


def chosen(paths: Sequence[Path], members: Literal["strongest"] | Sequence[int]) -> list[Path]:
    """Some of the files of networks: the one with the highest validation accuracy (the last of equals), or by number.

    Raises ConfigError for a number that there is none of.
    """
    if members == "strongest":
        right = [read_note(path).get("validation_accuracy") or 0.0 for path in paths]
        return [paths[max(range(len(paths)), key=lambda k: (right[k], k))]]
    if unknown := [k for k in members if not -len(paths) <= int(k) < len(paths)]:
        raise ConfigError(
            f"there is no network {unknown[0]} to label with",
            expected=f"numbers from 0 to {len(paths) - 1}, or all, or strongest",
            fix=f"--set relabel.members=[{len(paths) - 1}]",
        )
    return [paths[k] for k in sorted({int(k) % len(paths) for k in members})]


class TrainedTeacher:
    """A teacher read from its files, in evaluation mode, frozen, on the engine's device.

    Args:
        source: a folder that holds the files, or the files themselves, the teacher proper first.
        task: what it will be asked; ArtifactError where class order or image shape disagree.
        engine: the device.
    """

    models: tuple[nn.Module, ...]
    """All networks, for normalised images (b, c, h, w) of the task; the first is the teacher proper."""

    def __init__(self, source: Path | Sequence[Path], task: Task, engine: Engine) -> None:
        self.paths = teacher_paths(source) if isinstance(source, Path) else list(source)
        self.models = tuple(open_network(path, task).whole.to(engine.device) for path in self.paths)
        self._task, self._engine, self._device = task, engine, engine.device

    @property
    def model(self) -> nn.Module:
        """The teacher proper."""
        return self.models[0]

    def all_classes(self) -> nn.Module:
        """The teacher proper with every class that it knows, those of the task first: logits (b, classes + others)."""
        others = read_other_classes(self.paths[0].parent)
        if others is None:
            return self.model
        opened = open_network(self.paths[0], self._task)
        others.added_to(opened.network)
        return opened.whole.to(self._device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Input (b, d) of the teacher proper's last linear layer for normalised images (b, c, h, w)."""
        return in_parts(partial(penultimate, self.model), images.to(self._device))

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Mean of all networks' logits (b, classes), float32, for normalised images (b, c, h, w)."""
        return in_parts(self._mean_logits, images.to(self._device))

    def _mean_logits(self, images: Tensor) -> Tensor:
        total: Tensor = self.models[0](images).float()
        for model in self.models[1:]:
            total = total + model(images).float()
        return total / len(self.models)

    def soft_labels(self, images: Tensor) -> Tensor:
        """Probabilities (b, classes) for normalised images (b, c, h, w): softmax of `logits`."""
        return self.logits(images).softmax(dim=1)

    def only(self, members: Literal["strongest"] | Sequence[int]) -> TrainedTeacher:
        """The teacher that some of the networks make, see `chosen`."""
        return TrainedTeacher(chosen(self.paths, members), self._task, self._engine)

    def save_to(self, folder: Path) -> list[str]:
        """Copy the files into another folder, such as `distilled/teacher`; returns their names there."""
        for k, path in enumerate(self.paths):
            write_bytes(folder / file_name(k), path.read_bytes())
        return [file_name(k) for k in range(len(self.paths))]


@dataclass(frozen=True)
class OpenNetwork:
    """A network read from its file: `whole`, frozen and in evaluation mode, takes images of the task.

    `network` is the part of it that the file holds, `note` the file's metadata.
    """

    whole: nn.Module
    network: nn.Module
    note: Mapping[str, Any]


def open_network(path: Path, task: Task) -> OpenNetwork:
    """Read a network of a teacher or a pool; raises ArtifactError where it is none, or made for another task."""
    state, note = read_tensors(path)
    try:
        made_for, name, other = Task.from_json(note["task"]), str(note["model"]), note.get("renormalization")
    except KeyError as error:
        raise ArtifactError(
            f"{path} says nothing of its {error.args[0]}",
            expected="a teacher that attar wrote",
            fix="give your own checkpoint as squeeze.weights",
        ) from error
    made_for.require_same(task, "the teacher", "the source")
    theirs = Normalization(tuple(other["mean"]), tuple(other["std"])) if other else None
    if theirs is None and made_for.normalization != task.normalization:
        theirs = made_for.normalization
    whole, network = assemble(name, task, theirs)
    if note.get("pruned"):
        resize(network, state)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ArtifactError(f"{path} is not the state of {name}", fix="run the command that makes it again") from error
    return OpenNetwork(whole.eval().requires_grad_(False), network, note)
