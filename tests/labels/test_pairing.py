from __future__ import annotations

import pytest
import torch

from attar.labels.pairing import paired_epochs

IMAGES = torch.arange(200)


def orders(cycle: int, num_stored: int, seed: int = 0) -> torch.Tensor:
    """Stored epochs (num_stored, 200) in one cycle."""
    first = cycle * num_stored
    return torch.stack([paired_epochs(epoch, IMAGES, num_stored, seed) for epoch in range(first, first + num_stored)])


def test_the_first_cycle_is_plain_replay() -> None:
    assert torch.equal(orders(0, 7), torch.arange(7).unsqueeze(1).expand(7, 200))


@pytest.mark.parametrize("num_stored", [1, 2, 7, 30])
@pytest.mark.parametrize("cycle", [1, 2, 1000])
def test_each_cycle_takes_each_stored_epoch_of_an_image_once(cycle: int, num_stored: int) -> None:
    expected = torch.arange(num_stored).unsqueeze(1).expand(num_stored, 200)
    assert torch.equal(orders(cycle, num_stored).sort(0).values, expected)


def test_it_depends_on_seed_cycle_and_image_and_on_nothing_else() -> None:
    picked = torch.tensor([5, 199, 5])
    assert torch.equal(paired_epochs(23, picked, 10, 1), orders(2, 10, 1)[3, picked])
    assert not torch.equal(orders(1, 10, 0), orders(1, 10, 1))
    assert not torch.equal(orders(1, 10, 0), orders(2, 10, 0))


def test_views_of_later_cycles_meet_anew() -> None:
    """Two images share a stored epoch about once in num_stored, and orders are as good as uniform."""
    found = orders(1, 10)
    same = (found.unsqueeze(2) == found.unsqueeze(1)).float().mean().item()
    assert same == pytest.approx(0.1, abs=0.01)
    counts = torch.stack([(found == stored).float().mean(1) for stored in range(10)])
    assert counts.sub(0.1).abs().max() < 0.09  # four standard deviations of 200 draws
