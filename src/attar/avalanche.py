"""A distilled set as the memory of Avalanche's continual learning (avalanche-lib 0.6; the extra `attar[avalanche]`).

    from avalanche.training.supervised import Naive
    from attar.avalanche import replay

    strategy = Naive(model=model, optimizer=optimizer, plugins=[replay("runs/mine")])

After each experience the memory gains the distilled images of the classes that came with it, so a learner rehearses
them instead of stored real images; where an image holds others (`tiles`), each of these is an example. Labels are
classes: Avalanche's losses compare with those, so soft labels are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from attar.artifacts.distilled import Distilled, load_distilled
from attar.augment import crops
from attar.errors import DataError
from attar.options import HasPath, PathLike, path_of

try:
    from avalanche.benchmarks.utils import AvalancheDataset, DataAttribute
    from avalanche.benchmarks.utils.utils import concat_datasets
    from avalanche.training.plugins import ReplayPlugin
    from avalanche.training.storage_policy import ExemplarsBuffer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"attar.avalanche needs avalanche-lib, and there is no {error.name}; pip install 'attar[avalanche]'",
        name=error.name,
    ) from error


class DistilledBuffer(ExemplarsBuffer):  # type: ignore[misc]
    """A storage policy that holds distilled images of the classes seen so far.

    Args:
        distilled: the set, its folder or the run that made it.
        transform: makes a network's input of pixels (c, h, w), float32 in 0..1, each time an image is asked for; None:
            the set's own normalisation, under which the benchmark's images must then stand as well.
        labels: the benchmark's class of each class of the set, in the set's label order; None: they are numbered alike.
        max_size: images that it may hold, shared evenly by the classes; None: all.
    """

    def __init__(
        self,
        distilled: Distilled | PathLike | HasPath,
        *,
        transform: Callable[[Tensor], Tensor] | None = None,
        labels: Sequence[int] | None = None,
        max_size: int | None = None,
    ) -> None:
        self._set = distilled if isinstance(distilled, Distilled) else load_distilled(Path(path_of(distilled)))
        super().__init__(len(self._set) if max_size is None else max_size)
        num = self._set.task.num_classes
        numbered = list(range(num)) if labels is None else [int(label) for label in labels]
        if len(numbered) != num or len(set(numbered)) != num:
            raise DataError(
                f"labels={numbered} for {num} distilled classes",
                expected="a class of the benchmark for each, all different",
            )
        self._transform, self._labels = transform, torch.tensor(numbered)
        self._task_of: dict[int, int] = {}

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Add the images of the classes of an experience that has been learnt."""
        targets = {int(label) for label in exp.dataset.targets}
        unknown = sorted(targets - set(self._labels.tolist()))
        if unknown:
            raise DataError(
                f"the experience holds class {', '.join(map(str, unknown[:10]))}, of which nothing was distilled",
                expected=f"classes {sorted(self._labels.tolist())}",
                fix="number them with labels=, or give the benchmark without them",
            )
        task = int(getattr(exp, "task_label", 0))
        self._task_of |= {label: task for label in sorted(targets) if label not in self._task_of}
        self._fill()

    def resize(self, strategy: Any, new_size: int) -> None:
        """Hold at most so many images from now on, of every class seen nearly as many."""
        self.max_size = new_size
        self._fill()

    def _fill(self) -> None:
        parts = [self._part(label, share) for label, share in self._shares().items() if share]
        self.buffer = concat_datasets(parts)

    def _shares(self) -> dict[int, int]:
        """Images of each class that are held, the classes in the order in which they came."""
        have = {label: len(self._places(label)) for label in self._task_of}
        shares = dict.fromkeys(have, 0)
        left = min(self.max_size, sum(have.values()))
        while left:
            for label in [label for label in have if shares[label] < have[label]][:left]:
                shares[label] += 1
                left -= 1
        return shares

    def _places(self, label: int) -> Tensor:
        own: Tensor = (self._labels == label).nonzero()[0]
        places: Tensor = (self._set.labels == own).nonzero()
        return places.squeeze(1)

    def _part(self, label: int, share: int) -> AvalancheDataset:
        places = self._places(label)[:share]
        images = _Images(self._set, places, label, self._transform)
        tasks = DataAttribute([self._task_of[label]] * len(images), "targets_task_labels", use_in_getitem=True)
        return AvalancheDataset([images], data_attributes=[DataAttribute([label] * len(images), "targets"), tasks])


class _Images(Dataset[tuple[Tensor, int]]):
    """Some images of one class, or all those that they hold."""

    def __init__(
        self, distilled: Distilled, places: Tensor, label: int, transform: Callable[[Tensor], Tensor] | None
    ) -> None:
        self._set, self._places, self._label, self._transform = distilled, places, label, transform

    def __len__(self) -> int:
        return len(self._places) * self._set.tiles**2

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place, tile = divmod(range(len(self))[index], self._set.tiles**2)
        at, tiles = self._places[place].reshape(1), torch.tensor([tile])
        if self._transform is None:
            return crops.cut(self._set.images_at(at), tiles, self._set.tiles)[0], self._label
        pixels = self._set.pixels(at).clamp(0, 1)
        return self._transform(crops.cut(pixels, tiles, self._set.tiles)[0]), self._label


def replay(distilled: Distilled | PathLike | HasPath, **options: Any) -> ReplayPlugin:
    """Avalanche's ReplayPlugin with a distilled memory; `options` are those of `DistilledBuffer`."""
    buffer = DistilledBuffer(distilled, **options)
    return ReplayPlugin(mem_size=buffer.max_size, storage_policy=buffer)
