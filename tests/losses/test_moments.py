"""Moments of parts of a batch and their gradient: against plain formulas that autograd differentiates."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attar.losses import moments as module
from attar.losses.moments import NormAndMoments, moments, of_all
from attar.runtime.seeding import generator

SIZES = (2, 4, 1)
SHAPES = [(7, 3, 4, 5), (7, 3), (7, 3, 6), (28, 3)]


@pytest.fixture(params=[True, False], ids=["cpu", "elsewhere"])
def anywhere(request, monkeypatch):
    """The way of either kind of device."""
    monkeypatch.setattr(module, "on_cpu", lambda _: request.param)


def noise(*shape, key="x", dtype=torch.float64):
    return torch.randn(*shape, generator=generator(0, key), dtype=torch.float64).to(dtype)


def rows_of(x, sizes=SIZES):
    return tuple(size * len(x) // sum(sizes) for size in sizes)


def laid_out(x, layout):
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x.transpose(0, -1).contiguous().transpose(0, -1) if layout == "strange" else x.contiguous()


def plain(x, norm, sizes):
    """Normalised x, and mean and variance of each part, as autograd can differentiate them."""
    parts = [part.transpose(0, 1).flatten(1) for part in x.split(sizes)]
    return norm(x), torch.stack([p.mean(1) for p in parts]), torch.stack([p.var(1, correction=0) for p in parts])


def norm_of(channels, affine=True, dtype=torch.float64):
    norm = nn.BatchNorm2d(channels, affine=affine).eval()
    norm._check_input_dim = lambda _: None  # any number of dimensions
    with torch.no_grad():
        norm.running_mean.copy_(noise(channels, key="mean"))
        norm.running_var.copy_(noise(channels, key="var").square() + 0.1)
        for name, parameter in norm.named_parameters():
            parameter.copy_(noise(channels, key=name))
    return norm.to(dtype)


def ours(x, norm, sizes):
    learnt = [None if value is None else value.detach() for value in (norm.weight, norm.bias)]
    return NormAndMoments.apply(x, norm.running_mean, norm.running_var, *learnt, norm.eps, sizes)


def gradient(function, x, norm, sizes):
    """Of a function of all three results, with random weights."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    results = function(x, norm, sizes)
    weights = [noise(*result.shape, key=k).to(result) for k, result in enumerate(results)]
    return torch.autograd.grad(results, x, weights)[0]


@pytest.mark.parametrize("run", [1, 8, 1 << 14])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strange"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sizes", [SIZES, (7,)])
@pytest.mark.parametrize("affine", [True, False])
def test_values_and_gradient_are_those_of_plain_formulas(anywhere, shape, sizes, affine, layout, run, monkeypatch):
    monkeypatch.setattr(module, "RUN", run)
    x, norm, sizes = laid_out(noise(*shape) + 5, layout), norm_of(3, affine), rows_of(noise(*shape), sizes)
    for mine, theirs in zip(ours(x, norm, sizes), plain(x, norm, sizes), strict=True):
        torch.testing.assert_close(mine, theirs.detach(), rtol=1e-11, atol=1e-12)
    found, expected = (gradient(function, x, norm, sizes) for function in (ours, plain))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 2, 2, 3), (5, 2), (3, 2, 4)])
@pytest.mark.parametrize("num_parts", [1, 2])
def test_gradient_is_that_of_differences(anywhere, shape, num_parts):
    norm, sizes = norm_of(2), (shape[0],) if num_parts == 1 else (1, shape[0] - 1)
    assert torch.autograd.gradcheck(lambda x: ours(x, norm, sizes), noise(*shape).requires_grad_())


def test_a_second_derivative_is_refused_and_not_wrong():
    norm, x = norm_of(3), noise(7, 3).requires_grad_()
    (by_x,) = torch.autograd.grad(ours(x, norm, SIZES)[2].norm(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        by_x.square().sum().backward()


@pytest.mark.parametrize("sizes", [(8, 20, 13), (41,)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("run", [1, 700, 1 << 14])
def test_half_precision_is_summed_in_float32_under_autocast(anywhere, sizes, dtype, layout, run, monkeypatch):
    monkeypatch.setattr(module, "RUN", run)
    x = laid_out((3 * noise(41, 6, 15, 15) + 8).to(dtype), layout)
    norm = norm_of(6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = moments(x, sizes)
        by_x = gradient(ours, x, norm, sizes)
    exact = plain(x.double(), norm_of(6), sizes)[1:]
    for mine, theirs in zip(found, exact, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=0)
    wanted = gradient(plain, x.double(), norm_of(6), sizes)
    assert by_x.dtype == dtype
    torch.testing.assert_close(by_x.double(), wanted, rtol=0.02, atol=0.02 * float(wanted.abs().mean()))


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_float32_loses_few_digits_far_from_zero(anywhere, mean):
    x = (noise(30, 4, 16, 16) + mean).float()
    for mine, exact in zip(moments(x, (5, 20, 5)), plain(x.double(), nn.Identity(), (5, 20, 5))[1:], strict=True):
        torch.testing.assert_close(mine.double(), exact, rtol=1e-4, atol=1e-4)


def test_moments_of_a_whole_are_those_of_its_parts():
    x, sizes = noise(7, 3, 4, 5) + noise(7, 1, 1, 1, key="apart"), torch.tensor(SIZES)
    found = of_all(sizes.double() / 7, *moments(x, SIZES))
    torch.testing.assert_close(found, tuple(value[0] for value in moments(x, (7,))), rtol=1e-12, atol=1e-12)
    assert F.mse_loss(*moments(x, SIZES)[0][:2]) > 0.01, "the parts differ"
