"""Knowledge of the kind `teacher`: networks trained on the real set, frozen. The first is the teacher proper.

squeeze.model is the first, squeeze.more_models are the others; `teacher_files.py` says what is on disk.

Training runs in `run.precision`; validation, and all that the teacher is asked later, is float32, so that the
accuracy stored is that of the network as it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import field_validator, model_validator
from torch import Tensor, nn

from attar import options
from attar.data.loading import RealSet, batches, plainly
from attar.data.sources import Source
from attar.errors import ArtifactError, ConfigError
from attar.items import Item
from attar.models.factory import build, require_known
from attar.models.norms import has_batch_norm
from attar.models.weights import (
    Weights,
    is_path,
    load_weights,
    num_channels,
    read_weights,
    require_named_places,
    wrapped,
)
from attar.normalizations import parse_normalization
from attar.runtime.checkpoint import write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.seeding import derive
from attar.squeeze.class_order import require_class_order, weak
from attar.squeeze.knowledge import Knowledge, Members
from attar.squeeze.normalizing import Found, find_normalization, of_source
from attar.squeeze.rehearsal import Estimate, Rehearsal
from attar.squeeze.teacher_files import (
    OTHER_CLASSES,
    TrainedTeacher,
    file_name,
    lacks_other_classes,
    write_other_classes,
)
from attar.task import Normalization, Task
from attar.training.loop import TrainSettings, fit
from attar.training.section import TrainSection

BATCH = 256
STAND_IN_IMAGES = 32
"""Real images that a rehearsal's teacher is trained on."""


class TeacherSettings(TrainSection, options.Weights, options.Network):
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
    """Further networks, trained in the same way; soft labels, and the crops that rded takes, follow the mean of all
    logits."""
    weights_normalization: Literal[
        "auto", "source", "imagenet", "half", "unit", "cifar", "cifar100", "svhn", "mnist", "fashion-mnist"
    ] = "auto"
    """How the images were normalised that `weights` were trained on: source (as the source's are), the constants of
    published code, half (0.5 and 0.5), unit (pixels in 0..1). auto: what released weights and attar's own files state,
    else what real images show when their statistics are compared with the network's; in doubt, the convention of the
    network's library. In any case the network keeps seeing images normalised in that way, and the source's own
    normalisation stays."""
    weights_mean: tuple[float, ...] | None = None
    """Mean of the pixels (0..1) per channel, instead of a name in weights_normalization."""
    weights_std: tuple[float, ...] | None = None
    """Standard deviation of the pixels per channel that `weights` were trained with; goes with weights_mean."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the networks that are trained."""
        return (self.model, *self.more_models)

    @property
    def num_networks(self) -> int:
        """How many networks there will be."""
        return len(self.models)

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
    models = settings.models
    for model in models[1:]:
        build(model, task)  # what cannot take these images fails before the first training
    names = [file_name(k) for k in range(len(models))]
    making = Making(data, validation, task, settings, seed, folder, engine, events)
    for k in engine.share(range(len(names))):
        if (folder / names[k]).exists() and not (k == 0 and lacks_other_classes(folder)):
            continue
        if k == 0 and settings.weights:
            making.adopt(names[k], models[k], others=folder / OTHER_CLASSES)
        else:
            making.train(names[k], models[k], k)
    engine.barrier(folder / name for name in names)
    return [*names, *([OTHER_CLASSES] if (folder / OTHER_CLASSES).exists() else ())]


class TeacherKnowledge(Knowledge[TeacherSettings, TrainedTeacher]):
    """Frozen networks, by the first of which images are made and by all of which they are labelled."""

    name = "teacher"
    turn = 2
    Settings = TeacherSettings

    def make(
        self, source: Source, settings: TeacherSettings, *, seed: int, folder: Path, engine: Engine, events: Events
    ) -> list[str]:
        """Train them, or take their weights; see `make_teacher`."""
        data, validation = (RealSet(split, source.task.normalization) for split in (source.train, source.validation))
        return make_teacher(
            data, validation, source.task, settings, seed=seed, folder=folder, engine=engine, events=events
        )

    def open(self, settings: TeacherSettings, task: Task, folder: Path, engine: Engine) -> TrainedTeacher:
        """All networks, on the device."""
        return TrainedTeacher(folder, task, engine)

    def stand_in(self, settings: TeacherSettings, labels: Tensor, num_classes: int) -> tuple[TeacherSettings, Tensor]:
        """Networks that have seen a few images once; the given weights themselves where there are no images."""
        require_weights(settings)
        if not len(labels):
            return settings, torch.arange(0)
        return settings.model_copy(update=ONE_EPOCH), torch.arange(min(STAND_IN_IMAGES, len(labels)))

    def rehearse(self, settings: TeacherSettings, rehearsal: Rehearsal) -> list[Estimate]:
        """The training of each network; weights that are given are not trained."""
        estimates: list[Estimate] = []
        for k, model in enumerate(settings.models):
            stage = f"squeeze {model}" if settings.more_models else "squeeze"
            size = (rehearsal.folder / file_name(k)).stat().st_size
            given = k == 0 and settings.weights
            steps = 0 if given else rehearsal.real_steps(settings, settings.epochs)
            unit_s = 0.0 if given else rehearsal.real_step_s(settings, model)
            shared: dict[str, Any] = {"items": "network", "places": (k,)}
            estimates.append(Estimate(stage, "training steps", steps, unit_s, size, **shared))
            estimates += rehearsal.validated(stage, model, 1, **shared)
        return estimates

    def labeller(self, opened: TrainedTeacher, members: Members) -> TrainedTeacher:
        """The networks that are asked for, by the mean of their logits."""
        return opened if members == "all" else opened.only(members)

    def num_labellers(self, settings: TeacherSettings) -> int:
        """Each of the networks."""
        return settings.num_networks

    def networks(self, settings: TeacherSettings) -> tuple[str, ...]:
        """squeeze.model and squeeze.more_models."""
        return settings.models

    def guides(self, settings: TeacherSettings) -> tuple[str, ...]:
        """squeeze.model alone."""
        return settings.models[:1]

    def needs_images(self, settings: TeacherSettings) -> str | None:
        """Unless weights are given, and of one network alone."""
        if settings.weights and not settings.more_models:
            return None
        trained = settings.more_models[0] if settings.weights else settings.model
        return f"squeeze trains {trained} on real images; --weights takes weights that others trained"

    def meant_by(self, given: Mapping[str, Any]) -> str | None:
        """Weights, several networks, or one with BatchNorm, which experts cannot have."""
        teacher = given.get("weights") or given.get("more_models")
        if not teacher and given.get("model") not in (None, "auto"):
            teacher = has_batch_norm(given["model"])
        return "the network that was named for squeeze is a teacher, not an expert of trajectories" if teacher else None


ONE_EPOCH: Mapping[str, Any] = {
    "epochs": 1,
    "warmup_epochs": 0,
    "weights": None,
    "weights_normalization": "auto",
    "weights_mean": None,
    "weights_std": None,
}
"""Settings of the networks of a rehearsal."""


def require_weights(settings: TeacherSettings) -> None:
    """Raise ArtifactError where `weights` names a file that is not there."""
    if settings.weights and is_path(str(settings.weights)) and not Path(settings.weights).is_file():
        raise ArtifactError(f"there is no file {settings.weights}", expected="a checkpoint", fix="correct --weights")


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
            item=_item(name, model_name, k),
            stage="squeeze",
            checkpoint=self.checkpoint(name),
            after_epoch=partial(keep, model) if keep else None,
        )
        return model

    @property
    def training(self) -> TrainSettings:
        """How each of them is trained."""
        return TrainSection(**self.settings.model_dump(include=set(TrainSection.model_fields)))

    def checkpoint(self, name: str) -> Path:
        """Where the training of this file is resumed from."""
        return self.folder / f"checkpoint-{name}"

    def adopt(self, name: str, model_name: str, *, others: Path | None = None) -> None:
        """Take weights from elsewhere, check the order of their classes, and store them.

        What they know besides the source's classes is stored in the file `others`, where one is given.
        """
        task = self.task
        assert self.settings.weights is not None
        weights = read_weights(str(self.settings.weights), model_name, task)
        if not len(self.validation):
            require_named_places(weights, task)
        channels = num_channels(weights, model_name, task)
        network, besides = load_weights(weights, model_name, task, channels)
        found = self._normalization(weights, network, model_name, channels)
        self.events.emit("squeeze", "normalization", **_item(name, model_name).fields(), **found.note())
        if sentence := found.sentence():
            self.events.say(sentence)
        own = found.normalization == task.normalization
        whole = network if own else wrapped(network, task, found.normalization)
        predicted = self._predict(whole.to(self.engine.device))
        require_class_order(self.validation.labels, predicted, task)
        note: dict[str, Any] = {"weights": weights.origin, "normalization": found.note()}
        if not own:
            note["renormalization"] = {"mean": found.normalization.mean, "std": found.normalization.std}
        if others and besides:  # before the network, whose file says that all is done
            write_other_classes(others, besides)
            note["other_classes"] = len(besides.weight)
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
            if found.by == "assumed" and not len(self.data):
                raise ConfigError(
                    f"nothing says how the images were normalised that {model_name} was trained on, and there are no "
                    "real images to tell",
                    expected="squeeze.weights_normalization, or squeeze.weights_mean and squeeze.weights_std",
                    fix="for example --set squeeze.weights_normalization=imagenet",
                )
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
        self.events.emit("squeeze", "teacher", **_item(name, model_name).fields(), validation_accuracy=accuracy)
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


def _item(file: str, model_name: str, k: int | None = None) -> Item:
    """What events of a network are of, by its file."""
    return Item(Path(file).stem, number=k, network=model_name)
