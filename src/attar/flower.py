"""Clients for federated distillation, by the partitioners of Flower (flwr-datasets 0.6; the extra `attar[flower]`).

    from flwr_datasets.partitioner import DirichletPartitioner
    from attar.flower import gather, partition

    clients = partition("cifar10", DirichletPartitioner(num_partitions=10, partition_by="label", alpha=0.5))
    sets = [attar.distill(client, ipc=1, out=f"runs/{number}").distilled for number, client in enumerate(clients)]
    images, labels = gather(sets, attar.open("cifar10").task.class_names)

Each client distils its own images and sends the set; the server trains once on all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Features, Value
from datasets import Dataset as Table
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from attar.api.opening import open as open_images
from attar.artifacts.distilled import Distilled, load_distilled
from attar.augment import crops
from attar.data.loading import Split
from attar.data.sources import Source
from attar.errors import DataError
from attar.options import HasPath, PathLike, path_of

try:
    from flwr_datasets.partitioner import Partitioner
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"attar.flower needs flwr-datasets, and there is no {error.name}; pip install 'attar[flower]'", name=error.name
    ) from error


class Part(Dataset[tuple[NDArray[np.uint8], int]]):
    """Some images of a split by index, uint8 (h, w, c) or (h, w), with their classes.

    Attributes:
        labels: class of each image, by its place in `classes`.
        classes: names of the classes that have an image here, in the order of the whole source.
    """

    def __init__(self, split: Split, indices: Tensor, class_names: Sequence[str], kept: Sequence[int]) -> None:
        place = {label: number for number, label in enumerate(kept)}
        self._split, self._indices = split, indices
        self.labels = [place[label] for label in split.labels[indices].tolist()]
        self.classes = [class_names[label] for label in kept]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        at = range(len(self))[index]
        pixels: NDArray[np.uint8] = self._split.pixels(self._indices[at].reshape(1))[0].permute(1, 2, 0).numpy()
        return (pixels[..., 0] if pixels.shape[2] == 1 else pixels), self.labels[at]


def partition(source: Any, partitioner: Partitioner, *, label: str = "label", least: int = 1) -> list[dict[str, Part]]:
    """Share the training images of a source out among clients.

    Args:
        source: as `attar.open` takes it, or what that gave.
        partitioner: of flwr_datasets, without a dataset yet; it sees a table of `label` (the class) and `index`.
        label: the column of classes, as the partitioner's `partition_by` names it.
        least: a client leaves out the classes of which it has fewer images, as most methods need `ipc` of each.

    Returns, for each client, splits that `attar.distill` and `attar.train` take as a source: `train`, its own images,
    and `validation` and `test`, those of the source of the classes that it has, which `Part.classes` names.
    Raises DataError where a client gets images of fewer than two classes.
    """
    real = source if isinstance(source, Source) else open_images(source)
    names = list(real.task.class_names)
    columns = {label: real.train.labels.tolist(), "index": list(range(len(real.train)))}
    features = Features({label: ClassLabel(names=names), "index": Value("int64")})
    partitioner.dataset = Table.from_dict(columns, features=features)
    return [_client(real, number, partitioner, least) for number in range(partitioner.num_partitions)]


def _client(real: Source, number: int, partitioner: Partitioner, least: int) -> dict[str, Part]:
    mine = torch.tensor(partitioner.load_partition(number)["index"], dtype=torch.int64)
    counts = real.train.labels[mine].bincount(minlength=real.task.num_classes)
    kept = [label for label, count in enumerate(counts.tolist()) if count >= max(1, least)]
    if len(kept) < 2:
        enough = f"{max(1, least)} or more of {len(kept)} class{'es' * (len(kept) != 1)}"
        raise DataError(
            f"client {number} has {len(mine)} images, {enough}",
            expected="two classes or more for each client",
            fix="share them out more evenly (a larger alpha, more classes a client, fewer clients), or lower least=",
        )
    places = {"train": mine, "validation": torch.arange(len(real.validation)), "test": torch.arange(len(real.test))}
    splits = {"train": real.train, "validation": real.validation, "test": real.test}
    client = {name: _part(split, places[name], real.task.class_names, kept) for name, split in splits.items()}
    return {name: part for name, part in client.items() if len(part)}


def _part(split: Split, places: Tensor, class_names: Sequence[str], kept: Sequence[int]) -> Part:
    return Part(split, places[torch.isin(split.labels[places], torch.tensor(kept))], class_names, kept)


def gather(
    sets: Iterable[Distilled | PathLike | HasPath], class_names: Sequence[str]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Put the clients' distilled sets together: images uint8 (n, h, w, c) and labels (n,) by `class_names`.

    Classes are matched by name, as each client numbers its own. Float images are clamped and rounded to 8 bits, soft
    labels are left out, and of images that hold others (`tiles`) there is each of those, enlarged to full size. Raises
    DataError where a class isn't one of these, or the images differ in size.
    """
    found = [one if isinstance(one, Distilled) else load_distilled(Path(path_of(one))) for one in sets]
    place = {name: number for number, name in enumerate(class_names)}
    odd = sorted({name for one in found for name in one.task.class_names} - set(place))
    shapes = {one.task.shape for one in found}
    if odd or len(shapes) != 1:
        what = f"a client has the class {odd[0]!r}" if odd else f"{len(found)} sets of {len(shapes)} image shapes"
        raise DataError(what, expected="sets of the same classes and image size, one or more")
    pixels = torch.cat([_apart(one) for one in found]).permute(0, 2, 3, 1)
    labels = [
        place[one.task.class_names[label]]
        for one in found
        for label in one.labels.repeat_interleave(one.tiles**2).tolist()
    ]
    return pixels.contiguous().numpy(), np.array(labels, np.int64)


def _apart(one: Distilled) -> Tensor:
    """Pixels uint8 (n, c, h, w) of a set's images, or of those that they hold."""
    pixels = one.pixels_8bit()
    return pixels if one.tiles == 1 else crops.apart(pixels.float(), one.tiles).round().to(torch.uint8)
