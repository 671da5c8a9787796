"""Real images that a program hands over: arrays, torch datasets, datasets of Hugging Face's library.

    (images, labels)                   NumPy or torch; uint8 or float in 0..1; NCHW, NHWC or NHW
    {"train": ..., "test": ...}        any of these kinds by split; splits that are missing are cut from train
    a torch Dataset of (image, label)  by index; images as Pillow's, arrays or tensors, without augmentation
    a Dataset or DatasetDict           of Hugging Face's `datasets`

They go by a name that is made of their content, so that a run from them goes on when the same are handed over again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from attar.data.classes import classify
from attar.data.examples import SPLITS, Examples, Found, split_named, unlabelled
from attar.data.named.base import NamedSource
from attar.data.raster import Encoded, Pixels, digest_of, plain
from attar.data.tables import read_datasets
from attar.errors import DataError

PREFIX = "memory-"
"""Names that are made of content begin so."""
Layout = Literal["auto", "NCHW", "NHWC", "NHW"]
SAMPLED = 256
"""Images of a torch dataset that its name is made of, beside all labels."""
_BLOCK = 1024


@dataclass(frozen=True)
class _Given:
    """One split: how to read an image, every label, the class names if it has some, a hash of it."""

    read: Callable[[int], Encoded]
    labels: list[Any]
    class_names: Sequence[str] | None
    listing: str


def is_data(thing: Any) -> bool:
    """Whether an object is of a kind that `in_memory` takes."""
    if isinstance(thing, Mapping):
        return bool(thing) and all(isinstance(name, str) for name in thing) and all(map(is_data, thing.values()))
    return _is_pair(thing) or isinstance(thing, Dataset) or _is_table(thing) or _is_indexed(thing)


def in_memory(
    data: Any, *, name: str | None = None, class_names: Sequence[str] | None = None, layout: Layout = "auto"
) -> NamedSource:
    """Make a source of images that are in memory, or behind an object.

    Args:
        data: one of the kinds above.
        name: what it goes by; None: one made of its content.
        class_names: in label order; None: those that the data carry, else the distinct labels.
        layout: axes of arrays; auto tells them apart by the channels, 1 or 3, and asks where both ends have as many.

    Raises DataError where values, shapes or labels can't be told, or what they mean can't.
    """
    splits = _splits(data)
    if all(map(_is_table, splits.values())):
        found = read_datasets(splits, name or "the dataset")
        if class_names is not None:
            found = replace(found, class_names=tuple(class_names))
    else:
        found = _found(splits, class_names, layout)
    content = hashlib.sha256(repr(found.class_names).encode())
    for split, examples in found.splits.items():
        content.update(f"{split} {examples.listing}".encode() + examples.labels.numpy().tobytes())
    named = name or PREFIX + content.hexdigest()[:10]
    return NamedSource(named, "images that a program handed over", lambda data_dir, download: found)


def _found(splits: Mapping[str, Any], class_names: Sequence[str] | None, layout: Layout) -> Found:
    given = {split: _given(data, layout, split) for split, data in splits.items()}
    names = class_names or next((one.class_names for one in given.values() if one.class_names), None)
    columns = {split: one.labels for split, one in given.items()}
    fix = "hand over those that have a label"
    classes = classify(columns, list(names) if names else None, "the images handed over", fix=fix)
    return classes.found({split: _examples(one, split) for split, one in given.items()})


def _examples(given: _Given, split: str) -> Examples:
    return Examples(unlabelled(), lambda index: f"{split} image {index}", lambda: given.read, given.listing)


def _splits(data: Any) -> dict[str, Any]:
    """The parts of what was handed over by the names of our splits."""
    if not isinstance(data, Mapping):
        return {"train": data}
    splits: dict[str, Any] = {}
    for name, part in data.items():
        split = split_named(name)
        if split is None or split in splits:
            raise DataError(
                f"the splits handed over are {', '.join(map(repr, data))}",
                expected=f"one each of {', '.join(SPLITS)}",
                fix="rename them: {'train': ..., 'test': ...}",
            )
        splits[split] = part
    return splits


def _given(data: Any, layout: Layout, split: str) -> _Given:
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data = data.tensors
    if _is_pair(data):
        return _of_arrays(data[0], data[1], layout, split)
    if isinstance(data, IterableDataset) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise DataError(
            f"{type(data).__name__} of {split} can't be read by index",
            expected="a dataset with a length that gives (image, label) of an index",
            fix="hand over arrays: (images, labels), or write WebDataset shards and give wds:PATTERN",
        )
    return _of_dataset(data, split)


def _of_arrays(images: Any, labels: Any, layout: Layout, split: str) -> _Given:
    values, classes = _array(images), _labels(labels, split)
    if len(values) != len(classes):
        raise DataError(f"{len(values)} {split} images have {len(classes)} labels", expected="one label for each image")
    pixels = to_bytes(with_layout(values, layout, split), f"{split} images")

    def read(index: int) -> Encoded:
        one: Pixels = pixels[index]
        return one

    return _Given(read, classes, None, hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest())


def _of_dataset(data: Any, split: str) -> _Given:
    """A torch dataset; its labels are taken from `targets` or `labels` where it has them, else from every example."""
    if not len(data):
        raise DataError(f"the {split} dataset is empty", expected="(image, label) by index")

    def read(index: int) -> Encoded:
        return _image(_example(data, index, split)[0], f"{split} image {index}")

    labels = _targets(data)
    known = _labels(labels if labels is not None else [_example(data, i, split)[1] for i in range(len(data))], split)
    if digest_of(read(0)) != digest_of(read(0)):
        raise DataError(
            f"the {split} dataset gives another image each time that it is asked for the same one",
            expected="images as they are: attar augments them itself, in a way that can be replayed",
            fix="hand it over without random transforms",
        )
    content = hashlib.sha256()
    for index in np.linspace(0, len(data) - 1, min(len(data), SAMPLED)).round().astype(int).tolist():
        content.update(digest_of(read(index)))
    names = getattr(data, "classes", None)
    fits = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return _Given(read, known, names if fits else None, content.hexdigest())


def _example(data: Any, index: int, split: str) -> tuple[Any, Any]:
    found = data[index]
    if not isinstance(found, tuple | list) or len(found) < 2:
        raise DataError(
            f"the {split} dataset gives {type(found).__name__} for an index",
            expected="(image, label)",
            fix="wrap it in a torch Dataset that gives pairs",
        )
    return found[0], found[1]


def _targets(data: Any) -> Any:
    """Every label of a torch dataset, where they can be had without its images."""
    if isinstance(data, Subset):
        inner = _targets(data.dataset)
        return None if inner is None else [inner[index] for index in data.indices]
    if getattr(data, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        if (found := getattr(data, name, None)) is not None and not callable(found) and len(found) == len(data):
            return list(found)
    return None


def _labels(labels: Any, split: str) -> list[Any]:
    """Labels as plain whole numbers or texts."""
    values = np.asarray(_array(labels) if isinstance(labels, Tensor) else labels)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(
            f"{split} labels have the shape {values.shape}",
            expected="one class for each image, (n,)",
            fix="for one-hot labels, labels.argmax(1)" if values.ndim == 2 else "",
        )
    if values.dtype.kind == "f" and np.isfinite(values).all() and (values == values.round()).all():
        values = values.astype(np.int64)
    if values.dtype.kind not in "iuUOb":
        raise DataError(f"{split} labels are {values.dtype}", expected="whole numbers, or names of classes")
    plain_values = [value.item() if isinstance(value, np.generic | Tensor) else value for value in values.tolist()]
    odd = next((value for value in plain_values if not isinstance(value, int | str)), None)
    if odd is not None:
        raise DataError(f"{split} labels hold {odd!r}", expected="whole numbers, or names of classes")
    return [int(value) if isinstance(value, bool) else value for value in plain_values]


def _image(image: Any, where: str) -> Pixels:
    """One image of a dataset as uint8 (h, w) or (h, w, 3)."""
    if isinstance(image, Image.Image):
        return np.asarray(plain(image.copy()))
    if not isinstance(image, Tensor | np.ndarray):
        raise DataError(f"{where} is {type(image).__name__}", expected="an image of Pillow, an array or a tensor")
    values = _array(image)
    layout: Layout = "NHW" if values.ndim == 2 else "auto"
    upright = with_layout(values[None], layout, where)
    # a single uint8 image may well be all black, which says nothing about the range of the others
    pixels: Pixels = (upright if upright.dtype == np.uint8 else to_bytes(upright, where))[0]
    return pixels


def with_layout(values: NDArray[Any], layout: Layout, where: str) -> NDArray[Any]:
    """Arrays as (n, h, w) where grey, else (n, h, w, 3); raises DataError where their axes can't be told."""
    shape = values.shape
    if layout == "auto":
        ends = {"NCHW": values.ndim == 4 and shape[1] in (1, 3), "NHWC": values.ndim == 4 and shape[3] in (1, 3)}
        fitting = ["NHW"] if values.ndim == 3 else [name for name, fits in ends.items() if fits]
        if len(fitting) != 1:
            raise DataError(
                f"{where} have the shape {shape}: " + ("both ends could be channels" if fitting else "no channels"),
                expected="(n, 1 or 3, h, w), (n, h, w, 1 or 3) or (n, h, w)",
                fix="say which axes they are: attar.open(data, layout='NCHW')" if fitting else "",
            )
        layout = "NHWC" if fitting[0] == "NHWC" else "NCHW" if fitting[0] == "NCHW" else "NHW"
    if values.ndim != len(layout) or (layout != "NHW" and shape[layout.index("C")] not in (1, 3)):
        raise DataError(f"{where} have the shape {shape}", expected=f"{layout} with 1 or 3 channels")
    if layout == "NHW":
        return values
    last = values if layout == "NHWC" else values.transpose(0, 2, 3, 1)
    return last[..., 0] if last.shape[3] == 1 else last


def to_bytes(values: NDArray[Any], where: str) -> Pixels:
    """Pixels uint8 of arrays whose range can be told: uint8, floats in 0..1, or whole numbers in 0..255.

    Raises DataError for anything else: what was normalised, 16 bits, or only 0 and 1 as whole numbers.
    """
    if not values.size:
        raise DataError(f"{where}: shape {values.shape}", expected="images")
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "fiu":
        raise DataError(f"{where} are {values.dtype}", expected="uint8, or floats in 0..1")
    low, high = float(values.min()), float(values.max())
    real = values.dtype.kind == "f"
    if real and low >= 0 and high <= 1:  # NaN compares false
        return _in_blocks(values, 255)
    whole = not real or all(bool((part == np.round(part)).all()) for part in _blocks(values))
    if whole and low >= 0 and 1 < high <= 255:
        return values if values.dtype == np.uint8 else _in_blocks(values, 1)
    raise DataError(
        f"{where} hold {values.dtype} from {low:g} to {high:g}",
        expected="uint8 in 0..255, or floats in 0..1",
        fix="undo their normalisation: attar normalises by itself (source.normalization)"
        if real
        else "bring them to floats in 0..1: images / images.max()",
    )


def _in_blocks(values: NDArray[Any], scale: int) -> Pixels:
    """Scaled and rounded to uint8, a part at a time."""
    pixels = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _BLOCK):
        pixels[start : start + _BLOCK] = np.round(np.asarray(values[start : start + _BLOCK], np.float64) * scale)
    return pixels


def _blocks(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[start : start + _BLOCK] for start in range(0, len(values), _BLOCK)]


def _array(values: Any) -> NDArray[Any]:
    if isinstance(values, Tensor):
        found: NDArray[Any] = values.detach().cpu().float().numpy() if values.is_floating_point() else _whole(values)
        return found
    return np.asarray(values)


def _whole(values: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = values.detach().cpu().numpy()
    return found


def _is_pair(thing: Any) -> bool:
    """Whether it is (images, labels); a list of paths or of examples is not."""
    if not isinstance(thing, tuple | list) or len(thing) != 2 or not isinstance(thing[0], np.ndarray | Tensor):
        return False
    return isinstance(thing[1], np.ndarray | Tensor | list | tuple)


def _is_table(thing: Any) -> bool:
    """Whether it is a dataset of Hugging Face's library, told without importing it."""
    return any(
        base.__module__.partition(".")[0] == "datasets" and base.__name__ == "Dataset"
        for base in itertools.chain(type(thing).__mro__)
    )


def _is_indexed(thing: Any) -> bool:
    """Whether it gives (image, label) of an index without being torch's."""
    if isinstance(thing, str | bytes | tuple | list | Mapping | type):
        return False
    return hasattr(thing, "__getitem__") and hasattr(thing, "__len__") and not isinstance(thing, np.ndarray | Tensor)
