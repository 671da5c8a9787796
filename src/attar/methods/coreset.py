"""Coresets: real images, chosen well. The honest baselines, and methods like any other.

    random    ipc images of each class, drawn without replacement
    kcenter   greedily the image farthest from all chosen so far, from the one nearest the class mean on
    herding   greedily the image that brings the mean of the chosen nearest to the class mean
    kmeans    the real image nearest to each of ipc cluster centres

Distances are Euclidean between features: the input of a trained teacher's last linear layer, or pixels.
Sources: Welling, "Herding dynamical weights to learn", ICML 2009, in the greedy form of iCaRL (Rebuffi et al.,
CVPR 2017, algorithm 4); Sener and Savarese, "Active learning for convolutional neural networks: a core-set
approach", ICLR 2018, algorithm 1; Lloyd's k-means as in scikit-learn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from attar.config import Config
from attar.methods.base import Generators, RealImages, Synthetic, random_members
from attar.methods.choosing import ByFeatures, Coreset
from attar.methods.clusters import nearest_to_centres


class RandomSettings(Config):
    """The random coreset has no settings of its own."""


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
