"""Measured numbers. Everything that attar reports is one of these; the report is drawn from them alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from attar.errors import ArtifactError


@dataclass(frozen=True)
class Record:
    """One number with all that is needed to judge it.

    `metric` is `test_accuracy` (percent) or a loss; `subject` is what was trained on (`distilled`, `random`,
    `full`, ...); `std` is the sample standard deviation over the n `values`, one for each of `seeds`; `protocol`
    tells how.
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
    def score(self) -> str:
        """An accuracy for a person: `94.0 ± 0.4 %`, without a spread where there is one value only."""
        return f"{self.mean:.1f} ± {self.std:.1f} %" if self.n > 1 else f"{self.mean:.1f} %"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Record:
        """Read what `to_json` wrote."""
        try:
            return cls(**{**values, "values": tuple(values["values"]), "seeds": tuple(values["seeds"])})
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"a record could not be read: {error!r}", fix="run `attar evaluate` again") from error
