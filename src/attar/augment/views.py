"""Replayed views: the crop, flip and mix of image i in epoch e, from a seed and nothing else.

A *view* is RandomResizedCrop (bilinear, back to full size), a mirror half of the time and, if asked for, CutMix or
MixUp with the view that a partner has in the same epoch. Where it is asked for, patches of the image change places
first; of images that hold others (`tiles`) a view is of one of these, and no patches move. What is drawn is a pure
function of (seed, epoch, image): whoever labels the images and whoever trains on the labels see the same pixels,
whatever their batches, order, workers, device and version of torch, and nothing is stored but the seed.

    state = key of the seed; for word in (epoch, image):  state = mix(state + (word + 1) g)
    u_k   = top 53 bits of mix(state + (k + 1) g), over 2^53          k-th uniform of this view, see `_Slot`

with `mix` and g those of SplitMix64 (Steele, Lea and Flood 2014): each view owns one SplitMix64 stream. The uniforms
become whole pixels (crop, box, partner) or one float32 (MixUp's weight), so that the last bit of a library's `exp`
doesn't show.

Sources: crops as torchvision's RandomResizedCrop; CutMix (Yun et al. 2019), its box clipped at the border; MixUp (Zhang
et al. 2018); labels for such views from FKD (Shen and Xing 2022). FKD draws the partners' permutation, the box and the
weight once for a batch; here each image draws its own, or a view would depend on its batch. As there, every view is
mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from attar.augment import crops
from attar.augment.crops import Floats
from attar.augment.view_settings import ALGORITHM as ALGORITHM
from attar.augment.view_settings import MOST_PATCHES
from attar.augment.view_settings import ViewSettings as ViewSettings
from attar.config import dump
from attar.errors import ArtifactError
from attar.runtime.seeding import derive

_Words = NDArray[np.uint64]
_GAMMA, _MIX_1, _MIX_2 = (np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class ViewDraw(NamedTuple):
    """What is drawn for b views; on the CPU. Without a mix the partner is the image itself and the box is empty."""

    crop: Tensor
    """Top, left, height and width in pixels: int64 (b, 4)."""
    flip: Tensor
    """Whether the crop is mirrored: bool (b,)."""
    partner: Tensor
    """Index of the image to mix with: int64 (b,)."""
    partner_crop: Tensor
    """The partner's crop in this epoch: int64 (b, 4)."""
    partner_flip: Tensor
    """The partner's mirroring in this epoch: bool (b,)."""
    box: Tensor
    """CutMix: top, left, bottom and right (exclusive) of the part that shows the partner: int64 (b, 4)."""
    share: Tensor
    """Part of the view that is the image's own: the box's complement or MixUp's weight; float32 (b,) in 0..1."""


class _Slot(IntEnum):
    """Which uniform of a view's stream decides what; a crop takes `NUM_UNIFORMS`, from `CROP` on, the shuffled patches
    one for each row and one for each column, at most `MOST_PATCHES` of both, from `SHUFFLE` on."""

    FLIP = 0
    PARTNER = 1
    LAMBDA = 2
    BOX_ROW = 3
    BOX_COLUMN = 4
    CROP = 5
    SHUFFLE = CROP + crops.NUM_UNIFORMS
    TILE = SHUFFLE + 2 * MOST_PATCHES


class Views:
    """The views of a set of images.

    Args:
        settings: crops, mirror and mix; fields of a subclass beyond those of `ViewSettings` are left alone.
        seed: of all draws.
        num_images: images in the set, partners are drawn from all of them.
        shape: channels, height and width of the images in pixels.
        tiles: how many others, along a side, each image holds; a view is then a crop of one of them.
    """

    def __init__(
        self, settings: ViewSettings, seed: int, num_images: int, shape: tuple[int, int, int], tiles: int = 1
    ) -> None:
        if num_images < 1:
            raise ValueError("views of no images")
        self.settings = ViewSettings(**{name: getattr(settings, name) for name in ViewSettings.model_fields})
        self.seed, self.num_images, self.shape, self.tiles = seed, num_images, shape, tiles
        self._key = np.array([derive(seed, "views", ALGORITHM)], np.uint64)

    def draw(self, epochs: Tensor, indices: Tensor) -> ViewDraw:
        """Draw the views of images `indices` (b,) in `epochs` (b,), int64; rows don't depend on each other."""
        epoch, index = (words.detach().cpu().numpy().astype(np.uint64) for words in (epochs, indices))
        own = self._streams(epoch, index)
        crop, flip = self._crops(own)
        if self.settings.mix == "none":
            box, share = np.zeros((len(index), 4), np.int64), np.ones(len(index), np.float32)
            return ViewDraw(*_tensors(crop, flip, index.astype(np.int64), crop, flip, box, share))
        partner = crops.whole(_uniforms(own, _Slot.PARTNER), self.num_images)
        partner_crop, partner_flip = self._crops(self._streams(epoch, partner.astype(np.uint64)))
        return ViewDraw(*_tensors(crop, flip, partner, partner_crop, partner_flip, *self._mixes(own)))

    def apply(
        self,
        images: Callable[[Tensor], Tensor],
        epochs: Tensor,
        indices: Tensor,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Show images `indices` (b,) as they look in `epochs` (b,): normalised, (b, c, h, w), on `device`.

        `images` gives the normalised images of some indices; it is called once, for these and their partners.
        On one device a view has the same bits whatever batch it is in. Bilinear between the pixels of the crop, and
        of no others, as torchvision's `resized_crop`.
        """
        drawn = self.draw(epochs, indices)
        if self.settings.mix == "none":
            shown = self._shuffled(images(indices).to(device), epochs, indices)
            return crops.resized(shown, drawn.crop, drawn.flip)
        both = torch.stack([indices, drawn.partner.to(indices)], 1).flatten()
        pairs = self._shuffled(images(both).to(device), epochs.repeat_interleave(2), both)
        if self.settings.mix == "cutmix":
            return _cutmix(pairs, drawn)
        crop = torch.stack([drawn.crop, drawn.partner_crop], 1).flatten(0, 1)
        flip = torch.stack([drawn.flip, drawn.partner_flip], 1).flatten()
        own, partner = crops.resized(pairs, crop, flip).unflatten(0, (-1, 2)).unbind(1)
        return torch.lerp(partner, own, drawn.share.to(own).view(-1, 1, 1, 1))

    def to_json(self) -> dict[str, Any]:
        """All that a replay needs, as plain values."""
        return {
            "algorithm": ALGORITHM,
            "seed": self.seed,
            "num_images": self.num_images,
            "shape": list(self.shape),
            "settings": dump(self.settings),
            **({"tiles": self.tiles} if self.tiles > 1 else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Views:
        """Read what `to_json` wrote; raises ArtifactError where it can't be replayed by this version."""
        algorithm = values.get("algorithm")
        if algorithm != ALGORITHM:
            raise ArtifactError(
                f"the views of this dataset were drawn by algorithm {algorithm}",
                expected=f"algorithm {ALGORITHM}, the only one that this version of attar replays",
                fix="use the version of attar that made it, or relabel",
            )
        try:
            channels, height, width = (int(size) for size in values["shape"])
            settings = ViewSettings.model_validate(values["settings"])
            shape, tiles = (channels, height, width), int(values.get("tiles", 1))
            if not 1 <= tiles <= min(height, width):
                raise ValueError(f"tiles={tiles} of {height}x{width} px")
            return cls(settings, int(values["seed"]), int(values["num_images"]), shape, tiles)
        except (KeyError, TypeError, ValueError, ValidationError) as error:
            raise ArtifactError(
                f"the description of the views could not be read: {error!r}",
                expected="algorithm, seed, num_images, shape, and settings that this version knows",
                fix="run `attar verify` on the folder it came from",
            ) from error

    def _streams(self, epoch: _Words, index: _Words) -> _Words:
        state = self._key
        for word in (epoch, index):
            state = _mix(state + (word + np.uint64(1)) * _GAMMA)
        return state

    def _crops(self, streams: _Words) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Crops (b, 4) and mirrors (b,)."""
        slots = np.arange(_Slot.CROP, _Slot.CROP + crops.NUM_UNIFORMS)
        height, width = (size // self.tiles for size in self.shape[1:])
        crop = crops.choose(_uniforms(streams[:, None], slots), self.settings.min_scale, height, width)
        if self.tiles > 1:
            places = torch.from_numpy(crops.whole(_uniforms(streams, _Slot.TILE), self.tiles**2))
            crop[:, :2] += crops.tiles(places, self.tiles, *self.shape[1:]).numpy()[:, :2]
        return crop, (_uniforms(streams, _Slot.FLIP) < 0.5) & self.settings.flip

    def _shuffled(self, images: Tensor, epochs: Tensor, indices: Tensor) -> Tensor:
        """Images (b, c, h, w) with their patches where they are in these epochs (b,)."""
        num = self.settings.shuffle_patches
        if num == 1 or self.tiles > 1:  # patches are no tiles, and a view is of one of those alone
            return images
        epoch, index = (words.detach().cpu().numpy().astype(np.uint64) for words in (epochs, indices))
        slots = np.arange(_Slot.SHUFFLE, _Slot.SHUFFLE + 2 * num)
        drawn = _uniforms(self._streams(epoch, index)[:, None], slots)
        return shuffled(images, orders(drawn[:, :num]), orders(drawn[:, num:]))

    def _mixes(self, streams: _Words) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Boxes (b, 4) and the image's own share (b,)."""
        height, width = self.shape[1:]
        kept = _beta(_uniforms(streams, _Slot.LAMBDA), self.settings.mix_alpha)
        if self.settings.mix == "mixup":
            return np.zeros((len(streams), 4), np.int64), kept.astype(np.float32)
        sizes = np.array([height, width])
        half = (sizes * np.sqrt(1 - kept)[:, None]).astype(np.int64) // 2
        centre = crops.whole(_uniforms(streams[:, None], np.array([_Slot.BOX_ROW, _Slot.BOX_COLUMN])), sizes)
        first, last = np.maximum(centre - half, 0), np.minimum(centre + half, sizes)
        share = 1 - (last - first).prod(1) / sizes.prod()
        return np.concatenate([first, last], 1), share.astype(np.float32)


def _cutmix(pairs: Tensor, drawn: ViewDraw) -> Tensor:
    """Views (b, c, h, w) of `pairs` (2b, c, h, w): image, its partner, the next image, its partner...

    Each pixel is read once, from one of the two. To the sampler a channel goes on, row by row, as far as the same
    channel of the partner, which lies c h rows further in memory; so nothing is copied.
    """
    pairs = pairs.contiguous()
    channels, height, width = pairs.shape[1:]
    size = (len(pairs) // 2, channels, (channels + 1) * height, width)
    tall = pairs.as_strided(size, (2 * channels * height * width, height * width, width, 1), pairs.storage_offset())
    rows, their_rows, in_rows = _axis(drawn, 0, height)
    columns, their_columns, in_columns = _axis(drawn, 1, width)
    boxed = in_rows.to(tall.device).unsqueeze(2) & in_columns.to(tall.device).unsqueeze(1)
    rows, their_rows = (crops.relative(y, size[2], tall) for y in (rows, their_rows + channels * height))
    columns, their_columns = (crops.relative(x, width, tall) for x in (columns, their_columns))
    x = torch.where(boxed, their_columns.unsqueeze(1), columns.unsqueeze(1))
    y = torch.where(boxed, their_rows.unsqueeze(2), rows.unsqueeze(2))
    return crops.sample_grid(tall, x, y)


def _axis(drawn: ViewDraw, axis: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the image and where its partner is read along one axis, in pixels, and whether the box lies there."""
    own, partner = (crops.spread(crop, axis, size) for crop in (drawn.crop, drawn.partner_crop))
    if axis == 1:
        own, partner = crops.mirrored(own, drawn.flip), crops.mirrored(partner, drawn.partner_flip)
    places, first, last = torch.arange(size), drawn.box[:, axis, None], drawn.box[:, axis + 2, None]
    return own, partner, (places >= first) & (places < last)


def _mix(words: _Words) -> _Words:
    words = (words ^ (words >> np.uint64(30))) * _MIX_1
    words = (words ^ (words >> np.uint64(27))) * _MIX_2
    return words ^ (words >> np.uint64(31))


def _uniforms(streams: _Words, slots: int | NDArray[np.int64]) -> Floats:
    """Numbers in 0 (included) .. 1 (excluded) of these slots of the streams."""
    words = _mix(streams + (np.atleast_1d(slots).astype(np.uint64) + np.uint64(1)) * _GAMMA)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _beta(uniforms: Floats, alpha: float) -> Floats:
    if alpha == 1:
        return uniforms
    from scipy.special import betaincinv  # type: ignore[import-untyped]

    values: Floats = betaincinv(alpha, alpha, uniforms)
    return values


def _tensors(*arrays: NDArray[Any]) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def orders(uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Turn uniforms (b, n) into orders (b, n): which strip comes first, which second, and so on."""
    return uniforms.argsort(axis=1, kind="stable")


def shuffled(images: Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tensor:
    """Images (b, c, h, w) with their rows and columns of patches in these orders (b, n), each image in its own.

    Patches change places: n columns of w // n pixels, the last one with what is left over, side by side in their order,
    then rows alike. Columns move as a whole, and rows do, so that neighbours in one direction stay in line: of four
    patches 4 of the 24 orders are seen. Source: `ShufflePatches` in the code of RDED (Sun et al. 2024).
    """
    num, channels, height, width = images.shape
    down, across = (_sources(order, size) for order, size in ((rows, height), (columns, width)))
    down, across = down.to(images.device), across.to(images.device)
    moved = images.gather(2, down[:, None, :, None].expand(num, channels, height, width))
    return moved.gather(3, across[:, None, None, :].expand(num, channels, height, width))


def _sources(order: NDArray[np.int64], size: int) -> Tensor:
    """Where the pixels of one axis come from, (b, size), for strips in these orders (b, n)."""
    num = order.shape[1]
    lengths = np.full(num, size // num)
    lengths[-1] += size % num
    first = np.cumsum(lengths) - lengths
    ends = np.cumsum(lengths[order], axis=1)
    places = np.arange(size)
    strip = (places >= ends[:, :, None]).sum(axis=1)  # which strip of the result a pixel lies in
    begin = np.take_along_axis(ends - lengths[order], strip, axis=1)
    source = np.take_along_axis(first[order], strip, axis=1) + places - begin
    return torch.from_numpy(source)
