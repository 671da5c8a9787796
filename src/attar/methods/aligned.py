"""Starts that agree with experts, as DATM has them: images that an expert gets right, and labels from experts' logits.

Source: Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching", ICLR 2024,
section 3.3, and its code (`samples_predicted_correctly`).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from attar.methods.base import RealImages, Trajectories

_AT_ONCE = 256


@torch.no_grad()
def right_members(real: RealImages, labels: Tensor, experts: Trajectories, rng: torch.Generator) -> Tensor:
    """Draw real images of the classes `labels` (n,) that a finished expert classifies right: int64 (n,), none twice.

    The first expert is asked, the next where it gets too few right, and what is missing then is drawn from the rest.
    """
    chosen = torch.empty_like(labels)
    for label in labels.unique().tolist():
        members = (real.labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=rng)]
        places = labels == label
        found = list[int]()
        for theta in _finished(experts):
            for part in members[~torch.isin(members, torch.tensor(found, dtype=torch.int64))].split(_AT_ONCE):
                if len(found) < int(places.sum()):
                    logits = experts.flat(theta, real.images(part).to(theta.device))
                    found += part[logits.argmax(1).cpu() == label].tolist()
            if len(found) >= int(places.sum()):
                break
        found += [member for member in members.tolist() if member not in set(found)]
        chosen[places] = torch.tensor(found)[: int(places.sum())]
    return chosen


@torch.no_grad()
def right_logits(images: Tensor, labels: Tensor, experts: Trajectories, otherwise: Tensor) -> Tensor:
    """Mean logits (n, classes) of the finished experts that classify each image right; `otherwise` where none does."""
    total, count = torch.zeros_like(otherwise), torch.zeros(len(labels), 1)
    for theta in _finished(experts):
        parts = [experts.flat(theta, part.to(theta.device)).float().cpu() for part in images.split(_AT_ONCE)]
        logits = torch.cat(parts)
        right = (logits.argmax(1) == labels)[:, None]
        total, count = total + logits * right, count + right
    return torch.where(count > 0, total / count.clamp_min(1), otherwise)


def _finished(experts: Trajectories) -> Iterator[Tensor]:
    last = experts.num_epochs
    return (experts.segment(k, last - 1, last).target for k in range(experts.num_experts))
