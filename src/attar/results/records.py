"""Measured numbers. Everything that attar reports is one of these; the report is drawn from them alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from attar.errors import ArtifactError, naming
from attar.plain import Count, Number, Share, Text, Truth, Whole, exact, listed_problems

Labels = Literal["hard", "soft"]
"""Classes, or a teacher's probabilities."""
Split = Literal["test", "validation"]
"""Real images that judge."""
Over = Literal["steps", "epochs"]
ACCURACY = "accuracy"


@exact
@dataclass(frozen=True)
class Measurement:
    """One of several measurements: at which step or epoch, None at the last, and the mean over the seeds."""

    at: Count | None
    mean: Number


@exact
@dataclass(frozen=True)
class Best:
    """That a record is the best of several measurements, by the very images that judge.

    `over` the steps of recover, or the epochs of the trainings; `at` is that step, empty where it was the last, or the
    epoch of each seed; `tested` are all.
    """

    over: Over
    at: tuple[Count, ...]
    tested: tuple[Measurement, ...]


@exact
@dataclass(frozen=True)
class Arrival:
    """How far classes had arrived in continual learning: by `step` (from 1) of `num_steps`, `num_classes` were seen."""

    step: Count
    num_steps: Count
    num_classes: Count


@exact
@dataclass(frozen=True)
class Cell:
    """The place of a record in a study: strategy and variant by their names there, and the part of wrong labels.

    `images_seen` go through the network in a training, each view counted; an epoch shows each image `showings` times.
    """

    strategy: Text
    variant: Text
    label_noise: Share
    images_seen: Count
    showings: Count


@exact
@dataclass(frozen=True)
class Followed:
    """The protocol that an accuracy is by, see `attar list protocols`; `changed` are the settings that are not its own.

    Such a setting reads `train.epochs=100`, or `network=resnet50`.
    """

    name: Text
    version: Count
    changed: tuple[Text, ...] = ()

    @property
    def title(self) -> str:
        """Name and version, `rd3 v1`."""
        return f"{self.name} v{self.version}"

    def __str__(self) -> str:
        return f"{self.title}, but {', '.join(self.changed)}" if self.changed else self.title


@exact
@dataclass(frozen=True)
class Record:
    """One number with all that is needed to judge it.

    `std` is the sample standard deviation over the n `values`, one for each of `seeds`. What it is of stands in fields;
    texts such as `subject` are for a person, and nothing is read off them.
    """

    metric: Text
    """`accuracy` (percent), or the name of a score or loss."""
    subject: Text
    """What was trained on, in words."""
    model: Text
    """The network, by its name."""
    mean: Number
    std: Annotated[Number, Field(ge=0)]
    n: Count
    values: tuple[Number, ...]
    seeds: tuple[Whole, ...]
    num_images: Count
    size_bytes: Count
    group: Text = ""
    """Of what kind the images are that were trained on: `distilled`, `random`, another choice of real ones, `full`."""
    labels: Labels | None = None
    """Of what kind their labels are."""
    augmented: Truth = True
    """Whether they were augmented, as the settings have it; False: trained on as they are."""
    split: Split | None = None
    """Real images that judge."""
    num_judges: Count | None = None
    """How many of these there are."""
    resize_px: Count | None = None
    """To what size these were enlarged before their centre was cut out; None: as they are."""
    best: Best | None = None
    """That this is the best of several: higher than what anyone gets who cannot choose by the images that judge. No
    headline, verdict or comparison takes it."""
    arrival: Arrival | None = None
    """Of continual learning."""
    cell: Cell | None = None
    """Of a study."""
    followed: Followed | None = None
    """By which named protocol it was measured, and what was changed of it; None: by none."""
    protocol: dict[Text, Any] = field(default_factory=dict)
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
        return f"{self.split} split, {self.num_judges:,} images{enlarged}, after the last epoch"

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
        try:
            found = _checker().validate_python(values)
            wrong = found._nonsense()
        except ValidationError as error:
            wrong = listed_problems(error)
        if wrong:
            raise ArtifactError(
                f"a record could not be read: {wrong}",
                expected="the fields of a record, of their types and in their ranges",
                fix="run the command that measured it again, such as `attar evaluate`",
            )
        return found

    def _nonsense(self) -> str:
        """Which fields, each of its type, do not go together, in words."""
        if not self.n == len(self.values) == len(self.seeds):
            return f"n is {self.n}, with {len(self.values)} values and {len(self.seeds)} seeds"
        if self.is_accuracy and not all(0 <= number <= 100 for number in (self.mean, self.std, *self.values)):
            return "an accuracy is outside 0..100 percent"
        return ""


@cache
def _checker() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


def read_records(path: Path, values: Any) -> tuple[Record, ...]:
    """Records of what a JSON file says under `records`, none where it says nothing; errors name the file."""
    found = values.get("records", []) if isinstance(values, dict) else []
    if not isinstance(found, list):
        raise ArtifactError(f"{path}: records is no list", expected="a list of records", fix="make the file again")
    with naming(path):
        return tuple(map(Record.from_json, found))
