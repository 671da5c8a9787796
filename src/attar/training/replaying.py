"""Views that are replayed bring a label each: what a training may do with them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from attar.augment.replayed import ReplayedSet
from attar.data.loading import TrainingSet
from attar.errors import ConfigError
from attar.training.strategies import Strategy


def view_epochs(data: TrainingSet, strategy: Strategy, epoch: int, order: Sequence[Tensor]) -> Sequence[Tensor]:
    """The epochs whose views the images of every batch of an epoch show; none where no views are replayed."""
    return strategy.view_epochs(epoch, order, _mixed(data)) if isinstance(data, ReplayedSet) else ()


def require_replayable(data: TrainingSet, strategy: Strategy, name: str) -> None:
    """Raise ConfigError where views are replayed and the strategy `name` cannot do what it says with them."""
    if not isinstance(data, ReplayedSet):
        return
    if strategy.views > 1:
        raise ConfigError(
            f"the strategy {name} compares {strategy.views} views of an image, and these images have soft labels for "
            "one view an epoch: all of them would be the same",
            expected="images with hard labels, or one soft label each",
            fix="another strategy, such as dlb, or relabel.labels=teacher",
        )
    if strategy.remembers_images and _mixed(data):
        raise ConfigError(
            f"the strategy {name} remembers predictions by image, and these views are mixtures of images",
            expected="views of one image each (relabel.mix=none)",
            fix="another strategy, such as dlb, or relabel without a mix",
        )


def _mixed(data: ReplayedSet) -> bool:
    return data.views.settings.mix != "none"
