"""FADRM: its blocks against the published loop written out, the residual, the teachers' turns and what it refuses."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attar.errors import ConfigError
from attar.methods.base import Synthetic
from attar.methods.fadrm import Fadrm, FadrmSettings
from attar.models.convnet import ConvNet
from attar.runtime import seeding
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.stages.recover import RecoverSettings, _Loop
from attar.task import Normalization, Task

TASK = Task(("a", "b", "c"), 2, 8, 8, Normalization((0.4, 0.5), (0.3, 0.2)))
SIDES, STEPS, RATE, ALPHA = (0.75, 1.0, 0.75, 1.0), 20, 0.1, 0.05


def network(seed, width, norm=True):
    """Takes images of any size; its BatchNorm has the statistics of some noise; float64."""
    with seeding.scoped(seed, "network"):
        layers = [nn.Conv2d(2, width, 3), nn.BatchNorm2d(width) if norm else nn.Identity(), nn.ReLU()]
        net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)).double()
        for _ in range(3):
            net(torch.randn(32, 2, 8, 8, dtype=torch.float64))
    return net.eval().requires_grad_(False)


def teacher(*nets):
    return SimpleNamespace(model=nets[0], models=nets)


def patches():
    pixels = torch.rand(6, 2, 8, 8, generator=seeding.generator(0, "patches"), dtype=torch.float64)
    return TASK.normalization.normalize(pixels)


def method(**settings):
    plain = {"alpha_bn": ALPHA, "lr_images": RATE, "crop": False, "flip": False, "roll_px": 0, "sides": SIDES}
    return Fadrm(FadrmSettings(**{**plain, **settings}), TASK, 2)


def published(nets, start, labels):
    """Blocks, residuals, turns of teachers and one cosine, as the authors' recover.py goes through them."""
    sizes, taken = [round(side * 8) for side in SIDES], 0
    images = F.interpolate(start, (sizes[0],) * 2, mode="bilinear").requires_grad_()
    for k, size in enumerate(sizes):
        optimizer = torch.optim.Adam([images], betas=(0.5, 0.9))
        low, high = TASK.normalization.valid_range(start)
        for _ in range(STEPS // len(sizes)):
            net = nets[taken % len(nets)]
            optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * taken / STEPS)) / 2
            hidden = net[0](images)
            loss = F.cross_entropy(net(images), labels)
            if isinstance(net[1], nn.BatchNorm2d):
                mean, var = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3), unbiased=False)
                apart = (net[1].running_mean - mean).norm() + (net[1].running_var - var).norm()
                loss = loss + ALPHA * 10 * apart
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images.data.copy_(images.data.clamp(low, high))
            taken += 1
        if k + 1 < len(sizes):
            bigger, real = (F.interpolate(of.detach(), (sizes[k + 1],) * 2, mode="bilinear") for of in (images, start))
            images = (0.5 * bigger + 0.5 * real).requires_grad_()
        assert images.shape[2] == (sizes[k + 1] if k + 1 < len(sizes) else size)
    return images.detach()


@pytest.mark.parametrize(
    "nets", [(network(0, 6),), (network(0, 6), network(1, 4), network(2, 5, norm=False))], ids=["one", "several"]
)
def test_its_blocks_are_those_of_the_published_loop(nets, tmp_path):
    loop = RecoverSettings(**{**Fadrm.defaults["recover"], "iterations": STEPS, "chunk_size": 6})
    ours, labels = method(), torch.arange(3).repeat(2)
    first = F.interpolate(patches(), (6, 6), mode="bilinear")
    state = Synthetic(labels, {"images": first}, {"patches": patches()})
    steps = _Loop(ours, state, None, teacher(*nets), loop, 0, 0, 1, tmp_path, Engine("cpu"), Events(quiet=True))
    for step in range(STEPS):
        steps._step(step)
    wanted = published(nets, patches(), labels)
    assert float((wanted - patches()).abs().max()) > 0.3, "the images have moved"
    torch.testing.assert_close(ours.decode(steps.synthetic), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("residual", [0.0, 0.25, 1.0])
def test_the_residual_is_the_part_of_the_patches(residual):
    ours = method(residual=residual, sides=[1.0, 1.0])
    images = torch.zeros(6, *TASK.shape, dtype=torch.float64)
    state = Synthetic(torch.arange(3).repeat(2), {"images": images}, {"patches": patches()})
    ours.turn(state, 0)
    torch.testing.assert_close(state.variables["images"], residual * patches())


def test_from_128_px_on_every_second_block_is_smaller():
    def sizes(side):
        ours = Fadrm(FadrmSettings(), Task(("a",), 1, side, side, Normalization((0.5,), (0.5,))), 1)
        return [ours._at(block, torch.zeros(1, 1, side, side)).shape[2] for block in range(4)]

    assert sizes(224) == [200, 224, 200, 224]
    assert sizes(64) == [64] * 4
    assert Fadrm(FadrmSettings(), TASK, 1).turns() == (0.25, 0.5, 0.75)


def test_a_network_of_one_size_is_refused_at_another():
    class Real:
        labels = torch.arange(3).repeat(2)

        def images(self, indices):
            return torch.zeros(len(indices), *TASK.shape)

    fixed = ConvNet(3, 2, 8, 8, depth=1, width=4, norm="batch").eval()
    begin = partial(method(start="real").init, torch.arange(6), Real(), rngs=partial(seeding.generator, 0))
    with pytest.raises(ConfigError, match=r"takes images of 8 px alone(.|\n)*method.sides=\[1,1,1,1\]"):
        begin(knowledge=teacher(fixed))
    assert begin(knowledge=teacher(network(0, 6).float())).variables["images"].shape[2:] == (6, 6)


def test_noise_and_no_block_are_refused_before_any_work():
    assert Fadrm.problems(FadrmSettings(), {}) == []
    found = Fadrm.problems(FadrmSettings(start="noise", sides=[]), {})
    assert ["patches or real" in found[0], "sides is empty" in found[1]] == [True, True]
