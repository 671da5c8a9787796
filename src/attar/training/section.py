"""The section `train`: how a network is trained, and the settings of every strategy, each in a group of its own.

The groups are made of the strategies that are there, those of other packages among them. So a strategy's file imports
`attar.training.strategies` and nothing above it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import create_model, field_validator, model_validator
from pydantic.fields import FieldInfo

from attar.training.settings import TrainSettings
from attar.training.strategies import STRATEGIES, kinds_of


class _Checked(TrainSettings):
    """Settings whose strategy is known."""

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, name: str) -> str:
        kinds_of(name)
        return name

    @model_validator(mode="after")
    def _suits_the_strategy(self) -> Self:
        for kind in kinds_of(self.strategy):
            if kind.remembers_images and self.cutmix + self.mixup == 1:
                raise ValueError(
                    f"{kind.name} remembers predictions of images that are not mixed; cutmix and mixup together must "
                    "be below 1"
                )
        return self


def _groups() -> dict[str, Any]:
    """A field for each strategy that has settings."""
    groups = {}
    for kind in STRATEGIES.all().values():
        if kind.Settings is not None:
            groups[kind.group()] = (
                kind.Settings,
                FieldInfo(default=kind.Settings(), description=f"Of the strategy {kind.name}."),
            )
    return groups


if TYPE_CHECKING:

    class TrainSection(TrainSettings):
        """How a network is trained from scratch, and by which strategy."""

else:
    TrainSection = create_model(
        "TrainSection", __base__=_Checked, __module__=__name__, __doc__=TrainSettings.__doc__, **_groups()
    )
