"""Pictures made of images: data URIs for the page.

Pixels are uint8 (h, w, c), or (n, h, w, c) for many; one channel is grey. Images of at most SMALL_PX are enlarged
as squares and, where they are few enough for LOSSLESS_BYTES, kept without loss; larger ones are photographs to the
eye and stored as such. What is optimised looks like noise, of which no encoder makes little.
"""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from PIL import Image

from attar.report.pictures import Pixels

SMALL_PX = 64
SHEET_TILE_PX = 128
PAGE_PIXELS = 2_500_000
LOSSLESS_BYTES = 1_000_000
STILL_QUALITY, FILM_QUALITY = 82, 70


def data_uris(pixels: Pixels, side_px: int | None = None) -> list[str]:
    """Encode images (n, h, w, c) for `<img src>`, at most `side_px` wide, else near PAGE_PIXELS all together."""
    side_px = side_px or int(math.sqrt(PAGE_PIXELS / max(1, len(pixels))))
    lossless = keeps_bits(pixels)
    return [_data_uri(_shrink(_image(image), side_px), lossless) for image in pixels]


def sheet_uri(pixels: Pixels, *, lossless: bool) -> str:
    """Encode images (k, h, w, c) as one sheet, row by row, `sheet_columns(k)` to a row."""
    tiles = [_shrink(_image(image), SHEET_TILE_PX) for image in pixels]
    columns, (width, height) = sheet_columns(len(tiles)), tiles[0].size
    sheet = Image.new(tiles[0].mode, (columns * width, -(-len(tiles) // columns) * height))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * width, i // columns * height))
    return _data_uri(sheet, lossless, FILM_QUALITY)


def keeps_bits(pixels: Pixels) -> bool:
    """Whether images (..., h, w, c) are stored without loss: small ones that are few."""
    return max(pixels.shape[-3:-1]) <= SMALL_PX and pixels.nbytes <= LOSSLESS_BYTES


def sheet_columns(num: int) -> int:
    """Number of images in a row of a sheet."""
    return math.ceil(math.sqrt(num))


def _image(pixels: Pixels) -> Image.Image:
    channels = pixels.shape[2]
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels < 3 else pixels[:, :, :3]))


def _shrink(image: Image.Image, side_px: int) -> Image.Image:
    limit_px = max(side_px, SMALL_PX)
    if max(image.size) > limit_px:
        image.thumbnail((limit_px, limit_px), Image.Resampling.LANCZOS)
    return image


def _data_uri(image: Image.Image, lossless: bool, quality: int = STILL_QUALITY) -> str:
    data = io.BytesIO()
    if lossless:
        image.save(data, "WEBP", lossless=True, method=2, quality=20)  # of lossless, quality is the effort
    else:
        image.save(data, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
