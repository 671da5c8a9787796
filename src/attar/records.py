"""Measured numbers. Everything that attar reports is one of these; the report is drawn from them alone."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from attar.errors import ArtifactError

BEST = "best_"
"""Begins the metric of a record that took the best of several measurements, by the very images that judge."""
MOST_NUMBER = 1e50
"""Far beyond any float32; squares and differences of such numbers are finite still."""


@dataclass(frozen=True)
class Record:
    """One number with all that is needed to judge it.

    `metric` is `test_accuracy` (percent), `best_test_accuracy` (see `is_best`) or a loss; `subject` is what was trained
    on (`distilled`, `random`, `full`, ...); `std` is the sample standard deviation over the n `values`, one for each of
    `seeds`; `protocol` tells how.
    """

    metric: str
    subject: str
    model: str
    mean: float
    std: float
    n: int
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    num_images: int
    size_bytes: int
    protocol: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        metric: str,
        subject: str,
        model: str,
        values: Sequence[float],
        *,
        seeds: Sequence[int],
        num_images: int,
        size_bytes: int,
        protocol: dict[str, Any],
    ) -> Record:
        """Make the record of values measured once per seed."""
        return cls(
            metric=metric,
            subject=subject,
            model=model,
            mean=statistics.fmean(values),
            std=statistics.stdev(values) if len(values) > 1 else 0.0,
            n=len(values),
            values=tuple(values),
            seeds=tuple(seeds),
            num_images=num_images,
            size_bytes=size_bytes,
            protocol=protocol,
        )

    @property
    def is_best(self) -> bool:
        """Whether this is the best of several measurements, as published tables have it: higher than what anyone gets
        who cannot choose by the test images. No headline, verdict or comparison takes it."""
        return self.metric.startswith(BEST)

    @property
    def score(self) -> str:
        """An accuracy for a person: `94.0 ± 0.4 %`, without a spread where there is one value only."""
        return f"{self.mean:.1f} ± {self.std:.1f} %" if self.n > 1 else f"{self.mean:.1f} %"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Record:
        """Read what `to_json` wrote; raises ArtifactError for what is no record."""
        if problem := _problem(values):
            raise ArtifactError(
                f"a record could not be read: {problem}",
                expected="the fields of a record, of their types and in their ranges",
                fix="run the command that measured it again, such as `attar evaluate`",
            )
        return cls(**{**values, "values": tuple(values["values"]), "seeds": tuple(values["seeds"])})


def read_records(path: Path, values: Any) -> tuple[Record, ...]:
    """Records of what a JSON file says under `records`, none where it says nothing; errors name the file."""
    found = values.get("records", []) if isinstance(values, dict) else []
    if not isinstance(found, list):
        raise ArtifactError(f"{path}: records is no list", expected="a list of records", fix="make the file again")
    try:
        return tuple(map(Record.from_json, found))
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error.found}", expected=error.expected, fix=error.fix) from error


def is_number(value: Any) -> TypeGuard[float]:
    """Whether this is a finite number that can be reckoned with, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST_NUMBER


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and is_number(value) and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(kind, value))


_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "metric": ("a text", _is_text),
    "subject": ("a text", _is_text),
    "model": ("a text", _is_text),
    "mean": ("a number", is_number),
    "std": ("a number, not below 0", lambda value: is_number(value) and value >= 0),
    "n": ("a whole number, not below 0", _is_count),
    "values": ("a list of numbers", _list_of(is_number)),
    "seeds": ("a list of whole numbers", _list_of(lambda value: isinstance(value, int))),
    "num_images": ("a whole number, not below 0", _is_count),
    "size_bytes": ("a whole number, not below 0", _is_count),
    "protocol": ("a mapping by names", lambda value: isinstance(value, dict) and all(map(_is_text, value))),
}


def _problem(values: Any) -> str:
    """What keeps this from being a record, in words; empty where nothing does."""
    if not isinstance(values, dict):
        return "it is not a mapping"
    if odd := [name for name in values if name not in _FIELDS]:
        return f"unknown field {str(odd[0])[:50]!r}"
    for name, (kind, suits) in _FIELDS.items():
        if name not in values and name != "protocol":
            return f"{name} is missing"
        if name in values and not suits(values[name]):
            return f"{name} is {str(values[name])[:50]!r}, not {kind}"
    if not values["n"] == len(values["values"]) == len(values["seeds"]):
        return f"n is {values['n']}, with {len(values['values'])} values and {len(values['seeds'])} seeds"
    numbers = (values["mean"], values["std"], *values["values"])
    if values["metric"].endswith("_accuracy") and not all(0 <= number <= 100 for number in numbers):
        return "an accuracy is outside 0..100 percent"
    return ""
