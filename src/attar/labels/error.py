"""What a codec costs: how far decoded logits are from the teacher's, measured on all of them. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class QuantizationError:
    """The error of stored labels; logits count up to a constant a row, so both sides are centred."""

    max_abs: float
    """Greatest difference between a centred logit and the one read back."""
    kl_1: float
    """Mean KL divergence of softmax(decoded) from softmax(teacher), in nats."""
    kl_20: float
    """The same of softmax(./20)."""
    num: int
    """Labels that this was measured on."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def merge(cls, errors: Iterable[QuantizationError]) -> QuantizationError:
        """The error of all labels together; `errors` is not empty."""
        every = list(errors)
        num = sum(error.num for error in every)
        return cls(
            max_abs=max(error.max_abs for error in every),
            kl_1=sum(error.kl_1 * error.num for error in every) / num,
            kl_20=sum(error.kl_20 * error.num for error in every) / num,
            num=num,
        )
