"""Views that another program drew, stored beside the labels that are of them, and replayed as those of a seed are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor

from attar.augment.views import ViewDraw, Views, ViewSettings
from attar.errors import ArtifactError
from attar.labels.checks import view_problems
from attar.labels.plan import VIEW
from attar.labels.store import LabelStore

ALGORITHM = "stored"


class StoredViews(Views):
    """The views beside the labels of a store, by (stored epoch, image).

    Args:
        store: labels of a plan with views.
        values: what `describe` told of them. Raises ArtifactError where that is of something else.
    """

    def __init__(self, store: LabelStore, values: Mapping[str, Any]) -> None:
        try:
            if values["algorithm"] != ALGORITHM:
                raise ValueError(f"views drawn by algorithm {values['algorithm']}")
            channels, height, width = (int(size) for size in values["shape"])
            settings = ViewSettings(mix=values["mix"])
            super().__init__(settings, int(values["seed"]), store.plan.num_images, (channels, height, width))
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise ArtifactError(
                f"the description of the stored views could not be read: {error!r}",
                expected="algorithm stored, seed, shape and mix",
                fix="run `attar verify` on the folder it came from",
            ) from error
        self._store = store

    def draw(self, epochs: Tensor, indices: Tensor) -> ViewDraw:
        """The stored views of images `indices` (b,) in stored `epochs` (b,), int64; ArtifactError where one is none."""
        own = self._store.views(epochs, indices)
        if problems := view_problems(own, self.num_images, *self.shape[1:]):
            raise ArtifactError(f"a stored view is damaged: {problems[0]}", fix="fetch the dataset again")
        partner = torch.from_numpy(own["partner"].astype(np.int64))
        their = self._store.views(epochs, partner)
        return ViewDraw(
            crop=_whole(own["crop"]),
            flip=torch.from_numpy(own["flip"] != 0),
            partner=partner,
            partner_crop=_whole(their["crop"]),
            partner_flip=torch.from_numpy(their["flip"] != 0),
            box=_whole(own["box"]),
            share=torch.from_numpy(own["share"].copy()),
        )

    def to_json(self) -> dict[str, Any]:
        """What is not in the records."""
        return describe(self.settings.mix, self.seed, self.shape)


def describe(mix: str, seed: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Plain values that go with stored views; the seed pairs stored epochs anew in longer trainings."""
    return {"algorithm": ALGORITHM, "seed": seed, "shape": list(shape), "mix": mix}


def records(drawn: ViewDraw) -> npt.NDArray[Any]:
    """Views of all n images of an epoch, in their order, as records VIEW (n,)."""
    found = np.zeros(len(drawn.crop), VIEW)
    for name in VIEW.names or ():
        found[name] = getattr(drawn, name).numpy()
    return found


def _whole(values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
