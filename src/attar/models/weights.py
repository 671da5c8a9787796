"""Weights from elsewhere: released by torchvision or timm, or a person's own checkpoint.

    released                    the library's default weights of the network
    IMAGENET1K_V2, a1_in1k      its weights of this name (torchvision) or tag (timm)
    a path                      .safetensors, or what torch.save wrote: .pt, .pth, .bin ...

Nothing is unpickled (see `checkpoints`), and other names of the same network's parts are known (`weight_names`).
Weights made for more classes than the task has give up the rows of the last linear layer that bear the task's class
names. A network that was trained under another normalisation gets a first module that brings the task's images to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attar.errors import ArtifactError, ConfigError, DataError, unknown
from attar.models.checkpoints import read_state
from attar.models.class_names import ClassNames, wordnet_names
from attar.models.factory import build, find, last_linear, timm_model
from attar.models.weight_names import renamed, without_prefix
from attar.task import Normalization, Task
from attar.text import parse_json

RELEASED = "released"
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Side branches that train GoogLeNet and Inception and that attar's builds leave out."""
_HALF = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_BUILT_IN = {"googlenet": _HALF, "inception_v3": _HALF}
"""torchvision turns the images of these into another normalisation inside the network, where it loads weights."""


@dataclass(frozen=True)
class Weights:
    """A network's state and what is known of it."""

    origin: str
    """Where it is from, without any path: a name of released weights, or `checkpoint`."""
    state: dict[str, Tensor]
    normalization: Normalization | None = None
    """What its images were normalised with; None: not known."""
    names: ClassNames | None = None
    """What it calls its classes; None: not known."""


@dataclass(frozen=True)
class OtherClasses:
    """The part of a network's last linear layer that stands for classes which the task has not."""

    layer: str
    """Path of the layer in the network."""
    weight: Tensor
    """Its rows (m, d), in the weights' order."""
    bias: Tensor | None
    """Their biases (m,), where the layer has any."""

    def added_to(self, network: nn.Module) -> None:
        """Give the network's last layer these rows behind its own, so that it tells all classes that it knows."""
        last = network.get_submodule(self.layer)
        assert isinstance(last, nn.Linear)
        like = last.weight
        last.weight = nn.Parameter(torch.cat((like, self.weight.to(like))), requires_grad=like.requires_grad)
        if last.bias is not None and self.bias is not None:
            last.bias = nn.Parameter(torch.cat((last.bias, self.bias.to(like))), requires_grad=like.requires_grad)
        last.out_features = len(last.weight)


class Renormalization(nn.Module):
    """Images normalised with `ours` to images normalised with `theirs`; one channel becomes as many as `theirs`.

    Raises ConfigError where either whitens.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, ours: Normalization, theirs: Normalization) -> None:
        super().__init__()
        if ours.whitening or theirs.whitening:
            raise ConfigError(
                f"{'the network was trained on' if theirs.whitening else 'a network is to be shown'} whitened images",
                expected="a network and images that are whitened alike, or neither",
                fix="train the network on this source, or use its weights with the source that they were trained on",
            )
        std = torch.tensor(theirs.std, dtype=torch.float64)
        scale = torch.tensor(ours.std, dtype=torch.float64) / std
        shift = (torch.tensor(ours.mean, dtype=torch.float64) - torch.tensor(theirs.mean, dtype=torch.float64)) / std
        self.register_buffer("scale", scale.float().view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.float().view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, c, h, w) under the other normalisation."""
        return images * self.scale + self.shift


def is_path(weights: str) -> bool:
    """Whether `squeeze.weights` names a file, and not released weights."""
    return weights.lower().endswith(SUFFIXES) or "/" in weights or Path(weights).is_file()


def without_place(weights: str) -> str:
    """A setting of weights without the folder where the file lies on this machine."""
    return Path(weights).name if is_path(weights) else weights


def read_weights(weights: str, model: str, task: Task) -> Weights:
    """Read a checkpoint's file, or have the library fetch the released weights of the network `model`.

    Raises ArtifactError where the file is missing or holds more than tensors, ConfigError where the library has
    no such weights, DataError where they cannot be fetched.
    """
    if is_path(weights):
        return _from_file(Path(weights))
    family, name = find(model)
    match family:
        case "torchvision":
            return _from_torchvision(name, weights)
        case "timm":
            return _from_timm(name, weights, task)
        case "attar":
            raise ConfigError(
                f"there are no released weights of {model}",
                expected="a network of torchvision or timm, or the path of a checkpoint",
                fix="leave squeeze.weights out to train it, or use --model resnet18",
            )


def assemble(model: str, task: Task, theirs: Normalization | None) -> tuple[nn.Module, nn.Module]:
    """Build `model` to take images of `task`, though its own normalisation be `theirs`; random weights.

    Returns the whole, and the part that holds the weights: the same where `theirs` is None. Raises ConfigError
    where the numbers of channels do not go together.
    """
    if theirs is None:
        whole = build(model, task)
        return whole, whole
    _require_channels(task, len(theirs.mean))
    network = build(model, replace(task, channels=len(theirs.mean)))
    return wrapped(network, task, theirs), network


def wrapped(network: nn.Module, task: Task, theirs: Normalization) -> nn.Module:
    """A network that takes images normalised as by `theirs`, made to take those of `task`."""
    return nn.Sequential(Renormalization(task.normalization, theirs), network)


def num_channels(weights: Weights, model: str, task: Task) -> int:
    """Channels of the images that the weights are for: of the task's, or, where that is grey, what they say."""
    expected = build(model, task).state_dict()
    state = renamed(without_prefix(weights.state, expected), expected)
    first = next((name for name, value in expected.items() if value.ndim == 4), "")
    found = state[first].shape[1] if first in state and state[first].ndim == 4 else task.channels
    return found if task.channels == 1 else task.channels


def load_weights(weights: Weights, model: str, task: Task, channels: int) -> tuple[nn.Module, OtherClasses | None]:
    """Build `model` for images of `channels` channels and load weights into it, as `load_into` does."""
    _require_channels(task, channels)
    network = build(model, replace(task, channels=channels))
    return network, load_into(network, weights, model, task, channels)


def load_into(network: nn.Module, weights: Weights, model: str, task: Task, channels: int) -> OtherClasses | None:
    """Load weights into the network `model` with its `channels`, their last layer brought to the task's classes.

    Returns what that layer knew besides, if anything. Classes are matched by name, or where the weights have no names
    taken in the order they have. Raises ArtifactError where the weights are another network's, DataError where the
    classes cannot be matched.
    """
    expected = network.state_dict()
    state = renamed(without_prefix(weights.state, expected), expected)
    network.eval()
    with torch.no_grad():
        last = last_linear(network, torch.zeros(1, channels, task.height_px, task.width_px))
    network.train()
    others = None
    if last is not None and f"{last[0]}.weight" in state:
        keys = [key for key in (f"{last[0]}.weight", f"{last[0]}.bias") if key in state]
        num_known = len(state[keys[0]])
        rows = _rows(weights, num_known, task)
        if rows is not None:
            surplus = sorted(set(range(num_known)) - set(rows))
            if surplus:
                others = OtherClasses(last[0], *(state[key][surplus] for key in keys), *([None] * (2 - len(keys))))
            state |= {key: state[key][rows] for key in keys}
    _require_fitting(state, expected, model)
    network.load_state_dict({key: state[key] for key in expected if key in state}, strict=False)
    return others


def require_named_places(weights: Weights, task: Task) -> None:
    """Raise DataError where weights that know as many classes as the task call some of them by names of other places.

    Where all names are known, `load_into` brings the classes into the task's order; else they are taken as they stand,
    and without images to predict nothing but the names shows that the order is wrong.
    """
    names = weights.names or ClassNames(())
    rows = [names.row(name) for name in task.class_names] if len(names) == task.num_classes else []
    lost = [name for name, row in zip(task.class_names, rows, strict=False) if row is None]
    moved = [(k, row) for k, row in enumerate(rows) if row not in (None, k)]
    if lost and moved:
        (k, row), more = moved[0], f", and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise DataError(
            f"class {k} is called {task.class_names[k]!r}, which is class {row} of the weights, and no class of theirs "
            f"is called {lost[0]!r}{more}",
            expected="names that the weights know, in any order, or all classes in the order of the weights",
            fix=f"correct {lost[0]!r}, or name all classes in the order of the weights",
        )


def library_normalization(model: str) -> Normalization | None:
    """What the library that has the network `model` normalises images with for its own weights; None: it does not say.

    timm's configuration of the network (of the tag, where the name has one), torchvision's of its default weights.
    """
    family, name = find(model)
    match family:
        case "torchvision":
            from torchvision import models

            kinds = models.get_model_weights(name)
            return _of_torchvision(name, kinds.DEFAULT) if len(kinds) else None
        case "timm":
            from timm.models import get_pretrained_cfg

            given: Any = get_pretrained_cfg(name)
            return Normalization(tuple(given.mean), tuple(given.std)) if given else None
        case "attar":
            return None


def _require_channels(task: Task, channels: int) -> None:
    if task.channels not in (1, channels):
        raise ConfigError(
            f"the weights' normalisation has {channels} channels and the images have {task.channels}",
            expected="as many channels, or grey images",
            fix="set squeeze.weights_mean and squeeze.weights_std with one number for each channel",
        )


def _from_file(path: Path) -> Weights:
    state, notes = read_state(path)
    return Weights("checkpoint", state, *_known(notes))


def _known(notes: Mapping[str, str]) -> tuple[Normalization | None, ClassNames | None]:
    """Normalisation and class names, where attar itself wrote the file."""
    if "task" not in notes:
        return None, None
    try:
        task = Task.from_json(parse_json(notes["task"]))
        other = parse_json(notes.get("renormalization", "null"))
        theirs = Normalization.from_json(other) if other else task.normalization
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ArtifactError):
        return None, None
    return theirs, ClassNames.of_task(task.class_names)


def _from_torchvision(name: str, which: str) -> Weights:
    from torchvision import models

    kinds = models.get_model_weights(name)
    if which != RELEASED and which not in kinds.__members__:
        raise unknown(f"weights of {name}", which, [RELEASED, *kinds.__members__])
    kind = kinds.DEFAULT if which == RELEASED else kinds[which]
    state = _fetched(name, lambda: kind.get_state_dict(progress=True, check_hash=True, weights_only=True))
    categories = [[category] for category in kind.meta["categories"]]
    return Weights(kind.name, state, _of_torchvision(name, kind), ClassNames.listed(categories))


def _of_torchvision(name: str, kind: Any) -> Normalization:
    preset = kind.transforms()
    return _BUILT_IN.get(name, Normalization(tuple(preset.mean), tuple(preset.std)))


def _from_timm(name: str, which: str, task: Task) -> Weights:
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    full = name if which == RELEASED else f"{name.partition('.')[0]}.{which}"
    size_px = (task.height_px, task.width_px)
    model: Any = _fetched(full, lambda: timm_model(full, size_px, pretrained=True))
    given, subset = model.pretrained_cfg, infer_imagenet_subset(model)
    names = ClassNames.listed(wordnet_names(ImageNetInfo(subset))) if subset else None
    origin = f"{given['architecture']}.{given['tag']}"
    return Weights(origin, model.state_dict(), Normalization(tuple(given["mean"]), tuple(given["std"])), names)


def _fetched(name: str, fetch: Any) -> Any:
    try:
        return fetch()
    except Exception as error:  # each library has its own for a network that is away
        raise DataError(
            f"the released weights of {name} cannot be had: {_reason(error)}",
            expected="a network connection, or weights that the library fetched before",
            fix="fetch the file elsewhere and give its path as squeeze.weights",
        ) from error


def _rows(weights: Weights, num_given: int, task: Task) -> list[int] | None:
    """Row of the weights' last layer for each class of the task; None where they are taken as they stand."""
    names = weights.names
    if names is None and num_given == 1000 != task.num_classes:
        names = ClassNames.listed([[]] * 1000)  # a checkpoint on ImageNet-1K, which all libraries number alike
    rows = [names.row(name) for name in task.class_names] if names and len(names) == num_given else []
    found = [row for row in rows if row is not None]
    if rows and len(set(found)) == task.num_classes:
        return found
    if num_given == task.num_classes:
        return None
    lost = [name for name, row in zip(task.class_names, rows, strict=False) if row is None]
    why = f"; no class of theirs is called {', '.join(map(repr, lost[:5]))}" if lost else ""
    raise DataError(
        f"the weights know {num_given} classes and the source has {task.num_classes}{why}",
        expected="as many classes in the same order, or classes that are found by name",
        fix="name the source's classes as the weights do (ImageNet: words or WordNet ids), or train on the source",
    )


def _require_fitting(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], model: str) -> None:
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in expected and not key.startswith(_AUXILIARY)]
    odd = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    if not missing and len(odd) == 1 and (channels := _other_channels(state[odd[0]], expected[odd[0]])):
        raise ArtifactError(
            f"the weights take {channels[0]}-channel images, and these are {channels[1]}-channel ones",
            expected=f"a state dict of {model} for images of as many channels",
            fix="take weights that were trained on such images",
        )
    found = [f"it lacks {_first(missing)}"] if missing else []
    found += [f"it has {_first(surplus)} besides"] if surplus else []
    found += [f"{key} is {tuple(state[key].shape)} and not {tuple(expected[key].shape)}" for key in odd[:2]]
    if found:
        raise ArtifactError(
            f"the weights are not those of {model}: {'; '.join(found)}",
            expected=f"a state dict of {model} for images of this size, channels and number of classes",
            fix="name the network that they were made for as squeeze.model, and its --resolution",
        )


def _other_channels(found: Tensor, expected: Tensor) -> tuple[int, int] | None:
    """Channels that the filters of two first layers take, where they differ in nothing else."""
    alike = found.ndim == expected.ndim == 4 and found[:, 0].shape == expected[:, 0].shape
    return (found.shape[1], expected.shape[1]) if alike else None


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
