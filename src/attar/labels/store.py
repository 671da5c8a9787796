"""The store: labels read by (epoch, image) from memory-mapped safetensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attar.labels.codec import Codec
from attar.labels.plan import VIEW, LabelPlan
from attar.labels.shards import TENSOR, VIEWS, QuantizationError, open_shard


class ForeignLabels(Protocol):
    """Labels by (epoch, image) that another program stored, with the views that they are of."""

    @property
    def paths(self) -> list[Path]:
        """The files, in order."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""

    @property
    def num_epochs(self) -> int:
        """Stored epochs."""

    def read(self, epochs: Tensor, indices: Tensor) -> Tensor:
        """Logits float32 (b, C) of images `indices` (b,) in stored epochs `epochs` (b,)."""

    def training_set(self, images: Callable[[Tensor], Tensor], labels: Tensor, device: torch.device) -> Any:
        """A ReplayedSet of these labels with normalised images (b, c, h, w), given for indices (b,)."""


class LabelStore:
    """Labels by (epoch, image), decoded when read.

    Nothing is kept in memory but what the operating system caches. May be used from forked or spawned workers.

    Args:
        folder: of the shards.
        plan: what is stored.

    Raises ArtifactError where a shard is missing, damaged or of another plan.
    """

    def __init__(self, folder: Path, plan: LabelPlan) -> None:
        self.folder, self.plan = folder, plan
        self._shards = [open_shard(folder, plan, shard) for shard in plan.shards]
        self._maps: dict[int, tuple[Codec, npt.NDArray[np.uint8]]] = {}
        self._views: dict[int, npt.NDArray[np.uint8]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}, "_views": {}}

    @property
    def num_epochs(self) -> int:
        """Stored epochs."""
        return self.plan.num_epochs

    @property
    def paths(self) -> list[Path]:
        """The files, in order."""
        return [self.folder / shard.name for shard in self.plan.shards]

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self.paths)

    @property
    def error(self) -> QuantizationError:
        """How far labels are from the teacher's, as measured when they were written."""
        return QuantizationError.merge(shard.error for shard in self._shards)

    def read(self, epochs: Tensor, indices: Tensor) -> Tensor:
        """Logits float32 (b, C), each row centred, of images `indices` (b,) in stored epochs `epochs` (b,).

        Raises IndexError for an epoch or image that is not there.
        """
        logits = np.empty((len(indices), self.plan.num_classes), np.float32)
        for place, mine, rows in self._places(epochs, indices):
            coder, labels = self._map(place)
            logits[mine] = coder.decode(labels[rows].view(coder.record)[:, 0])
        return torch.from_numpy(logits)

    def views(self, epochs: Tensor, indices: Tensor) -> npt.NDArray[Any]:
        """Records VIEW (b,) of the views that these labels are of; of a plan with views beside the labels."""
        found = np.empty(len(indices), VIEW)
        for place, mine, rows in self._places(epochs, indices):
            if place not in self._views:
                self._views[place] = self._shards[place].map(VIEWS)
            found[mine] = self._views[place][rows].view(VIEW)[:, 0]
        return found

    def _places(self, epochs: Tensor, indices: Tensor) -> Iterator[tuple[int, npt.NDArray[Any], tuple[Any, Any]]]:
        """For each file: its place, which of the b labels lie in it, and in which rows of it."""
        stored, images = epochs.cpu().numpy(), indices.cpu().numpy()
        _require_within(stored, self.plan.num_epochs, "stored epoch")
        _require_within(images, self.plan.num_images, "image")
        places, offsets = np.divmod(stored, self.plan.epochs_per_shard)
        for place in np.unique(places).tolist():
            mine = places == place
            yield place, mine, (offsets[mine], images[mine])

    def _map(self, place: int) -> tuple[Codec, npt.NDArray[np.uint8]]:
        if place not in self._maps:
            shard = self._shards[place]
            self._maps[place] = shard.coder(self.plan), shard.map(TENSOR)
        return self._maps[place]


def _require_within(values: npt.NDArray[Any], num: int, what: str) -> None:
    if len(values) and not (values.min() >= 0 and values.max() < num):
        raise IndexError(f"{what} {values.min()}..{values.max()} where 0..{num - 1} are stored")
