"""RandAugment in batches against torchvision's, image by image."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from attar.augment import randaugment
from attar.augment.randaugment import NAMES, RandDraw, apply, draw

RNG = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8, generator=RNG)
LEVEL = 12 / 30


def done(name: str, sign: float = 1.0) -> torch.Tensor:
    """Each image changed by one operation at magnitude 12, in uint8."""
    drawn = RandDraw(torch.full((1, 4), NAMES.index(name)), torch.full((1, 4), sign))
    return (apply(PIXELS.float() / 255, drawn, 12) * 255).round().to(torch.uint8)


def theirs(name: str, sign: float = 1.0) -> torch.Tensor:
    strength = sign * LEVEL
    level = 1 + 0.9 * strength
    match name:
        case "auto-contrast":
            return tv.autocontrast(PIXELS)
        case "equalise":
            return tv.equalize(PIXELS)
        case "brightness":
            return tv.adjust_brightness(PIXELS, level)
        case "colour":
            return tv.adjust_saturation(PIXELS, level)
        case "contrast":
            return tv.adjust_contrast(PIXELS, level)
        case "sharpness":
            return tv.adjust_sharpness(PIXELS, level)
        case "posterise":
            return tv.posterize(PIXELS, 8 - round(4 * LEVEL))
        case "solarise":
            return tv.solarize(PIXELS, 255 * (1 - LEVEL))
        case "rotate":
            return tv.rotate(PIXELS, 30 * strength)
        case _:
            return PIXELS


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", ["brightness", "colour", "contrast", "sharpness", "auto-contrast", "equalise"])
def test_colours_are_torchvisions(name: str, sign: float) -> None:
    assert (done(name, sign).int() - theirs(name, sign).int()).abs().max() <= 1


@pytest.mark.parametrize("name", ["identity", "posterise", "solarise"])
def test_levels_are_torchvisions_to_the_bit(name: str) -> None:
    assert torch.equal(done(name), theirs(name))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_rotation_is_torchvisions_but_for_ties(sign: float) -> None:
    same = (done("rotate", sign) == theirs("rotate", sign)).float().mean()
    assert same > 0.97 > (done("rotate", -sign) == theirs("rotate", sign)).float().mean()


@pytest.mark.parametrize("name", ["shear x", "shear y", "translate x", "translate y"])
def test_moves_go_both_ways_and_bring_in_black(name: str) -> None:
    white = torch.ones(1, 3, 16, 16)
    there, back = (
        apply(white, RandDraw(torch.tensor([[NAMES.index(name)]]), torch.tensor([[sign]])), 30) for sign in (1.0, -1.0)
    )
    axis = 3 if name.endswith("x") else 2
    assert 0 < int((there == 0).sum()) < there.numel()
    assert torch.equal(there, back.flip(axis))


def test_an_image_does_not_depend_on_its_batch() -> None:
    drawn = draw(torch.Generator().manual_seed(4), 2, 4)
    pixels = PIXELS.float() / 255
    whole = apply(pixels, drawn, 9)
    one = apply(pixels[2:3], RandDraw(drawn.operation[:, 2:3], drawn.sign[:, 2:3]), 9)
    assert torch.allclose(whole[2:3], one, atol=1e-6)
    assert float(whole.min()) >= 0
    assert float(whole.max()) <= 1


def test_all_operations_are_drawn_and_magnitude_0_changes_little() -> None:
    drawn = draw(torch.Generator().manual_seed(0), 1, 2000)
    assert drawn.operation.unique().tolist() == list(range(14))
    assert drawn.sign.unique().tolist() == [-1, 1]
    assert len(v2.RandAugment()._AUGMENTATION_SPACE) == 14
    changed = [name for name in NAMES if name not in ("auto-contrast", "equalise", "solarise")]
    for name in changed:
        one = RandDraw(torch.full((1, 4), NAMES.index(name)), torch.ones(1, 4))
        assert torch.allclose(apply(PIXELS.float() / 255, one, 0), PIXELS.float() / 255, atol=1e-5)


def test_grey_images_work() -> None:
    assert randaugment.apply(torch.rand(5, 1, 8, 8), draw(torch.Generator(), 3, 5), 9).shape == (5, 1, 8, 8)
