"""Measured numbers. Everything that attar reports is one of these; the report is drawn from them alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from attar.errors import ArtifactError, naming
from attar.plain import (
    COUNT,
    NUMBER,
    SHARE,
    TEXT,
    TRUTH,
    Field,
    is_count,
    is_number,
    is_text,
    is_whole,
    list_of,
    one_of,
    part,
    problem,
)

Labels = Literal["hard", "soft"]
"""Classes, or a teacher's probabilities."""
Split = Literal["test", "validation"]
"""Real images that judge."""
Over = Literal["steps", "epochs"]
ACCURACY = "accuracy"


@dataclass(frozen=True)
class Measurement:
    """One of several measurements: at which step or epoch, None at the last, and the mean over the seeds."""

    at: int | None
    mean: float


@dataclass(frozen=True)
class Best:
    """That a record is the best of several measurements, by the very images that judge.

    `over` the steps of recover, or the epochs of the trainings; `at` is that step, empty where it was the last, or the
    epoch of each seed; `tested` are all.
    """

    over: Over
    at: tuple[int, ...]
    tested: tuple[Measurement, ...]


@dataclass(frozen=True)
class Arrival:
    """How far classes had arrived in continual learning: by `step` (from 1) of `num_steps`, `num_classes` were seen."""

    step: int
    num_steps: int
    num_classes: int


@dataclass(frozen=True)
class Cell:
    """The place of a record in a study: strategy and variant by their names there, and the part of wrong labels.

    `images_seen` go through the network in a training, each view counted; an epoch shows each image `showings` times.
    """

    strategy: str
    variant: str
    label_noise: float
    images_seen: int
    showings: int


@dataclass(frozen=True)
class Record:
    """One number with all that is needed to judge it.

    `std` is the sample standard deviation over the n `values`, one for each of `seeds`. What it is of stands in fields;
    texts such as `subject` are for a person, and nothing is read off them.
    """

    metric: str
    """`accuracy` (percent), or the name of a score or loss."""
    subject: str
    """What was trained on, in words."""
    model: str
    """The network, by its name."""
    mean: float
    std: float
    n: int
    values: tuple[float, ...]
    seeds: tuple[int, ...]
    num_images: int
    size_bytes: int
    group: str = ""
    """Of what kind the images are that were trained on: `distilled`, `random`, another choice of real ones, `full`."""
    labels: Labels | None = None
    """Of what kind their labels are."""
    augmented: bool = True
    """Whether they were augmented, as the settings have it; False: trained on as they are."""
    split: Split | None = None
    """Real images that judge."""
    num_judges: int | None = None
    """How many of these there are."""
    resize_px: int | None = None
    """To what size these were enlarged before their centre was cut out; None: as they are."""
    best: Best | None = None
    """That this is the best of several: higher than what anyone gets who cannot choose by the images that judge. No
    headline, verdict or comparison takes it."""
    arrival: Arrival | None = None
    """Of continual learning."""
    cell: Cell | None = None
    """Of a study."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """Precision and train settings."""

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
        **fields: Any,
    ) -> Record:
        """Make the record of values measured once per seed; `fields` are the others."""
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
            **fields,
        )

    def with_values(self, values: Sequence[float], **changes: Any) -> Record:
        """The same of other values, one for each seed."""
        std = statistics.stdev(values) if len(values) > 1 else 0.0
        return replace(self, mean=statistics.fmean(values), std=std, values=tuple(values), **changes)

    @property
    def is_accuracy(self) -> bool:
        """Whether this is an accuracy, in percent."""
        return self.metric == ACCURACY

    @property
    def metric_name(self) -> str:
        """For a person: `test_accuracy`, `best_test_accuracy`, or the metric's own name."""
        return "_".join(filter(None, ("best" if self.best else "", self.split, self.metric)))

    @property
    def tested_on(self) -> str:
        """Which images judge, as `test split, 500 images, after the last epoch`; empty where it is not said."""
        if self.split is None or self.num_judges is None:
            return ""
        enlarged = f" enlarged to {self.resize_px} px" if self.resize_px else ""
        return f"{self.split} split, {self.num_judges} images{enlarged}, after the last epoch"

    @property
    def spread(self) -> str:
        """The mean for a person: `94.0 ± 0.4`, without a spread where there is one value only."""
        return f"{self.mean:.1f} ± {self.std:.1f}" if self.n > 1 else f"{self.mean:.1f}"

    @property
    def score(self) -> str:
        """An accuracy for a person: `94.0 ± 0.4 %`, without a spread where there is one value only."""
        return f"{self.spread} %"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file; fields that say nothing are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: Any) -> Record:
        """Read what `to_json` wrote; raises ArtifactError for what is no record."""
        if wrong := problem(values, _FIELDS, _REQUIRED) or _nonsense(values):
            raise ArtifactError(
                f"a record could not be read: {wrong}",
                expected="the fields of a record, of their types and in their ranges",
                fix="run the command that measured it again, such as `attar evaluate`",
            )
        return cls(**{name: _made(name, value) for name, value in values.items()})


def read_records(path: Path, values: Any) -> tuple[Record, ...]:
    """Records of what a JSON file says under `records`, none where it says nothing; errors name the file."""
    found = values.get("records", []) if isinstance(values, dict) else []
    if not isinstance(found, list):
        raise ArtifactError(f"{path}: records is no list", expected="a list of records", fix="make the file again")
    with naming(path):
        return tuple(map(Record.from_json, found))


_AT: Field = ("a step, an epoch or null", lambda value: value is None or is_count(value))
_TESTED: Field = ("a list of measurements", list_of(part({"at": _AT, "mean": NUMBER})[1]))
_FIELDS: Mapping[str, Field] = {
    "metric": TEXT,
    "subject": TEXT,
    "model": TEXT,
    "mean": NUMBER,
    "std": ("a number, not below 0", lambda value: is_number(value) and value >= 0),
    "n": COUNT,
    "values": ("a list of numbers", list_of(is_number)),
    "seeds": ("a list of whole numbers", list_of(is_whole)),
    "num_images": COUNT,
    "size_bytes": COUNT,
    "group": TEXT,
    "labels": one_of(Labels),
    "augmented": TRUTH,
    "split": one_of(Split),
    "num_judges": COUNT,
    "resize_px": COUNT,
    "best": part({"over": one_of(Over), "at": ("a list of counts", list_of(is_count)), "tested": _TESTED}),
    "arrival": part(dict.fromkeys(("step", "num_steps", "num_classes"), COUNT)),
    "cell": part(
        {"strategy": TEXT, "variant": TEXT, "label_noise": SHARE, "images_seen": COUNT, "showings": COUNT},
    ),
    "protocol": ("a mapping by names", lambda value: isinstance(value, dict) and all(map(is_text, value))),
}
_REQUIRED = ("metric", "subject", "model", "mean", "std", "n", "values", "seeds", "num_images", "size_bytes")


def _nonsense(values: Mapping[str, Any]) -> str:
    """Which fields, each of its type, do not go together, in words."""
    if not values["n"] == len(values["values"]) == len(values["seeds"]):
        return f"n is {values['n']}, with {len(values['values'])} values and {len(values['seeds'])} seeds"
    numbers = (values["mean"], values["std"], *values["values"])
    if values["metric"] == ACCURACY and not all(0 <= number <= 100 for number in numbers):
        return "an accuracy is outside 0..100 percent"
    return ""


def _made(name: str, value: Any) -> Any:
    """A field of a record, of its checked plain value."""
    if name in ("values", "seeds"):
        return tuple(value)
    if name == "best":
        return Best(value["over"], tuple(value["at"]), tuple(Measurement(**tested) for tested in value["tested"]))
    if name == "arrival":
        return Arrival(**value)
    return Cell(**value) if name == "cell" else value
