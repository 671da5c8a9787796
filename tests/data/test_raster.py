import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attar.data import raster
from attar.data.raster import Encoded, formats, size_of, to_pixels


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(height: int = 6, width: int = 8) -> np.ndarray:
    return np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)


def colour(height: int = 6, width: int = 8) -> np.ndarray:
    return np.stack([ramp(height, width), 255 - ramp(height, width), ramp(height, width) // 2], 2)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_grey_stays_grey(kind: str) -> None:
    assert np.array_equal(to_pixels(encoded(Image.fromarray(ramp()), kind)), ramp())


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_colour_stays_as_it_is(kind: str) -> None:
    assert np.array_equal(to_pixels(encoded(Image.fromarray(colour()), kind)), colour())


def test_plain_arrays() -> None:
    assert np.array_equal(to_pixels(ramp()), ramp())
    assert np.array_equal(to_pixels(colour()), colour())
    assert size_of(ramp()) == (6, 8)


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = ramp().astype(np.uint16) * 257
    assert np.array_equal(to_pixels(encoded(Image.fromarray(deep))), ramp())


def test_one_bit() -> None:
    bits = ramp() > 127
    assert np.array_equal(to_pixels(encoded(Image.fromarray(bits))), bits.astype(np.uint8) * 255)


def test_palettes_are_grey_or_colour_by_their_entries() -> None:
    red = Image.fromarray(np.array([[0, 1]], np.uint8), mode="L").convert("P")
    red.putpalette([0, 0, 0, 255, 0, 0])
    assert to_pixels(encoded(red)).tolist() == [[[0, 0, 0], [255, 0, 0]]]
    grey = red.copy()
    grey.putpalette([10, 10, 10, 200, 200, 200])
    assert to_pixels(encoded(grey)).tolist() == [[10, 200]]


def test_transparency_is_laid_on_white() -> None:
    rgba = Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 51]]], np.uint8))
    assert to_pixels(encoded(rgba)).tolist() == [[[255, 0, 0], [255, 255, 255], [204, 204, 204]]]
    la = Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8), mode="LA")
    assert to_pixels(encoded(la)).tolist() == [[7, 255]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="L").convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert to_pixels(encoded(palette, transparency=0)).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_cmyk() -> None:
    image = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    pixels = to_pixels(encoded(image, "TIFF"))
    assert pixels.shape == (2, 2, 3)
    assert pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(orientation: int, turns: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(colour()), exif=exif)
    assert np.array_equal(to_pixels(data), np.rot90(colour(), turns))
    assert size_of(data) == to_pixels(data).shape[:2]


def test_resolution_keeps_the_central_square() -> None:
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 200
    assert np.array_equal(to_pixels(wide, 8), np.full((8, 8), 200))
    assert to_pixels(wide, 4).shape == (4, 4)
    assert np.array_equal(to_pixels(wide.T, 8), np.full((8, 8), 200))


def test_scaling_down_averages() -> None:
    checkers = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    assert abs(to_pixels(checkers, 8).astype(float) - 127.5).max() < 2


def test_a_thin_image_costs_no_memory() -> None:
    assert to_pixels(np.zeros((1, 40_000), np.uint8), 512).shape == (512, 512)


def test_images_above_pillows_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(ramp()))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises((Image.DecompressionBombError, Image.DecompressionBombWarning)):
        to_pixels(data)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_image_of_a_plain_format_is_not_opened(data: Encoded) -> None:
    with pytest.raises(Exception, match=r"."):
        to_pixels(data)


def test_floats_have_no_range() -> None:
    with pytest.raises(ValueError, match="no agreed range"):
        to_pixels(encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"))


def test_formats_that_run_programs_are_not_among_those_read() -> None:
    assert {"JPEG", "PNG"} <= set(formats())
    assert "EPS" not in formats()
    assert Path("x.eps").suffix not in formats()


@pytest.fixture
def by_pillow(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, int | None], np.ndarray]:
    """Decode by Pillow alone."""
    pytest.importorskip("simplejpeg", reason="simplejpeg, the other decoder, is not installed")

    def decode(data: bytes, resolution: int | None = None) -> np.ndarray:
        with monkeypatch.context() as patch:
            patch.setattr(raster, "jpeg_decoder", lambda: None)
            return to_pixels(data, resolution)

    return decode


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_are_the_same_by_either_decoder(
    by_pillow: Callable[..., np.ndarray], subsampling: int, progressive: bool
) -> None:
    rng = np.random.default_rng(subsampling)
    for height, width in ((1, 1), (7, 33), (40, 64)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for kind in (image, image.convert("L")):
            data = encoded(kind, "JPEG", quality=70, subsampling=subsampling, progressive=progressive)
            for resolution in (None, 5):
                assert np.array_equal(to_pixels(data, resolution), by_pillow(data, resolution))


def test_jpegs_that_need_more_than_decoding_are_the_same(by_pillow: Callable[..., np.ndarray]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(colour(16, 24))
    for data in (encoded(image, "JPEG", exif=exif), encoded(image.convert("CMYK"), "JPEG"), encoded(image)):
        assert np.array_equal(to_pixels(data), by_pillow(data))


def test_a_damaged_jpeg_is_the_same_or_has_the_same_error(by_pillow: Callable[..., np.ndarray]) -> None:
    whole = encoded(Image.fromarray(colour(64, 64)), "JPEG")
    for place in range(20, len(whole), 7):
        data = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        results = list[object]()
        for decode in (to_pixels, by_pillow):
            try:
                results.append(decode(data).tolist())
            except (OSError, SyntaxError, ValueError) as error:
                results.append(type(error))
        assert results[0] == results[1]
    with pytest.raises(OSError, match="truncated"):
        to_pixels(whole[:-200])
