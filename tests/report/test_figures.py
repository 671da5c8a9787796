"""Pictures: the pixels that go in come out."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from attar.report.figures import (
    data_uris,
    keeps_bits,
    sheet_columns,
    sheet_uri,
)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def opened(uri: str) -> np.ndarray:
    assert uri.startswith("data:image/webp;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_small_images_keep_their_pixels() -> None:
    pixels = noise(3, 32, 32, 3)
    assert all((opened(uri) == image).all() for uri, image in zip(data_uris(pixels), pixels, strict=True))


def test_one_channel_is_grey() -> None:
    pixels = noise(1, 8, 8, 1)
    assert (opened(data_uris(pixels)[0]) == pixels[0]).all()


def test_many_large_images_are_shrunk() -> None:
    assert opened(data_uris(np.repeat(noise(1, 300, 200, 3), 200, axis=0)[:200])[0]).shape == (111, 74, 3)
    assert opened(data_uris(noise(1, 300, 200, 3))[0]).shape == (300, 200, 3)


def test_small_images_that_are_many_take_little_room() -> None:
    few, many = noise(20, 64, 64, 3), noise(200, 64, 64, 3)
    assert (keeps_bits(few), keeps_bits(many)) == (True, False)
    assert sum(map(len, data_uris(many))) < many.nbytes / 2
    assert opened(data_uris(many)[0]).shape == (64, 64, 3)


def test_the_page_has_an_upper_size_whatever_the_images() -> None:
    for pixels in (noise(240, 32, 32, 3), noise(100, 224, 224, 3)):
        assert sum(map(len, data_uris(pixels))) < 3_000_000


@pytest.mark.parametrize("num", [1, 2, 5, 9])
def test_a_sheet_holds_every_image_in_its_place(num: int) -> None:
    pixels = noise(num, 4, 6, 3)
    sheet, columns = opened(sheet_uri(pixels, lossless=True)), sheet_columns(num)
    for i, image in enumerate(pixels):
        y, x = i // columns * 4, i % columns * 6
        assert (sheet[y : y + 4, x : x + 6] == image).all()
