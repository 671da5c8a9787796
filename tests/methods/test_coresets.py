from functools import partial

import pytest
import torch

from attar.errors import ConfigError
from attar.methods import method
from attar.methods.base import balanced_labels, random_members
from attar.methods.coreset import CoresetSettings, Herding, KCenter, KMeans, Random, RandomSettings
from attar.runtime.seeding import generator
from attar.task import Normalization, Task

TASK = Task(("a", "b"), 1, 4, 4, Normalization((0.5,), (0.25,)))


class Real:
    def __init__(self, per_class: int = 12):
        rng = generator(0, "real")
        self.labels = torch.arange(2).repeat_interleave(per_class)
        self._images = torch.randn(len(self.labels), 1, 4, 4, generator=rng)

    def images(self, indices):
        return self._images[indices]


def pixel_coreset(kind, ipc=3):
    return kind(CoresetSettings(features="pixels"), TASK, ipc)


@pytest.mark.parametrize("kind", [KCenter, Herding, KMeans])
def test_coresets_take_real_images_of_the_right_class_none_twice(kind):
    real = Real()
    found = pixel_coreset(kind).init(torch.arange(6), real, None, partial(generator, 0))
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    images = found.variables["images"]
    matches = (images[:, None] == real._images[None]).flatten(2).all(2)
    assert matches.sum(1).tolist() == [1] * 6
    assert len(set(matches.float().argmax(1).tolist())) == 6
    assert torch.equal(real.labels[matches.float().argmax(1)], found.labels)


@pytest.mark.parametrize("kind", [KCenter, Herding, KMeans])
def test_coresets_can_take_a_whole_class_even_of_duplicates(kind):
    features = torch.ones(5, 3)
    if kind is KMeans:
        features = features + torch.arange(5)[:, None]
    assert sorted(pixel_coreset(kind).select(features, 5, generator(0)).tolist()) == [0, 1, 2, 3, 4]


def test_herding_beats_random_at_keeping_the_mean():
    features = torch.randn(100, 8, generator=generator(0, "f"))
    mean = features.mean(0)
    herded = features[pixel_coreset(Herding).select(features, 5, generator(0))].mean(0)
    drawn = [features[torch.randperm(100, generator=generator(s))[:5]].mean(0) for s in range(20)]
    assert (herded - mean).norm() < min((d - mean).norm() for d in drawn)


def test_kcenter_covers_each_far_cluster():
    centres = torch.tensor([[0.0, 0], [100, 0], [0, 100]])
    features = centres.repeat_interleave(10, 0) + torch.randn(30, 2, generator=generator(0))
    chosen = pixel_coreset(KCenter).select(features, 3, generator(0))
    assert sorted((chosen // 10).tolist()) == [0, 1, 2]


def test_kmeans_takes_one_image_from_each_cluster():
    centres = torch.tensor([[0.0, 0], [100, 0], [0, 100]])
    features = centres.repeat_interleave(10, 0) + torch.randn(30, 2, generator=generator(0))
    assert sorted((pixel_coreset(KMeans).select(features, 3, generator(0)) // 10).tolist()) == [0, 1, 2]


def drawn(method, seed):
    return method.init(torch.arange(8), Real(), None, partial(generator, seed)).variables["images"]


def test_random_is_a_function_of_the_generator():
    chosen = [drawn(Random(RandomSettings(), TASK, 4), seed) for seed in (0, 0, 1)]
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])


def test_random_members_never_repeat():
    labels = torch.arange(3).repeat(10)
    wanted = balanced_labels(3, 10)
    assert sorted(random_members(labels, wanted, torch.arange(30), generator(0)).tolist()) == list(range(30))


def test_random_members_of_a_chunk_are_those_of_the_whole():
    labels, wanted = torch.arange(3).repeat(10), balanced_labels(3, 4)
    whole = random_members(labels, wanted, torch.arange(12), generator(0))
    assert torch.equal(random_members(labels, wanted, torch.arange(5, 9), generator(0)), whole[5:9])


def test_pixels_need_no_teacher():
    assert KMeans.needs(CoresetSettings(features="pixels")) == "none"
    assert KMeans.needs(CoresetSettings()) == "teacher"


def test_an_unknown_method_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean tesla"):
        method("telsa")
