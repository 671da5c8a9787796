"""DSA's operations against the formulas of the published strategy, and on grey and whitened images."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attar.augment.operations import OPERATIONS, Augmentation
from attar.data.loading import MemorySplit
from attar.data.whitening import measure_whitening
from attar.runtime.events import Events
from attar.runtime.seeding import generator
from attar.task import Normalization

DSA = ("color", "crop", "cutout", "flip", "scale", "rotate")
NUM, SIZE = 5, 12


def images(channels: int = 3, size: int = SIZE) -> Tensor:
    return torch.randn(NUM, channels, size, size, generator=generator(0, "published"), dtype=torch.float64)


def drawn(name: str, num: int = NUM, *keys: int) -> Tensor:
    return OPERATIONS[name].draw(generator(1, name, *keys), num, (3, SIZE, SIZE))


def turned(batch: Tensor, matrices: Tensor) -> Tensor:
    """As published: corners are the centres of the corner pixels."""
    grid = F.affine_grid(matrices, list(batch.shape), align_corners=True)
    return F.grid_sample(batch, grid, padding_mode="zeros", align_corners=True)


def test_the_strategy_is_six_operations_one_a_draw_all_alike_likely() -> None:
    dsa = Augmentation("dsa")
    assert dsa.names == DSA
    assert dsa.mode == "one"
    chosen = torch.cat([dsa.draw(generator(2, k), 1, (3, 8, 8))["operation"] for k in range(3000)])
    assert chosen.bincount(minlength=6).tolist() == pytest.approx([500] * 6, abs=75)


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_is_brightness_then_saturation_then_contrast(channels: int) -> None:
    batch, draw = images(channels), drawn("color")
    offset, saturation, contrast = draw.double().unbind(1)
    assert bool((offset.abs() <= 0.5).all() and (saturation <= 2).all() and ((contrast - 1).abs() <= 0.5).all())
    for i, image in enumerate(batch):
        bright = image + offset[i]
        mean = bright.mean(0, keepdim=True)
        saturated = (bright - mean) * saturation[i] + mean
        expected = (saturated - saturated.mean()) * contrast[i] + saturated.mean()
        torch.testing.assert_close(OPERATIONS["color"].apply(batch, draw)[i], expected, rtol=1e-12, atol=1e-12)


def test_crops_show_an_eighth_at_most_of_zeros() -> None:
    batch, reach = images(), int(SIZE * 0.125 + 0.5)
    for down in range(-reach, reach + 1):
        padded = F.pad(batch, (reach, reach, reach, reach))
        expected = padded[:, :, reach - down : reach - down + SIZE, reach : reach + SIZE]
        for num in (1, NUM):
            out = OPERATIONS["crop"].apply(batch, torch.tensor([[down, 0]]).expand(num, 2))
            assert torch.equal(out, expected)


@pytest.mark.parametrize("size", [7, 8, 9, 12])
def test_cutout_zeroes_what_clamped_indices_would_wherever_it_lies(size: int) -> None:
    hole = int(size * 0.5 + 0.5)
    last = size - hole % 2  # the last centre that is drawn
    assert int(OPERATIONS["cutout"].draw(generator(3), 500, (1, size, size)).max()) == last
    for row in range(last + 1):
        for column in range(0, last + 1, 3):
            mask = torch.ones(size, size)
            rows, columns = (
                torch.clamp(torch.arange(hole) + c - hole // 2, 0, size - 1).tolist() for c in (row, column)
            )
            for r in rows:
                mask[r, columns] = 0
            out = OPERATIONS["cutout"].apply(torch.ones(1, 1, size, size), torch.tensor([[row, column]]))
            assert torch.equal(out[0, 0], mask)


@pytest.mark.parametrize("num", [1, NUM])
def test_scale_stretches_both_axes_by_their_own_factors(num: int) -> None:
    batch, draw = images(), drawn("scale", num)
    assert bool((draw >= 1 / 1.2).all() and (draw <= 1.2).all())
    matrices = torch.zeros(NUM, 2, 3, dtype=torch.float64)
    matrices[:, 0, 0], matrices[:, 1, 1] = draw.double().expand(NUM, 2).unbind(1)
    torch.testing.assert_close(OPERATIONS["scale"].apply(batch, draw), turned(batch, matrices), rtol=0, atol=1e-10)


@pytest.mark.parametrize("num", [1, NUM])
def test_rotation_is_by_fifteen_degrees_at_most(num: int) -> None:
    batch, draw = images(), drawn("rotate", num)
    assert bool((draw.abs() <= math.radians(15)).all())
    cos, sin = (values.double().expand(NUM) for values in (draw.cos(), draw.sin()))
    zero = torch.zeros(NUM, dtype=torch.float64)
    matrices = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    torch.testing.assert_close(OPERATIONS["rotate"].apply(batch, draw), turned(batch, matrices), rtol=0, atol=1e-10)


def test_one_operation_for_a_batch_whose_images_have_parameters_of_their_own() -> None:
    dsa, batch, seen = Augmentation("dsa"), images(), set()
    for step in range(40):
        draw = dsa.draw(generator(4, step), NUM, (3, SIZE, SIZE), "operation")
        (name,) = draw.keys() - {"operation"}
        assert (len(draw["operation"]), len(draw[name])) == (1, NUM)
        single = [dsa.apply(batch[i : i + 1], {**draw, name: draw[name][i : i + 1]}) for i in range(NUM)]
        torch.testing.assert_close(dsa.apply(batch, draw), torch.cat(single), rtol=1e-10, atol=1e-10)
        seen.add(name)
    assert seen == set(DSA)


@pytest.mark.parametrize("spec", ["dsa", "dsa-noflip", "flip_crop"])
def test_for_a_batch_of_one_all_ways_to_draw_are_the_same(spec: str) -> None:
    augmentation, batch = Augmentation(spec), images()[:1]
    for step in range(12):
        ways = [
            augmentation.draw(generator(5, step), 1, (3, SIZE, SIZE), way) for way in ("batch", "operation", "image")
        ]
        assert all(draw.keys() == ways[0].keys() for draw in ways)
        shown = [augmentation.apply(batch, draw) for draw in ways]
        assert all(torch.equal(one, shown[0]) for one in shown)


@pytest.mark.parametrize("name", DSA)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    batch = images(2, size=8)[:2].requires_grad_()
    for num in (1, 2):
        draw = OPERATIONS[name].draw(generator(6, name), num, (2, 8, 8))
        assert torch.autograd.gradcheck(lambda x, draw=draw: OPERATIONS[name].apply(x, draw), (batch,), fast_mode=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_images_are_augmented_about_the_mean_image(channels: int) -> None:
    pixels = torch.randint(256, (40, channels, 8, 8), generator=generator(7), dtype=torch.uint8)
    whitening = measure_whitening(MemorySplit(pixels, torch.zeros(40)), (channels, 8, 8), 0.1, Events(quiet=True))
    scale = Normalization((0.5,) * channels, (0.25,) * channels, whitening)
    whitened = scale.normalize(pixels[:4])
    for name in DSA:
        one = Augmentation(name)
        draw = one.draw(generator(8, name), 4, (channels, 8, 8))
        out = one.apply(whitened, draw)
        assert torch.equal(out, one.apply(whitened, one.draw(generator(8, name), 4, (channels, 8, 8))))
        assert out.shape == whitened.shape
        assert bool(scale.pixels(out).isfinite().all())
    nothing = torch.zeros_like(whitened)
    for name in ("crop", "cutout", "flip", "scale", "rotate"):  # the mean image stays what it is, whatever comes in
        shown = Augmentation(name).apply(nothing, Augmentation(name).draw(generator(9), 4, (channels, 8, 8)))
        torch.testing.assert_close(scale.pixels(shown), pixels.double().mean(0).div(255).float().expand_as(shown))
