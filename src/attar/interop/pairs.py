"""Images and labels in one file: `[images, labels]`, `{"images": ..., "labels": ...}`, or experiments of DC's code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from attar.data.arrayfiles import read_npz
from attar.errors import ArtifactError, ConfigError
from attar.text import shortened

IMAGES = ("images", "image", "images_syn", "image_syn", "syn_images", "data", "x", "train_images")
LABELS = ("labels", "label", "labels_syn", "label_syn", "syn_labels", "targets", "y", "train_labels")
SOFT = ("soft_labels", "soft")
RATES = ("lr", "learning_rate", "syn_lr")
EXPECTED = (
    'images and labels together, as [images, labels] or {"images": ..., "labels": ...}; {"data": [[images, labels], '
    "...]}, as the code of DC saves it; or images*.pt with labels*.pt"
)


@dataclass(frozen=True)
class Pair:
    """What one file holds; `experiments` says that it is one of several sets of DC's code."""

    images: Tensor
    labels: Tensor
    soft: Tensor | None = None
    rate: float | None = None
    experiments: bool = False


def values_of(path: Path) -> dict[str, Any] | None:
    """Arrays of an .npz or .safetensors file by name; None of a file of another kind. Raises AttarError."""
    match path.suffix.lower():
        case ".npz":
            return {name: _tensor(array, path) for name, array in read_npz(path).items()}
        case ".safetensors":
            try:
                return dict(safetensors.torch.load_file(path))
            except Exception as error:  # the library's own, and those of types that torch doesn't have
                raise ArtifactError(
                    f"{path} cannot be read: {error}", expected="a safetensors file", fix="fetch or write it again"
                ) from error
        case _:
            return None


def pair_in(values: Any, part: int, path: Path) -> Pair:
    """The images and labels among the values of a file; of several sets that of number `part`.

    Raises ArtifactError where there are none, ConfigError for a part that isn't there.
    """
    if isinstance(values, Mapping) and not _are_sets(values.get("data")):
        images, labels = _named(values, IMAGES), _named(values, LABELS)
        soft, rate = _named(values, SOFT), next((values[key] for key in RATES if key in values), None)
        if images is not None and (labels is not None or soft is not None):
            hard = labels if labels is not None else soft
            assert hard is not None
            return _only(part, path, Pair(_upright(images), _flat(hard), soft, _number(rate)))
    elif isinstance(values, Mapping) or _are_sets(values):
        sets = values["data"] if isinstance(values, Mapping) else values
        if part >= len(sets):
            raise _no_part(part, len(sets), path)
        images, labels = sets[part]
        return Pair(_upright(images), _flat(labels), experiments=True)
    elif _is_pair(values):
        return _only(part, path, Pair(_upright(values[0]), _flat(values[1])))
    held = f"a {type(values).__name__}"
    if isinstance(values, Mapping):
        names = [key if isinstance(key, str) else f"a {type(key).__name__}" for key in islice(values, 10)]
        held = f"{shortened(', '.join(names))}, which are no images with labels that are known"
    raise ArtifactError(f"{path} holds {held}", expected=EXPECTED, fix="save it in one of these ways")


def _only(part: int, path: Path, pair: Pair) -> Pair:
    if part:
        raise _no_part(part, 1, path)
    return pair


def _no_part(part: int, num: int, path: Path) -> ConfigError:
    return ConfigError(
        f"foreign.part={part}, and {path} holds {num} set{'s' * (num > 1)}",
        expected="foreign.part=0" if num == 1 else f"a number from 0 to {num - 1}",
    )


def _are_sets(values: Any) -> bool:
    return isinstance(values, list | tuple) and len(values) > 0 and all(_is_pair(one) for one in values)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(one, Tensor) for one in value)


def _named(values: Mapping[Any, Any], keys: tuple[str, ...]) -> Tensor | None:
    lower = {key.lower(): value for key, value in values.items() if isinstance(key, str)}
    return next((lower[key] for key in keys if isinstance(lower.get(key), Tensor)), None)


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, float | int) and value > 0 else None


def _upright(images: Tensor) -> Tensor:
    """(n, c, h, w) of images whose channels come last, or that have none."""
    if images.ndim == 3:
        return images[:, None]
    last = images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3)
    return images.permute(0, 3, 1, 2).contiguous() if last else images


def _flat(labels: Tensor) -> Tensor:
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    return labels.int() if labels.dtype in (torch.uint16, torch.uint32) else labels


def _tensor(array: Any, path: Path) -> Any:
    """A tensor of an array; text stays as it is."""
    if array.dtype.kind not in "biuf":
        return array
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(array.copy())
