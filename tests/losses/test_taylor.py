"""The approximations of docs/methods/teddy.md, each at the order that the page claims.

    l(T; θ - η g_S) = l(T; θ) - η <g_T, g_S> + O(η²)              g_T, g_S: gradients on the real and the synthetic set
    g_W ≈ Σ_c π_c ( (p_c + ½ p''_c : W Σ_c Wᵀ - e_c) μ_cᵀ + J_c W Σ_c )       gradient of a classifier's weight W

π_c: part of the images that are of class c; μ_c, Σ_c: mean and covariance of their features, here its diagonal;
p_c = softmax(W μ_c + b), J_c and p''_c its derivatives. Source: Yu et al., "Teddy", ECCV 2024, which states the first
line; the second is ours.
"""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attar.models.flat import FlatModel
from attar.runtime.seeding import generator, scoped

NUM_CLASSES, NUM_STEPS = 3, 4


def first_order_change(real, synthetic, step):
    """-η <g_T, g_S>: how the loss on the real set changes, to first order, by a step on the synthetic one."""
    return -step * (real @ synthetic)


def classifier_gradient(weight, bias, means, variances, shares):
    """The gradient (C, d) of a linear classifier's weight that class-wise moments of its input predict.

    Args:
        weight: W (C, d).
        bias: b (C,).
        means: μ_c of each class (C, d).
        variances: diagonal of Σ_c (C, d).
        shares: π_c (C,), of sum 1.
    """
    total = torch.zeros_like(weight)
    for label, (mean, variance, share) in enumerate(zip(means, variances, shares, strict=True)):
        p = (weight @ mean + bias).softmax(0)
        of_logits = (weight * variance) @ weight.T
        jacobian = p.diag() - p.outer(p)
        apart = torch.eye(len(p)).to(p) - p
        curvature = 0.5 * p * ((apart @ of_logits * apart).sum(1) - (jacobian * of_logits).sum())
        residual = p + curvature - F.one_hot(torch.tensor(label), len(p)).to(p)
        total = total + share * (residual.outer(mean) + jacobian @ weight * variance)
    return total


def noise(*shape, key):
    return torch.randn(*shape, generator=generator(0, key), dtype=torch.float64)


class Problem:
    """A small smooth network, a real set, and a synthetic one with a step of its own images in each of N steps."""

    def __init__(self):
        with scoped(0, "net"):
            net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 16, NUM_CLASSES)).double()
        self.flat = FlatModel(net)
        self.start = self.flat.vector()
        self.real, self.real_labels = noise(24, 1, 6, 6, key="real"), torch.arange(24) % NUM_CLASSES
        self.images, self.labels = noise(NUM_STEPS, 6, 1, 6, 6, key="synthetic"), torch.arange(6) % NUM_CLASSES

    def loss(self, theta, images, labels):
        return F.cross_entropy(self.flat(theta, images), labels)

    def on_real(self, theta):
        return self.loss(theta, self.real, self.real_labels)

    def gradient(self, theta, images, labels, graph=False):
        theta = theta if theta.requires_grad else theta.detach().requires_grad_()
        return torch.autograd.grad(self.loss(theta, images, labels), theta, create_graph=graph)[0]

    def of_real(self, theta):
        return self.gradient(theta, self.real, self.real_labels).detach()

    def points(self, eta, images):
        """θ_0 .. θ_N of N steps on the synthetic images, with their graphs."""
        found = [self.start.clone().requires_grad_()]
        for batch in images:
            found.append(found[-1] - eta * self.gradient(found[-1], batch, self.labels, graph=True))
        return found


def orders(error, etas=(2e-2, 1e-2, 5e-3)):
    """log2 of how much an error shrinks each time its argument is halved."""
    errors = [float(error(eta)) for eta in etas]
    return [float(torch.tensor(a / b).log2()) for a, b in pairwise(errors)]


def test_a_step_changes_the_real_loss_as_the_inner_product_says_but_for_the_second_order():
    problem = Problem()
    of_real, of_synthetic = (
        problem.of_real(problem.start),
        problem.gradient(problem.start, problem.images[0], problem.labels).detach(),
    )

    def error(eta):
        change = problem.on_real(problem.start - eta * of_synthetic) - problem.on_real(problem.start)
        predicted = first_order_change(of_real, of_synthetic, eta)
        assert change.sign() == predicted.sign()
        return (change - predicted).abs()

    assert orders(error) == pytest.approx([2, 2], abs=0.1)


@pytest.mark.parametrize("moving", [True, False], ids=["at the points reached", "at a point of the pool"])
def test_so_does_a_training_of_several_steps(moving):
    problem = Problem()

    def error(eta):
        points = [point.detach() for point in problem.points(eta, problem.images)]
        change = problem.on_real(points[-1]) - problem.on_real(points[0])
        at = points[:-1] if moving else [points[0]] * NUM_STEPS
        terms = [
            first_order_change(problem.of_real(theta), problem.gradient(theta, batch, problem.labels), eta)
            for theta, batch in zip(at, problem.images, strict=True)
        ]
        return (change - torch.stack(terms).sum()).abs()

    assert orders(error) == pytest.approx([2, 2], abs=0.2)


def test_the_images_gradient_through_the_training_is_that_of_the_inner_products_but_for_the_second_order():
    problem = Problem()

    def error(eta):
        images = problem.images.clone().requires_grad_()
        points = problem.points(eta, images)
        (true,) = torch.autograd.grad(problem.on_real(points[-1]), images)
        products = [
            first_order_change(
                problem.of_real(theta), problem.gradient(theta.detach(), batch, problem.labels, True), eta
            )
            for theta, batch in zip(points[:-1], images, strict=True)
        ]
        (first_order,) = torch.autograd.grad(torch.stack(products).sum(), images)
        assert F.cosine_similarity(true.flatten(), first_order.flatten(), dim=0) > 0.99
        return (true - first_order).norm()

    assert orders(error) == pytest.approx([2, 2], abs=0.2)


def features(spread):
    """Features of three classes: each mean, and as far as `spread` to both sides of it along every axis."""
    means = noise(NUM_CLASSES, 5, key="means")
    offsets = spread * noise(NUM_CLASSES, 5, key="offsets").abs()
    apart = torch.cat([torch.diag_embed(offsets), -torch.diag_embed(offsets)], 1)
    return means, apart.square().mean(1), (means[:, None] + apart).flatten(0, 1)


def test_class_wise_means_and_variances_give_a_classifiers_gradient_but_for_higher_moments():
    weight, bias = noise(NUM_CLASSES, 5, key="weight").requires_grad_(), noise(NUM_CLASSES, key="bias")
    shares = torch.full((NUM_CLASSES,), 1 / NUM_CLASSES, dtype=torch.float64)
    labels = torch.arange(NUM_CLASSES).repeat_interleave(10)

    def error(spread):
        means, variances, every = features(spread)
        (true,) = torch.autograd.grad(F.cross_entropy(every @ weight.T + bias, labels), weight)
        return (true - classifier_gradient(weight.detach(), bias, means, variances, shares)).norm()

    assert float(error(0.0)) < 1e-13, "of classes that are a point each, the means say all"
    assert orders(error, (0.2, 0.1, 0.05)) == pytest.approx([4, 4], abs=0.2)


def test_means_alone_leave_an_error_of_the_second_order():
    weight, bias = noise(NUM_CLASSES, 5, key="weight"), noise(NUM_CLASSES, key="bias")
    shares = torch.full((NUM_CLASSES,), 1 / NUM_CLASSES, dtype=torch.float64)

    def error(spread):
        means, variances, _ = features(spread)
        known, ignored = (classifier_gradient(weight, bias, means, v, shares) for v in (variances, 0 * variances))
        return (known - ignored).norm()

    assert orders(error, (0.2, 0.1, 0.05)) == pytest.approx([2, 2], abs=1e-6)
