"""Class by class: against plain loops over the classes."""

from functools import partial

import pytest
import torch
from torch import nn

from attar.losses.class_statistics import Grouping, LayerStatistics, Sums, class_distance
from attar.losses.moments import moments
from attar.losses.statistics import Watched
from attar.models.factory import build
from attar.models.norms import batch_norms
from attar.runtime.seeding import generator
from attar.task import Normalization, Task

LABELS = torch.tensor([0, 0, 2, 2, 2, 2, 4])
SHAPES = [(7, 3, 4, 5), (7, 3), (7, 3, 6), (28, 3)]


def noise(*shape, key="x"):
    return torch.randn(*shape, generator=generator(0, key), dtype=torch.float64)


def by_loop(x, labels, label):
    rows = x[labels.repeat_interleave(len(x) // len(labels)) == label].transpose(0, 1).flatten(1)
    return rows.mean(1), rows.var(1, correction=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_are_exact_whatever_the_batches_are(shape):
    x, each = noise(*shape) + 30, shape[0] // 7
    for size in (1, 3, 7):
        sums = Sums(5, 3)
        for first in range(0, 7, size):
            labels = LABELS[first : first + size]
            sums.add(x[first * each : (first + len(labels)) * each], Grouping.of(labels))
        found = sums.statistics()
        rows = x.transpose(0, 1).flatten(1)
        torch.testing.assert_close(found.mean, rows.mean(1).float(), rtol=0, atol=1e-6)
        torch.testing.assert_close(found.var, rows.var(1, correction=0).float(), rtol=1e-6, atol=0)
        for label in (0, 2, 4):
            mean, var = by_loop(x, LABELS, label)
            torch.testing.assert_close(found.class_mean[label], mean.float(), rtol=0, atol=1e-6)
            torch.testing.assert_close(found.class_var[label], var.float(), rtol=1e-6, atol=1e-12)
        assert found.class_mean[[1, 3]].abs().max() == 0, "a class without images"
        assert int(sums.counts.sum()) == x[:, 0].numel()


def test_distance_is_the_mean_over_images_of_that_of_their_class():
    x = noise(7, 3, 4, 4)
    target = LayerStatistics(noise(3), noise(3), noise(5, 3, key="mean"), noise(5, 3, key="var"))
    expected = 0.0
    for label in LABELS.tolist():
        mean, var = by_loop(x, LABELS, label)
        expected += float((mean - target.class_mean[label]).norm() + (var - target.class_var[label]).norm()) / 7
    images = Grouping.of(LABELS)
    assert images.present.tolist() == [0, 2, 4]
    assert images.part(x).tolist() == pytest.approx([2 / 7, 4 / 7, 1 / 7])
    assert float(class_distance(*moments(x, images.sizes), images, target)) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[0, 1, 0], [1, 0], [0, 0, 2, 1]])
def test_images_out_of_the_order_of_their_classes_are_refused(labels):
    with pytest.raises(ValueError, match="order of their classes"):
        Grouping.of(torch.tensor(labels))


def network():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten()).double().eval()
    for norm in (model[0], model[2]):
        norm.running_mean.normal_(generator=generator(0, "running"))
    return model


def test_a_network_is_held_against_its_targets_and_zero_on_the_batch_that_made_them():
    model, x = network(), noise(7, 3, 4, 4)
    layers = []
    for layer in (x, model[1](model[0](x))):
        sums = Sums(5, 3)
        sums.add(layer, Grouping.of(LABELS))
        layers.append(sums.statistics())
    for share in (0.0, 0.5, 1.0):
        assert float(Watched(model, targets=layers)(x, LABELS, share)[1]) < 1e-5
        assert float(Watched(model, targets=layers)(x + 1, LABELS, share)[1]) > 1
    assert float(Watched(model)(x)[1]) > 0.1, "not what it has learnt itself"
    shuffled = x.flip(0)
    watched = Watched(model, targets=layers)
    assert float(watched(shuffled, LABELS, 0.0)[1]) < 1e-5, "all images are the same mixture"
    half, whole = (float(watched(shuffled, LABELS, share)[1]) for share in (0.5, 1.0))
    assert half == pytest.approx(whole / 2, rel=1e-4)
    assert whole > 0.1


def plain_loss(model, x, labels, share, targets):
    """R of a network whose BatchNorms are watched by hooks, one plain formula for each class and layer."""
    terms = []

    def distance(rows, mean, var):
        rows = rows.transpose(0, 1).flatten(1)
        return (rows.mean(1) - mean).norm() + (rows.var(1, correction=0) - var).norm()

    def look(_, args):
        target, each = targets[len(terms)], labels.repeat_interleave(len(args[0]) // len(labels))
        of_class = sum(
            (labels == label).double().mean()
            * distance(args[0][each == label], target.class_mean[label], target.class_var[label])
            for label in labels.unique()
        )
        terms.append((1 - share) * distance(args[0], target.mean, target.var) + share * of_class)

    hooks = [norm.register_forward_pre_hook(look) for norm in batch_norms(model)]
    model(x)
    for hook in hooks:
        hook.remove()
    return torch.stack(terms).sum()


@pytest.mark.parametrize("on_cpu", [True, False])
@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("name", ["convnet-d2-w8-batch", "bnvit-d1-w8-p4"])
@pytest.mark.parametrize("at_once", [None, 1, 3, 5])
def test_same_loss_and_gradient_as_plain_formulas_of_a_network(name, share, on_cpu, at_once, monkeypatch):
    monkeypatch.setattr("attar.losses.moments.on_cpu", lambda _: on_cpu)
    model = build(name, Task(tuple("abcde"), 3, 8, 8, Normalization((0.5,) * 3, (0.25,) * 3))).double().eval()
    targets = [
        LayerStatistics(noise(c), noise(c), noise(5, c, key="mean"), noise(5, c, key="var"))
        for c in (len(norm.running_mean) for norm in batch_norms(model))
    ]
    found = []
    for loss in (
        lambda x: Watched(model, targets=targets, at_once=at_once)(x, LABELS, share)[1],
        lambda x: plain_loss(model, x, LABELS, share, targets),
    ):
        x = noise(7, 3, 8, 8).requires_grad_()
        found.append((loss(x), *torch.autograd.grad(loss(x), x)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-10)


def test_classes_apart_keep_no_more_for_the_backward_pass_than_all_together():
    model, kept = network().float(), {}
    targets = [LayerStatistics(torch.zeros(3), torch.ones(3), torch.zeros(5, 3), torch.ones(5, 3))] * 2
    x = noise(7, 3, 16, 16).float()
    for share in (0.0, 1.0):
        held = {}
        keep = partial(lambda held, t: held.setdefault(t.untyped_storage().data_ptr(), t), held)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = Watched(model, targets=targets)(x.clone().requires_grad_(), LABELS, share)[1]
        kept[share] = sum(t.numel() for t in held.values())
        loss.backward()
    assert x.numel() < kept[1.0] < kept[0.0] + x.numel() / 4


def test_the_scale_is_that_of_the_targets_and_they_must_be_as_many_as_the_layers():
    model = network()
    targets = [
        LayerStatistics(torch.zeros(3), torch.tensor([4.0, 0, 0])),
        LayerStatistics(torch.zeros(3), torch.zeros(3)),
    ]
    assert Watched(model, first_weight=10.0, targets=targets).scale() == pytest.approx(60)
    with pytest.raises(ValueError, match="zip"):
        Watched(model, targets=targets[:1])
