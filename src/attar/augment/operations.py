"""Augmentations that can be replayed: `draw` decides, `apply` does.

`draw` turns a generator into parameters (tensors on the CPU), `apply` is a differentiable function of
images and those parameters. So two sides that share a seed share the augmentation, and nothing is stored.
The operations and their ranges are those of differentiable siamese augmentation (Zhao and Bilen 2021, DSA), as the
released code of MTT and TESLA draws them; a test compares them with that code's formulas. Images are normalised, or
whitened, so that what is padded, cut out or turned in from outside is the mean pixel, 0.
RandomResizedCrop (`rrc`) and the roll are those of recovery and of training on ImageNet.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal, get_args

import torch
from pydantic import AfterValidator
from torch import Tensor
from torch.nn import functional as F

from attar.augment import crops
from attar.errors import ConfigError, unknown

Draw = dict[str, Tensor]
"""Parameters by operation, each with a first dimension of 1 (for the whole batch) or b (one per image).

In the mode `one`, `operation` says which is applied: one for the batch, or one per image.
"""
Mode = Literal["one", "all"]
Per = Literal["batch", "operation", "image"]
"""Who shares a draw: the whole batch; the batch its operation, each image having its own parameters; or nobody."""
Shape = tuple[int, int, int]

NAMED: Mapping[str, str] = MappingProxyType(
    {"none": "", "dsa": "color_crop_cutout_flip_scale_rotate", "dsa-noflip": "color_crop_cutout_scale_rotate"}
)
"""Specs with a name; the `dsa` ones apply one operation per draw, as DSA and MTT publish."""


class Operation(ABC):
    """One way to change images: a distribution of parameters and what they do."""

    @abstractmethod
    def draw(self, rng: torch.Generator, num: int, shape: Shape) -> Tensor:
        """Parameters (num, ...) on the CPU for images of `shape` (c, h, w)."""

    @abstractmethod
    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Changed images (b, c, h, w); `drawn` has first dimension 1 or b and is on the CPU."""


class _Color(Operation):
    """Brightness, saturation and contrast, in this order; (num, 3): one offset and two factors."""

    brightness, saturation, contrast = 1.0, 2.0, 0.5

    def draw(self, rng: torch.Generator, num: int, shape: Shape) -> Tensor:
        """Offset in +-brightness/2, factors in 0..saturation and contrast..1+contrast."""
        unit = torch.rand(num, 3, generator=rng)
        scale = torch.tensor([self.brightness, self.saturation, 1.0])
        return unit * scale + torch.tensor([-self.brightness / 2, 0.0, self.contrast])

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Shift, then stretch about each pixel's grey value, then about each image's mean."""
        offset, saturation, contrast = drawn.to(images).view(-1, 3, 1, 1, 1).unbind(1)
        images = images + offset
        if images.shape[1] > 1:  # a grey pixel is its own mean over the channels
            images = _stretch(images, images.mean(1, keepdim=True), saturation)
        return _stretch(images, images.mean((1, 2, 3), keepdim=True), contrast)


class Crop(Operation):
    """Shift by whole pixels, zeros coming in; (num, 2): down and right, up to an eighth of the size."""

    ratio = 0.125

    def draw(self, rng: torch.Generator, num: int, shape: Shape) -> Tensor:
        """Shifts in pixels, int64."""
        return torch.stack([_integers(rng, num, -reach, reach) for reach in map(self._reach, shape[1:])], 1)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Shift all images alike, or each by its own."""
        if len(drawn) == 1:
            down, right = (int(value) for value in drawn[0])
            return F.pad(images, (right, -right, down, -down))
        height, width = images.shape[-2:]
        shift = drawn.flip(1) * torch.tensor([-2.0 / width, -2.0 / height])
        return _resample(images, _matrices(len(drawn), shift=shift), "nearest")

    def _reach(self, size: int) -> int:
        return int(size * self.ratio + 0.5)


class _Cutout(Operation):
    """Zero a square of half the size; (num, 2): row and column of its centre, so part may lie outside."""

    ratio = 0.5

    def draw(self, rng: torch.Generator, num: int, shape: Shape) -> Tensor:
        """Centres in pixels, int64."""
        sizes = [(size, int(size * self.ratio + 0.5)) for size in shape[1:]]
        return torch.stack([_integers(rng, num, 0, size - hole % 2) for size, hole in sizes], 1)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Zero the squares."""
        rows, columns = (self._inside(images.shape[2 + axis], drawn[:, axis].to(images.device)) for axis in (0, 1))
        return images.masked_fill((rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), 0.0)

    def _inside(self, size: int, centre: Tensor) -> Tensor:
        hole = int(size * self.ratio + 0.5)
        first = (centre - hole // 2).unsqueeze(1)
        places = torch.arange(size, device=centre.device)
        return (places >= first) & (places < first + hole)


class _Flip(Operation):
    """Mirror left to right, half of the time; (num,) bool."""

    probability = 0.5

    def draw(self, rng: torch.Generator, num: int, shape: Shape) -> Tensor:
        """Whether to mirror."""
        return torch.rand(num, generator=rng) < self.probability

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Mirror all or none, or those that are drawn."""
        if len(drawn) == 1:
            return images.flip(-1) if bool(drawn[0]) else images
        return torch.where(drawn.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


class Scale(Operation):
    """Shrink or enlarge width and height, each by its own factor up to 1.2; (num, 2)."""

    ratio = 1.2

    def draw(self, rng: torch.Generator, num: int, shape: Shape) -> Tensor:
        """Factors on the sampled coordinates (above 1 shrinks), x before y."""
        return torch.rand(num, 2, generator=rng) * (self.ratio - 1 / self.ratio) + 1 / self.ratio

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Resample bilinearly."""
        return _resample(images, _matrices(len(drawn), linear=torch.diag_embed(drawn)), "bilinear")


class _Rotate(Operation):
    """Turn about the centre by up to 15 degrees; (num,) radians."""

    degrees = 15.0

    def draw(self, rng: torch.Generator, num: int, shape: Shape) -> Tensor:
        """Angles in radians, either way."""
        return (torch.rand(num, generator=rng) * 2 - 1) * math.radians(self.degrees)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Resample bilinearly."""
        cos, sin = drawn.cos(), drawn.sin()
        linear = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
        return _resample(images, _matrices(len(drawn), linear=linear), "bilinear")


class _ResizedCrop(Operation):
    """Crop a random part and bring it back to full size (bilinear); (num, 4): see `attar.augment.crops`.

    `min_scale` is the smallest part of the area, in 0..1 (0 excluded), that is kept.
    """

    def __init__(self, min_scale: float = 0.08) -> None:
        self.min_scale = min_scale

    def draw(self, rng: torch.Generator, num: int, shape: Shape) -> Tensor:
        """Top, left, height and width in pixels, int64."""
        uniforms = torch.rand(num, crops.NUM_UNIFORMS, generator=rng, dtype=torch.float64)
        return torch.from_numpy(crops.choose(uniforms.numpy(), self.min_scale, *shape[1:]))

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Show all images through one crop, or each through its own."""
        if len(drawn) > 1:
            return crops.resized(images, drawn)
        size = images.shape[2:]
        top, left, height, width = (int(value) for value in drawn[0])
        if (height, width) == size:
            return images
        part = images[:, :, top : top + height, left : left + width]
        return F.interpolate(part, size, mode="bilinear", align_corners=False)


class _Tile(_ResizedCrop):
    """Look at one of `grid` x `grid` tiles, enlarged to full size (bilinear); (num, 4): see `attar.augment.crops`.

    For images that hold others, such as those of pca.
    """

    def __init__(self, grid: int = 2) -> None:
        super().__init__(1.0)
        self.grid = grid

    def draw(self, rng: torch.Generator, num: int, shape: Shape) -> Tensor:
        """Top, left, height and width in pixels, int64; all tiles are as likely."""
        if min(shape[1:]) < self.grid:
            raise ConfigError(
                f"an augmentation cuts images of {shape[1]}x{shape[2]} px into {self.grid} by {self.grid} tiles",
                expected="tiles of a pixel or more",
                fix="use tile, which is of two by two, or a higher --resolution",
            )
        down, across = torch.randint(self.grid, (num, 2), generator=rng).unbind(1)
        return crops.tiles(down * self.grid + across, self.grid, *shape[1:])


class _Roll(Operation):
    """Shift in a circle, what leaves coming in opposite; (num, 2): down and right.

    By up to `reach_px` pixels either way, and at most half the size.
    """

    def __init__(self, reach_px: int = 32) -> None:
        self.reach_px = reach_px

    def draw(self, rng: torch.Generator, num: int, shape: Shape) -> Tensor:
        """Shifts in pixels, int64."""
        reaches = [min(self.reach_px, size // 2) for size in shape[1:]]
        return torch.stack([_integers(rng, num, -reach, reach) for reach in reaches], 1)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Roll all images alike, or each by its own."""
        if len(drawn) == 1:
            down, right = (int(value) for value in drawn[0])
            return torch.roll(images, (down, right), (2, 3))
        rows, columns = (
            ((torch.arange(size) - drawn[:, axis, None]) % size).to(images.device)
            for axis, size in enumerate(images.shape[2:])
        )
        image, channel = (torch.arange(size, device=images.device) for size in images.shape[:2])
        return images[
            image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]
        ]


OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "color": _Color(),
        "crop": Crop(),
        "cutout": _Cutout(),
        "flip": _Flip(),
        "scale": Scale(),
        "rotate": _Rotate(),
        "rrc": _ResizedCrop(),
        "roll": _Roll(),
        "tile": _Tile(),
    }
)
"""Operations by their name in a spec; `rrc` may be followed by its smallest part of the area, as in `rrc0.25`,
and `tile`, which is of two by two, by how many there are along a side, as in `tile3`."""


def operation(name: str) -> Operation | None:
    """Find an operation by its name in a spec, or None."""
    if name.startswith("rrc") and name != "rrc":
        try:
            min_scale = float(name.removeprefix("rrc"))
        except ValueError:
            return None
        return _ResizedCrop(min_scale) if 0 < min_scale <= 1 else None
    if name.startswith("tile") and name.removeprefix("tile").isdecimal():
        return _Tile(int(name.removeprefix("tile"))) if 0 < int(name.removeprefix("tile")) < 10 else None
    return OPERATIONS.get(name)


def within_tiles(spec: str, tiles: int) -> str:
    """The spec of an augmentation for images that hold `tiles` by `tiles` others: of one of these at a time."""
    if tiles == 1 or spec.startswith("tile"):
        return spec
    tile = "tile" if tiles == 2 else f"tile{tiles}"
    return tile if spec in ("", "none") else f"{tile}_{spec}"


class Augmentation:
    """A list of operations, applied all in turn or one per draw.

    Args:
        spec: names of operations joined by `_`, such as `flip_crop` or `rrc0.25_flip`; or `dsa`, `dsa-noflip` (for
            digits and other images that a mirror makes wrong); or `none` or nothing at all. A tile may come before any
            of these, as in `tile_dsa`: each image is then seen through a tile of its own first, whatever `mode` and
            `per` say of what follows.
        mode: `all` applies every operation in the order given, `one` a single one per draw. None chooses
            `one` for the `dsa` names and `all` for lists.

    Raises ConfigError for a name that isn't known, and `draw` for images too small for its tiles.
    """

    def __init__(self, spec: str, mode: Mode | None = None) -> None:
        if mode is not None and mode not in get_args(Mode):
            raise unknown("augmentation mode", mode, get_args(Mode))
        self.spec = spec
        self.tile, rest = _first_tile(spec)
        self.mode: Mode = mode or ("one" if rest.startswith("dsa") else "all")
        self.names = tuple(dict.fromkeys(filter(None, NAMED.get(rest, rest).split("_"))))
        self.operations: dict[str, Operation] = {}
        for name in filter(None, (self.tile, *self.names)):
            found = operation(name)
            if found is None:
                raise unknown("augmentation", name, [*OPERATIONS, "rrc0.25", *NAMED], fix=_how_to_join(name))
            self.operations[name] = found

    def draw(self, rng: torch.Generator, num: int, shape: Shape, per: Per = "image") -> Draw:
        """Draw parameters for a batch of `num` images of `shape` (c, h, w), channels first, in pixels.

        `per` is what has a draw of its own. batch: all images share one (siamese). operation: in the mode `one` they
        share the operation, and each has its own parameters of it, as the released code of MTT and TESLA draws for
        experts, in matching and in training students; in the mode `all` that is image. image: each has its own.
        """
        names, drawn = self.names, Draw()
        if self.tile:
            drawn[self.tile] = self.operations[self.tile].draw(rng, num, shape)
        num = 1 if per == "batch" else num
        if names and self.mode == "one":
            drawn["operation"] = torch.randint(len(names), (1 if per == "operation" else num,), generator=rng)
            names = (names[int(drawn["operation"])],) if len(drawn["operation"]) == 1 else names
        return drawn | {name: self.operations[name].draw(rng, num, shape) for name in names}

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Augment normalised images (b, c, h, w) by what was drawn; differentiable in the images."""
        if self.tile:
            images = self.operations[self.tile].apply(images, draw[self.tile])
        if "operation" in draw:
            return self._apply_one(images, draw)
        for name in self.names:
            images = self.operations[name].apply(images, draw[name])
        return images

    def _apply_one(self, images: Tensor, draw: Draw) -> Tensor:
        chosen = draw["operation"]
        if len(chosen) == 1:
            name = self.names[int(chosen)]
            return self.operations[name].apply(images, draw[name])
        groups = [(name, (chosen == place).nonzero().squeeze(1)) for place, name in enumerate(self.names)]
        groups = [(name, members) for name, members in groups if len(members)]
        parts = [
            self.operations[name].apply(images.index_select(0, members.to(images.device)), draw[name][members])
            for name, members in groups
        ]
        back = torch.cat([members for _, members in groups]).argsort()
        return torch.cat(parts).index_select(0, back.to(images.device))


@dataclass(frozen=True)
class MultiCrop:
    """The look that recovery takes at a chunk of images: one crop, mirror and roll for all of them.

    As the authors of SRe2L draw it in each step, but for the roll: theirs is 0..32 pixels and always that, ours up to
    `roll_px` either way and at most half the size, which in a circle differs little.

    Attributes:
        crop: look at random crops; false looks at whole images, and `min_scale` is left alone.
        flip: mirror half of the time.
        roll_px: reach of the roll in pixels; 0 doesn't roll.
    """

    crop: bool = True
    flip: bool = True
    roll_px: int = 32

    def draw(self, rng: torch.Generator, shape: Shape, min_scale: float = 0.08) -> Draw:
        """Draw a look at images of `shape` (c, h, w); a crop keeps `min_scale`..1 of the area."""
        return {name: operation.draw(rng, 1, shape) for name, operation in self._operations(min_scale)}

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Look at normalised images (b, c, h, w), differentiably; their memory format is kept."""
        looked = images
        for name, operation in self._operations():
            looked = operation.apply(looked, draw[name])
        channels_last = images.is_contiguous(memory_format=torch.channels_last)
        return looked.contiguous(memory_format=torch.channels_last) if channels_last else looked

    def _operations(self, min_scale: float = 1.0) -> list[tuple[str, Operation]]:
        every = (
            (self.crop, "rrc", _ResizedCrop(min_scale)),
            (self.flip, "flip", _Flip()),
            (self.roll_px > 0, "roll", _Roll(self.roll_px)),
        )
        return [(name, operation) for used, name, operation in every if used]


def _stretch(images: Tensor, centre: Tensor, factor: Tensor) -> Tensor:
    return (images - centre) * factor + centre


def _integers(rng: torch.Generator, num: int, low: int, high: int) -> Tensor:
    return torch.randint(low, high + 1, (num,), generator=rng)


def _matrices(num: int, *, linear: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """Affine matrices (num, 2, 3) of a linear part (num, 2, 2) and a shift (num, 2), coordinates in -1..1."""
    linear = torch.eye(2).expand(num, 2, 2) if linear is None else linear
    shift = torch.zeros(num, 2) if shift is None else shift
    return torch.cat([linear, shift.unsqueeze(2)], 2)


def _resample(images: Tensor, matrices: Tensor, how: Literal["nearest", "bilinear"]) -> Tensor:
    grid = F.affine_grid(matrices.to(images), [len(matrices), *images.shape[1:]], align_corners=False)
    grid = grid.expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, mode=how, padding_mode="zeros", align_corners=False)


def _first_tile(spec: str) -> tuple[str, str]:
    """The tile that a spec begins with, empty where it does not, and the rest."""
    first, _, rest = spec.partition("_")
    return (first, rest) if first.startswith("tile") else ("", spec)


def _how_to_join(name: str) -> str:
    if name in NAMED:
        return f"{name} stands alone, but for a tile before it: tile_{name}"
    return f"join operations by '_', or use one of: {', '.join(NAMED)}"


def _known(spec: str) -> str:
    Augmentation(spec)
    return spec


AugmentationName = Annotated[str, AfterValidator(_known)]
"""A setting that names an augmentation, see `Augmentation`."""
