"""Images by index: splits of a source, sets to train on, and batches of them.

A split holds uint8 pixels, in memory or decoded when asked for. A set gives normalised images and targets.
Nothing here shuffles by itself: who iterates says which indices, so that every order is a function of a seed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from attar.runtime.seeding import generator
from attar.task import Normalization, Whitening

WHITENED_BYTES = 4 << 30
"""Whitened images of a split are kept in memory up to this size; above it, they are whitened each time."""
EVERY_BYTE = "every byte"
KEPT_BLOCK = 256
"""Images that are whitened together, or read together to be kept."""
KEPT_BYTES = 64 << 20
"""Float images of a small set are kept in memory up to this size; of more, 8-bit pixels are kept or files are read."""


class Content(NamedTuple):
    """What tells the images of a split from others: a hash of them, and of what that is."""

    digest: str
    by: str
    """EVERY_BYTE, or what was looked at where reading all would take long."""


class Split(Protocol):
    """Labelled real images of one size."""

    labels: Tensor
    """Class of each image: int64 (n,)."""

    def __len__(self) -> int:
        """Number of images."""

    def pixels(self, indices: Tensor) -> Tensor:
        """Pixels uint8 (b, c, h, w) of these indices (b,)."""


class MemorySplit:
    """A split in memory: pixels uint8 (n, c, h, w), labels int64 (n,)."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or len(pixels) != len(labels):
            raise ValueError(f"pixels {pixels.dtype} {tuple(pixels.shape)} with {len(labels)} labels")
        self.labels = labels.long()
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Tensor) -> Tensor:
        """Pixels uint8 (b, c, h, w) of these indices (b,)."""
        return self._pixels.index_select(0, indices.to(self._pixels.device))


class LazySplit:
    """A split too large for memory, decoded image by image when asked for.

    Args:
        labels: int64 (n,).
        decode: pixels uint8 (c, h, w) of one index; called from `workers` threads at once.
        workers: threads; Pillow decodes outside the interpreter's lock.
    """

    def __init__(self, labels: Tensor, decode: Callable[[int], Tensor], *, workers: int = 4) -> None:
        self.labels = labels.long()
        self._decode = decode
        self._workers = max(1, workers)
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Tensor) -> Tensor:
        """Pixels uint8 (b, c, h, w) of these indices (b,)."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        return torch.stack(list(self._pool.map(self._decode, indices.tolist())))


class SubsetSplit:
    """Some images of another split: `indices` int64 (m,) into it."""

    def __init__(self, split: Split, indices: Tensor) -> None:
        self.labels = split.labels[indices]
        self._split, self._indices = split, indices

    def __len__(self) -> int:
        return len(self._indices)

    def pixels(self, indices: Tensor) -> Tensor:
        """Pixels uint8 (b, c, h, w) of these indices (b,)."""
        return self._split.pixels(self._indices[indices.cpu()])


class NumberedSplit(SubsetSplit):
    """The images of another split whose class has a number elsewhere, under that: `numbers` int64 (c,), -1 for none."""

    def __init__(self, split: Split, numbers: Tensor) -> None:
        numbered = numbers[split.labels]
        kept = (numbered >= 0).nonzero().squeeze(1)
        super().__init__(split, kept)
        self.labels = numbered[kept]


class TrainingSet(Protocol):
    """What a network can be trained on."""

    labels: Tensor
    """Class of each image: int64 (n,)."""

    def __len__(self) -> int:
        """Number of images."""

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (b, c, h, w), float32, of these indices (b,)."""

    def targets(self, indices: Tensor) -> Tensor:
        """Targets of these indices (b,): classes int64 (b,) or probabilities float (b, classes)."""


class RealSet:
    """Real images of a split, normalised; targets are classes int64 (b,).

    Whitened ones are kept in memory up to `WHITENED_BYTES`, as each costs as many multiplications as its matrix has
    values.
    """

    def __init__(self, split: Split, normalization: Normalization) -> None:
        self.split, self.normalization = split, normalization
        self.labels = split.labels
        self._kept: _Kept | None = None
        if (
            normalization.whitening is not None
            and _whitened_bytes(len(split), normalization.whitening) <= WHITENED_BYTES
        ):
            self._kept = _Kept(len(split), self._normalized)

    def __len__(self) -> int:
        return len(self.split)

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (b, c, h, w), float32, of these indices (b,)."""
        return self._normalized(indices) if self._kept is None else self._kept.images(indices.cpu())

    def _normalized(self, indices: Tensor) -> Tensor:
        return self.normalization.normalize(self.split.pixels(indices))

    def targets(self, indices: Tensor) -> Tensor:
        """Classes int64 (b,) of these indices (b,)."""
        return self.labels[indices]

    def indices_of(self, label: int) -> Tensor:
        """Indices int64 (m,) of the images of one class, ascending."""
        return (self.labels == label).nonzero().squeeze(1)


class _Kept:
    """Images made block by block when first asked for, and kept: the same bits in whatever order they are asked for."""

    def __init__(self, num: int, make: Callable[[Tensor], Tensor]) -> None:
        self._make, self._images = make, torch.empty(0)
        self._blocks = torch.arange(num).split(KEPT_BLOCK)
        self._missing = torch.ones(len(self._blocks), dtype=torch.bool)
        self._num = num
        self._lock = Lock()

    def images(self, indices: Tensor) -> Tensor:
        """Images (b, c, h, w) of these indices (b,)."""
        wanted = indices.div(KEPT_BLOCK, rounding_mode="floor").unique()
        with self._lock:  # batches may be read ahead in a thread of their own
            for place in wanted[self._missing[wanted]].tolist():
                self._fill(place)
        return self._images[indices]

    def _fill(self, place: int) -> None:
        block = self._make(self._blocks[place])
        if not len(self._images):
            self._images = block.new_empty(self._num, *block.shape[1:])
        self._images[self._blocks[place]] = block
        self._missing[place] = False


class TensorSet:
    """Normalised images in memory, such as distilled ones.

    Args:
        images: float (n, c, h, w).
        targets: classes int64 (n,), or probabilities or scores float (n, classes).
    """

    def __init__(self, images: Tensor, targets: Tensor) -> None:
        if len(images) != len(targets) or targets.ndim not in (1, 2):
            raise ValueError(f"{len(images)} images with targets {tuple(targets.shape)}")
        self._images, self._targets = images, targets
        self.labels = targets.long() if targets.ndim == 1 else targets.argmax(1)

    def __len__(self) -> int:
        return len(self._images)

    def images(self, indices: Tensor) -> Tensor:
        """Normalised images (b, c, h, w) of these indices (b,)."""
        return self._images[indices]

    def targets(self, indices: Tensor) -> Tensor:
        """Targets of these indices (b,): classes int64 (b,) or float (b, classes)."""
        return self._targets[indices]


def few(shape: Sequence[int]) -> bool:
    """Whether images of this shape (n, c, h, w) are few enough to be kept in memory as floats."""
    return 4 * math.prod(shape) <= KEPT_BYTES


def kept(real: RealSet, indices: Tensor) -> TrainingSet:
    """Real images of some indices (m,), in memory: normalised where they are few or whitened, else as 8-bit pixels."""
    first = real.split.pixels(indices[:1])
    if real.normalization.whitening is not None or few((len(indices), *first.shape[1:])):
        return TensorSet(real.images(indices), real.labels[indices])
    pixels = first.new_empty((len(indices), *first.shape[1:]))
    for part in torch.arange(len(indices)).split(KEPT_BLOCK):
        pixels[part] = real.split.pixels(indices[part])
    return RealSet(MemorySplit(pixels, real.labels[indices]), real.normalization)


def stratified_split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Part the indices of labels (n,) into kept and held ones, class by class; a function of its arguments.

    `fraction` (0..1) of the images is held, rounded up, the classes in proportion (largest remainders): but
    at least one image of a class of two or more, and never its last one. Both index tensors are int64 and
    ascending. A fraction of 0 holds nothing.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, num in _shares(labels, fraction).items() if fraction > 0 else []:
        held[_shuffled(labels, label, seed, "split")[:num]] = True
    return (~held).nonzero().squeeze(1), held.nonzero().squeeze(1)


def limit_indices(labels: Tensor, num: int, seed: int) -> Tensor:
    """Indices, int64 ascending, of `num` images of each class (all of a smaller one), drawn by `seed`."""
    chosen = [_shuffled(labels, label, seed, "limit")[:num] for label in _classes(labels)]
    return torch.cat([torch.zeros(0, dtype=torch.int64), *chosen]).sort().values


def plainly(dataset: TrainingSet) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Read images and targets of a set as they are, for `batches`."""
    return lambda indices: (dataset.images(indices), dataset.targets(indices))


def batches(
    read: Callable[[Tensor], tuple[Tensor, Tensor]], order: Iterable[Tensor], *, prefetch: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (indices, images, targets) for each batch of indices in `order`, in that order.

    Args:
        read: images and targets of indices (b,), such as `plainly(dataset)`.
        order: index tensors (b,), such as `torch.randperm(n, generator=rng).split(64)`.
        prefetch: batches read ahead in the background; worth it where images are decoded on the way.
    """
    if prefetch <= 0:
        for indices in order:
            yield indices, *read(indices)
        return
    waiting: deque[Future[tuple[Tensor, Tensor, Tensor]]] = deque()
    reader = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        for indices in order:
            waiting.append(reader.submit(lambda i: (i, *read(i)), indices))
            if len(waiting) > prefetch:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        reader.shutdown(wait=False, cancel_futures=True)


def _whitened_bytes(num: int, whitening: Whitening) -> int:
    return 0 if whitening.mean is None else num * 4 * len(whitening.mean)


def _classes(labels: Tensor) -> list[int]:
    return sorted(set(labels.tolist()))


def _shares(labels: Tensor, fraction: float) -> dict[int, int]:
    counts = {label: int((labels == label).sum()) for label in _classes(labels)}
    exact = {label: fraction * count for label, count in counts.items()}
    shares = {label: math.floor(share) for label, share in exact.items()}
    missing = math.ceil(fraction * len(labels) - 1e-9) - sum(shares.values())
    for label in sorted(exact, key=lambda label: shares[label] - exact[label])[: max(0, missing)]:
        shares[label] += 1
    return {label: min(max(1, shares[label]), count - 1) for label, count in counts.items()}


def _shuffled(labels: Tensor, label: int, seed: int, use: str) -> Tensor:
    members = (labels == label).nonzero().squeeze(1)
    return members[torch.randperm(len(members), generator=generator(seed, "data", use, label))]
