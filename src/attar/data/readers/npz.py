"""Images and labels in one `.npz` file.

    train_images, train_labels, val_images, ..., test_labels    a file of MedMNIST
    x_train, y_train, x_test, y_test                            as Keras keeps its datasets
    images, labels                                              one split; x and y, data and target(s) too
    class_names, classes                                        names of the classes in label order; may be missing

Images are (n, h, w), (n, h, w, 1 or 3) or (n, 1 or 3, h, w), of any type of numbers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attar.data.arrayfiles import read_npz
from attar.data.classes import classify
from attar.data.examples import Examples, Found, quoted, split_named, unlabelled
from attar.data.named.memory import with_layout
from attar.data.raster import Encoded
from attar.data.readers.base import Reader
from attar.errors import DataError
from attar.options import Reading
from attar.runtime.events import Events

IMAGES = ("images", "image", "imgs", "x", "data", "arr_0")
LABELS = ("labels", "label", "y", "targets", "target", "arr_1")
NAMES = ("class_names", "classes", "label_names")


def read_arrays(path: Path, how: Reading | None = None, names: Sequence[str] | None = None) -> Found:
    """List the images of such a file; `names` are its classes, where the file does not say.

    Raises DataError where it holds no pairs of images and labels, or these are of other shapes.
    """
    how = how or Reading()
    arrays = read_npz(path)
    pairs = _pairs(arrays, how.label_column)
    if not pairs:
        raise DataError(
            f"{path} holds the arrays {quoted(arrays, 12)}, which are no images with labels that are known",
            expected="images and labels; train_images, train_labels and so on; or x_train, y_train, x_test, y_test",
            fix="write it with these names, or name the array of labels with --label-column",
        )
    classes = classify(
        {split: _labels(arrays[label], f"{path}: {label}") for split, (_, label) in pairs.items()},
        names or next((list(map(str, arrays[key].ravel())) for key in NAMES if key in arrays), None),
        str(path),
        skip_unlabelled=how.skip_unlabelled,
    )
    examples = {split: _examples(arrays[image], f"{path}: {image}") for split, (image, _) in pairs.items()}
    for image, label in pairs.values():
        if len(arrays[image]) != len(arrays[label]):
            raise DataError(
                f"{path}: {image} has {len(arrays[image]):,} images and {label} {len(arrays[label]):,} labels",
                expected="one label for each image",
            )
    return classes.found({split: examples[split] for split in classes.labels})


def _pairs(arrays: Mapping[str, NDArray[Any]], column: str | None) -> dict[str, tuple[str, str]]:
    """The names of images and labels of each split."""
    found: dict[str, tuple[str, str]] = {}
    keys = {kind: {_split(name, kind): name for name in arrays if _split(name, kind)} for kind in (IMAGES, LABELS)}
    for split, image in keys[IMAGES].items():
        label = keys[LABELS].get(split)
        if column is not None:
            start = image.lower().partition("_")[0]
            wanted = [name for name in arrays if name in (column, f"{start}_{column}")]
            label = wanted[-1] if wanted else None
        if split and label is not None:
            found[split] = (image, label)
    return found


def _split(name: str, kind: Sequence[str]) -> str | None:
    """The split that an array's name is of (train where it names none); None for one that is of another kind."""
    words = re.split(r"[_\-. ]", name.lower())
    if name.lower() in kind:
        return "train"
    split = next(filter(None, map(split_named, words)), None)
    rest = "_".join(word for word in words if split_named(word) is None)
    return split if split and rest in kind else None


def _labels(values: NDArray[Any], where: str) -> list[Any]:
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise DataError(
            f"{where} has the shape {values.shape}: several labels for each image, as of several diseases at once",
            expected="one class for each image, (n,) or (n, 1)",
            fix="name an array of classes with --label-column; of one-hot labels, store their argmax",
        )
    texts = values.dtype.kind == "S"
    return [value.decode("utf-8", "replace") if texts else value for value in values.tolist()]


def _examples(values: NDArray[Any], where: str) -> Examples:
    images = with_layout(values, "auto", where)
    images = images.astype(np.uint8) * np.uint8(255) if images.dtype == bool else images
    if images.dtype.kind not in "iuf":
        raise DataError(f"{where} holds {images.dtype}", expected="images as numbers")

    def ready() -> Callable[[int], Encoded]:
        return lambda index: np.ascontiguousarray(images[index])

    listing = hashlib.sha256(f"{images.shape} {images.dtype}".encode() + np.ascontiguousarray(images).data)
    return Examples(unlabelled(), lambda index: f"{where} {index}", ready, listing.hexdigest())


def _read(path: str, how: Reading, events: Events) -> Found:
    return read_arrays(Path(path), how)


READER = Reader(
    "npz",
    "NPZ",
    "a file of NumPy with images and labels: MedMNIST's, x_train and y_train, or images and labels",
    _read,
    lambda path: path.suffix.lower() == ".npz" and path.is_file(),
    columns=True,
)
