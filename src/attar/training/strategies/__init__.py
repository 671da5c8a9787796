"""Training strategies by name. A new one is a file here and a line in `strategies`."""

from __future__ import annotations

from attar.training.strategies.base import Batch, Strategy
from attar.training.strategies.ce import CrossEntropy

__all__ = ["Batch", "Strategy", "strategies"]


def strategies() -> dict[str, type[Strategy]]:
    """Every strategy by its name."""
    return {kind.name: kind for kind in (CrossEntropy,)}
