"""From the labels that somebody stored to classes: what they are called, and which images have none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attar.data.examples import Examples, Found, quoted
from attar.errors import DataError


@dataclass(frozen=True)
class Classes:
    """Classes of a source, and those of its images by split.

    Attributes:
        class_names: in label order.
        labels: class of each image that has one, int64 (n,).
        kept: which images of the split these are, int64 (n,) ascending; None for all.
        notes: what a person should hear.
    """

    class_names: tuple[str, ...]
    labels: Mapping[str, Tensor]
    kept: Mapping[str, Tensor | None]
    notes: list[str] = field(default_factory=list)

    def found(self, splits: Mapping[str, Examples], licence: str | None = None, notes: Sequence[str] = ()) -> Found:
        """The source, of splits whose labels are yet unknown."""
        labelled = {split: splits[split].labelled(self.labels[split], self.kept[split]) for split in self.labels}
        return Found(self.class_names, labelled, licence, [*notes, *self.notes])


def classify(
    columns: Mapping[str, Sequence[Any]],
    names: Sequence[str] | None,
    where: str,
    *,
    skip_unlabelled: bool = False,
    fix: str = "add --skip-unlabelled to leave these images out, or label them",
) -> Classes:
    """Find the classes of images by their label values.

    Args:
        columns: by split, a value for each image: a number or a word. None, an empty word, NaN and negative numbers
            say that an image has no label.
        names: the classes that numbers stand for, in order; None takes the distinct values, sorted.
        where: the source, for messages.
        skip_unlabelled: leave out images without a class.
        fix: what to do about them otherwise.

    A split without any label is left out, and names that no image has are. Raises DataError for images without a
    class (unless `skip_unlabelled`), and for values that are no class at all, such as 0.5.
    """
    values = {split: [_value(value, where) for value in column] for split, column in columns.items()}
    blank = [split for split, column in values.items() if column and all(value is None for value in column)]
    if "train" in blank:
        raise _unlabelled(columns, {"train": list(range(len(columns["train"])))}, names, where, fix)
    notes = [f"{where}: the {split} split has no labels and is left out" for split in blank]
    values = {split: column for split, column in values.items() if split not in blank}
    distinct = sorted({value for column in values.values() for value in column if value is not None}, key=_order)
    known = list(names) if names is not None else [str(value) for value in distinct]
    places: dict[int | str, int] = {value: place for place, value in enumerate(distinct)}
    if names is not None:
        places = {place: place for place in range(len(known))} | {name: place for place, name in enumerate(known)}
    missing = {
        split: rows
        for split, column in values.items()
        if (rows := [row for row, value in enumerate(column) if value is None or value not in places])
    }
    if missing and not skip_unlabelled:
        raise _unlabelled(columns, missing, names, where, fix)
    for split, rows in missing.items():
        notes.append(f"{where}: {len(rows):,} of {len(columns[split]):,} {split} images have no class: left out")
    used = sorted({places[value] for column in values.values() for value in column if value in places})
    if unused := sorted(set(range(len(known))) - set(used)):
        named = quoted(known[place] for place in unused)
        notes.append(f"{where}: {len(unused):,} of {len(known):,} classes have no image and are left out: {named}")
    new = {place: label for label, place in enumerate(used)}
    return Classes(
        tuple(known[place] for place in used),
        {
            split: torch.tensor([new[places[value]] for value in column if value in places], dtype=torch.int64)
            for split, column in values.items()
        },
        {
            split: torch.tensor([row for row, value in enumerate(column) if value in places], dtype=torch.int64)
            if split in missing
            else None
            for split, column in values.items()
        },
        notes,
    )


def _value(value: Any, where: str) -> int | str | None:
    """A label as a whole number or a word; None where it says that there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # whole numbers with gaps become floats in pandas
        value = int(value)
    if isinstance(value, int):
        return value if value >= 0 else None
    if isinstance(value, str) or value is None:
        return value.strip() or None if value else None
    several = isinstance(value, list | tuple | dict)
    raise DataError(
        f"{where}: {'several labels for one image' if several else 'a label that is no class'}: {str(value)[:80]}",
        expected="one class for each image, as a whole number or a word",
        fix="name a column of classes with --label-column",
    )


def _unlabelled(
    columns: Mapping[str, Sequence[Any]],
    missing: Mapping[str, list[int]],
    names: Sequence[str] | None,
    where: str,
    fix: str,
) -> DataError:
    counts = ", ".join(f"{len(rows):,} of {len(columns[split]):,} {split} images" for split, rows in missing.items())
    split, rows = next(iter(missing.items()))
    shown = "; ".join(f"{split} image {row} has label {_shown(columns[split][row])}" for row in rows[:3])
    known = f", or 0..{len(names) - 1}, the index of one of the {len(names)} class names" if names else ""
    return DataError(
        f"{where}: {counts} have no class: {shown}",
        expected=f"a class for each image: a word or a number from 0 on{known}",
        fix=fix,
    )


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)


def _order(value: int | str) -> tuple[bool, int | str]:
    return isinstance(value, str), value
