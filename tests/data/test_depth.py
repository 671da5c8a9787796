"""Images of more than 8 bits: what becomes of their values, from files to pixels."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attar.data.depth import Span, find_span, values_of
from attar.data.raster import is_deep, to_pixels
from attar.data.sources import SourceSettings, open_source
from attar.errors import DataError
from attar.runtime.events import Events


def encoded(values: Any, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind)
    return stream.getvalue()


def png16(values: Any) -> bytes:
    """Colour of 16 bits (h, w, 3 or 4), which Pillow can't write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    head = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 6, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff16(values: Any, order: str, compressed: bool) -> bytes:
    """The same as TIFF, its numbers in either order."""
    height, width, _ = values.shape
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compressed else data
    fields = {256: width, 257: height, 258: None, 259: 8 if compressed else 1, 262: 2, 273: None, 277: 3}
    fields |= {278: height, 279: len(data), 284: 1}
    bits_at = 8 + 2 + 12 * len(fields) + 4
    made = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(fields))
    for tag, value in fields.items():
        if tag == 258:
            made += struct.pack(f"{order}HHII", tag, 3, 3, bits_at)
        else:
            made += struct.pack(f"{order}HHII", tag, 4, 1, bits_at + 6 if value is None else value)
    return made + struct.pack(f"{order}IHHH", 0, 16, 16, 16) + data


COLOUR = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)


@pytest.mark.parametrize(
    "data",
    [png16(COLOUR), png16(np.dstack([COLOUR, np.full((5, 7), 65535)]))]
    + [tiff16(COLOUR, order, compressed) for order in "<>" for compressed in (False, True)],
)
def test_all_bits_of_colour_are_read(data: bytes) -> None:
    assert is_deep(data)
    values = values_of(data)
    assert values is not None
    assert np.array_equal(values, COLOUR)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_all_bits_of_grey_are_read(dtype: Any) -> None:
    grey = (np.arange(20).reshape(4, 5) * 300 - (500 if dtype != np.uint16 else 0)).astype(dtype)
    data = encoded(grey, "TIFF")
    assert is_deep(data)
    assert np.array_equal(values_of(data), grey)  # type: ignore[arg-type]


def test_images_of_8_bits_are_left_as_they_are() -> None:
    for values in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool)):
        data = encoded(values)
        assert not is_deep(data)
        assert values_of(data) is None


def span_over(*images: Any) -> Span | None:
    return find_span(lambda i: images[i], torch.arange(len(images)), 2)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "expected"),
    [
        (np.uint16, 0, 4095, (0, 4095)),  # 12 bits in 16
        (np.uint16, 90, 4000, (0, 4095)),
        (np.uint16, 0, 65535, (0, 65535)),
        (np.uint16, 7000, 9000, (7000, 9000)),  # a thermal camera: 0 to 65535 would leave 8 levels
        (np.int32, -1024, 3000, (-1024, 3000)),  # a scanner
        (np.float32, 0, 0.9, (0, 1)),
        (np.float32, -1, 0.7, (-1, 1)),
        (np.float32, 0, 254, (0, 255)),
        (np.float32, 0, 0.01, (0, 0.01)),
        (np.float32, 5, 5, (5, 6)),
    ],
)
def test_the_span_is_that_of_the_split(dtype: Any, low: float, high: float, expected: tuple[float, float]) -> None:
    values = np.linspace(low, high, 64).reshape(8, 8).astype(dtype)
    span = span_over(values[:4], values[4:], np.zeros((4, 8), np.uint8))
    assert span is not None
    assert (span.low, span.high) == pytest.approx(expected)
    assert not span.cut
    if high - low > 64 or dtype == np.float32:
        assert len(np.unique(span.pixels(values))) >= min(len(np.unique(values)), 57)


def test_a_hot_pixel_does_not_crush_the_rest() -> None:
    values = np.random.default_rng(0).integers(1000, 2000, (200, 200)).astype(np.uint16)
    values[0, 0] = 65535
    span = span_over(values)
    assert span is not None
    assert span.cut
    assert 1000 <= span.low < span.high <= 2000
    assert "cut off" in span.note("x")
    assert len(np.unique(span.pixels(values))) > 200


def test_there_is_no_span_without_deep_images() -> None:
    assert span_over(np.zeros((4, 4), np.uint8), b"no image") is None


@pytest.fixture
def thermal(tmp_path: Path) -> Path:
    """Class folders of 16-bit PNGs, all within 7,000 to 9,000."""
    for c, name in enumerate(("cold", "warm")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(10):
            values = np.random.default_rng(10 * c + i).integers(7000 + 1000 * c, 8001 + 1000 * c, (8, 8))
            (tmp_path / "data" / name / f"{i}.png").write_bytes(encoded(values.astype(np.uint16)))
    return tmp_path / "data"


def test_a_source_of_16_bits_keeps_its_levels_and_says_its_span(thermal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Events, "say", lambda self, text: said.append(text))
    source = open_source(str(thermal), SourceSettings(validation_fraction=0))
    pixels = source.train.pixels(torch.arange(len(source.train)))
    assert source.task.channels == 1
    assert len(pixels.unique()) > 200
    means = [pixels[source.train.labels == label].float().mean() for label in (0, 1)]
    assert means[0] < 70
    assert means[1] > 185
    assert any(re.search(r"values 70\d\d to (89|90)\d\d become 0 to 255", text) for text in said)
    lazy = open_source(str(thermal), SourceSettings(validation_fraction=0, memory_gib=0))
    assert torch.equal(lazy.train.pixels(torch.arange(len(source.train))), pixels)
    test = source.test.pixels(torch.arange(len(source.test)))
    assert len(test.unique()) > 100
    assert open_source(str(thermal), SourceSettings(resolution=4)).task.shape == (1, 4, 4)


def test_values_that_are_no_numbers_are_told(thermal: Path) -> None:
    values = np.full((8, 8), np.nan, np.float32)
    (thermal / "cold" / "x.tif").write_bytes(encoded(values, "TIFF"))
    with pytest.raises(DataError, match=r"x\.tif can't be read: it holds values that are no finite numbers"):
        open_source(str(thermal))


def test_eight_bits_among_more_stay_as_they_are(thermal: Path, make_image: Callable[..., bytes]) -> None:
    data = make_image(3, mode="L")
    (thermal / "cold" / "9.png").write_bytes(data)
    source = open_source(str(thermal), SourceSettings(validation_fraction=0))
    every = torch.cat([source.train.pixels(torch.arange(16)), source.test.pixels(torch.arange(4))])
    assert any(np.array_equal(image[0].numpy(), to_pixels(data)) for image in every)
