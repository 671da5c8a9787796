"""Convolutions 3x3 of a frozen network with a quarter of the multiplications, for float32 on a processor.

    y = A [ Σ_c U (B d) ]           d: 6x6 tiles of the input that overlap by 2; y: their 4x4 outputs; U: of the weights
    dL/dd = B' [ Σ_o U' (A' dL/dy) ]                                                    the same transposed, tiles added

F(4x4, 3x3) at the points 0, ±1, ±2 and infinity. Both sums over channels are 36 products of matrices, which take
36 multiplications for 16 outputs where a direct convolution takes 144; the tiles cost passes over memory, so it pays
where channels are many. Errors were 3 to 5 times those of the direct one: 3e-6 of the output's norm at 512 channels.

Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from attar.losses.moments import on_cpu

LEAST_CHANNELS = 128
"""With fewer, a direct convolution is as fast."""
LEAST_TILES = 32
"""With fewer in a batch, reading the transformed weights takes the time."""
TILES_AT_ONCE = 1 << 15
"""Tiles times channels that are transformed at once: their 36 values each stay near the processor."""

_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_WEIGHT = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # of 24
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class FrozenConv(nn.Module):
    """A frozen convolution, by tiles where that is faster and as it was elsewhere.

    Args:
        conv: a convolution that `suits`; it is kept, and its weights must not change.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self._transformed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of (b, c, h, w)."""
        if not pays(x):
            return self.conv(x)  # type: ignore[no-any-return]
        if self._transformed is None:  # four times the weights' memory, where it is of use only
            self._transformed = transformed(self.conv.weight)
        out: Tensor = Tiled.apply(x, self._transformed)
        return out if self.conv.bias is None else out + self.conv.bias.view(-1, 1, 1)


class Tiled(torch.autograd.Function):
    """A convolution 3x3 at stride 1 with a border of 1, by transformed weights. Only the input has a gradient, once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        """Convolution (b, o, h, w) of x (b, c, h, w) with weights (36, c, o), channels last in memory."""
        ctx.save_for_backward(weights)
        into, _, out_of = (part.to(x.dtype) for part in _matrices())
        (rows, columns), (height, width) = _tile_counts(x), x.shape[2:]
        out = x.new_empty(len(x), 4 * rows, 4 * columns, weights.shape[2])
        border = (0, 0, 1, 4 * columns - width + 1, 1, 4 * rows - height + 1)
        for part, part_out in _parts(x.permute(0, 2, 3, 1), out, rows * columns * max(weights.shape[1:])):
            tiles = F.pad(part, border).unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)
            spread = (into @ tiles.reshape(36, -1)).view(36, -1, weights.shape[1])
            found = out_of @ torch.bmm(spread, weights).view(36, -1)
            _squares(part_out).copy_(found.view(4, 4, len(part), rows, columns, -1))
        return out[:, :height, :width].permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of x."""
        (by_out,), (weights,) = grads, ctx.saved_tensors
        into, _, out_of = (part.to(by_out.dtype) for part in _matrices())
        (rows, columns), (height, width) = _tile_counts(by_out), by_out.shape[2:]
        canvas = by_out.new_zeros(len(by_out), 4 * rows + 4, 4 * columns + 4, weights.shape[1])
        rest = (0, 0, 0, 4 * columns - width, 0, 4 * rows - height)
        for part, onto in _parts(by_out.permute(0, 2, 3, 1), canvas, rows * columns * max(weights.shape[1:])):
            spread = out_of.T @ _squares(F.pad(part, rest) if any(rest) else part).reshape(16, -1)
            by_spread = torch.bmm(spread.view(36, -1, weights.shape[2]), weights.transpose(1, 2))
            tiles = (into.T @ by_spread.view(36, -1)).view(6, 6, len(part), rows, columns, -1)
            squares = _squares(onto)
            squares[:, :, :, :-1, :-1] = tiles[:4, :4]
            squares[:2, :, :, 1:, :-1] += tiles[4:, :4]
            squares[:, :2, :, :-1, 1:] += tiles[:4, 4:]
            squares[:2, :2, :, 1:, 1:] += tiles[4:, 4:]
        return canvas[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2), None


def suits(module: nn.Module) -> bool:
    """Whether a module is a convolution that can be had by tiles, with channels enough for it."""
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.stride == module.dilation == (1, 1)
        and module.padding in ((1, 1), "same")
        and module.padding_mode == "zeros"
        and module.groups == 1
        and min(module.weight.shape[:2]) >= LEAST_CHANNELS
    )


def pays(x: Tensor) -> bool:
    """Whether tiles of x (b, c, h, w) are faster: float32 on a processor, and few of their outputs are cut off."""
    if x.dtype != torch.float32 or not on_cpu(x) or torch.is_autocast_enabled("cpu"):
        return False
    rows, columns = _tile_counts(x)
    return len(x) * rows * columns >= LEAST_TILES and 8 * rows * columns <= x.shape[2] * x.shape[3]


def transformed(weights: Tensor) -> Tensor:
    """Weights (o, c, 3, 3) as (36, c, o), computed in float64 and rounded once."""
    _, of_weight, _ = _matrices()
    flat = weights.detach().double().permute(2, 3, 1, 0).reshape(9, -1)
    return (of_weight @ flat).to(weights.dtype).view(36, weights.shape[1], weights.shape[0])


def _tile_counts(x: Tensor) -> tuple[int, int]:
    """Rows and columns of tiles that cover (b, c, h, w)."""
    return -(-x.shape[2] // 4), -(-x.shape[3] // 4)


@lru_cache(maxsize=1)
def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """What transforms a flattened tile (36, 36), weights (36, 9) and sums (16, 36), float64."""
    into, of_weight, out_of = (torch.tensor(rows, dtype=torch.float64) for rows in (_INPUT, _WEIGHT, _OUTPUT))
    return torch.kron(into, into), torch.kron(of_weight, of_weight) / 24**2, torch.kron(out_of, out_of)


def _parts(first: Tensor, second: Tensor, of_each: int) -> list[tuple[Tensor, Tensor]]:
    """Both batches in parts of so many images that their tiles are few."""
    size = max(1, TILES_AT_ONCE // of_each)
    return list(zip(first.split(size), second.split(size), strict=True))


def _squares(x: Tensor) -> Tensor:
    """(b, 4 rows, 4 columns, c) seen as (4, 4, b, rows, columns, c)."""
    b, height, width, c = x.shape
    return x.view(b, height // 4, 4, width // 4, 4, c).permute(2, 4, 0, 1, 3, 5)
