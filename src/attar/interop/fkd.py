"""Labels that the published code of SRe2L stores: a teacher's logits on views, batch by batch.

    epoch_E/batch_B.tar    [crops, mirrored, partners, share, box, logits] of a batch, by torch.save; no tar in truth

`crops` float (b, 4) are top, left, height and width as parts of the image; `mirrored` bool (b,); `partners` int64 (b,)
places in the batch of the images mixed in, or None; `share` the weight of MixUp; `box` top, left, bottom and right of
CutMix in pixels, or None for MixUp; `logits` (b, classes). Share and box are those of the whole batch. So a `ViewDraw`
holds all of it.

Which image is which row is not stored. It is the order of torch's RandomSampler with a generator of `seed`, for an
ImageFolder of the images: each epoch takes the next permutation; or every second one, as that sampler draws one in
vain at the end of an epoch since torch 1.9. Which of the two, and whether the images are those at all, is seen from
the labels:

    t = √n · mean over rows of w z[own class] + (1 - w) z[partner's class]
    z = logits of a row, brought to mean 0 and deviation 1;  w = the share of the image itself

is standard normal for an order that has nothing to do with the labels.

Source: Shen and Xing, "A Fast Knowledge Distillation Framework for Visual Recognition", ECCV 2022; Yin et al. 2023.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from attar.artifacts.labelling import Labelling
from attar.augment.replayed import ReplayedSet
from attar.augment.stored_views import describe, records
from attar.augment.views import ViewDraw, Views, ViewSettings
from attar.errors import ArtifactError
from attar.labels.codec import LOGIT_LIMIT
from attar.labels.plan import LabelPlan
from attar.labels.writing import write_labels
from attar.runtime.torchfile import read_torch

FIRST = Path("epoch_0") / "batch_0.tar"
_DRAWS = (2, 1)
"""Permutations that an epoch takes, by the version of torch."""
_CHECKED_EPOCHS, _CHECKED_ROWS = 3, 4096
_LEAST_T = 4.0
"""Passed by chance by one order in thirty thousand."""

Mix = Literal["none", "cutmix", "mixup"]


@dataclass(frozen=True)
class Rows:
    """The stored rows of an epoch, or of a batch, in their order; partners are places in it.

    crop int64 (n, 4) in pixels, flip bool (n,), partner int64 (n,), box int64 (n, 4), share float32 (n,), logits
    (n, C).
    """

    crop: Tensor
    flip: Tensor
    partner: Tensor
    box: Tensor
    share: Tensor
    logits: Tensor
    mix: Mix


@dataclass(frozen=True)
class _Epoch:
    """Rows of an epoch, which image each is of, and which row is each image's; both int64 (n,)."""

    rows: Rows
    image: Tensor
    row: Tensor


class FkdLabels:
    """Stored labels by (epoch, image), read epoch by epoch; one epoch is in memory.

    Args:
        folder: of `epoch_0` and on.
        labels: class of each image int64 (n,), in the order of an ImageFolder.
        num_classes: C.
        shape: channels, height and width of the images; crops are brought back to this size.
        seed: of the order of the images.
        unchecked: take labels that do not favour the classes of their images.

    Raises ArtifactError where files are missing or damaged, or labels and images do not belong together.
    """

    def __init__(
        self,
        folder: Path,
        labels: Tensor,
        num_classes: int,
        shape: tuple[int, int, int],
        *,
        seed: int = 42,
        unchecked: bool = False,
    ) -> None:
        self.folder, self.num_classes, self.shape, self.seed = folder, num_classes, shape, seed
        self._labels, self._batches = labels, _files(folder)
        self._last: tuple[int, _Epoch] | None = None
        first = self._read(0)
        self.mix: Mix = first.mix
        self._orders = _Orders(seed, len(labels), self._draws(first, unchecked))
        self.views = _FkdViews(self)

    @property
    def num_images(self) -> int:
        """Images that have labels."""
        return len(self._labels)

    @property
    def num_epochs(self) -> int:
        """Stored epochs."""
        return len(self._batches)

    @property
    def paths(self) -> list[Path]:
        """The files, in order."""
        return [path for batches in self._batches for path in batches]

    @property
    def size_bytes(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self.paths)

    def read(self, epochs: Tensor, indices: Tensor) -> Tensor:
        """Logits float32 (b, C) of images `indices` (b,) in stored epochs `epochs` (b,)."""
        logits = torch.empty(len(indices), self.num_classes)
        for epoch, mine in _grouped(epochs):
            found = self.epoch(epoch)
            logits[mine] = found.rows.logits[found.row[indices[mine]]].float()
        return logits

    def draw(self, epochs: Tensor, indices: Tensor) -> ViewDraw:
        """The stored views of images `indices` (b,) in stored epochs `epochs` (b,)."""
        parts: list[ViewDraw] = []
        places: list[Tensor] = []
        for epoch, mine in _grouped(epochs):
            found = self.epoch(epoch)
            rows, here = found.rows, found.row[indices[mine]]
            there = rows.partner[here]
            parts.append(
                ViewDraw(
                    crop=rows.crop[here],
                    flip=rows.flip[here],
                    partner=found.image[there],
                    partner_crop=rows.crop[there],
                    partner_flip=rows.flip[there],
                    box=rows.box[here],
                    share=rows.share[here],
                )
            )
            places.append(mine)
        back = torch.cat(places).argsort()
        return ViewDraw(*(torch.cat(column)[back] for column in zip(*parts, strict=True)))

    def training_set(self, images: Callable[[Tensor], Tensor], labels: Tensor, device: torch.device) -> FkdSet:
        """These labels with normalised images (b, c, h, w), given for indices (b,), as attar's loops take them."""
        return FkdSet(images, labels, self, device)

    def labelling(self, folder: Path) -> Labelling:
        """Write them into a folder as labels of ours, the views beside them; a distilled dataset is written with that.

        Logits stay in half precision, less the mean of their row.
        """
        num, seen = self.num_images, dict[int, NDArray[Any]]()

        def logits(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            found = self.epoch(epoch)
            seen[epoch] = records(self.draw(torch.full((num,), epoch), torch.arange(num)))
            yield found.image, found.rows.logits

        plan = LabelPlan("fp16", self.num_classes, num, self.num_epochs, views=True)
        write_labels(folder, plan, logits, views=seen.pop)
        return Labelling("epochs", plan, folder, describe(self.mix, self.seed, self.shape))

    def epoch(self, epoch: int) -> _Epoch:
        """A stored epoch; raises IndexError where there is none."""
        if not 0 <= epoch < self.num_epochs:
            raise IndexError(f"stored epoch {epoch} where 0..{self.num_epochs - 1} are stored")
        if self._last is None or self._last[0] != epoch:
            order = self._orders[epoch]
            self._last = epoch, _Epoch(self._read(epoch), order, order.argsort())
        return self._last[1]

    def _read(self, epoch: int) -> Rows:
        batches, first = [], 0
        for path in self._batches[epoch]:
            batch = _batch(path, self.num_classes, self.shape, first)
            first += len(batch.logits)
            batches.append(batch)
        mixes = {batch.mix for batch in batches} | ({self.mix} if epoch else set())
        if first != self.num_images or len(mixes) > 1:
            raise ArtifactError(
                f"{self.folder}: {first} rows in epoch {epoch}, mixed by {' and '.join(sorted(mixes))}",
                expected=f"a row for each of the {self.num_images} images, all mixed alike",
                fix="give the labels that were stored for these images",
            )
        columns = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in _COLUMNS}
        return Rows(**columns, mix=batches[0].mix)

    def _draws(self, first: Rows, unchecked: bool) -> int:
        """How many permutations an epoch takes: those under which logits favour the classes of their images most."""
        rows = [first, *(self._read(epoch) for epoch in range(1, min(_CHECKED_EPOCHS, self.num_epochs)))]
        found = {draws: self._fit(rows, _Orders(self.seed, self.num_images, draws)) for draws in _DRAWS}
        best = max(found, key=lambda draws: found[draws])
        if found[best] < _LEAST_T and not unchecked:
            raise ArtifactError(
                f"the labels in {self.folder} do not favour the classes of their images (t = {found[best]:.1f})",
                expected=f"t of at least {_LEAST_T:g}: the images, their order (seed {self.seed}) and that of the "
                "classes as when the labels were stored",
                fix="--set foreign.fkd_seed=N with the seed then used, give the same images, or take the labels as "
                "they are with --set foreign.fkd_unchecked=true",
            )
        return best

    def _fit(self, epochs: list[Rows], orders: _Orders) -> float:
        favours = []
        for epoch, rows in enumerate(epochs):
            logits, share = rows.logits[:_CHECKED_ROWS].float(), rows.share[:_CHECKED_ROWS]
            z = (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True, correction=0).clamp_min(1e-12)
            labels = self._labels[orders[epoch]]
            classes = labels[:_CHECKED_ROWS], labels[rows.partner[:_CHECKED_ROWS]]
            own, partner = (z.gather(1, of[:, None])[:, 0] for of in classes)
            favours.append(share * own + (1 - share) * partner)
        every = torch.cat(favours)
        return float(every.mean() * len(every) ** 0.5)


_COLUMNS = ("crop", "flip", "partner", "box", "share", "logits")


class _FkdViews(Views):
    """Views that were stored, and not drawn from a seed."""

    def __init__(self, stored: FkdLabels) -> None:
        super().__init__(ViewSettings(mix=stored.mix), stored.seed, stored.num_images, stored.shape)
        self._stored = stored

    def draw(self, epochs: Tensor, indices: Tensor) -> ViewDraw:
        """The stored views of images `indices` (b,) in stored `epochs` (b,), int64."""
        return self._stored.draw(epochs, indices)

    def to_json(self) -> dict[str, Any]:
        """What they are; they cannot be replayed by this alone."""
        return {"algorithm": "fkd", "seed": self.seed, "num_images": self.num_images, "mix": self.settings.mix}


class FkdSet(ReplayedSet):
    """Images under stored views with stored logits; a longer training goes through the stored epochs again."""

    def __init__(
        self, images: Callable[[Tensor], Tensor], labels: Tensor, stored: FkdLabels, device: torch.device
    ) -> None:
        super().__init__(images, labels, stored.views, lambda views: views, device)
        self._stored = stored

    def batch(self, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Views (b, c, h, w) of an epoch of training, and the stored logits (b, classes) for them."""
        stored = torch.full_like(indices, epoch % self._stored.num_epochs)
        views = self.views.apply(self.images, stored, indices, self.device)
        return views, self._stored.read(stored, indices)


class _Orders:
    """Order of the images in each epoch: int64 (n,); cheap where epochs are asked for in turn."""

    def __init__(self, seed: int, num: int, draws: int) -> None:
        self._seed, self._num, self._draws = seed, num, draws
        self._next = 0
        self._order = torch.empty(0, dtype=torch.int64)
        self._rng = torch.Generator().manual_seed(seed)

    def __getitem__(self, epoch: int) -> Tensor:
        if epoch < self._next - 1:
            self._next, self._rng = 0, torch.Generator().manual_seed(self._seed)
        while self._next <= epoch:
            self._order = torch.randperm(self._num, generator=self._rng)
            for _ in range(self._draws - 1):
                torch.randperm(self._num, generator=self._rng)
            self._next += 1
        return self._order


def find_labels(folder: Path) -> Path | None:
    """The folder of stored labels: this one, or one directly in it; None where there is none or are several."""
    if (folder / FIRST).is_file():
        return folder
    found = [path for path in sorted(folder.iterdir()) if (path / FIRST).is_file()] if folder.is_dir() else []
    return found[0] if len(found) == 1 else None


def _files(folder: Path) -> list[list[Path]]:
    """Batches of each epoch, in order; raises ArtifactError where one is missing."""
    root = find_labels(folder)
    if root is None:
        raise ArtifactError(
            f"{folder} holds no stored labels",
            expected=f"{FIRST} and on, in it or in one folder of it",
            fix="give the folder that the labels were stored in, unpacked",
        )
    epochs = _numbered(root, r"epoch_(\d+)")
    return [_numbered(epoch, r"batch_(\d+)\.tar") for epoch in epochs]


def _numbered(folder: Path, pattern: str) -> list[Path]:
    found = {int(match[1]): path for path in folder.iterdir() if (match := re.fullmatch(pattern, path.name))}
    missing = next((number for number in range(len(found)) if number not in found), None)
    if missing is not None or not found:
        raise ArtifactError(
            f"{folder}: number {missing or 0} of {len(found)} is missing",
            expected=f"names like {pattern.replace('(', '').replace(chr(92), '').replace('d+)', 'N')}, from 0 on",
            fix="fetch the labels again",
        )
    return [found[number] for number in range(len(found))]


def _batch(path: Path, num_classes: int, shape: tuple[int, int, int], first: int) -> Rows:
    """Read and check a batch; `first` is the place of its first row in the epoch."""
    values = read_torch(path, "a batch of labels")
    try:
        crops, flips, partners, share, box, logits = values
        return _rows(crops, flips, partners, share, box, logits, num_classes, shape, first)
    except (ValueError, TypeError, AttributeError, OverflowError, RuntimeError) as error:
        raise ArtifactError(
            f"{path} is no batch of stored labels: {error}",
            expected="[crops (b, 4), mirrored (b,), partners (b,) or None, share, box, logits (b, classes)], for "
            f"images of {shape[2]}x{shape[1]} px in {num_classes} classes",
            fix="give the labels that were stored for these images, or fetch them again",
        ) from error


def _rows(
    crops: Any,
    flips: Any,
    partners: Any,
    share: Any,
    box: Any,
    logits: Any,
    num_classes: int,
    shape: tuple[int, int, int],
    first: int,
) -> Rows:
    num, height, width = len(logits), *shape[1:]
    flip = flips if isinstance(flips, Tensor) else torch.tensor([bool(_whole(one)) for one in _listed(flips, num)])
    _require(logits.shape == (num, num_classes) and logits.is_floating_point(), f"logits {tuple(logits.shape)}")
    _require(bool((logits.float().abs() <= LOGIT_LIMIT).all()), "logits that are not finite")
    _require(crops.shape == (num, 4) and crops.is_floating_point(), f"crops {tuple(crops.shape)}")
    _require(flip.shape == (num,), f"mirrored {tuple(flip.shape)}")
    crop = _pixels(crops, height, width)
    own = torch.arange(num)
    mix: Mix = "none" if partners is None else "mixup" if box is None else "cutmix"
    places = own if partners is None else partners.long()
    _require(places.shape == (num,) and bool((places.sort().values == own).all()), "partners that are no permutation")
    edges = [_whole(edge) for edge in _listed(box, 4)] if mix == "cutmix" else [0, 0, 0, 0]
    top, left, bottom, right = edges
    _require(0 <= top <= bottom <= height and 0 <= left <= right <= width, f"a box of {edges}")
    area = (bottom - top) * (right - left) / (height * width)
    kept = float(share) if mix == "mixup" else 1 - area
    _require(0 <= kept <= 1, f"a share of {kept}")
    return Rows(
        crop=crop,
        flip=flip.bool(),
        partner=places + first,
        box=torch.tensor(edges).expand(num, 4),
        share=torch.full((num,), kept),
        logits=logits,
        mix=mix,
    )


def _pixels(crops: Tensor, height: int, width: int) -> Tensor:
    """Crops (b, 4) as parts of the image to whole pixels, int64 (b, 4); raises ValueError where they leave it."""
    found = crops.double() * torch.tensor([height, width, height, width])
    _require(bool(found.isfinite().all()) and bool((found.abs() <= 1e6).all()), "crops that are not finite")
    crop = found.round().long()
    first, size = crop[:, :2], crop[:, 2:]
    inside = (first >= 0) & (size >= 1) & (first + size <= torch.tensor([height, width]))
    _require(bool(inside.all()), f"crops that leave an image of {width}x{height} px")
    return crop


def _listed(values: Any, num: int) -> list[Any]:
    """The values of a list, tuple or tensor of this length."""
    _require(isinstance(values, list | tuple | Tensor) and len(values) == num, f"a {type(values).__name__} of values")
    return list(values)


def _whole(number: Any) -> int:
    _require(isinstance(number, int | float | Tensor) and int(number) == number, "a number that is not whole")
    return int(number)


def _grouped(epochs: Tensor) -> list[tuple[int, Tensor]]:
    """The epochs in (b,), each with the places (k,) that it has there."""
    return [(int(epoch), (epochs == epoch).nonzero().squeeze(1)) for epoch in epochs.unique()]


def _require(sound: bool, found: str) -> None:
    if not sound:
        raise ValueError(found)
