"""Matching of characteristic functions: the distance by complex numbers, where it vanishes, and the network between."""

import pytest
import torch

from attar.methods.base import Synthetic
from attar.methods.ncfm import Ncfm, NcfmSettings, characteristic_distance
from attar.models.factory import penultimate
from attar.runtime.seeding import generator
from attar.testing import TASK, MadeUpExperts


def vectors(num, seed, width=12):
    return torch.randn(num, width, dtype=torch.float64, generator=generator(seed))


def function(features, frequencies):
    unit = features / features.norm(dim=1, keepdim=True)
    return torch.exp(1j * (unit @ frequencies.T)).mean(0)


@pytest.mark.parametrize("amplitude", [0.0, 0.3, 1.0])
def test_the_distance_is_that_of_amplitudes_and_phases_of_complex_numbers(amplitude):
    real, made, frequencies = vectors(9, 0), vectors(4, 1), vectors(50, 2)
    theirs, ours = function(real, frequencies), function(made, frequencies)
    turned = 2 * theirs.abs() * ours.abs() * (1 - torch.cos(theirs.angle() - ours.angle()))
    wanted = (amplitude * (theirs.abs() - ours.abs()) ** 2 + (1 - amplitude) * turned).sqrt().mean()
    assert torch.allclose(characteristic_distance(real, made, frequencies, amplitude), wanted)


def test_equal_weights_make_it_the_distance_of_the_functions():
    real, made, frequencies = vectors(9, 0), vectors(4, 1), vectors(50, 2)
    between = (function(real, frequencies) - function(made, frequencies)).abs()
    assert torch.allclose(characteristic_distance(real, made, frequencies), between.mean() / 2**0.5)


def test_it_vanishes_for_the_same_vectors_in_any_order_and_count():
    real, frequencies = vectors(9, 0), vectors(50, 2)
    assert characteristic_distance(real, real.flip(0).repeat(2, 1), frequencies) < 2e-6


def test_it_sees_what_the_mean_does_not():
    wide = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    turned = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    assert torch.equal(wide.mean(0), turned.mean(0))
    assert characteristic_distance(wide, turned, vectors(200, 2, 2)) > 0.1


class Real:
    labels = torch.arange(3).repeat_interleave(4)

    def __init__(self):
        self.all = torch.randn(12, *TASK.shape, generator=generator(0, "real"))

    def images(self, indices):
        return self.all[indices]


def test_the_gradient_is_that_of_the_loss_written_out_under_a_network_between_start_and_end():
    settings = NcfmSettings(tiles=1, augment="none", num_real=100, num_frequencies=20, weight=10.0, calibration=0.5)
    method, experts, real = Ncfm(settings, TASK, 2), MadeUpExperts(), Real()
    labels = method.labels()
    images = torch.randn(6, *TASK.shape, generator=generator(1))
    state = Synthetic(labels, {"images": images})
    found, metrics = method.gradient(state, torch.arange(6), real, experts, generator(3))

    rng = generator(3)
    points = experts._points[int(torch.randint(2, (), generator=rng))]
    part = float(torch.rand((), generator=rng))
    network = experts.flat.at(part * points[0] + (1 - part) * points[3])
    for _ in range(3):
        torch.randperm(4, generator=rng)  # the order of the real images, of which all are taken
    leaf = images.clone().requires_grad_()
    frequencies = torch.randn(20, penultimate(network, leaf).shape[1], generator=rng)
    loss = 0.0
    for label in range(3):
        theirs, ours = (penultimate(network, one) for one in (real.all[real.labels == label], leaf[labels == label]))
        between = (function(theirs, frequencies) - function(ours, frequencies)).abs().mean() / 2**0.5
        chances = experts.flat(points[3], leaf[labels == label]).log_softmax(1)[:, label]
        loss = loss + 10.0 * between - 0.5 * chances.mean()
    loss.backward()
    assert float(metrics["loss"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert torch.allclose(found["images"], leaf.grad, rtol=1e-3, atol=1e-5)


def test_pixels_stay_valid():
    method = Ncfm(NcfmSettings(), TASK, 2)
    state = Synthetic(method.labels(), {"images": 9 * torch.randn(6, *TASK.shape, generator=generator(1))})
    method.project(state)
    pixels = TASK.normalization.pixels(state.variables["images"])
    assert -1e-6 <= float(pixels.min()) < float(pixels.max()) <= 1 + 1e-6
