"""Statistics at the inputs of BatchNorms: against hooks and plain formulas."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attar.losses.statistics import Watched, WatchedNorm, total_variation
from attar.models.factory import build
from attar.models.norms import KINDS, batch_norms
from attar.runtime.seeding import generator
from attar.task import Normalization, Task

NETWORKS = {"resnet18-small": 8, "convnet-d2-w8-batch": 16, "bnvit-d2-w64-p4": 16, "timm:mobilenetv2_035": 32}


def noise(*shape, key="x", dtype=torch.float64):
    return torch.randn(*shape, generator=generator(0, key), dtype=dtype)


def over_all_but_channels(x):
    """Mean and biased variance of (b, c, ...), as the authors' hooks compute them."""
    rows = x.transpose(0, 1).flatten(1)
    return rows.mean(1), rows.var(1, correction=0)


def fill(model, images):
    """Give every BatchNorm the statistics of its input on these images, and leave the network in eval mode."""

    def remember(norm, args):
        norm.running_mean, norm.running_var = over_all_but_channels(args[0])

    model.eval()
    hooks = [norm.register_forward_pre_hook(remember) for norm in batch_norms(model)]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()


def teacher(name, dtype=torch.float64):
    size = NETWORKS[name]
    task = Task(("a", "b", "c"), 3, size, size, Normalization((0.5,) * 3, (0.25,) * 3))
    model = build(name, task).to(dtype)
    fill(model, noise(4, 3, size, size, key="real", dtype=dtype))
    return model, noise(3, 3, size, size, dtype=dtype)


def by_hooks(model, images, first_weight):
    """Logits and statistics loss, written as the paper has it: hooks on the network itself."""
    terms = []

    def look(norm, args, _):
        mean, var = over_all_but_channels(args[0])
        weight = 1.0 if terms else first_weight
        terms.append(weight * ((norm.running_mean - mean).norm() + (norm.running_var - var).norm()))

    hooks = [norm.register_forward_hook(look) for norm in batch_norms(model)]
    logits = model(images)
    for hook in hooks:
        hook.remove()
    return logits, torch.stack(terms).sum()


def norm_of(channels, kind=nn.BatchNorm2d, **options):
    norm = kind(channels, **options).double().eval()
    with torch.no_grad():
        norm.running_mean.copy_(noise(channels, key="mean"))
        norm.running_var.copy_(noise(channels, key="var").square() + 0.1)
        for name, parameter in norm.named_parameters():
            parameter.copy_(noise(channels, key=name))
    return norm


@pytest.mark.parametrize(
    ("kind", "shape"), [(nn.BatchNorm2d, (6, 5, 4, 3)), (nn.BatchNorm1d, (9, 5)), (nn.BatchNorm1d, (6, 5, 7))]
)
def test_loss_is_zero_on_the_batch_that_made_the_statistics(kind, shape):
    norm, x = norm_of(5, kind), noise(*shape)
    norm.running_mean, norm.running_var = over_all_but_channels(x)
    watched = WatchedNorm(norm)
    watched(x)
    watched(x + 0.1)
    watched(x * 1.1)
    same, moved, wider = (float(watched.distance(mean[0], var[0])) for mean, var in watched.moments)
    assert same < 1e-12
    assert moved == pytest.approx(0.1 * 5**0.5)
    assert wider > 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_of_a_network_is_zero_on_the_batch_that_made_its_statistics(name):
    model, images = teacher(name)
    fill(model, images)
    _, loss = Watched(model)(images)
    assert 0 <= float(loss) < 1e-6  # rounding grows through fifty layers
    assert float(Watched(model)(images + 1)[1]) > 0.1


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"eps": 0.1}])
def test_watched_norm_is_the_norm_in_evaluation_mode(options):
    norm, x, weights = norm_of(5, **options), noise(6, 5, 4, 3).requires_grad_(), noise(6, 5, 4, 3, key="weights")
    expected, found = norm(x), WatchedNorm(norm)(x)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("at_once", [None, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_same_loss_and_gradient_as_hooks_on_the_network(name, at_once):
    model, images = teacher(name)
    watched = Watched(model, first_weight=10.0, at_once=at_once)
    assert len(watched.norms) == len(batch_norms(model))
    assert not any(isinstance(module, KINDS) for module in watched.model.modules())
    found, expected = [], []
    for look, results in ((watched, found), (lambda x: by_hooks(model, x, 10.0), expected)):
        x = images.clone().requires_grad_()
        logits, loss = look(x)
        results += [logits, loss, *torch.autograd.grad(loss + F.cross_entropy(logits, torch.arange(3)), x)]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def test_looking_in_parts_keeps_the_images_alone_and_the_arithmetic_of_the_whole():
    model, images = teacher("convnet-d2-w8-batch", torch.float32)
    found, kept = [], []
    for at_once in (None, 2):
        x, held = images.clone().requires_grad_(), {}
        watched = Watched(model, at_once=at_once)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.autograd.graph.saved_tensors_hooks(partial(keep, held), lambda t: t):
                logits, loss = watched(x)
            (gradient,) = torch.autograd.grad(loss + logits.sum(), x)
        found.append((logits, loss, gradient))
        own = {value.untyped_storage().data_ptr() for value in watched.model.state_dict().values()}
        kept.append(sum(size for place, size in held.items() if place not in own))
    assert images.numel() <= kept[1] < kept[0] / 2
    for whole, parts in zip(*found, strict=True):
        assert whole.dtype == parts.dtype
        torch.testing.assert_close(parts, whole, rtol=0.02, atol=1e-4)


def keep(held, tensor):
    held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
    return tensor


def test_watching_leaves_the_network_alone_and_forgets_between_looks():
    model, images = teacher("convnet-d2-w8-batch")
    model.train()
    before = copy.deepcopy(model.state_dict())
    watched = Watched(model)
    losses = [float(watched(images)[1]) for _ in range(2)]
    assert losses[0] == losses[1] > 0
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in watched.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_norm_without_statistics_is_not_watched():
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3), nn.Flatten())
    assert len(Watched(model).norms) == 1


def test_scale_is_the_size_of_the_learnt_statistics():
    model = nn.Sequential(norm_of(3), norm_of(3), nn.Flatten())
    variance = model[0].running_var
    size = float(variance.sqrt().norm() + variance.norm())
    assert Watched(model, first_weight=10.0).scale() == pytest.approx(11 * size)


def test_in_the_channels_unit_a_layers_scale_does_not_count() -> None:
    plain, scaled = norm_of(5, eps=0.0), norm_of(5, eps=0.0)
    scaled.running_mean.copy_(1000 * plain.running_mean)
    scaled.running_var.copy_(1e6 * plain.running_var)
    images = noise(4, 5, 3, 3).double()
    found = []
    for norm, x in ((plain, images), (scaled, 1000 * images)):
        watched = Watched(nn.Sequential(norm, nn.Flatten()), standardised=True)
        found.append(float(watched(x)[1]))
        assert watched.scale() == pytest.approx(2)
    mean, var = over_all_but_channels(images)
    learnt = plain.running_mean, plain.running_var
    expected = ((mean - learnt[0]) / learnt[1].sqrt()).norm() + (var / learnt[1] - 1).norm()
    assert found == pytest.approx(2 * [float(expected) / 5**0.5])


def test_in_the_channels_unit_what_made_the_statistics_is_at_no_distance() -> None:
    model, images = teacher("convnet-d2-w8-batch", torch.float64)
    fill(model, images)
    assert float(Watched(model, standardised=True)(images)[1]) < 1e-6


def test_half_precision_changes_the_losses_and_the_gradient_little():
    model, images = teacher("convnet-d2-w8-batch", torch.float32)
    watched = Watched(model, first_weight=10.0)
    losses, gradients = [], []
    for half in (False, True):
        x = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits, loss = watched(x)
            total = loss + F.cross_entropy(logits, torch.arange(3))
            gradients.append(torch.autograd.grad(total, x)[0].flatten())
        assert logits.dtype == loss.dtype == torch.float32
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1] != losses[0]
    assert float(F.cosine_similarity(*gradients, dim=0)) > 0.99


def test_total_variation_sums_the_norms_over_four_kinds_of_neighbours():
    images, height, width = noise(2, 3, 4, 5), 4, 5
    expected = 0.0
    for down, across in [(0, 1), (1, 0), (1, 1), (1, -1)]:
        squares = [
            float((images[:, :, i, j] - images[:, :, i + down, j + across]).square().sum())
            for i in range(height - down)
            for j in range(width)
            if 0 <= j + across < width
        ]
        expected += sum(squares) ** 0.5
    assert float(total_variation(images)) == pytest.approx(expected)
    assert float(total_variation(torch.ones(1, 1, 3, 3))) == 0
