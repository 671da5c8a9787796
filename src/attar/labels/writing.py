"""Labels are written shard by shard; a shard that is there is whole.

So a run that was stopped goes on with those that are not, and several processes may write different ones at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from attar.errors import DivergedError
from attar.labels.codec import LOGIT_LIMIT
from attar.labels.plan import VIEW, LabelPlan, Shard
from attar.labels.shards import TENSOR, VIEWS, QuantizationError, open_shard
from attar.runtime.checkpoint import write_tensors

EpochLogits = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
"""Gives, for a stored epoch, batches of (indices (b,), logits (b, C)): each image once, in any order."""
EpochViews = Callable[[int], npt.NDArray[Any]]
"""Gives, for a stored epoch, the views of all images: records VIEW (n,)."""


def write_labels(
    folder: Path,
    plan: LabelPlan,
    logits: EpochLogits,
    *,
    rank: int = 0,
    world_size: int = 1,
    after_epoch: Callable[[int], None] = lambda _: None,
    views: EpochViews | None = None,
) -> list[str]:
    """Write all shards that are not there yet, or every `world_size`-th of them; return the names of all.

    Args:
        folder: of the shards.
        plan: what is stored.
        logits: asked once for each epoch of the shards that are written.
        rank: of this process among those that share the work.
        world_size: number of those processes.
        after_epoch: called with each stored epoch that is done, also those found.
        views: asked once for each epoch, where the plan has views beside the labels, and only there.

    Raises DivergedError where logits are not finite, ResourceError where the disk is full.
    """
    for shard in plan.shards[rank::world_size]:
        if (folder / shard.name).exists() and open_shard(folder, plan, shard):
            for epoch in range(shard.first, shard.first + shard.num):
                after_epoch(epoch)
        else:
            write_shard(folder, plan, shard, logits, after_epoch=after_epoch, views=views)
    return [shard.name for shard in plan.shards]


def write_shard(
    folder: Path,
    plan: LabelPlan,
    shard: Shard,
    logits: EpochLogits,
    *,
    after_epoch: Callable[[int], None] = lambda _: None,
    views: EpochViews | None = None,
) -> None:
    """Write the epochs of one shard, whole or not at all.

    The first epochs wait in memory until there are enough labels to fit the codec's tables to.
    """
    stream = _labels(plan, shard, logits, after_epoch)
    waiting = list(islice(stream, 1))
    while sum(len(values) for *_, values in waiting) < plan.coder.sample_rows and (more := next(stream, None)):
        waiting.append(more)
    tables = plan.coder.fit(torch.cat([values for *_, values in waiting]).numpy())
    coder = plan.coder.using(tables)
    records = np.zeros((shard.num, plan.num_images), coder.record)
    errors: list[QuantizationError] = []
    for place, images, values in chain(waiting, stream):
        records[place, images] = coder.encode(values.numpy())
        errors.append(measure(values, torch.from_numpy(coder.decode(records[place, images]))))
    tensors = {TENSOR: records.view(np.uint8).reshape(*records.shape, plan.bytes_per_label), **tables}
    if plan.views:
        assert views is not None, "a plan with views is written with them"
        seen = np.stack([views(shard.first + place) for place in range(shard.num)])
        tensors[VIEWS] = seen.view(np.uint8).reshape(*seen.shape, VIEW.itemsize)
    note = {"plan": plan.to_json(), "error": QuantizationError.merge(errors).to_json()}
    write_tensors(folder / shard.name, {name: torch.from_numpy(array) for name, array in tensors.items()}, note)


def measure(logits: Tensor, decoded: Tensor) -> QuantizationError:
    """Compare logits (m, C) with what was read back (m, C), both float32."""
    off = (logits - logits.mean(1, keepdim=True)) - (decoded - decoded.mean(1, keepdim=True))
    return QuantizationError(
        max_abs=float(off.abs().max()),
        kl_1=_mean_kl(logits, decoded, 1.0),
        kl_20=_mean_kl(logits, decoded, 20.0),
        num=len(logits),
    )


def _labels(
    plan: LabelPlan, shard: Shard, logits: EpochLogits, after_epoch: Callable[[int], None]
) -> Iterator[tuple[int, npt.NDArray[np.int64], Tensor]]:
    """Batches of a shard: place of the epoch in it, images (b,), logits float32 (b, C); each image once an epoch."""
    for place in range(shard.num):
        epoch, seen = shard.first + place, np.zeros(plan.num_images, np.int64)
        for indices, values in logits(epoch):
            images, values = indices.cpu().numpy(), values.detach().float().cpu()
            _require_sound(values, plan, epoch)
            np.add.at(seen, images, 1)
            yield place, images, values
        if (seen != 1).any():
            wrong = int((seen != 1).argmax())
            raise ValueError(f"image {wrong} was labelled {seen[wrong]} times in epoch {epoch}")
        after_epoch(epoch)


def _require_sound(logits: Tensor, plan: LabelPlan, epoch: int) -> None:
    if logits.ndim != 2 or logits.shape[1] != plan.num_classes:
        raise ValueError(f"logits {tuple(logits.shape)} for {plan.num_classes} classes")
    if not bool((logits.abs() <= LOGIT_LIMIT).all()):
        raise DivergedError(
            f"the teacher's logits in stored epoch {epoch} are not finite, or beyond {LOGIT_LIMIT:g}",
            fix="squeeze another teacher, or use --precision 32",
        )


def _mean_kl(logits: Tensor, decoded: Tensor, temperature: float) -> float:
    ours, theirs = (torch.log_softmax(z.double() / temperature, 1) for z in (logits, decoded))
    return max(0.0, float((ours.exp() * (ours - theirs)).sum(1).mean()))
