"""Bases of the coresets, which choose real images: what each class's images are measured by, and what is taken.

A method adds `select`, and `measured` where neither features nor a score of its own base serve.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from attar.config import Config
from attar.methods import mosaics
from attar.methods.base import (
    Distillate,
    Generators,
    KnowledgeKind,
    KnowledgeT,
    RealImages,
    Selector,
    SettingsT,
    Synthetic,
    Teacher,
    Trajectories,
    whole_pixels,
)
from attar.task import Task

AT_ONCE = 256
"""Real images that a network is shown at once."""


class CoresetSettings(mosaics.TiledSettings):
    """Settings of a coreset chosen by distances."""

    features: Literal["teacher", "pixels"] = "teacher"
    """What distances are measured between: the last features of a trained teacher, or the pixels themselves (then no
    teacher is trained)."""


TiledSettingsT = TypeVar("TiledSettingsT", bound=mosaics.TiledSettings)


class Coreset(Selector[SettingsT, KnowledgeT]):
    """Base of the coresets: images are real ones, so 8 bits hold them."""

    makes = "chosen real images"

    separable = True
    hands_over_8bit = True

    def finish(self, synthetic: Synthetic, knowledge: KnowledgeT) -> Distillate:
        """The images as they are."""
        return Distillate(synthetic.variables["images"].cpu(), synthetic.labels.cpu(), exact_8bit=True)


class ClassByClass(Coreset[TiledSettingsT, KnowledgeT]):
    """Base of those that measure the images of a class and choose by that.

    Four times as many are chosen where an image holds four, and a class with too few begins again.
    """

    def __init__(self, settings: TiledSettingsT, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        if settings.tiles > 1:
            mosaics.require_room(task)
        self._chosen: dict[tuple[int, int], Tensor] = {}

    @classmethod
    def keeps_pixels_valid(cls, settings: TiledSettingsT) -> bool:
        """Of images that hold four, which end as whole 8-bit pixels."""
        return settings.tiles > 1

    @abstractmethod
    def measured(self, members: Tensor, label: int, real: RealImages, knowledge: KnowledgeT) -> Tensor:
        """What the real images `members` (m,) of a class are chosen by: (m, d), on the CPU."""

    @abstractmethod
    def select(self, measured: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """Indices (count,) into what was measured of one class (m, d), m >= count, none twice."""

    def looked_at(self, count: int) -> int:
        """All of them."""
        return count

    def init(self, picked: Tensor, real: RealImages, knowledge: KnowledgeT, rngs: Generators) -> Synthetic:
        """Choose for each class when its first image is asked for: a function of (seed, class) alone."""
        labels, images = self.labels(), torch.empty(len(picked), *self.task.shape)
        for label in labels[picked].unique().tolist():
            places, ours = (labels == label).nonzero().squeeze(1), labels[picked] == label
            chosen = self._chosen_of(label, len(places), real, knowledge, rngs("class", label))
            ranks = torch.searchsorted(places, picked[ours])
            if self.settings.tiles == 1:
                images[ours] = real.images(chosen[ranks])
            else:
                images[ours] = mosaics.stitched(real, chosen, ranks, len(places), self.task)
        return Synthetic(labels[picked], {"images": images})

    def finish(self, synthetic: Synthetic, knowledge: KnowledgeT) -> Distillate:
        """The images as they are; shrinking leaves values between the pixels, which are rounded."""
        made, tiles = super().finish(synthetic, knowledge), self.settings.tiles
        if tiles == 1:
            return made
        return replace(made, images=whole_pixels(made.images[:], self.task.normalization), tiles=tiles)

    def _chosen_of(
        self, label: int, count: int, real: RealImages, knowledge: KnowledgeT, rng: torch.Generator
    ) -> Tensor:
        """Index int64 of the real images of a class that `count` images show, chosen once."""
        key = label, rng.initial_seed()
        if key not in self._chosen:
            members = (real.labels == label).nonzero().squeeze(1)
            count = count if self.settings.tiles == 1 else min(count * self.settings.tiles**2, len(members))
            self._chosen[key] = members[self.select(self.measured(members, label, real, knowledge), count, rng)]
        return self._chosen[key]


class ByFeatures(ClassByClass[CoresetSettings, Teacher | None]):
    """Base of those that choose by distances between features."""

    Settings: ClassVar[type[Config]] = CoresetSettings
    knowledge = "teacher"

    @classmethod
    def needs(cls, settings: CoresetSettings) -> KnowledgeKind:
        """Nothing, where distances are those of pixels."""
        return "none" if settings.features == "pixels" else cls.knowledge

    def measured(self, members: Tensor, label: int, real: RealImages, knowledge: Teacher | None) -> Tensor:
        """Features (m, d): of the teacher's last layer, or the pixels where there is no teacher."""
        if knowledge is None:
            return real.images(members).flatten(1)
        return torch.cat([knowledge.features(real.images(part)).cpu() for part in members.split(AT_ONCE)])


class ScoreSettings(mosaics.TiledSettings):
    """Settings of a coreset chosen by a score of each image."""

    keep: Literal["easiest", "hardest"] = "easiest"
    """Which end is kept. With few images per class easy ones serve best; the papers on pruning keep the hardest of
    many."""


ScoreSettingsT = TypeVar("ScoreSettingsT", bound=ScoreSettings)


class ByScore(ClassByClass[ScoreSettingsT, KnowledgeT]):
    """Base of those that score each image by itself, an easy one low: `measured` is (m, 1)."""

    Settings: ClassVar[type[Config]] = ScoreSettings

    def select(self, measured: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """The easiest or the hardest; ties in the order of the images."""
        scores = measured[:, 0]
        return scores.argsort(stable=True, descending=self.settings.keep == "hardest")[:count]


def error_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """|| softmax(logits) - onehot(labels) ||₂ (b,), in 0..√2, for logits (b, classes) and labels (b,)."""
    errors = logits.float().softmax(1) - F.one_hot(labels, logits.shape[1])
    found: Tensor = torch.linalg.vector_norm(errors, dim=1)
    return found


@torch.no_grad()
def answers(theta: Tensor, real: RealImages, experts: Trajectories) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (b, classes) of the network of parameters θ, on the CPU, and labels (b,): of all real images in order."""
    for part in torch.arange(len(real.labels)).split(AT_ONCE):
        yield experts.flat(theta, real.images(part).to(theta.device)).detach().cpu(), real.labels[part]
