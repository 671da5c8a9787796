"""Patches that change places in a view, as RDED shows its students the images that it stitched."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from attar.augment.views import Views, ViewSettings, orders, shuffled
from attar.runtime.seeding import generator

NUM = 64
SHAPE = (3, 16, 16)
IMAGES = torch.randn(NUM, *SHAPE, generator=generator(0, "images"))
EVERY = torch.arange(NUM)


def read(indices: Tensor) -> Tensor:
    return IMAGES[indices]


def make(**settings: object) -> Views:
    return Views(ViewSettings.model_validate({"min_scale": 1, "flip": False, "mix": "none", **settings}), 5, NUM, SHAPE)


def show(views: Views, epoch: int, indices: Tensor = EVERY) -> Tensor:
    return views.apply(read, torch.full_like(indices, epoch), indices)


def arrangements(image: Tensor) -> list[Tensor]:
    """Of four patches those that swapped columns and rows give, the image as it is first."""
    top, bottom = image.chunk(2, 1)
    found = []
    for rows, swap in product(((top, bottom), (bottom, top)), (False, True)):
        halves = torch.cat(rows, 1).chunk(2, 2)
        found.append(torch.cat(halves[::-1] if swap else halves, 2))
    return found


def test_four_patches_are_seen_in_four_orders_each_as_often() -> None:
    views, seen = make(shuffle_patches=2), np.zeros(4)
    for epoch in range(6):
        for image, shown in zip(IMAGES, show(views, epoch), strict=True):
            fits = [torch.allclose(shown, one, atol=1e-4) for one in arrangements(image)]
            assert sum(fits) == 1
            seen += fits
    assert seen.sum() == 6 * NUM
    assert (abs(seen - 96) < 30).all(), "a quarter of 384 each, within 3.5 standard deviations"


def test_what_is_left_over_goes_with_the_last_strip() -> None:
    image = torch.arange(7.0).view(1, 1, 1, 7).repeat(1, 1, 5, 1) + 10 * torch.arange(5.0).view(1, 1, 5, 1)
    moved = shuffled(image, np.array([[1, 0]]), np.array([[2, 0, 1]]))
    assert moved[0, 0, 0].tolist() == [20 + x for x in (4, 5, 6, 0, 1, 2, 3)], "rows 2..4 first, columns 4..6 first"
    assert moved[0, 0, :, 0].tolist() == [24, 34, 44, 4, 14]
    assert torch.equal(shuffled(image, np.array([[0, 1]]), np.array([[0, 1, 2]])), image)
    assert orders(np.array([[0.3, 0.1, 0.2]])).tolist() == [[1, 2, 0]]


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
def test_a_view_has_the_same_bits_alone_and_in_any_batch(mix: str) -> None:
    views = make(mix=mix, shuffle_patches=3, min_scale=0.3, flip=True)
    together = show(views, 2)
    assert torch.equal(together[:7], torch.cat([show(views, 2, EVERY[i : i + 1]) for i in range(7)]))
    assert not torch.equal(together, show(views, 3))


def test_patches_move_before_the_crop_and_nothing_else_is_drawn_otherwise() -> None:
    plain = make(min_scale=0.3, flip=True)
    moving = make(min_scale=0.3, flip=True, shuffle_patches=2)
    for one, other in zip(plain.draw(EVERY, EVERY), moving.draw(EVERY, EVERY), strict=True):
        assert torch.equal(one, other)
    whole = show(make(shuffle_patches=2), 4)
    expected = plain.apply(lambda i: whole[i], torch.full_like(EVERY, 4), EVERY)
    torch.testing.assert_close(show(moving, 4), expected, rtol=0, atol=1e-5)


def test_a_partner_is_shown_with_its_patches_where_they_are() -> None:
    views = make(mix="mixup", shuffle_patches=2)
    drawn, alone = views.draw(torch.full_like(EVERY, 1), EVERY), show(make(shuffle_patches=2), 1)
    share = drawn.share.view(-1, 1, 1, 1)
    torch.testing.assert_close(show(views, 1), share * alone + (1 - share) * alone[drawn.partner], rtol=0, atol=1e-4)


def test_they_are_replayed_from_what_is_stored() -> None:
    views = make(shuffle_patches=2)
    assert views.to_json()["settings"]["shuffle_patches"] == 2
    assert torch.equal(show(Views.from_json(views.to_json()), 9), show(views, 9))
