"""Points that stand for clusters of others: what a coreset takes, and what images may begin as."""

from __future__ import annotations

import torch
from torch import Tensor

from attar.methods.base import Generators, RealImages


def nearest_to_centres(points: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Indices (count,) of the points (m, d), m >= count, that are nearest to the centres of k-means; none twice."""
    from sklearn.cluster import KMeans as Clusters

    seed, values = int(torch.randint(2**31 - 1, (), generator=rng)), points.double()
    centres = Clusters(n_clusters=count, n_init=3, random_state=seed).fit(values.numpy()).cluster_centers_
    distance = torch.cdist(torch.from_numpy(centres), values)
    chosen: list[int] = []
    for row in distance:
        row[chosen] = torch.inf
        chosen.append(int(row.argmin()))
    return torch.tensor(chosen)


def central_members(real: RealImages, labels: Tensor, picked: Tensor, rngs: Generators) -> Tensor:
    """Real images (b,) of their classes for the places `picked` (b,) in `labels` (n,): those of k-means on pixels.

    What a class's places get is a function of (seed, class) alone.
    """
    chosen = torch.empty_like(labels)
    for label in labels[picked].unique().tolist():
        members, ours = (real.labels == label).nonzero().squeeze(1), labels == label
        points = real.images(members).flatten(1)
        chosen[ours] = members[nearest_to_centres(points, int(ours.sum()), rngs("class", label))]
    return chosen[picked]
