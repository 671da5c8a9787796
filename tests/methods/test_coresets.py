from dataclasses import replace
from functools import partial

import pytest
import torch

from attar.augment.operations import Augmentation, within_tiles
from attar.errors import ConfigError
from attar.methods import method
from attar.methods.base import balanced_labels, random_members
from attar.methods.choosing import CoresetSettings, ScoreSettings, error_norm
from attar.methods.coreset import Herding, KCenter, KMeans, Random, RandomSettings
from attar.methods.easy import Easy
from attar.methods.el2n import El2n, El2nSettings
from attar.methods.forgetting import Forgetting, ForgettingSettings, forgetting_score
from attar.methods.pca import Pca, PcaSettings
from attar.run.settings import resolve
from attar.runtime.seeding import generator
from attar.task import Normalization, Task
from attar.testing import TASK as CONTRACT
from attar.testing import MadeUpExperts

TASK = Task(("a", "b"), 1, 4, 4, Normalization((0.5,), (0.25,)))


class Real:
    def __init__(self, per_class: int = 12, num_classes: int = 2, shape: tuple[int, int, int] = TASK.shape):
        rng = generator(0, "real")
        self.labels = torch.arange(num_classes).repeat_interleave(per_class)
        self._images = torch.randn(len(self.labels), *shape, generator=rng)

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


class Lines:
    """A teacher whose logits are one feature of each image."""

    def logits(self, images):
        return torch.stack([images.mean((1, 2, 3)), torch.zeros(len(images))], 1)


def test_easy_keeps_the_lowest_losses_and_hard_ones_where_asked():
    real = Real()
    means = real._images.mean((1, 2, 3))
    losses = torch.where(real.labels == 0, -means, means).exp().log1p()
    for keep, descending in (("easiest", False), ("hardest", True)):
        found = Easy(ScoreSettings(keep=keep), TASK, 3).init(torch.arange(6), real, Lines(), partial(generator, 0))
        for label in (0, 1):
            order = losses[real.labels == label].argsort(descending=descending)[:3]
            assert torch.equal(found.variables["images"][label::2], real._images[real.labels == label][order])


def test_the_norm_of_the_error_is_that_of_the_paper():
    logits, labels = torch.tensor([[0.0, 0.0], [50.0, 0.0], [50.0, 0.0]]), torch.tensor([0, 0, 1])
    assert torch.allclose(error_norm(logits, labels), torch.tensor([0.5**0.5, 0.0, 2**0.5]))


def test_el2n_is_the_mean_over_experts_of_the_norm_after_the_epoch():
    method, experts = El2n(El2nSettings(epoch=2), CONTRACT, 1), MadeUpExperts()
    real = Real(6, 3, CONTRACT.shape)
    members = torch.arange(6, 12)
    norms = [
        error_norm(experts.flat(experts._points[k, 2], real.images(members)), real.labels[members]) for k in range(2)
    ]
    assert torch.allclose(method.measured(members, 1, real, experts)[:, 0], (norms[0] + norms[1]) / 2)


def test_an_epoch_that_no_expert_reaches_is_refused():
    with pytest.raises(ConfigError, match="no expert goes that far"):
        resolve({"run": {"source": "digits", "method": "el2n"}}, ["method.epoch=9"])


@pytest.mark.parametrize(
    ("history", "events"),
    [("1111", 0), ("0111", 0), ("0101", 1), ("1010", 2), ("0000", 4), ("0001", 0)],
)
def test_forgetting_counts_what_was_right_and_is_wrong_an_epoch_later(history, events):
    right = torch.tensor([[[mark == "1"] for mark in history]])
    score = float(forgetting_score(right))
    assert events <= score < events + 0.51
    assert int(score) == events


def test_of_images_never_forgotten_those_learnt_first_are_easiest():
    right = torch.tensor([[[False, True, False], [True, True, False], [True, True, True]]])
    assert forgetting_score(right).argsort().tolist() == [1, 0, 2]


def test_a_single_event_in_one_of_many_trainings_counts_more_than_when_an_image_was_learnt():
    right = torch.zeros(5, 20, 2, dtype=torch.bool)
    right[:, -1, 0] = True  # learnt late, and never forgotten
    right[:, :, 1] = True
    right[0, 7, 1] = False  # right nearly always, and forgotten once
    score = forgetting_score(right)
    assert score[0] < score[1]


def test_forgetting_looks_after_every_epoch_but_not_before_the_first():
    experts, real = MadeUpExperts(), Real(6, 3, CONTRACT.shape)
    method = Forgetting(ForgettingSettings(), CONTRACT, 1)
    scores = []
    for k in range(2):
        logits = torch.stack([experts.flat(experts._points[k, t], real._images) for t in range(1, 4)])
        scores.append(logits.argmax(2) == real.labels)
    measured = method.measured(torch.arange(18), 0, real, experts)[:, 0]
    assert torch.equal(measured, forgetting_score(torch.stack(scores)))


def test_pca_stitches_the_easiest_images_and_each_tile_is_one_of_them():
    task = Task(("a", "b"), 1, 8, 8, Normalization((0.5,), (0.25,)))
    real = Real(12, 2, task.shape)
    real._images = torch.rand(24, 1, 1, 1).expand(24, 1, 8, 8).contiguous()  # flat images shrink to themselves
    method = Pca(PcaSettings(), task, 2)
    found = method.init(torch.arange(4), real, Lines(), partial(generator, 0)).variables["images"]
    means = real._images[:, 0, 0, 0]
    for label, sign in ((0, -1), (1, 1)):
        easiest = (sign * means[real.labels == label]).sort()[0][:8] * sign
        for j in (0, 1):
            tiles = found[2 * j + label].view(2, 4, 2, 4).mean((1, 3)).flatten()
            assert torch.allclose(tiles, easiest[j::2])


def test_a_view_of_a_stitched_image_is_one_tile_and_all_come():
    numbers = torch.arange(4.0).view(1, 1, 2, 2)
    stitched = numbers.repeat_interleave(4, 2).repeat_interleave(4, 3)
    augmentation = Augmentation("tile")
    seen = augmentation.apply(stitched.expand(64, -1, -1, -1), augmentation.draw(generator(0), 64, (1, 8, 8)))
    assert torch.equal(seen, seen.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8))
    assert set(seen[:, 0, 0, 0].tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert torch.equal(augmentation.draw(generator(0), 9, (1, 9, 9))["tile"][:, 2:].unique(), torch.tensor([4, 5]))
    with pytest.raises(ConfigError, match="unknown augmentation"):
        Augmentation("tile0")


@pytest.mark.parametrize(("per_class", "held"), [(12, 8), (5, 5)])
def test_a_coreset_may_hold_four_times_as_many_and_begins_again_where_there_are_fewer(per_class, held):
    task = Task(("a", "b"), 1, 8, 8, Normalization((0.5,), (0.25,)))
    real = Real(per_class, 2, task.shape)
    levels = torch.linspace(0, 255, 2 * per_class).round().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    real._images = task.normalization.normalize(levels.to(torch.uint8))
    method = KMeans(KMeans.Settings(features="pixels", tiles=2), task, 2)
    made = method.finish(method.init(torch.arange(4), real, None, partial(generator, 0)), None)
    assert (made.tiles, made.exact_8bit) == (2, True)
    for label in (0, 1):
        tiles = made.images[made.labels == label].view(2, 2, 4, 2, 4).mean((2, 4)).flatten()
        members = real._images[real.labels == label, 0, 0, 0]
        assert (tiles[:, None] - members).abs().min(1).values.max() < 1e-5
        assert len(tiles.mul(1000).round().unique()) == held
    part = method.finish(method.init(torch.tensor([3, 0]), real, None, partial(generator, 0)), None)
    assert torch.equal(part.images, made.images[[3, 0]]), "whichever are asked for together"


@pytest.mark.parametrize("per", ["batch", "operation", "image"])
def test_a_tile_before_dsa_is_each_images_own_and_dsa_follows(per):
    images = torch.rand(8, 3, 12, 12, generator=generator(1))
    both, rng = Augmentation("tile_dsa"), generator(0)
    seen = both.apply(images, both.draw(rng, 8, (3, 12, 12), per))
    rng = generator(0)
    for name, how in (("tile", "image"), ("dsa", per)):
        one = Augmentation(name)
        images = one.apply(images, one.draw(rng, 8, (3, 12, 12), how))
    assert torch.equal(seen, images)
    drawn = both.draw(generator(0), 64, (3, 12, 12), per)["tile"]
    assert len(drawn.unique(dim=0)) == 4


@pytest.mark.parametrize(("kind", "tiles", "valid"), [("kmeans", 1, False), ("kmeans", 2, True), ("pca", 2, True)])
def test_shrunk_images_are_rounded_to_pixels_which_whitened_ones_cannot_be(kind, tiles, valid):
    made = method(kind)
    assert made.keeps_pixels_valid(made.Settings(tiles=tiles)) == valid


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("pca", {}), ("cim", {}), ("ncfm", {}), ("kmeans", {"tiles": 2}), ("dm", {"tiles": 2}), ("pca", {"tiles": 1})],
)
def test_images_of_one_row_hold_no_four(kind, settings):
    flat, made = replace(TASK, height_px=1), method(kind)
    if settings == {"tiles": 1}:
        made(made.Settings(**settings), flat, 1)
        return
    with pytest.raises(ConfigError, match="can't hold four") as refused:
        made(made.Settings(**settings), flat, 1)
    assert "method.tiles=1" in refused.value.fix


def test_dsa_is_not_joined_to_others_and_the_error_says_how():
    with pytest.raises(ConfigError, match="dsa") as refused:
        Augmentation("flip_dsa")
    assert "tile_dsa" in refused.value.fix


def test_how_one_of_several_images_is_seen():
    seen = [within_tiles(*case) for case in (("dsa", 1), ("dsa", 2), ("none", 2), ("tile_rrc", 2), ("flip", 3))]
    assert seen == ["dsa", "tile_dsa", "tile", "tile_rrc", "tile3_flip"]
