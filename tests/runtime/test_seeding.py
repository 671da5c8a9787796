import torch
from hypothesis import given
from hypothesis import strategies as st

from attar.runtime import seeding


def test_same_keys_same_stream():
    a = torch.rand(5, generator=seeding.generator(3, "stage", 7))
    assert torch.equal(a, torch.rand(5, generator=seeding.generator(3, "stage", 7)))


@given(st.integers(0, 2**40), st.lists(st.one_of(st.integers(0, 99), st.text(max_size=4)), max_size=3))
def test_derive_fits_a_generator(seed, keys):
    assert 0 <= seeding.derive(seed, *keys) < 2**63


def test_keys_are_told_apart():
    found = {seeding.derive(0, *keys) for keys in [(), ("a",), ("a", "b"), ("ab",), (1,), ("1",), (1, 2), (12,)]}
    assert len(found) == 8


def test_scoped_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    with seeding.scoped(0, "weights"):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with seeding.scoped(0, "weights"):
        assert torch.equal(torch.rand(3), first)
