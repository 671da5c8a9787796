"""Training strategies by name. A new one is a file here, or in another package that names it as an entry point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from attar.config import dump
from attar.errors import ConfigError
from attar.registry import Registry, classes_in, require_class
from attar.runtime.seeding import scoped
from attar.training.settings import TrainSettings
from attar.training.strategies.base import Batch, Part, Strategy, Teaches, split_batches
from attar.training.strategies.composed import find

__all__ = [
    "STRATEGIES",
    "Batch",
    "Part",
    "Strategy",
    "Teaches",
    "identity",
    "kinds_of",
    "make_strategy",
    "num_batches",
    "require_suits",
]


def _accepted(thing: Any, name: str) -> type[Strategy]:
    found: type[Strategy] = require_class(thing, Strategy, "strategy", ("name", "summary"))
    return found


STRATEGIES: Registry[type[Strategy]] = Registry(
    "attar.strategies", "strategy", lambda: classes_in(__name__, Strategy), _accepted
)
"""Every strategy by the name that is typed after `--strategy`."""


def make_strategy(settings: TrainSettings, num_images: int) -> Strategy:
    """The strategy of a training on so many images, or the sum of several whose names are joined by '+'.

    Raises ConfigError for a name that isn't known, and for a sum in which two would do the same.
    """
    return find(settings.strategy, STRATEGIES)(settings, num_images)


def kinds_of(name: str) -> list[type[Strategy]]:
    """The strategies of a name, one or several; raises as `make_strategy` does."""
    find(name, STRATEGIES)
    return [STRATEGIES[one] for one in name.split("+")]


def identity(settings: TrainSettings) -> dict[str, Any]:
    """Plain values that tell a training from others: its settings, but of strategies only those that it uses.

    So a training stays what it is where strategies are added to attar, or a package that has some is installed.
    """
    used = {kind.group() for kind in kinds_of(settings.strategy)}
    groups = {kind.group() for kind in STRATEGIES.all().values() if kind.Settings is not None}
    return {key: value for key, value in dump(settings).items() if key in used or key not in groups}


def require_suits(settings: TrainSettings, model: nn.Module, shape: Sequence[int], num_images: int) -> None:
    """Raise ConfigError where the strategy can't train this network on images (c, h, w), or wants a teacher of its own.

    For what judges sets: there kd has no teacher, and what it lacks is told before the sets are made.
    """
    if "kd" in settings.strategy.split("+"):
        raise ConfigError(
            "the strategy kd was asked for where a set is judged, and there it has no teacher",
            expected="another strategy: soft labels of the set are how its teacher teaches",
            fix="attar train or attar study, which take kd with a teacher",
        )
    strategy = make_strategy(settings, num_images)
    with scoped(0, "train", "strategy"):
        strategy.prepare(model, lambda: torch.zeros(1, *shape), None)
    strategy.release()


def num_batches(settings: TrainSettings, num_images: int) -> int:
    """Batches of an epoch over so many images, such as twice as many for dlb."""
    return len(split_batches(torch.arange(num_images), make_strategy(settings, num_images).num_fresh))
