"""Convolutions by tiles are the convolution, forwards and backwards, and take its place where that pays only."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attar.losses import winograd
from attar.losses.statistics import Watched
from attar.losses.winograd import FrozenConv, Tiled, pays, suits, transformed

MANY = winograd.LEAST_CHANNELS


def noise(*shape, key=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(key), dtype=dtype)


def apart(found, expected):
    """Relative to the norm of what is expected."""
    return float((found - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("shape", [(2, 5, 8, 12), (3, 5, 7, 9), (1, 5, 1, 2), (20, 5, 4, 4)])
@pytest.mark.parametrize("at_once", [1, 1 << 15])
def test_tiles_give_the_convolution_and_its_gradient(shape, at_once, monkeypatch):
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", at_once)
    x, weights = noise(*shape).requires_grad_(), noise(4, 5, 3, 3, key=1)
    expected, found = F.conv2d(x, weights, padding=1), Tiled.apply(x, transformed(weights))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    by_out = noise(*expected.shape, key=2)
    gradients = [torch.autograd.grad(out, x, by_out)[0] for out in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("bias", [False, True])
def test_float32_is_exact_to_rounding(bias):
    conv = nn.Conv2d(MANY, MANY + 8, 3, padding=1, bias=bias).requires_grad_(False)
    frozen, x = FrozenConv(conv), noise(8, MANY, 8, 8, dtype=torch.float32).requires_grad_()
    assert pays(x)
    exact_x = x.detach().double().requires_grad_()
    exact, found = copy.deepcopy(conv).double()(exact_x), frozen(x)
    by_out = noise(*found.shape, key=1, dtype=torch.float32)
    (expected,) = torch.autograd.grad(exact, exact_x, by_out.double())
    (gradient,) = torch.autograd.grad(found, x, by_out)
    for mine, truth in ((found, exact), (gradient, expected)):
        assert 0 < apart(mine, truth) < 5e-6


@pytest.mark.parametrize(
    ("shape", "dtype", "fits"),
    [
        ((20, 8, 8, 8), torch.float32, True),
        ((20, 8, 7, 7), torch.float32, True),
        ((20, 8, 5, 5), torch.float32, False),
        ((2, 8, 8, 8), torch.float32, False),
        ((20, 8, 8, 8), torch.float64, False),
        ((20, 8, 8, 8), torch.bfloat16, False),
    ],
)
def test_tiles_are_taken_where_they_pay(shape, dtype, fits):
    assert pays(torch.zeros(shape, dtype=dtype)) is fits


def test_autocast_keeps_the_convolution():
    with torch.autocast("cpu", torch.bfloat16):
        assert not pays(torch.zeros(20, 8, 8, 8))


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({"padding": 1}, True),
        ({"padding": "same"}, True),
        ({}, False),
        ({"padding": 1, "stride": 2}, False),
        ({"padding": 2, "dilation": 2}, False),
        ({"padding": 1, "groups": 2}, False),
        ({"padding": 1, "padding_mode": "reflect"}, False),
    ],
)
def test_what_suits(options, fits):
    assert suits(nn.Conv2d(MANY, MANY, 3, **options)) is fits


def test_narrow_and_other_layers_do_not_suit():
    assert not suits(nn.Conv2d(MANY - 1, MANY, 3, padding=1))
    assert not suits(nn.Conv2d(MANY, MANY, 5, padding=1))
    assert not suits(nn.ConvTranspose2d(MANY, MANY, 3, padding=1))


def test_a_watched_network_by_tiles_has_the_losses_and_the_gradient_of_the_direct_one(monkeypatch):
    blocks = [  # not ReLU: a value next to zero that rounding moves across it changes the gradient by a whole entry
        layer for _ in range(2) for layer in (nn.Conv2d(MANY, MANY, 3, padding=1), nn.BatchNorm2d(MANY), nn.SiLU())
    ]
    model, images = nn.Sequential(*blocks), noise(8, MANY, 8, 8, dtype=torch.float32)
    results = []
    for tiles in (True, False):
        monkeypatch.setattr(winograd, "LEAST_TILES", 1 if tiles else 1 << 30)
        watched, x = Watched(model), images.clone().requires_grad_()
        assert sum(isinstance(module, FrozenConv) for module in watched.model.modules()) == 2
        out, distance = watched(x)
        results.append((out, distance, *torch.autograd.grad(distance + out.square().mean(), x)))
    for mine, direct in zip(*results, strict=True):
        assert apart(mine, direct) < 2e-5
    assert not torch.equal(results[0][0], results[1][0]), "both took the same way"
