"""A batch that is looked at part by part, with the gradient of the whole in the memory of one part.

A function that answers row by row, or with statistics of some rows, gives the same for parts of a batch as for all of
it. So its first pass keeps nothing but the answers; where a gradient by the images is asked for, each part is looked at
once more, with its graph. That is gradient checkpointing (Chen et al. 2016) over the images, not over the layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Look = Callable[[int, Tensor], tuple[Tensor, ...]]
"""Answers about part k, its images (b, c, h, w): each has some rows, and those of all parts are put together."""


class Recomputed(torch.autograd.Function):
    """Answers about images (b, c, h, w) in parts of `sizes` rows, and their gradient by the images; once."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, sizes: tuple[int, ...], look: Look) -> tuple[Tensor, ...]:
        """The rows of all parts, of each answer."""
        found = [look(k, part) for k, part in enumerate(images.split(sizes))]
        kind = images.device.type
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.sizes, ctx.look = sizes, look
        ctx.rows = [[len(rows) for rows in answer] for answer in zip(*found, strict=True)]
        ctx.save_for_backward(images)
        return tuple(torch.cat(answer) for answer in zip(*found, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of the images, part by part."""
        (images,) = ctx.saved_tensors
        given = zip(*(grad.split(rows) for grad, rows in zip(grads, ctx.rows, strict=True)), strict=True)
        found = []
        for k, (part, by_answers) in enumerate(zip(images.split(ctx.sizes), given, strict=True)):
            seen = part.detach().requires_grad_()
            with torch.enable_grad(), torch.autocast(*ctx.autocast):
                answers = ctx.look(k, seen)
            found += torch.autograd.grad(answers, seen, by_answers)
        return torch.cat(found), None, None
