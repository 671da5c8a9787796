"""Accuracy class by class, and which classes are taken for which: counts of test images over the seeds of a record.

    by_class.json    beside evaluation.json: `by_class`, one for each record whose trainings were all counted

Of up to MOST_SQUARE classes all that was confused is kept; of more, the MOST_PAIRS pairs that are confused most.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from operator import lt
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from attar.errors import ArtifactError, naming
from attar.plain import Count, Text, Truth, exact, listed_problems
from attar.results.records import Labels, Record

BY_CLASS = "by_class.json"
MOST_SQUARE = 32
MOST_PAIRS = 200

Cells = Sequence[tuple[int, int, int]]
"""Counts of images: their class, the class that they were taken for, how many; each pair once, none of 0."""


@exact
@dataclass(frozen=True)
class ByClass:
    """How images of each class were judged by the networks of one record, all seeds together.

    `num` and `right` have an entry for each class: how many images were shown, and how many of them were recognised.
    `confused` are the others, most first; `whole` says whether these are all of them.
    """

    model: Text
    group: Text
    labels: Labels | None
    augmented: Truth
    seeds: Count
    num: tuple[Count, ...]
    right: tuple[Count, ...]
    confused: tuple[tuple[Count, Count, Count], ...]
    whole: Truth

    @classmethod
    def of(cls, record: Record, num_classes: int, trainings: Sequence[Cells]) -> ByClass:
        """Sum the counts of a record's trainings."""
        summed: Counter[tuple[int, int]] = Counter()
        for cells in trainings:
            for true, taken_for, count in cells:
                summed[true, taken_for] += count
        num = [0] * num_classes
        for (true, _), count in summed.items():
            num[true] += count
        wrong = [(true, other, count) for (true, other), count in summed.items() if true != other]
        wrong.sort(key=lambda cell: (-cell[2], cell[0], cell[1]))
        whole = num_classes <= MOST_SQUARE or len(wrong) <= MOST_PAIRS
        return cls(
            model=record.model,
            group=record.group,
            labels=record.labels,
            augmented=record.augmented,
            seeds=len(trainings),
            num=tuple(num),
            right=tuple(summed[label, label] for label in range(num_classes)),
            confused=tuple(wrong if whole else wrong[:MOST_PAIRS]),
            whole=whole,
        )

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.num)

    def percent(self, label: int) -> float | None:
        """Accuracy on a class in percent; None where no image of it judged."""
        return 100 * self.right[label] / self.num[label] if self.num[label] else None

    def is_of(self, record: Record) -> bool:
        """Whether this counts the trainings of that record."""
        own = (self.model, self.group, self.labels, self.augmented)
        return not record.best and own == (record.model, record.group, record.labels, record.augmented)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> ByClass:
        """Read what `to_json` wrote; raises ArtifactError for anything else."""
        try:
            found = _checker().validate_python(values)
            wrong = found._nonsense()
        except ValidationError as error:
            wrong = listed_problems(error)
        if wrong:
            raise ArtifactError(
                f"accuracies by class could not be read: {wrong[:500]}",
                expected="counts for each class, and pairs of classes that were confused",
                fix="run attar evaluate again",
            )
        return found

    def _nonsense(self) -> str:
        """Which fields, each of its type, do not go together, in words."""
        if not self.num:
            return "there are no classes"
        if len(self.num) != len(self.right) or any(map(lt, self.num, self.right)):
            return "more images are recognised than were shown"
        if any(true == other or max(true, other) >= len(self.num) for true, other, _ in self.confused):
            return "a class that is confused is none of them"
        return ""


def rows_of(matrix: Sequence[Sequence[int]]) -> dict[str, str]:
    """Counts (classes, classes), the true class first, as short texts: `{"3": "3:34 8:2"}`, without those of 0."""
    rows = {
        str(true): " ".join(f"{other}:{count}" for other, count in enumerate(row) if count)
        for true, row in enumerate(matrix)
    }
    return {true: row for true, row in rows.items() if row}


def cells_of(rows: Mapping[str, str]) -> Cells:
    """Read what `rows_of` wrote."""
    parted = [(true, *part.split(":")) for true, row in rows.items() for part in row.split()]
    return [(int(true), int(other), int(count)) for true, other, count in parted]


def to_text(found: Iterable[ByClass]) -> str:
    """The text of by_class.json, a line for each record."""
    lines = ",\n".join(json.dumps(one.to_json(), ensure_ascii=False, separators=(",", ":")) for one in found)
    return f'{{"by_class": [\n{lines}\n]}}\n'


def read_by_class(path: Path, values: Any) -> tuple[ByClass, ...]:
    """What `values`, read from the file at `path`, say; raises ArtifactError that names it where they make no sense."""
    with naming(path):
        found = values.get("by_class") if isinstance(values, dict) else None
        if not isinstance(found, list):
            raise ArtifactError("by_class is no list", expected="a list", fix="run attar evaluate again")
        return tuple(map(ByClass.from_json, found))


@cache
def _checker() -> TypeAdapter[ByClass]:
    return TypeAdapter(ByClass)
