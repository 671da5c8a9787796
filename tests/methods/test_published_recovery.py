"""Recovery by the defaults of sre2l against the loop that its authors publish: Adam with betas 0.5 and 0.9."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attar.methods import methods
from attar.methods.base import Synthetic
from attar.methods.sre2l import Sre2l, Sre2lSettings
from attar.models.convnet import ConvNet
from attar.runtime import seeding
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.stages.recover import RecoverSettings, _Loop
from attar.task import Normalization, Task

TASK = Task(("a", "b", "c"), 2, 8, 8, Normalization((0.4, 0.5), (0.3, 0.2)))
STEPS, RATE, ALPHA = 20, 0.1, 0.05


def network() -> nn.Module:
    """A network with two BatchNorms whose statistics are of some noise, in float64."""
    with seeding.scoped(0, "network"):
        net = ConvNet(3, 2, 8, 8, depth=2, width=6, norm="batch").double()
        for _ in range(3):
            net(torch.randn(32, 2, 8, 8, dtype=torch.float64))
    return net.eval().requires_grad_(False)


def published(net: nn.Module, start: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    distances: list[torch.Tensor] = []

    def look(norm: nn.Module, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        mean = inputs[0].mean((0, 2, 3))
        var = inputs[0].var((0, 2, 3), unbiased=False)
        distances.append(torch.norm(norm.running_var - var, 2) + torch.norm(norm.running_mean - mean, 2))

    handles = [norm.register_forward_hook(look) for norm in norms]
    images = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=RATE, betas=(0.5, 0.9))
    low, high = TASK.normalization.valid_range(start)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        distances.clear()
        optimizer.zero_grad()
        classification = F.cross_entropy(net(images), labels)
        weights = [10.0] + [1.0] * (len(norms) - 1)
        (classification + ALPHA * sum(w * r for w, r in zip(weights, distances, strict=True))).backward()
        optimizer.step()
        images.data.copy_(images.data.clamp(low, high))
    for handle in handles:
        handle.remove()
    return images.detach()


def test_twenty_steps_are_those_of_the_published_loop(tmp_path) -> None:
    net = network()
    labels = torch.arange(3).repeat(2)
    start = torch.randn(6, 2, 8, 8, generator=seeding.generator(0, "start"), dtype=torch.float64)
    settings = Sre2lSettings(alpha_bn=ALPHA, lr_images=RATE, crop=False, flip=False, roll_px=0)
    loop = RecoverSettings(**{**Sre2l.defaults["recover"], "iterations": STEPS, "chunk_size": 6})
    state = Synthetic(labels, {"images": start.clone()})
    method = Sre2l(settings, TASK, 2)
    teacher = SimpleNamespace(model=net)
    steps = _Loop(method, state, None, teacher, loop, 0, 0, 1, tmp_path, Engine("cpu"), Events(quiet=True))
    for step in range(STEPS):
        steps._step(step)
    wanted = published(net, start, labels)
    assert float((wanted - start).abs().max()) > 0.5, "the images have moved"
    torch.testing.assert_close(state.variables["images"], wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["sre2l", "teddy"])
def test_the_second_beta_is_the_published_one(name: str) -> None:
    assert methods()[name].defaults["recover"]["second_beta"] == 0.9
