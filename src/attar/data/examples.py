"""What a reader finds before any image is decoded: class names, splits, labels, and the way to the bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from attar.data.raster import Encoded
from attar.errors import DataError
from attar.runtime.files import digest
from attar.task import Normalization
from attar.text import is_text, parse_yaml

SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
"""Splits, and the names by which they go."""
_CARD_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Examples:
    """One split as found.

    Attributes:
        labels: class of each image, int64 (n,).
        name: what to call an image in a message.
        open: make ready to read, and return the function from index to encoded image, which several threads
            may call at once.
        listing: names, sizes and labels in a form that can be hashed, known without reading the images.
    """

    labels: Tensor
    name: Callable[[int], str]
    open: Callable[[], Callable[[int], Encoded]]
    listing: str

    def __len__(self) -> int:
        return len(self.labels)

    def labelled(self, labels: Tensor, kept: Tensor | None = None) -> Examples:
        """The same images with these labels (m,), or those of them at the places `kept` (m,)."""
        if kept is None:
            return replace(self, labels=labels)

        def ready() -> Callable[[int], Encoded]:
            read = self.open()
            return lambda index: read(int(kept[index]))

        return Examples(labels, lambda index: self.name(int(kept[index])), ready, digest([self.listing, kept.tolist()]))


@dataclass(frozen=True)
class Found:
    """A source as found.

    Attributes:
        class_names: in label order.
        splits: by the names of `SPLITS`.
        licence: as the source states it.
        notes: what a person should hear.
        normalization: known beforehand; None has it measured.
        resolution: height and width in pixels that images are brought to unless someone says otherwise; None
            leaves them as they are.
        without_images: whether there are classes alone, and no splits.
    """

    class_names: tuple[str, ...]
    splits: dict[str, Examples]
    licence: str | None = None
    notes: list[str] = field(default_factory=list)
    normalization: Normalization | None = None
    resolution: int | None = None
    without_images: bool = False


def split_named(name: str) -> str | None:
    """Name the split that a folder or file part stands for, or None."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def unlabelled() -> Tensor:
    """Labels of images whose classes are found later, by `Examples.labelled`."""
    return torch.zeros(0, dtype=torch.int64)


def check(found: Found, where: str) -> None:
    """Raise DataError unless there is a training split, class names differ, and every given split has every class."""
    if "train" not in found.splits or not len(found.splits["train"]):
        others = ", ".join(found.splits) or "nothing"
        raise DataError(f"{where} has no training images; found: {others}", expected="a split named train")
    if odd := [name for name in found.class_names if not is_text(name)]:
        raise DataError(
            f"{where}: class {quoted(odd)} has a name that is no UTF-8",
            expected="names of classes, or of their folders, that can be written as text",
            fix="rename it",
        )
    if twice := [name for name, count in Counter(found.class_names).items() if count > 1]:
        raise DataError(
            f"{where}: several classes are called {quoted(twice)}",
            expected="class names that differ from each other",
            fix="rename them",
        )
    if len(found.class_names) < 2:
        raise DataError(f"{where} has one class only: {', '.join(found.class_names)}", expected="two classes or more")
    for split, examples in found.splits.items():
        counts = examples.labels.bincount(minlength=len(found.class_names)).tolist()
        empty = [name for name, count in zip(found.class_names, counts, strict=True) if not count]
        if empty:
            raise DataError(
                f"{where}: the {split} split has no image of {quoted(empty)}",
                expected=f"images of all {len(counts)} classes in every split",
                fix="add images of it there, or leave the class out of all splits",
            )


def licence_of(folder: Path) -> str | None:
    """Read the licence named in the YAML header of a dataset card `README.md`, where there is one."""
    card = folder / "README.md"
    if not card.is_file():  # a pipe would keep us waiting
        return None
    try:
        text = card.read_bytes()[:_CARD_LIMIT_BYTES].decode("utf-8", errors="replace")
        parts = text.split("---", 2)
        header = parse_yaml(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (OSError, ValueError):
        return None
    licence = header.get("license") if isinstance(header, dict) else None
    named = licence if isinstance(licence, list) else [licence]
    return ", ".join(name for name in named if isinstance(name, str)) or None  # other values may unfold without end


def quoted(names: Iterable[str], limit: int = 5) -> str:
    """Join names for a message, the first few of them."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{', '.join(map(repr, names[:limit]))}{more}"
