"""Every method passes the battery of `attar.testing`; a new method is found by itself."""

import pytest
import torch

from attar.methods import methods
from attar.runtime import seeding
from attar.testing import TASK, MadeUpExperts, MethodCase, check_explained

EXTRA = {
    "sre2l": [
        {},
        {"parametrisation": "spectrum"},
        {"parametrisation": "spectrum", "start": "real"},
        {"parametrisation": "spectrum", "start": "patches"},
    ],
    "fadrm": [{}, {"start": "real"}],
    "tesla": [{}, {"gradient": "published"}, {"labels": "expert"}, {"labels": "learnt"}, {"start": "noise"}],
    "teddy": [{}, {"class_share": 0.5}, {"start": "real"}, {"pick": "strong_to_weak", "members": [0, -1]}],
}
CASES = [
    pytest.param(check, id="-".join([name, *map(str, extra.values()), check.__name__]))
    for name, kind in methods().items()
    for extra in EXTRA.get(name, [{}])
    for check in MethodCase(kind, extra).checks()
]


@pytest.mark.parametrize("check", CASES)
def test_it_keeps_the_contract(check):
    check()


@pytest.mark.parametrize("kind", methods().values())
def test_it_and_every_setting_is_explained(kind):
    check_explained(kind)


def test_the_learnt_rate_begins_at_the_experts():
    case = MethodCase(methods()["tesla"], {})
    method, knowledge = case.make()
    done = method.finish(case.begin(method, knowledge), knowledge)
    assert done.learning_rate == pytest.approx(MadeUpExperts.learning_rate)


def test_a_method_that_breaks_the_contract_is_found():
    class Forgetful(methods()["random"]):
        def init(self, picked, real, knowledge, rngs):
            made = super().init(picked, real, knowledge, rngs)
            made.variables["images"] = made.variables["images"] + torch.rand(1)
            return made

    with pytest.raises(AssertionError, match="function of the generators"):
        MethodCase(Forgetful, {}).begins_alike()


def test_learnt_labels_get_the_gradient_through_the_softmax():
    from attar.methods.trajectory import _through_softmax

    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 3, dtype=torch.float64)
    (wanted,) = torch.autograd.grad((logits.softmax(1) * weights).sum(), logits)
    assert torch.allclose(_through_softmax(logits.detach().softmax(1), weights), wanted)


@pytest.mark.parametrize("name", ["tesla", "dm"])
def test_lossless_keeps_pixels_valid(name):
    case = MethodCase(methods()[name], {"lossless": True})
    method, knowledge = case.make()
    synthetic = case.begin(method, knowledge)
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
