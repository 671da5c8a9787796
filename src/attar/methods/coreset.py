"""Coresets: real images, chosen well. The honest baselines, and methods like any other.

    random    ipc images of each class, drawn without return
    kcenter   greedily the image farthest from all chosen so far, from the one nearest the class mean on
    herding   greedily the image that brings the mean of the chosen nearest to the class mean
    kmeans    the real image nearest to each of ipc cluster centres

Distances are Euclidean between features: the input of a trained teacher's last linear layer, or pixels.
Sources: Welling, "Herding dynamical weights to learn", ICML 2009, in the greedy form of iCaRL (Rebuffi et al.,
CVPR 2017, algorithm 4); Sener and Savarese, "Active learning for convolutional neural networks: a core-set
approach", ICLR 2018, algorithm 1; Lloyd's k-means as in scikit-learn.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from attar.config import Config
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
    random_members,
)
from attar.methods.clusters import nearest_to_centres
from attar.task import Task

AT_ONCE = 256
"""Real images that a network is shown at once."""


class RandomSettings(Config):
    """The random coreset has no settings of its own."""


class CoresetSettings(Config):
    """Settings of a coreset chosen by distances."""

    features: Literal["teacher", "pixels"] = "teacher"
    """What distances are measured between: a trained teacher's last features, or the pixels themselves
    (then no teacher is trained)."""


class Coreset(Selector[SettingsT, KnowledgeT]):
    """Base of the coresets: images are real ones, so 8 bits hold them."""

    makes = "chosen real images"

    separable = True
    hands_over_8bit = True

    def finish(self, synthetic: Synthetic, knowledge: KnowledgeT) -> Distillate:
        """The images as they are."""
        return Distillate(synthetic.variables["images"].cpu(), synthetic.labels.cpu(), exact_8bit=True)


class ClassByClass(Coreset[SettingsT, KnowledgeT]):
    """Base of those that measure the images of a class and choose by that."""

    def __init__(self, settings: SettingsT, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        self._chosen: dict[int, Tensor] = {}

    @abstractmethod
    def measured(self, members: Tensor, label: int, real: RealImages, knowledge: KnowledgeT) -> Tensor:
        """What the real images `members` (m,) of a class are chosen by: (m, d), on the CPU."""

    @abstractmethod
    def select(self, measured: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """Indices (count,) into what was measured of one class (m, d), m >= count, none twice."""

    def init(self, picked: Tensor, real: RealImages, knowledge: KnowledgeT, rngs: Generators) -> Synthetic:
        """Select class by class, for all chunks at once."""
        seed = rngs().initial_seed()
        if seed not in self._chosen:
            self._chosen[seed] = self._choose(real, knowledge, rngs())
        return Synthetic(self.labels()[picked], {"images": real.images(self._chosen[seed][picked])})

    def _choose(self, real: RealImages, knowledge: KnowledgeT, rng: torch.Generator) -> Tensor:
        """Index int64 (n,) of the real image for each place."""
        labels = self.labels()
        chosen = torch.empty_like(labels)
        for label in range(self.task.num_classes):
            members = (real.labels == label).nonzero().squeeze(1)
            chosen[labels == label] = members[
                self.select(self.measured(members, label, real, knowledge), self.ipc, rng)
            ]
        return chosen


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


class ScoreSettings(Config):
    """Settings of a coreset chosen by a score of each image."""

    keep: Literal["easiest", "hardest"] = "easiest"
    """Which end is taken. Few images a class serve best if they are easy; the papers on pruning keep the hardest of
    many."""


ScoreSettingsT = TypeVar("ScoreSettingsT", bound=ScoreSettings)


class ByScore(ClassByClass[ScoreSettingsT, KnowledgeT]):
    """Base of those that score each image by itself, an easy one low: `measured` is (m, 1)."""

    Settings: ClassVar[type[Config]] = ScoreSettings

    def select(self, measured: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """The easiest or the hardest; ties in the order of the images."""
        scores = measured[:, 0]
        return scores.argsort(stable=True, descending=self.settings.keep == "hardest")[:count]


class Random(Coreset[RandomSettings, None]):
    """Random real images of each class."""

    name = "random"
    summary = "random real images of each class: the baseline that every method must beat"
    source = ""
    Settings = RandomSettings
    knowledge = "none"

    def init(self, picked: Tensor, real: RealImages, knowledge: None, rngs: Generators) -> Synthetic:
        """Draw them, all classes alike."""
        members = random_members(real.labels, self.labels(), picked, rngs())
        return Synthetic(self.labels()[picked], {"images": real.images(members)})


class KCenter(ByFeatures):
    """Images that leave no image of their class far from a chosen one."""

    name = "kcenter"
    summary = "real images such that none of their class is far from a chosen one"
    source = "Sener and Savarese, ICLR 2018, algorithm 1"

    def select(self, features: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """Greedy: begin nearest to the mean, then take the farthest from all chosen."""
        chosen = [int((features - features.mean(dim=0)).norm(dim=1).argmin())]
        nearest = (features - features[chosen[0]]).norm(dim=1)
        while len(chosen) < count:
            nearest[chosen[-1]] = -1.0  # a chosen image is never taken again, even among duplicates
            chosen.append(int(nearest.argmax()))
            nearest = nearest.minimum((features - features[chosen[-1]]).norm(dim=1))
            nearest[chosen] = -1.0
        return torch.tensor(chosen)


class Herding(ByFeatures):
    """Images whose running mean stays near the mean of their class."""

    name = "herding"
    summary = "real images whose mean stays nearest to the mean of their class"
    source = "Welling, ICML 2009; Rebuffi et al., CVPR 2017, algorithm 4"

    def select(self, features: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """Greedy: at each turn the image that brings the mean of the chosen nearest to the class mean."""
        mean, total = features.mean(dim=0), torch.zeros_like(features[0])
        free = torch.zeros(len(features))
        chosen: list[int] = []
        for k in range(1, count + 1):
            distance = (mean - (total + features) / k).norm(dim=1) + free
            chosen.append(int(distance.argmin()))
            total = total + features[chosen[-1]]
            free[chosen[-1]] = torch.inf
        return torch.tensor(chosen)


class KMeans(ByFeatures):
    """The real image nearest to each cluster centre."""

    name = "kmeans"
    summary = "the real image nearest to each of ipc cluster centres of its class"
    source = "Lloyd's algorithm, scikit-learn"

    def select(self, features: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """Cluster, then take the nearest image to each centre that is still free."""
        return nearest_to_centres(features, count, rng)
