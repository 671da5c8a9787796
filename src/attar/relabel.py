"""Relabel: give the recovered images their labels and write the distilled dataset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from attar.config import Config
from attar.errors import ConfigError
from attar.methods.base import Distillate


class RelabelSettings(Config):
    """The labels of the distilled dataset."""

    labels: Literal["method", "teacher"] = "method"
    """method: as the method hands them over; teacher: probabilities of the squeezed network (or the mean of
    the experts) on each image as it is, one soft label an image."""


def relabel(distillate: Distillate, knowledge: Any, settings: RelabelSettings) -> Distillate:
    """Return the images with the labels that are asked for."""
    if settings.labels == "method":
        return distillate
    if knowledge is None:
        raise ConfigError(
            "relabel.labels=teacher, but this method squeezes no network",
            expected="a method with a teacher or experts, such as herding or tesla",
            fix="--set relabel.labels=method, or another --method",
        )
    return replace(distillate, soft_labels=knowledge.soft_labels(distillate.images).cpu())
