"""CIM: mosaics and tiles, the loss and its gradient, the layers that are matched, and AdamW on what is added."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attar.errors import ConfigError
from attar.methods import mosaics
from attar.methods.base import Synthetic
from attar.methods.cim import Cim, CimSettings
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.seeding import generator, scoped
from attar.stages.recover import RecoverSettings, _Loop
from attar.task import Normalization, Task

TASK = Task(("a", "b", "c"), 3, 8, 8, Normalization((0.5, 0.4, 0.6), (0.25, 0.3, 0.2)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with scoped(0, "net"):
            self.stem = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU())
            self.layer3 = nn.Sequential(nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.fc = nn.Linear(4, 3)

    def forward(self, images):
        return self.fc(self.layer3(self.stem(images)))


class Teacher:
    """Surer of a class the brighter the image's channel of that number is."""

    model = Net().double().requires_grad_(False)

    def logits(self, images):
        return images.mean((2, 3))


class Real:
    labels = torch.arange(3).repeat(20)
    all = torch.randn(60, *TASK.shape, generator=generator(0, "real"))

    def images(self, indices):
        return self.all[indices]


def begin(ipc=2, picked=None, task=TASK, **settings):
    method = Cim(CimSettings(**settings), task, ipc)
    picked = torch.arange(len(method.labels())) if picked is None else picked
    return method, method.init(picked, Real(), Teacher(), partial(generator, 0))


def test_each_image_holds_four_of_the_easiest_by_rank():
    method, state = begin(candidates=100)
    easiest = {}
    for label in range(3):
        members = (Real.labels == label).nonzero()[:, 0]
        losses = F.cross_entropy(Teacher().logits(Real.all[members]), Real.labels[members], reduction="none")
        easiest[label] = members[losses.argsort()][:8]
    for place, (label, rank) in enumerate(zip(method.labels().tolist(), [0, 0, 0, 1, 1, 1], strict=True)):
        wanted = Real.all[easiest[label][[rank, rank + 2, rank + 4, rank + 6]]]
        assert torch.equal(state.fixed["whole"][place], wanted)
        corners = [wanted[0][:, ::2, ::2], wanted[3][:, ::2, ::2]]
        found = method.decode(state)[place]
        assert torch.equal(found[:, :4, :4], corners[0])
        assert torch.equal(found[:, 4:, 4:], corners[1])


def test_its_sets_say_that_they_hold_four():
    method, state = begin()
    assert method.finish(state, Teacher()).tiles == 2


def test_fewer_candidates_are_looked_at_but_never_too_few():
    assert [begin(ipc=1, candidates=some)[0].looked_at(20) for some in (1, 6, 300)] == [4, 6, 20]


def test_unfolding_enlarges_the_tiles_of_a_mosaic_in_their_order():
    tiles = [torch.full((2, 1, 6, 6), float(k)) for k in range(4)]
    whole = mosaics.mosaic(tiles, (6, 6))
    assert torch.equal(mosaics.unfold(whole), torch.cat(tiles))
    assert mosaics.unfold(torch.zeros(2, 1, 7, 5)).shape == (8, 1, 7, 5)
    assert mosaics.mosaic(tiles, (7, 5), "nearest")[0, 0, :, 0].tolist() == [0] * 4 + [2] * 3


@pytest.mark.parametrize("layer", ["", "layer3"])
def test_twenty_steps_are_those_of_the_published_loop(layer, tmp_path):
    """Every tile beside its own real image, the mean over features and the sum over tiles, AdamW at 0.01 with decay."""
    method, state = begin(augment="none", layer=layer or "auto")
    state.fixed = {name: value.double() for name, value in state.fixed.items()}
    state.variables = {"added": torch.zeros(6, *TASK.shape, dtype=torch.float64)}
    net, std = Teacher.model, torch.tensor(TASK.normalization.std, dtype=torch.float64).view(3, 1, 1)

    def features(images):
        deep = net.stem(images)
        return deep.flatten(1) if layer else net.layer3(deep)

    added = torch.zeros(6, *TASK.shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([added], 0.01)
    for _ in range(20):
        images, loss = state.fixed["begun"] + added / std, 0.0
        for k, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
            tile = F.interpolate(images[:, :, top : top + 4, left : left + 4], (8, 8), mode="bilinear")
            loss = loss + (features(tile) - features(state.fixed["whole"][:, k])).abs().mean(1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    settings = RecoverSettings(**{**Cim.defaults["recover"], "iterations": 20})
    knowledge = SimpleNamespace(model=net)
    loop = _Loop(method, state, Real(), knowledge, settings, 0, 0, 1, tmp_path, Engine("cpu"), Events(quiet=True))
    for step in range(20):
        loop._step(step)
    assert float(added.detach().abs().max()) > 0.05, "the images have moved"
    torch.testing.assert_close(loop.synthetic.variables["added"], added.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("augment", ["none", "flip_crop_cutout"])
def test_it_vanishes_where_each_tile_is_its_real_image_as_both_share_each_draw(augment):
    method, state = begin(augment=augment)
    tiles = mosaics.unfold(method.decode(state)).unflatten(0, (4, 6)).transpose(0, 1)
    same = Synthetic(state.labels, state.variables, {**state.fixed, "whole": tiles})
    knowledge = SimpleNamespace(model=Net().requires_grad_(False))
    for seed in range(3):
        gradients, metrics = method.gradient(same, torch.arange(6), Real(), knowledge, generator(seed))
        assert float(metrics["loss"]) == 0
        assert not gradients["added"].any()


def test_auto_looks_inside_a_resnet_from_128_px_on_and_an_unknown_layer_is_named():
    small, large = (Task(("a",), 3, side, side, TASK.normalization) for side in (64, 128))
    images, net = torch.randn(2, 3, 8, 8), Net()
    inside, last = (Cim(CimSettings(), task, 1)._look(net)(images) for task in (large, small))
    assert (inside.shape, last.shape) == ((2, 5 * 64), (2, 4))
    with pytest.raises(ConfigError, match=r"no layer 'layer9'(.|\n)*stem, layer3, fc"):
        Cim(CimSettings(layer="layer9"), small, 1)._look(net)
