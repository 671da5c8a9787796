"""Teddy: match real images' statistics under a pool of weak networks, a random one in each step.

    each step:  m = a member of the pool, frozen
                L = CE(m(a(x)), y) + α_m Σ_l w_l ( ||μ_l(a(x)) - mean_l^T||₂ + ||σ²_l(a(x)) - var_l^T||₂ )
                one step of Adam on x                                              w_first = 10, other w_l = 1

mean^T, var^T: statistics of the real images at the input of each BatchNorm of m, measured once when the pool was made.
The part `class_share` of the distance is between the statistics of each class. Images begin as real ones. Labels are
the mean of the members' logits, by the relabel stage. The derivation from the bi-level objective is told in
docs/methods/teddy.md.

Source: Yu, Liu, Ye and Wang, "Teddy: Efficient Large-Scale Dataset Distillation via Taylor-Approximated Matching",
ECCV 2024, arXiv 2410.07579.

The authors have published no code and few settings. What is chosen here: crops, roll, first weight and optimiser as
in SRe2L; the start and class-wise statistics; α in each member's own unit (`alpha_bn: auto`); order of picking;
everything about the pool (squeeze/pool.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from attar.config import Config
from attar.losses.statistics import Watched
from attar.methods import matching
from attar.methods.base import (
    Metrics,
    Pool,
    RealImages,
    Synthetic,
)
from attar.methods.matching import ByStatistics, MatchingSettings
from attar.task import Task

_FEWEST_OF_A_CLASS = 5
"""Images of each class in a chunk from which `class_share: auto` matches class by class."""


class TeddySettings(MatchingSettings):
    """Settings of Teddy."""

    changed = {"start": "real", "lr_images": 0.05}

    members: tuple[int, ...] | None = None
    """Numbers of the pool's members that images are matched under, 0 the weakest, -1 the strongest; none: all."""
    pick: Literal["uniform", "weak_to_strong", "strong_to_weak"] = "uniform"
    """Which of them a step uses: a random one, or each in turn, by strength."""
    sweeps: int = Field(1, ge=1)
    """How often these turns go through all members over the iterations; many: a new member in each step."""
    class_share: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = "auto"
    """Fraction of the statistics' distance that is measured class by class, 1: all of it. A class needs several images
    in a chunk (recover.chunk_size) to be as varied as all its real ones: auto is 1 where each class has five there,
    else 0."""


class Teddy(ByStatistics[TeddySettings, Pool]):
    """Taylor-approximated matching with a pool of weak teachers."""

    name = "teddy"
    typical = True
    summary = "images that match the real ones' statistics under a pool of weak networks; soft labels of all of them"
    source = "Yu et al., ECCV 2024"
    Settings = TeddySettings
    knowledge = "pool"

    def __init__(self, settings: TeddySettings, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        self._watched: OrderedDict[int, Watched] = OrderedDict()

    def gradient(
        self,
        synthetic: Synthetic,
        picked: Tensor,
        real: RealImages,
        knowledge: Pool,
        rng: torch.Generator,
        done: float = 0.0,
    ) -> tuple[dict[str, Tensor], Metrics]:
        """One look of the member whose turn it is at the chunk, through one draw of the crops."""
        settings = self.settings
        picked = matching.class_by_class(synthetic.labels, picked)
        labels = synthetic.labels[picked]
        images = synthetic.variables["images"][picked].detach().requires_grad_()

        member = self._watch(knowledge, self.pick(knowledge.num_members, rng, done))
        views = matching.look(settings, images, rng, done)
        logits, statistics = member(views, labels=labels, class_share=self.class_share(labels))
        classification = F.cross_entropy(logits, labels)
        loss = classification + matching.alpha_of(settings, member) * statistics
        for prior in matching.priors(settings, views):
            loss = loss + prior

        gradient = matching.by_variable("images", loss, images, picked, synthetic)
        return gradient, matching.metrics(loss, classification, statistics, logits, labels)

    def class_share(self, labels: Tensor) -> float:
        """Part of the distance that is class-wise for a chunk of images of these classes (b,)."""
        if self.settings.class_share != "auto":
            return self.settings.class_share
        counts = labels.bincount()
        return float(bool((counts[counts > 0] >= _FEWEST_OF_A_CLASS).all()))

    def pick(self, num: int, rng: torch.Generator, done: float) -> int:
        """Number of the member, of `num`, for a step that has the part `done` of all iterations behind it."""
        members = sorted({k % num for k in self.settings.members or range(num)})
        if self.settings.pick == "uniform":
            return members[int(torch.randint(len(members), (), generator=rng))]
        turn = int(done * self.settings.sweeps * len(members)) % len(members)
        return members[turn if self.settings.pick == "weak_to_strong" else -1 - turn]

    @classmethod
    def problems(cls, settings: TeddySettings, sections: Mapping[str, Config]) -> list[str]:
        """A member that the pool will not have."""
        if settings.members == ():
            return ["method.members is empty: name some, or leave it out for all"]
        num: int = getattr(sections["squeeze"], "num_networks", 0)
        if unknown := [k for k in settings.members or () if not -num <= k < num]:
            return [f"method.members names {unknown[0]}, and the pool will have {num} members: 0 to {num - 1}"]
        return []

    def _watch(self, pool: Pool, k: int) -> Watched:
        if k not in self._watched:
            while len(self._watched) >= pool.num_in_memory:
                self._watched.popitem(last=False)
            member = pool.member(k, classes=self.settings.class_share != 0)
            self._watched[k] = Watched(
                member.model, self.settings.first_weight, member.statistics, at_once=self.settings.images_at_once
            )
        self._watched.move_to_end(k)
        return self._watched[k]
