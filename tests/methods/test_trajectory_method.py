"""The step of tesla and mtt: labels, sub-batches, start epochs, precision, and what is refused."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from attar.config import build
from attar.errors import ArtifactError, ConfigError
from attar.methods import methods, mtt, tesla
from attar.methods.base import Segment, Synthetic
from attar.models.convnet import ConvNet
from attar.models.flat import FlatModel
from attar.run.settings import sections_of
from attar.runtime import seeding
from attar.task import Normalization, Task

TASK = Task(("a", "b", "c"), 2, 8, 8, Normalization((0.4, 0.5), (0.3, 0.2)))
SHORT = {"num_steps": 5, "expert_epochs": 1, "batch_size": 4}


class Experts:
    """Two invented experts of four epochs, which remember what was drawn."""

    learning_rate, num_experts, num_epochs = 0.05, 2, 4

    def __init__(self, dtype=torch.float64, step=0.05):
        with seeding.scoped(0, "flat"):
            self.flat = FlatModel(ConvNet(3, 2, 8, 8, depth=2, width=8))
        steps = step * torch.randn(2, 5, self.flat.size, generator=seeding.generator(0, "experts"))
        self.points = (self.flat.vector() + steps.cumsum(dim=1)).to(dtype)
        self.drawn = []

    def segment(self, expert, first, last):
        assert 0 <= first < last <= self.num_epochs
        self.drawn.append((expert, first))
        return Segment(self.points[expert, first], self.points[expert, last], f"expert {expert}")

    def labeller(self, epochs):
        return Mean(self, epochs)


class Mean:
    """What these experts say after these epochs, on average."""

    def __init__(self, experts, epochs):
        self._experts, self._epochs = experts, epochs

    def soft_labels(self, images):
        found = [says(self._experts, expert, epoch, images) for expert in range(2) for epoch in self._epochs]
        return torch.stack(found).mean(0)


def says(experts, expert, epoch, images):
    return experts.flat(experts.points[expert, epoch], images).detach().softmax(1)


def make(name, **settings):
    kind = methods()[name]
    return kind(kind.Settings(**{**SHORT, **settings}), TASK, 2)


def state(method, dtype=torch.float64):
    rng, labels = seeding.generator(1, "state"), method.labels()
    variables = {
        "images": torch.randn(len(labels), *TASK.shape, generator=rng, dtype=dtype),
        "log_rate": torch.tensor(math.log(0.3), dtype=dtype),
    }
    if method.settings.labels == "learnt":
        variables["label_logits"] = torch.randn(len(labels), 3, generator=rng, dtype=dtype)
    return Synthetic(labels, variables)


def step(method, synthetic, experts=None, key=0, done=0.0):
    rng = seeding.generator(key, "step")
    return method.gradient(synthetic, torch.arange(len(synthetic.labels)), None, experts or Experts(), rng, done)


def cosine(a, b):
    return float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


@pytest.mark.parametrize("batch_size", [None, 4])
@pytest.mark.parametrize("labels", ["hard", "expert", "learnt"])
@pytest.mark.parametrize("gradient", ["exact", "published"])
def test_every_label_mode_and_sub_batch_has_the_gradient_of_the_unrolled_steps(
    gradient, labels, batch_size, monkeypatch
):
    ours = make("tesla", gradient=gradient, labels=labels, batch_size=batch_size)
    reference = make("mtt", labels=labels, batch_size=batch_size)
    monkeypatch.setattr(mtt, "unrolled", partial(mtt.unrolled, detach=gradient == "published"))
    found, metrics = step(ours, state(ours))
    wanted, theirs = step(reference, state(reference))
    assert metrics["loss"] == pytest.approx(theirs["loss"], rel=1e-12)
    assert set(found) == set(wanted) == set(state(ours).variables)
    for name, value in wanted.items():
        assert float((found[name] - value).norm()) < 1e-9 * float(value.norm()), name


@pytest.mark.parametrize("name", ["log_rate", "label_logits", "images"])
def test_the_gradient_is_the_slope_of_the_loss(name):
    method = make("tesla", labels="learnt", augment="none")
    synthetic = state(method)
    direction = torch.randn(synthetic.variables[name].shape, generator=seeding.generator(2), dtype=torch.float64)
    slope = float((step(method, synthetic)[0][name] * direction).sum())
    losses = []
    for sign in (1, -1):
        moved = {**synthetic.variables, name: synthetic.variables[name] + sign * 1e-5 * direction}
        losses.append(step(method, Synthetic(synthetic.labels, moved))[1]["loss"])
    assert slope == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4)


def starts(method, done, num=40):
    experts = Experts(torch.float32)
    for key in range(num):
        method._draw_segment(experts, seeding.generator(key), done)
    return {first for _, first in experts.drawn}


def test_starts_are_drawn_from_the_whole_window_and_only_there():
    assert starts(make("tesla", max_start_epoch=3), 0.0) == {0, 1, 2}
    assert starts(make("tesla", max_start_epoch=3, min_start_epoch=1), 0.0) == {1, 2}
    assert starts(make("tesla", max_start_epoch=9), 0.0) == {0, 1, 2, 3}, "no further than the experts go"


def test_the_window_grows_with_the_iterations_and_then_stays():
    settings = make("tesla", max_start_epoch=10, initial_max_start_epoch=2, min_start_epoch=1, growth=0.8).settings
    lasts = [settings.window(done / 20, num_epochs=50)[1] for done in range(21)]
    assert lasts == sorted(lasts)
    assert (lasts[0], lasts[8], lasts[16], lasts[20]) == (1, 5, 9, 9)
    assert {settings.window(done / 20, 50)[0] for done in range(21)} == {1}
    growing = make("tesla", max_start_epoch=3, initial_max_start_epoch=1)
    assert (starts(growing, 0.0), starts(growing, 0.49), starts(growing, 0.5)) == ({0}, {0, 1}, {0, 1, 2})


def test_without_growth_the_draws_are_those_of_a_fixed_window():
    plain, grown = make("tesla", max_start_epoch=3), make("tesla", max_start_epoch=3, initial_max_start_epoch=1)
    for done in (0.0, 0.5, 1.0):
        found = [step(m, state(m), done=max(done, 0.5))[0]["images"] for m in (plain, grown)]
        assert torch.equal(*found)


WINDOWS = [
    ({}, [1, 2, 3, 4]),
    ({"max_start_epoch": 2}, [1, 2]),
    ({"max_start_epoch": 3, "min_start_epoch": 1}, [2, 3]),
    ({"max_start_epoch": 3, "initial_max_start_epoch": 1}, [1, 2, 3]),
    ({"max_start_epoch": 2, "expert_epochs": 2}, [2, 3]),
]


@pytest.mark.parametrize("name", ["tesla", "mtt"])
@pytest.mark.parametrize(("window", "epochs"), WINDOWS)
def test_what_is_stored_is_the_mean_of_every_target_that_a_step_may_match(name, window, epochs):
    method, experts = make(name, labels="expert", **window), Experts(torch.float32)
    synthetic = state(method, torch.float32)
    stored = method.finish(synthetic, experts).soft_labels
    images = synthetic.variables["images"]
    wanted = sum(says(experts, expert, epoch, images) for expert in range(2) for epoch in epochs) / (2 * len(epochs))
    assert torch.allclose(stored, wanted, atol=1e-6)
    one = says(experts, 0, epochs[-1], images)
    assert (stored - one).abs().max() > 1e-3, "no single one"
    assert {first + method.settings.expert_epochs for first in starts(method, 1.0)} == set(epochs)


@pytest.mark.parametrize("labels", ["hard", "learnt"])
def test_other_labels_are_not_the_experts(labels):
    method, experts = make("tesla", labels=labels), Experts(torch.float32)
    assert method.labeller(method.settings, experts) is None
    soft = method.finish(state(method, torch.float32), experts).soft_labels
    assert (soft is None) == (labels == "hard")


@pytest.mark.parametrize("name", ["tesla", "mtt"])
def test_bf16_changes_the_gradient_little_and_float32_not_at_all(name):
    method, experts = make(name, labels="learnt"), Experts(torch.float32)
    synthetic = state(method, torch.float32)
    plain, _ = step(method, synthetic, experts)
    with torch.autocast("cpu", torch.bfloat16):
        lower, _ = step(method, synthetic, experts)
    for key, value in plain.items():
        assert lower[key].dtype == torch.float32
        assert not torch.equal(lower[key], value), "something ran in bf16"
        assert cosine(lower[key], value) > 0.99, key
    assert all(torch.equal(value, plain[key]) for key, value in step(method, synthetic, experts)[0].items())


def test_in_bf16_the_arithmetic_around_the_network_stays_float32(monkeypatch):
    """λ, θ and the products with them: <g, λ> of a quadratic loss, without any network, is that of float32."""
    method, experts = make("tesla", augment="none"), Experts(torch.float32)
    weights = torch.randn(experts.flat.size, 3 * 1, generator=seeding.generator(3))

    def linear(theta, images):
        return (images.mean() + theta.unsqueeze(0).mul(weights.T).sum(1)).expand(len(images), 3)

    monkeypatch.setattr(experts, "flat", linear)
    plain = step(method, state(method, torch.float32), experts)[0]
    with torch.autocast("cpu", torch.bfloat16):
        lower = step(method, state(method, torch.float32), experts)[0]
    assert torch.equal(plain["log_rate"], lower["log_rate"])


def test_an_expert_that_went_wrong_is_named():
    method, experts = make("tesla"), Experts(torch.float32)
    experts.points[:, 1:] = math.nan
    with pytest.raises(ArtifactError, match=r"expert \d: its parameters are not finite"):
        step(method, state(method, torch.float32), experts)


def test_a_loss_that_stays_far_above_1_is_doubted():
    method = make("tesla")
    assert not method.doubts({"loss": 1.1, "learning_rate": 0.3})
    assert "initial_rate=0.1," in method.doubts({"loss": 7.0, "learning_rate": 0.3})


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"method": {"expert_epochs": 5}}, "no expert goes that far"),
        ({"method": {"min_start_epoch": 3}}, "reach beyond squeeze.epochs=4"),
        ({"method": {"min_start_epoch": 2, "max_start_epoch": 2}}, "must be less than max_start_epoch=2"),
        ({"method": {"max_start_epoch": 2, "initial_max_start_epoch": 3}}, "at most max_start_epoch=2"),
        ({"method": {"min_start_epoch": 1, "initial_max_start_epoch": 1}}, "must be more than min_start_epoch=1"),
        ({"run": {"precision": "16-mixed"}}, "too narrow"),
        ({"method": {"min_start_epoch": 1, "initial_max_start_epoch": 2}}, None),
    ],
)
def test_settings_that_do_not_go_together(settings, complaint):
    tesla = methods()["tesla"]
    values = {"squeeze": {"epochs": 4}, **settings, "run": {"source": "digits", **settings.get("run", {})}}
    sections = build(sections_of(tesla), values)
    problems = tesla.problems(sections["method"], sections)
    assert len(problems) == bool(complaint)
    assert complaint is None or complaint in problems[0]


def test_graphs_are_kept_as_far_as_memory_is_given(monkeypatch):
    kept = []
    adjoint = tesla.adjoint

    def noted(*problem, keep_graphs, **options):
        kept.append(keep_graphs)
        return adjoint(*problem, keep_graphs=keep_graphs, **options)

    monkeypatch.setattr(tesla, "adjoint", noted)
    monkeypatch.setattr(tesla, "graph_bytes", lambda *_: 1000)
    for memory in ("3.9KB", "1B", "1GB"):
        ours = make("tesla", graph_memory=memory)
        step(ours, state(ours))
    assert kept == [3, 0, 1_000_000]


def test_memory_for_graphs_is_a_size():
    with pytest.raises(ConfigError, match=r"method\.graph_memory.*is not a size"):
        build({"method": tesla.TeslaSettings}, {"method": {"graph_memory": "plenty"}})


class Real:
    """Invented real images, six of each class."""

    labels = torch.arange(3).repeat_interleave(6)

    def __init__(self):
        self.all = torch.randn(18, *TASK.shape, generator=seeding.generator(0, "real"))

    def images(self, indices):
        return self.all[indices]


@pytest.mark.parametrize("method", ["tesla", "dm"])
def test_images_begin_as_those_of_the_kmeans_coreset(method):
    def begun(start):
        found = kind(kind.Settings(start=start), TASK, 2).init(picked, real, Experts(), rngs)
        return found.labels, found.variables["images"]

    kind = methods()[method]
    coreset = methods()["kmeans"](methods()["kmeans"].Settings(features="pixels"), TASK, 2)
    rngs, picked, real = partial(seeding.generator, 0, "recover"), torch.arange(6), Real()
    chosen = coreset.init(picked, real, None, rngs)
    labels, images = begun("kmeans")
    assert labels.equal(chosen.labels)
    assert images.equal(chosen.variables["images"])
    assert not images.equal(begun("real")[1])
    some = torch.tensor([4, 1])
    assert coreset.init(some, real, None, rngs).variables["images"].equal(chosen.variables["images"][some])
