"""Patches of real images that a teacher recognises at a glance, and images stitched from them.

For each class: of every candidate image keep the crops with the lowest loss, rank them, take the best.

    loss(crop) = CE(φ(crop at the size of a patch, amid the mean pixel), class)

Shared by rded, which stores such images, and sre2l, which can begin with them. Source: Sun, Shi, Yu and Lin, "On the
Diversity and Realism of Distilled Dataset", CVPR 2024, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attar.config import Config
from attar.methods.base import Generators, RealImages, Teacher
from attar.task import Task

_STITCH_FROM_PX = 64
"""From this size on `auto` stitches four patches into an image."""
BATCH = 256
"""Crops that the teacher sees at once."""
_SPREAD_FACTOR = 4
"""`spread` looks at this many images for each patch that it takes, where there are as many."""


class PatchSettings(Config):
    """Which patches are cut from the real images, and how many an image holds."""

    candidates: int = Field(default=300, ge=1)
    """How many real images of each class, drawn at random, are searched for patches; more where the patches need them,
    fewer where the class has no more."""
    crops_per_image: int = Field(default=5, ge=1)
    """Random crops tried in each image; the one that the teacher is surest of is kept."""
    crop_min_scale: float = Field(default=0.08, gt=0, le=1)
    """Smallest fraction of the area that a crop covers; 1: the whole image."""
    patches_per_image: Literal["auto", 1, 4, 9, 16] = "auto"
    """Patches stitched into each synthetic image; auto: 4 from 64 px on, 1 below."""
    pick: Literal["sure", "spread"] = "sure"
    """Which of these patches are taken. sure: those with the teacher's lowest loss, as published; spread: the surer
    half is clustered by the teacher's features and the surest of each cluster taken, so that the variety of the class
    is shown."""


@dataclass(frozen=True)
class Chosen:
    """The patches of one class, the surest first."""

    indices: Tensor
    """Which real image each is cut from: int64 (p,)."""
    boxes: Tensor
    """Top, left, height and width of the cut in pixels: int64 (p, 4)."""

    def __getitem__(self, places: Tensor | slice) -> Chosen:
        """Some of them."""
        return Chosen(self.indices[places], self.boxes[places])


class Patches:
    """Synthetic images made of patches. A class's patches are a function of (seed, class) alone.

    They are chosen when the first image of the class is asked for, and remembered as places in the real images.

    Args:
        settings: which patches.
        task: classes and shape of the images.
        labels: class of every synthetic image, int64 (n,).
    """

    def __init__(self, settings: PatchSettings, task: Task, labels: Tensor) -> None:
        self.settings, self.task, self.labels = settings, task, labels
        self.grid = grid_of(settings, task)
        """Patches along each side of an image."""
        self._chosen: dict[tuple[int, int], Chosen] = {}

    def looked_at(self, count: int) -> int:
        """How many of a class's `count` real images crops are tried of."""
        wanted = math.ceil(len(self.labels) / self.task.num_classes) * self.grid**2
        return min(count, max(self.settings.candidates, self._enough(wanted)))

    def images(self, picked: Tensor, real: RealImages, teacher: Teacher, rngs: Generators) -> Tensor:
        """Stitch the synthetic images `picked` (b,): normalised, (b, c, h, w), on the CPU.

        Of n images of a class, image j holds the patches ranked j, n + j, 2n + j and so on: each has a very sure one.
        """
        images = torch.empty(len(picked), *self.task.shape)
        for label in self.labels[picked].unique().tolist():
            rng = rngs("class", label)
            key = label, rng.initial_seed()
            if key not in self._chosen:
                self._chosen[key] = self.choose(label, real, teacher, rng)
            ours = self.labels == label
            ranks, there = (ours.cumsum(0) - 1)[picked], ours[picked]
            images[there] = self._stitched(self._chosen[key], ranks[there], int(ours.sum()), real)
        return images

    @torch.no_grad()
    def choose(self, label: int, real: RealImages, teacher: Teacher, rng: torch.Generator) -> Chosen:
        """Choose all patches of a class among random crops of its real images.

        A second crop of an image is taken only where the class has fewer images than patches are wanted.
        """
        settings, wanted = self.settings, int((self.labels == label).sum()) * self.grid**2
        members = (real.labels == label).nonzero().squeeze(1).cpu()
        num = max(settings.candidates, self._enough(wanted))
        images = members[torch.randperm(len(members), generator=rng)[:num]]
        rounds = math.ceil(wanted / len(images))
        num_crops = max(settings.crops_per_image, rounds)
        boxes = draw_boxes(len(images) * num_crops, self.task.shape[1:], settings.crop_min_scale, rng)
        boxes = boxes.unflatten(0, (len(images), num_crops))
        losses = [score(shown, label, teacher) for shown in self._shown(real, images, boxes)]
        image, crop = ranked(torch.cat(losses).view(-1, num_crops), rounds).unbind(1)
        found = Chosen(images[image], boxes[image, crop])
        if settings.pick == "sure":
            return found[:wanted]
        found = found[: max(wanted, len(found.indices) // 2)]
        features = [teacher.features(shown) for shown in self._shown(real, found.indices, found.boxes.unsqueeze(1))]
        return found[spread_out(torch.cat(features), wanted, rng)]

    def _enough(self, wanted: int) -> int:
        return wanted * (_SPREAD_FACTOR if self.settings.pick == "spread" else 1)

    def _shown(self, real: RealImages, indices: Tensor, boxes: Tensor) -> Iterator[Tensor]:
        """Batches of what the teacher is shown: crops `boxes` (b, k, 4) of real images `indices` (b,)."""
        height, width = self.task.shape[1:]
        size = max(1, BATCH // boxes.shape[1])
        for some, where in zip(indices.split(size), boxes.split(size), strict=True):
            patches = cut(real.images(some), where, (height // self.grid, width // self.grid))
            yield amid_mean(patches, (height, width))

    def _stitched(self, chosen: Chosen, ranks: Tensor, per_class: int, real: RealImages) -> Tensor:
        height, width = self.task.shape[1:]
        tiles = []
        for k in range(self.grid**2):
            part = chosen[ranks + k * per_class]
            size = _share(height, self.grid, k // self.grid), _share(width, self.grid, k % self.grid)
            tiles.append(cut(real.images(part.indices), part.boxes.unsqueeze(1), size).cpu())
        return stitch(tiles)


def grid_of(settings: PatchSettings, task: Task) -> int:
    """Patches along each side of an image: 1, 2, 3 or 4."""
    if settings.patches_per_image == "auto":
        return 2 if min(task.height_px, task.width_px) >= _STITCH_FROM_PX else 1
    return math.isqrt(settings.patches_per_image)


def draw_boxes(num: int, size: tuple[int, int], min_scale: float, rng: torch.Generator) -> Tensor:
    """Draw crops (num, 4) of images of `size` (h, w): top, left, height and width in pixels, int64.

    The part of the area is uniform in min_scale..1 and the place too; the aspect ratio is the image's own.
    """
    full = torch.tensor(size)
    area = min_scale + (1 - min_scale) * torch.rand(num, 1, generator=rng, dtype=torch.float64)
    lengths = (area.sqrt() * full).round().clamp_min(1).long()
    corners = (torch.rand(num, 2, generator=rng, dtype=torch.float64) * (full - lengths + 1)).long()
    return torch.cat([corners, lengths], 1)


def cut(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut images (b, c, h, w), each by its own boxes (b, k, 4), and resize: (b * k, c, *size), image by image.

    Bilinear, smoothed where a crop shrinks.
    """
    parts = [
        F.interpolate(image[None, :, top : top + height, left : left + width], size, mode="bilinear", antialias=True)
        for image, own in zip(images, boxes.tolist(), strict=True)
        for top, left, height, width in own
    ]
    return torch.cat(parts)


def amid_mean(patches: Tensor, size: tuple[int, int]) -> Tensor:
    """Put patches (b, c, h, w) in the middle of images of `size` (h, w) whose other pixels are the mean, 0."""
    down, right = size[0] - patches.shape[2], size[1] - patches.shape[3]
    return F.pad(patches, (right // 2, right - right // 2, down // 2, down - down // 2))


def score(images: Tensor, label: int, teacher: Teacher) -> Tensor:
    """The teacher's loss (b,) for images (b, c, h, w) of a class; low is sure."""
    logits = teacher.logits(images).float().cpu()
    return F.cross_entropy(logits, torch.full((len(logits),), label), reduction="none")


def ranked(losses: Tensor, rounds: int = 1) -> Tensor:
    """Pairs (image, crop), int64 (rounds * m, 2), of losses (m, crops): every image's best crop, by loss.

    All images' second-best crops follow in a second round, and so on.
    """
    best, crops = losses.sort(dim=1, stable=True)
    orders = [best[:, k].argsort(stable=True) for k in range(rounds)]
    return torch.cat([torch.stack([order, crops[order, k]], 1) for k, order in enumerate(orders)])


def spread_out(features: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Choose `count` of the features (n, d), sorted with the surest first: the first of each of `count` clusters.

    Returns places int64 (count,), ascending. Where duplicates leave clusters empty, the surest others follow.
    """
    from sklearn.cluster import KMeans

    seed = int(torch.randint(2**31 - 1, (), generator=rng))
    num_distinct = len(features.unique(dim=0))
    clusters = KMeans(min(count, num_distinct), n_init=3, random_state=seed).fit_predict(
        features.cpu().double().numpy()
    )
    first: dict[int, int] = {}
    for at, cluster in enumerate(clusters.tolist()):
        first.setdefault(cluster, at)
    leaders = set(first.values())
    others = [at for at in range(len(features)) if at not in leaders]
    return torch.tensor(sorted([*leaders, *others[: count - len(leaders)]]))


def stitch(tiles: Sequence[Tensor]) -> Tensor:
    """Join k x k tiles (b, c, h, w), row by row, into images; tiles of a row are equally high."""
    grid = math.isqrt(len(tiles))
    return torch.cat([torch.cat(list(tiles[k : k + grid]), 3) for k in range(0, grid * grid, grid)], 2)


def _share(total: int, parts: int, k: int) -> int:
    """Length of part `k` of `total` pixels; the first parts take what is left over."""
    return total // parts + (k < total % parts)
