"""The centre of enlarged images, against Pillow's and torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import functional as TF

from attar.data.centred import CentredSplit
from attar.data.loading import MemorySplit
from attar.runtime.seeding import generator


@pytest.mark.parametrize(("height", "width", "side"), [(64, 64, 72), (32, 32, 37), (20, 30, 25)])
def test_it_is_resize_and_centre_crop_of_torchvision(height: int, width: int, side: int) -> None:
    pixels = torch.randint(256, (5, 3, height, width), generator=generator(0), dtype=torch.uint8)
    split = CentredSplit(MemorySplit(pixels, torch.arange(5)), side)
    found = split.pixels(torch.tensor([4, 0, 2]))
    assert (len(split), split.labels.tolist()) == (5, [0, 1, 2, 3, 4])
    for shown, index in zip(found, (4, 0, 2), strict=True):
        whole = TF.resize(TF.to_pil_image(pixels[index]), side)
        theirs = TF.pil_to_tensor(TF.center_crop(whole, [height, width]))
        assert (shown.int() - theirs.int()).abs().max() <= 1, "Pillow rounds in between"


def test_as_large_as_they_are_is_as_they_are_and_smaller_is_refused() -> None:
    pixels = torch.randint(256, (2, 1, 8, 9), generator=generator(1), dtype=torch.uint8)
    split = MemorySplit(pixels, torch.arange(2))
    assert torch.equal(CentredSplit(split, 8).pixels(torch.arange(2)), pixels)
    with pytest.raises(ValueError, match="8x9 px cannot be enlarged to 7"):
        CentredSplit(split, 7).pixels(torch.arange(2))
