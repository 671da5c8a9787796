"""Mean and variance of parts of a batch, such as its classes, in one pass over it and one back.

    out = BatchNorm(z) by running statistics        μ_k, σ²_k = mean and biased variance of part k, per channel

    dL/dz = weight / sqrt(running_var + eps) dL/dout + (dL/dμ_k + 2 (z - μ_k) dL/dσ²_k) / n_k        z in part k

n_k: values per channel of the part. In z the gradient is a straight line for each part and channel, so it takes nothing
but z itself, which BatchNorm and what comes before it keep anyway. A part is so many consecutive rows of the batch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

RUN = 1 << 14
"""On the CPU, the most values of a channel that are summed up in one run of float32: longer ones lose digits."""


class NormAndMoments(torch.autograd.Function):
    """BatchNorm in evaluation mode, and the moments of parts of its input (b, c, ...), with one backward pass for all.

    Only the input has a gradient: the rest is frozen. It can be differentiated once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        sizes: tuple[int, ...],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised x, of its type, and what `moments` says of it."""
        mean, var = moments(x, sizes)
        scale = (running_var + eps).rsqrt()
        ctx.save_for_backward(x, mean, scale if weight is None else scale * weight)
        ctx.sizes = sizes
        return F.batch_norm(x, running_mean, running_var, weight, bias, eps=eps), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of x, of its type."""
        by_out, by_mean, by_var = grads
        x, mean, scale = ctx.saved_tensors
        num = _counts(ctx.sizes, mean.dtype, mean.device) * (x[0].numel() / x.shape[1])
        slope = 2 / num * by_var
        by_x = _lines(x, slope, by_mean / num - slope * mean, ctx.sizes)
        return _add_scaled(by_x, by_out, scale), None, None, None, None, None, None


def moments(x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (k, c) of k parts of x (b, c, ...) over all but the channels, float32 at least.

    On the CPU the kernel of BatchNorm takes less than a twentieth of `torch.var_mean`'s time. Its errors over a million
    values were 3e-6 of the variance, and a millionth of the mean.

    Args:
        x: rows in the order of the parts.
        sizes: rows of each part, at least one each, b together.
    """
    means, variances, lengths = _pieces(x, sizes)
    if len(means) == len(sizes):
        return means, variances
    share, owner = _sharing(tuple(lengths), tuple(sizes), means.dtype, means.device)
    mean = (share * means).sum(1)  # not `@`, which autocast would round to half precision
    return mean, (share * (variances + (means - mean[owner]).square())).sum(1)


def of_all(part: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (c,) of a whole, from those (k, c) of its parts, which are `part` (k,) of it."""
    share = part.unsqueeze(1)
    mean = (share * means).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def precise(x: Tensor) -> torch.dtype:
    """The type that statistics of x are of: float32, or its own where that has more digits."""
    return torch.promote_types(x.dtype, torch.float32)


def on_cpu(x: Tensor) -> bool:
    """Whether kernels of the CPU are for x: those of BatchNorm are quick there, and many small calls cost little."""
    return x.device.type == "cpu"


def _pieces(x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, Tensor, list[int]]:
    """Moments (r, c) of pieces that each lie in one part, and how many rows each has."""
    places = list(range(2, x.ndim))
    if on_cpu(x):
        most = max(1, RUN // x[0, 0].numel())
        pieces = [piece for part in x.split(sizes) for piece in part.split(most)]
        unused = torch.zeros(2, x.shape[1], dtype=precise(x))
        each = [torch.batch_norm_update_stats(piece, unused[0], unused[1], 1.0) for piece in pieces]
    elif places and len(sizes) > 1:
        var, mean = torch.var_mean(x.to(precise(x)), places, correction=0)  # one kernel, however many the parts are
        return mean, var, [1] * len(x)
    else:
        pieces = list(x.split(sizes))
        each = [torch.var_mean(piece.to(precise(x)), [0, *places], correction=0)[::-1] for piece in pieces]
    means, variances = (torch.stack(values) for values in zip(*each, strict=True))
    return means, variances, [len(piece) for piece in pieces]


@lru_cache(maxsize=128)  # what is copied to a GPU in each step waits for it
def _counts(sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows of each part (k, 1)."""
    return torch.tensor(sizes, dtype=dtype).unsqueeze(1).to(device)


@lru_cache(maxsize=128)
def _sharing(
    lengths: tuple[int, ...], sizes: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """What part (k, r, 1) of each part every piece is, and the part int64 (r,) that it lies in."""
    owner = torch.searchsorted(torch.tensor(sizes).cumsum(0), torch.tensor(lengths).cumsum(0))
    share = F.one_hot(owner).T * torch.tensor(lengths, dtype=dtype) / torch.tensor(sizes)[owner]
    return share.unsqueeze(2).to(device), owner.to(device)


def _lines(x: Tensor, slope: Tensor, shift: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """slope * x + shift (k, c) of each row's part and channel, computed in their type, rounded once to that of x."""
    zero, one = torch.zeros_like(slope[0]), torch.ones_like(slope[0])
    if len(sizes) == 1:
        return F.batch_norm(x, zero, one, slope[0], shift[0], eps=0.0)
    if not on_cpu(x):
        rows = [_of_rows(line, sizes).view(len(x), -1, *[1] * (x.ndim - 2)) for line in (slope, shift)]
        return torch.addcmul(rows[1], x, rows[0]).to(x.dtype)
    out, unused = torch.empty_like(x), (torch.empty_like(zero[:0]), torch.empty_like(zero[:0]))
    for k, (rows_in, rows_out) in enumerate(zip(x.split(sizes), out.split(sizes), strict=True)):
        torch.native_batch_norm(rows_in, slope[k], shift[k], zero, one, False, 0.0, 0.0, out=(rows_out, *unused))
    return out


def _of_rows(of_part: Tensor, sizes: tuple[int, ...]) -> Tensor:
    return torch.cat([value.expand(size, -1) for value, size in zip(of_part, sizes, strict=True)])


def _add_scaled(total: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """total + scale (c,) * values, into total."""
    if on_cpu(total) and total.dtype != scale.dtype:  # three times as fast where channels are few
        zero, one = torch.zeros_like(scale), torch.ones_like(scale)
        return total.add_(F.batch_norm(values, zero, one, scale, zero, eps=0.0))
    return total.addcmul_(values, scale.view(-1, *[1] * (total.ndim - 2)).to(total.dtype))
