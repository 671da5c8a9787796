"""Every method passes the same battery; a new method is found by itself."""

from functools import partial

import pytest
import torch

from attar.losses.class_statistics import LayerStatistics
from attar.methods import methods
from attar.methods.base import Member, Optimised, Segment
from attar.models.convnet import ConvNet
from attar.models.flat import FlatModel
from attar.runtime import seeding
from attar.task import Normalization, Task

TASK = Task(("a", "b", "c"), 1, 8, 8, Normalization((0.4,), (0.3,)))
IPC = 2


class Real:
    """Three classes of noise around three means."""

    def __init__(self):
        self.labels = torch.arange(3).repeat_interleave(6)
        noise = torch.randn(18, 1, 8, 8, generator=seeding.generator(0, "real"))
        self._images = noise + self.labels.view(-1, 1, 1, 1)

    def images(self, indices):
        return self._images[indices]


class Experts:
    """Two invented experts of three epochs."""

    learning_rate, num_experts, num_epochs = 0.05, 2, 3

    def __init__(self):
        with seeding.scoped(0, "flat"):
            self.flat = FlatModel(ConvNet(3, 1, 8, 8, depth=1, width=4))
        steps = 0.05 * torch.randn(2, 4, self.flat.size, generator=seeding.generator(0, "experts"))
        self._points = self.flat.vector() + steps.cumsum(dim=1)

    def segment(self, expert, first, last):
        assert 0 <= first < last <= self.num_epochs
        return Segment(self._points[expert, first], self._points[expert, last], f"expert {expert}")

    def labeller(self, epochs):
        return Epoch(self.flat, self._points[0, epochs[-1]])


class Epoch:
    """One of these experts as it was after an epoch."""

    def __init__(self, flat, theta):
        self._flat, self._theta = flat, theta

    def logits(self, images):
        return self._flat(self._theta, images).detach()

    def soft_labels(self, images):
        return self.logits(images).softmax(1)


class Teacher:
    def __init__(self):
        with seeding.scoped(0, "teacher"):
            self.model = ConvNet(3, 1, 8, 8, depth=1, width=4, norm="batch").eval()

    def logits(self, images):
        return self.model(images)

    def features(self, images):
        return images.flatten(1)[:, ::3]

    def soft_labels(self, images):
        return images.flatten(1)[:, :3].softmax(1)


class Pool(Teacher):
    """Three copies of the teacher, each with statistics of its own."""

    num_members, num_in_memory = 3, 2

    def member(self, k, classes=False):
        noise = torch.rand(4, 4, generator=seeding.generator(k, "statistics"))
        of_class = (noise[2].expand(3, 4), noise[3].expand(3, 4)) if classes else ()
        return Member(self.model, (LayerStatistics(noise[0], noise[1], *of_class),))


KNOWLEDGE = {"none": lambda: None, "teacher": Teacher, "pool": Pool, "trajectories": Experts}
EXTRA = {
    "tesla": [{}, {"gradient": "published"}, {"labels": "expert"}, {"labels": "learnt"}, {"start": "noise"}],
    "teddy": [{}, {"class_share": 0.5}, {"start": "real"}, {"pick": "strong_to_weak", "members": [0, -1]}],
}
CASES = [
    pytest.param(kind, extra, id="-".join([name, *map(str, extra.values())]))
    for name, kind in methods().items()
    for extra in EXTRA.get(name, [{}])
]

ITERATIVE = [case for case in CASES if issubclass(case.values[0], Optimised)]


def make(kind, extra):
    settings = kind.Settings(**{**({"expert_epochs": 1} if kind.knowledge == "trajectories" else {}), **extra})
    return kind(settings, TASK, IPC), KNOWLEDGE[kind.needs(settings)]()


def begin(method, knowledge, seed=0):
    return method.init(torch.arange(len(method.labels())), Real(), knowledge, partial(seeding.generator, seed))


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_init_gives_balanced_finite_images_by_the_generator_alone(kind, extra):
    method, knowledge = make(kind, extra)
    found = [begin(method, knowledge, seed) for seed in (0, 0)]
    assert found[0].labels.bincount().tolist() == [IPC] * 3
    assert found[0].labels[:3].tolist() == [0, 1, 2]
    images = found[0].variables["images"]
    assert images.shape == (6, 1, 8, 8)
    assert images.isfinite().all()
    assert all(torch.equal(found[1].variables[name], value) for name, value in found[0].variables.items())


SEPARABLE = [case for case in CASES if case.values[0].separable]


@pytest.mark.parametrize(("kind", "extra"), SEPARABLE)
def test_a_chunk_begins_as_its_part_of_the_whole(kind, extra):
    method, knowledge = make(kind, extra)
    rngs = partial(seeding.generator, 0)
    whole = method.init(torch.arange(6), Real(), knowledge, rngs)
    fresh, _ = make(kind, extra)
    part = fresh.init(torch.arange(2, 5), Real(), knowledge, rngs)
    assert torch.equal(part.labels, whole.labels[2:5])
    assert torch.equal(part.variables["images"], whole.variables["images"][2:5])


@pytest.mark.parametrize(("kind", "extra"), ITERATIVE)
def test_gradient_is_finite_repeatable_and_leaves_the_state_alone(kind, extra):
    method, knowledge = make(kind, extra)
    synthetic = begin(method, knowledge)
    before = {name: value.clone() for name, value in synthetic.variables.items()}
    picked = torch.arange(len(synthetic.labels))
    found = [method.gradient(synthetic, picked, Real(), knowledge, seeding.generator(1)) for _ in range(2)]
    gradients, metrics = found[0]
    assert "loss" in metrics
    assert set(gradients) == set(synthetic.variables) <= set(method.learning_rates())
    for name, value in gradients.items():
        assert value.shape == synthetic.variables[name].shape
        assert value.isfinite().all()
        assert torch.equal(value, found[1][0][name])
        assert torch.equal(synthetic.variables[name], before[name])


@pytest.mark.parametrize(("kind", "extra"), CASES)
def test_finish_hands_over_plain_tensors(kind, extra):
    method, knowledge = make(kind, extra)
    synthetic = begin(method, knowledge)
    done = method.finish(synthetic, knowledge)
    assert done.images.dtype == torch.float32
    assert done.images.shape == (6, 1, 8, 8)
    assert not done.images.requires_grad
    assert done.labels.dtype == torch.int64
    if done.soft_labels is not None:
        assert done.soft_labels.shape == (6, 3)
        assert torch.allclose(done.soft_labels.sum(1), torch.ones(6))
    labeller = kind.labeller(method.settings, knowledge)
    if labeller is not None:
        assert torch.equal(done.soft_labels, labeller.soft_labels(done.images)), "who is named made the labels"
    if "log_rate" in synthetic.variables:
        assert done.learning_rate == pytest.approx(Experts.learning_rate)


@pytest.mark.parametrize(("kind", "extra"), ITERATIVE)
def test_what_is_decoded_is_an_image_for_each_label_and_has_a_gradient(kind, extra):
    method, knowledge = make(kind, extra)
    synthetic = begin(method, knowledge)
    for value in synthetic.variables.values():
        value.requires_grad_()
    images = method.decode(synthetic)
    assert images.shape == (len(synthetic.labels), *TASK.shape)
    found = torch.autograd.grad(images.square().sum(), list(synthetic.variables.values()), allow_unused=True)
    assert any(value is not None and bool((value != 0).any()) for value in found)


@pytest.mark.parametrize("kind", methods().values())
def test_every_setting_is_explained(kind):
    from attar.config import options

    assert kind.summary
    assert kind.source or kind.name == "random", "a method has a paper"
    for option in options(kind.Settings):
        assert len(option.meaning) > 10, option.name


def test_learnt_labels_get_the_gradient_through_the_softmax():
    from attar.methods.trajectory import _through_softmax

    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 3, dtype=torch.float64)
    (wanted,) = torch.autograd.grad((logits.softmax(1) * weights).sum(), logits)
    assert torch.allclose(_through_softmax(logits.detach().softmax(1), weights), wanted)


def test_lossless_keeps_pixels_valid():
    kind = methods()["tesla"]
    method, knowledge = make(kind, {"lossless": True})
    synthetic = begin(method, knowledge)
    synthetic.variables["images"].mul_(50)
    method.project(synthetic)
    pixels = TASK.normalization.pixels(synthetic.variables["images"])
    assert -1e-6 <= float(pixels.min()) < float(pixels.max()) <= 1 + 1e-6


def test_batches_pass_through_all_images_before_any_comes_again():
    from attar.methods.trajectory import epochs_of_batches

    picked = torch.arange(10)
    batches = epochs_of_batches(picked, 3, 8, seeding.generator(0))
    assert len(batches) == 8
    assert sorted(torch.cat(batches[:4]).tolist()) == list(range(10))
    assert epochs_of_batches(picked, None, 2, seeding.generator(0))[1] is picked
