"""DATM's and PAD's parts of trajectory matching: starts, labels, steps not taken, parameters left out."""

import math
from functools import partial

import pytest
import torch

import attar
from attar.errors import ConfigError
from attar.losses.trajectory import Matching
from attar.methods import methods
from attar.methods.aligned import right_logits, right_members
from attar.methods.base import Synthetic
from attar.methods.mtt import unrolled
from attar.methods.tesla import adjoint
from attar.run.settings import resolve
from attar.runtime.seeding import generator
from attar.stages.recover import RecoverSettings, _optimizer
from attar.testing import TASK, MadeUpExperts


class Real:
    labels = torch.arange(3).repeat_interleave(30)

    def __init__(self):
        self.all = torch.randn(90, *TASK.shape, generator=generator(0, "real"))

    def images(self, indices):
        return self.all[indices]


def says(experts, k, images):
    return experts.flat(experts._points[k, experts.num_epochs], images).detach()


def make(name="tesla", ipc=2, **settings):
    kind = methods()[name]
    return kind(kind.Settings(**{"expert_epochs": 1, "num_steps": 2, **settings}), TASK, ipc)


def test_images_that_an_expert_gets_right_come_first_and_none_twice():
    experts, real = MadeUpExperts(), Real()
    right = [says(experts, k, real.all).argmax(1) == real.labels for k in range(2)]
    for ipc in (2, 30):
        labels = torch.arange(3).repeat(ipc)
        chosen = right_members(real, labels, experts, generator(1))
        assert torch.equal(real.labels[chosen], labels)
        assert len(chosen.unique()) == len(chosen)
        for label in range(3):
            mine = chosen[labels == label]
            by_any = [bool(right[0][i] or right[1][i]) for i in mine.tolist()]
            most = int((right[0] | right[1])[real.labels == label].sum())
            assert sum(by_any) == min(most, ipc), "as many as there are"
            assert by_any == sorted(by_any, reverse=True)


def test_labels_are_the_mean_logits_of_those_experts_that_are_right():
    experts, real = MadeUpExperts(), Real()
    otherwise = torch.randn(90, 3, generator=generator(2))
    found = right_logits(real.all, real.labels, experts, otherwise)
    for i in range(90):
        each = [says(experts, k, real.all[i : i + 1])[0] for k in range(2)]
        agree = [logits for logits in each if int(logits.argmax()) == int(real.labels[i])]
        wanted = sum(agree) / len(agree) if agree else otherwise[i]
        assert torch.allclose(found[i], wanted, atol=1e-5)


def test_a_method_begins_so_where_it_is_asked_to():
    method, experts, real = make(start="right", labels="learnt", label_start="expert"), MadeUpExperts(), Real()
    begun = method.init(torch.arange(6), real, experts, partial(generator, 0))
    images = begun.variables["images"]
    chosen = (real.all[None] == images[:, None]).flatten(2).all(2).float().argmax(1)
    assert torch.equal(real.labels[chosen], begun.labels)
    plain = make(start="right", labels="learnt").init(torch.arange(6), real, experts, partial(generator, 0))
    wanted = right_logits(images, begun.labels, experts, plain.variables["label_logits"])
    assert torch.equal(begun.variables["label_logits"], wanted)


def problem(leave_out, num_steps=3):
    rng, size = generator(4), 40
    start, target = (torch.randn(size, dtype=torch.float64, generator=rng) for _ in range(2))
    batches = [torch.arange(4)] * num_steps

    def loss(theta, images, targets):
        return ((torch.tanh(images.flatten(1) @ theta.view(20, 2)) - targets) ** 2).mean()

    return Matching(start, target, batches, loss, lambda i, x: x, leave_out)


def given():
    rng = generator(5)
    images = torch.randn(4, 1, 4, 5, dtype=torch.float64, generator=rng)
    return images, torch.randn(4, 2, dtype=torch.float64, generator=rng), torch.tensor(0.4, dtype=torch.float64)


@pytest.mark.parametrize("leave_out", [0.0, 0.3, 0.5])
def test_what_is_left_out_are_the_smallest_errors_in_both_sums(leave_out):
    matching, theta = problem(leave_out), torch.randn(40, dtype=torch.float64, generator=generator(6))
    errors = (theta - matching.target).square()
    kept = errors.sort()[1][int(leave_out * 40) :]
    wanted = errors[kept].sum() / (matching.start - matching.target).square()[kept].sum()
    assert torch.allclose(matching.distance(theta), wanted)
    leaf = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(matching.distance(leaf), leaf)
    assert torch.allclose(matching.distance_gradient(theta), gradient)
    assert int((gradient == 0).sum()) == int(leave_out * 40)


@pytest.mark.parametrize("leave_out", [0.0, 0.5])
def test_the_adjoint_is_the_unrolled_gradient_with_parameters_left_out(leave_out):
    found, wanted = adjoint(problem(leave_out), *given()), unrolled(problem(leave_out), *given())
    for name in ("loss", "images", "targets", "rate"):
        assert torch.allclose(getattr(found, name), getattr(wanted, name), rtol=1e-10, atol=1e-12), name


def test_the_settings_reach_the_loss():
    losses = {}
    for leave_out in (0.0, 0.5):
        method = make(leave_out=leave_out)
        state = Synthetic(method.labels(), {"images": Real().all[:6], "log_rate": torch.tensor(math.log(0.1))})
        _, metrics = method.gradient(state, torch.arange(6), Real(), MadeUpExperts(), generator(1))
        losses[leave_out] = metrics["loss"]
    assert losses[0.0] != losses[0.5]


def test_a_step_with_a_loss_above_the_limit_is_not_taken(tmp_path):
    how = {
        "source.train_per_class": 12,
        "squeeze.model": "convnet-d2-w8",
        "squeeze.num_experts": 2,
        "squeeze.epochs": 2,
        "method.expert_epochs": 1,
        "method.num_steps": 2,
        "method.max_start_epoch": 1,
        "method.lr_images": 5,
        "recover.iterations": 3,
        "recover.num_snapshots": 0,
    }
    images = {}
    for limit in (1e-6, 1e6):
        out, settings = tmp_path / f"{limit}", {**how, "method.max_loss": limit}
        made = attar.distill("digits", "tesla", 1, recipe="none", out=out, settings=settings, until="relabel")
        images[limit] = made.load().images[torch.arange(10)]
    begun = attar.distill(
        "digits",
        "tesla",
        1,
        recipe="none",
        out=tmp_path / "begun",
        settings={**how, "recover.iterations": 0},
        until="relabel",
    )
    first = begun.load().images[torch.arange(10)]
    assert torch.equal(images[1e-6], first)
    assert not torch.equal(images[1e6], first)


def test_a_limit_and_several_draws_do_not_go_together():
    given = {"run": {"source": "digits", "method": "tesla"}}
    with pytest.raises(ConfigError, match="draws_per_step must be 1"):
        resolve(given, ["method.max_loss=1", "recover.draws_per_step=2"])


def test_labels_may_have_a_momentum_of_their_own():
    method = make(labels="learnt", label_momentum=0.9)
    variables = {name: torch.zeros(1) for name in ("images", "log_rate", "label_logits")}
    optimizer = _optimizer(variables, method.learning_rates(), RecoverSettings(momentum=0.5), method.momenta())
    found = {group["name"]: group["momentum"] for group in optimizer.param_groups}
    assert found == {"images": 0.5, "log_rate": 0.5, "label_logits": 0.9}
