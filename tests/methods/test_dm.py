"""Distribution matching: what its loss is, where it vanishes, and what it refuses."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from attar.errors import ConfigError
from attar.methods.base import Synthetic
from attar.methods.dm import Dm, DmSettings
from attar.models.factory import build
from attar.run.settings import resolve
from attar.runtime.seeding import generator
from attar.task import Normalization, Task

TASK = Task(("a", "b", "c"), 3, 16, 16, Normalization((0.5,) * 3, (0.25,) * 3))
PER_CLASS = 5


class Real:
    def __init__(self):
        self.labels = torch.arange(3).repeat_interleave(PER_CLASS)
        self.all = torch.randn(len(self.labels), *TASK.shape, generator=generator(0, "real"))

    def images(self, indices):
        return self.all[indices]


def make(ipc=2, **settings):
    return Dm(DmSettings(**{"network": "convnet-d2-w8", **settings}), TASK, ipc)


def step(method, images, seed=0):
    labels = method.labels()
    state = Synthetic(labels, {"images": images})
    gradients, metrics = method.gradient(state, torch.arange(len(labels)), Real(), None, generator(seed))
    return gradients["images"], float(metrics["loss"])


def test_loss_and_gradient_are_those_of_the_class_means_written_out():
    method, real = make(augment="none", num_real=100), Real()
    images = torch.randn(6, *TASK.shape, generator=generator(1))
    gradient, loss = step(method, images)
    seed = int(torch.randint(2**31, (), generator=generator(0)))
    features = build("convnet-d2-w8", TASK, seed=seed).features.double()
    leaf = images.double().requires_grad_()
    wanted = leaf.new_zeros(())
    for label in range(3):
        theirs = [features(real.all[[i]].double())[0] for i in (real.labels == label).nonzero()[:, 0].tolist()]
        ours = [features(leaf[[j]])[0] for j in (method.labels() == label).nonzero()[:, 0].tolist()]
        difference = sum(theirs) / PER_CLASS - sum(ours) / 2
        wanted = wanted + (difference * difference).sum()
    wanted.backward()
    assert loss == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert torch.allclose(gradient.double(), leaf.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("augment", ["none", "dsa", "color_crop_cutout_flip_scale_rotate"])
def test_it_vanishes_where_both_sides_hold_the_same_images_as_they_share_each_draw(augment):
    method, real = make(ipc=PER_CLASS, augment=augment, num_real=PER_CLASS), Real()
    images = torch.stack([real.all[real.labels == label] for label in range(3)], 1).flatten(0, 1)
    assert torch.equal(method.labels(), torch.arange(3).repeat(PER_CLASS))
    for seed in range(4):
        gradient, loss = step(method, images, seed)
        assert loss < 1e-10
        assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("augment", ["none", "dsa"])
def test_a_step_sees_the_four_images_that_each_holds_enlarged(augment):
    tiled, whole = make(tiles=2, augment=augment), make(ipc=8, augment=augment)
    images = torch.randn(6, *TASK.shape, generator=generator(1)).requires_grad_()
    shown = torch.cat(
        [
            F.interpolate(images[:, :, top : top + 8, left : left + 8], (16, 16), mode="bilinear")
            for top in (0, 8)
            for left in (0, 8)
        ]
    )
    assert torch.equal(whole.labels(), tiled.labels().repeat(4))
    by_tile, loss = step(whole, shown.detach())
    (wanted,) = torch.autograd.grad(shown, images, by_tile)
    gradient, found = step(tiled, images.detach())
    assert found == loss
    assert torch.allclose(gradient, wanted, atol=1e-7)


@pytest.mark.parametrize("start", ["real", "kmeans", "noise"])
def test_images_begin_with_four_of_their_class_and_say_so(start):
    method, real = make(ipc=1, tiles=2, start=start), Real()
    state = method.init(torch.arange(3), real, None, partial(generator, 0))
    assert state.variables["images"].shape == (3, *TASK.shape)
    assert method.finish(state, None).tiles == 2
    assert method.looked_at(100) == (100 if start == "kmeans" else 4)
    if start == "noise":
        return
    smaller = F.interpolate(real.all, (8, 8), mode="bilinear", antialias=True)
    for label, image in enumerate(state.variables["images"]):
        tiles = [image[:, top : top + 8, left : left + 8] for top in (0, 8) for left in (0, 8)]
        held = [[torch.equal(tile, one) for one in smaller].index(True) for tile in tiles]
        assert len(set(held)) == 4
        assert all(int(real.labels[i]) == label for i in held)
    few = make(ipc=2, tiles=2, start=start).init(torch.arange(6), real, None, partial(generator, 0))
    assert few.variables["images"].isfinite().all(), "eight of five images: they begin again"


def test_each_step_has_a_network_and_real_images_of_its_own():
    images = torch.randn(6, *TASK.shape, generator=generator(1))
    of_all = [step(make(augment="none", num_real=100), images, seed)[1] for seed in (0, 0, 1)]
    assert of_all[0] == of_all[1] != of_all[2], "another network"
    some, others = (step(make(augment="none", num_real=2), images, seed)[1] for seed in (0, 1))
    assert some not in (of_all[0], others)


def test_a_step_down_the_gradient_lowers_the_loss_under_the_same_draw():
    method = make(num_real=100)
    images = method.init(torch.arange(6), Real(), None, partial(generator, 0)).variables["images"]
    gradient, before = step(method, images)
    assert step(method, images - 0.1 * gradient / gradient.norm())[1] < before


def test_a_network_with_batch_norm_is_refused_before_any_work():
    with pytest.raises(ConfigError, match="has BatchNorm"):
        resolve({"run": {"source": "digits", "method": "dm"}}, ["method.network=convnet-d2-w8-batch"])
