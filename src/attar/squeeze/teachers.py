"""Knowledge of the kind `teacher`: networks trained on the real set, frozen. The first is the teacher proper.

    squeeze/teacher.safetensors       state of squeeze.model, BatchNorm statistics with it
    squeeze/teacher-01.safetensors    ... of the first of squeeze.more_models, and so on

Metadata of each: `model`, `task` (class names, normalisation), `validation_accuracy` (percent, or null without
validation images), `weights` (null where it was trained here), and `renormalization` {mean, std} where the network
itself takes images of another normalisation than the task's, `normalization` {name, by, mean, std, fits} where the
weights are from elsewhere (see `normalizing.py`), `pruned` {ratio} where channels were cut from it.

Training runs in `run.precision`; validation, and all that the teacher is asked later, is float32, so that the
accuracy stored is that of the network as it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import field_validator, model_validator
from torch import Tensor, nn

from attar import options
from attar.data.loading import RealSet, batches, plainly
from attar.errors import ArtifactError, ConfigError
from attar.models.catalog import build, penultimate, require_known
from attar.models.weights import Weights, assemble, load_weights, num_channels, read_weights, wrapped
from attar.normalizations import parse_normalization
from attar.runtime.checkpoint import read_note, read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import write_bytes
from attar.runtime.seeding import derive
from attar.squeeze.class_order import require_class_order, weak
from attar.squeeze.normalizing import Found, find_normalization, of_source
from attar.squeeze.resizing import resize
from attar.task import Normalization, Task
from attar.training.loop import TrainSettings, fit

TEACHER = "teacher.safetensors"
BATCH = 256


class TeacherSettings(TrainSettings, options.Weights, options.Network):
    """How a teacher is trained, or whose weights it has."""

    changed = {
        "epochs": 30,
        "batch_size": 128,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "augment": "flip_crop",
        "augment_per": "image",
    }

    more_models: tuple[str, ...] = ()
    """Further networks, trained alike: soft labels, and the crops that rded takes, go by the mean of all logits."""
    weights_normalization: Literal[
        "auto", "source", "imagenet", "half", "unit", "cifar", "cifar100", "svhn", "mnist", "fashion-mnist"
    ] = "auto"
    """What the images were normalised by that `weights` were trained on: source (as the source's are), constants of
    published code, half (0.5 and 0.5), unit (pixels of 0..1). auto: as released weights and attar's own files say, else
    what real images tell, whose statistics are held against the network's; the network's library is believed in doubt.
    Whatever it is, the network goes on to see images so normalised, and the source's are as they are."""
    weights_mean: tuple[float, ...] | None = None
    """Mean of the pixels (0..1) per channel, in place of a name in weights_normalization."""
    weights_std: tuple[float, ...] | None = None
    """Standard deviation of the pixels per channel that `weights` were trained with; goes with weights_mean."""

    @property
    def num_networks(self) -> int:
        """How many networks there will be."""
        return 1 + len(self.more_models)

    @field_validator("more_models")
    @classmethod
    def _known_models(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            require_known(name)
        return names

    @model_validator(mode="after")
    def _normalization_is_whole(self) -> Self:
        mean, std = self.weights_mean, self.weights_std
        if (mean is None) != (std is None) or len(mean or ()) != len(std or ()):
            raise ValueError("weights_mean and weights_std go together, one number of each for every channel")
        if std is not None and (not std or min(std) <= 0):
            raise ValueError("weights_std must be above 0")
        said = "weights_mean" if mean is not None else "weights_normalization"
        if mean is not None and self.weights_normalization != "auto":
            raise ValueError("weights_normalization and weights_mean say the same thing: give one of them")
        if (mean is not None or self.weights_normalization != "auto") and self.weights is None:
            raise ValueError(f"{said} says how weights were trained; without `weights` the network is trained here")
        return self


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
    """Make and store the networks that are not there yet; returns the names of all their files.

    Several processes share the networks, and each is a function of the seed and its number.

    Raises DataError where foreign weights number the classes in another order than the source.
    """
    models = (settings.model, *settings.more_models)
    for model in models[1:]:
        build(model, task)  # what cannot take these images fails before the first training
    names = [file_name(k) for k in range(len(models))]
    making = Making(data, validation, task, settings, seed, folder, engine, events)
    for k in engine.share(range(len(names))):
        if (folder / names[k]).exists():
            continue
        if k == 0 and settings.weights:
            making.adopt(names[k], models[k])
        else:
            making.train(names[k], models[k], k)
    engine.barrier()
    return names


def file_name(k: int) -> str:
    """File of network `k`; 0 is the teacher proper."""
    return f"teacher-{k:02d}.safetensors" if k else TEACHER


def teacher_paths(folder: Path) -> list[Path]:
    """The teacher's files in a folder, the teacher proper first; raises ArtifactError where it is missing."""
    if not (folder / TEACHER).is_file():
        raise ArtifactError(f"{folder / TEACHER} is missing", fix="run the command that makes it again")
    return [folder / TEACHER, *sorted(folder.glob("teacher-[0-9]*.safetensors"))]


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

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Input (b, d) of the teacher proper's last linear layer for normalised images (b, c, h, w)."""
        return penultimate(self.model, images.to(self._device))

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Mean of all networks' logits (b, classes), float32, for normalised images (b, c, h, w)."""
        images = images.to(self._device)
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


def load_teacher(paths: Sequence[Path], task: Task, engine: Engine) -> TrainedTeacher:
    """Open a teacher from its files alone, such as those that a distilled dataset carries; see TrainedTeacher."""
    return TrainedTeacher(paths, task, engine)


@dataclass(frozen=True)
class Making:
    """What every network of a teacher, or of a pool, is made with."""

    data: RealSet
    validation: RealSet
    task: Task
    settings: TeacherSettings
    seed: int
    folder: Path
    engine: Engine
    events: Events

    def train(self, name: str, model_name: str, k: int) -> None:
        """Train network `k`, resuming from its checkpoint, and store it."""
        checkpoint = self.checkpoint(name)
        model = self.fit(name, model_name, k)
        self.store(name, model_name, model, self.accuracy(model), {"weights": None})
        checkpoint.unlink(missing_ok=True)

    def fit(
        self, name: str, model_name: str, k: int, keep: Callable[[nn.Module, int], None] | None = None
    ) -> nn.Module:
        """Train network `k`, resuming from its checkpoint; `keep` is given it after each epoch, and the epoch."""
        model = build(model_name, self.task, seed=derive(self.seed, "teacher", *((k,) if k else ())))
        fit(
            model,
            self.data,
            self.training,
            seed=derive(self.seed, "teacher", k) if k else self.seed,
            engine=self.engine,
            events=self.events,
            name=name.removesuffix(".safetensors"),
            stage="squeeze",
            checkpoint=self.checkpoint(name),
            after_epoch=partial(keep, model) if keep else None,
        )
        return model

    @property
    def training(self) -> TrainSettings:
        """How each of them is trained."""
        return TrainSettings(**self.settings.model_dump(include=set(TrainSettings.model_fields)))

    def checkpoint(self, name: str) -> Path:
        """Where the training of this file is resumed from."""
        return self.folder / f"checkpoint-{name}"

    def adopt(self, name: str, model_name: str) -> None:
        """Take weights from elsewhere, check the order of their classes, and store them."""
        task = self.task
        assert self.settings.weights is not None
        weights = read_weights(str(self.settings.weights), model_name, task)
        channels = num_channels(weights, model_name, task)
        network = load_weights(weights, model_name, task, channels)
        found = self._normalization(weights, network, model_name, channels)
        item = name.removesuffix(".safetensors")
        self.events.emit("squeeze", "normalization", item=item, model=model_name, **found.note())
        if sentence := found.sentence():
            self.events.say(sentence)
        own = found.normalization == task.normalization
        whole = network if own else wrapped(network, task, found.normalization)
        predicted = self._predict(whole.to(self.engine.device))
        require_class_order(self.validation.labels, predicted, task)
        note: dict[str, Any] = {"weights": weights.origin, "normalization": found.note()}
        if not own:
            note["renormalization"] = {"mean": found.normalization.mean, "std": found.normalization.std}
        self.store(name, model_name, network, self._right(predicted), note)

    def _normalization(self, weights: Weights, network: nn.Module, model_name: str, channels: int) -> Found:
        """What the weights' images were normalised with: as the settings say, as is known, or as images tell."""
        settings, task = self.settings, self.task
        found = None if weights.normalization is None else Found(weights.normalization, "given", "known")
        if settings.weights_mean and settings.weights_std:
            found = Found(Normalization(settings.weights_mean, settings.weights_std), "given", "stated")
        elif settings.weights_normalization == "source":
            found = Found(of_source(task, channels), "source", "stated")
        elif settings.weights_normalization != "auto":
            name = settings.weights_normalization
            found = Found(parse_normalization(name, channels), name, "stated")
        if found is None:
            found = find_normalization(network, model_name, self.data, task, channels, self.seed, self.engine)
        if len(found.normalization.mean) != channels:
            raise ConfigError(
                f"the weights' normalisation has {len(found.normalization.mean)} channels and the network takes "
                f"{channels}, for images that have {task.channels}",
                expected="a mean and a standard deviation for each channel",
                fix="set squeeze.weights_mean and squeeze.weights_std with one number for each channel",
            )
        return found

    def store(
        self, name: str, model_name: str, network: nn.Module, accuracy: float | None, note: Mapping[str, Any]
    ) -> None:
        """Write a network with its validation accuracy (percent), and tell where that is next to chance."""
        if accuracy is not None and weak(accuracy, self.task.num_classes):
            self.events.say(
                f"warning: {model_name} gets {accuracy:.1f} % of the validation images right, not much more than "
                f"chance ({100 / self.task.num_classes:.1f} %): what it teaches will be as weak"
            )
        self.write(name, model_name, network, accuracy, note)

    def write(
        self, name: str, model_name: str, network: nn.Module, accuracy: float | None, note: Mapping[str, Any]
    ) -> None:
        """Write a network with its validation accuracy (percent), which may be as low as it is."""
        self.events.emit(
            "squeeze", "teacher", item=name.removesuffix(".safetensors"), model=model_name, validation_accuracy=accuracy
        )
        known = {"model": model_name, "task": self.task.to_json(), "validation_accuracy": accuracy}
        write_tensors(self.folder / name, network.state_dict(), {**note, **known})

    def accuracy(self, model: nn.Module) -> float | None:
        """Percentage of the validation images that it gets right; None without any. Leaves it in evaluation mode."""
        return self._right(self._predict(model))

    @torch.no_grad()
    def _predict(self, model: nn.Module) -> Tensor:
        """Class (n,) of each validation image, int64 on the CPU; float32 arithmetic."""
        model.eval()
        parts = torch.arange(len(self.validation)).split(BATCH)
        found = [torch.zeros(0, dtype=torch.int64)]
        for _, images, _ in batches(plainly(self.validation), parts if len(self.validation) else (), prefetch=1):
            found.append(model(images.to(self.engine.device)).argmax(1).cpu())
        return torch.cat(found)

    def _right(self, predicted: Tensor) -> float | None:
        """Percentage that is right; None without validation images."""
        right = (predicted == self.validation.labels).sum()
        return 100 * int(right) / len(predicted) if len(predicted) else None


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
