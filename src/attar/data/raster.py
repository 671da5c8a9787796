"""One encoded image to pixels.

Grey stays grey (1, L, LA, 16-bit, float, grey palettes); every other mode becomes RGB. Transparent pixels are laid
on white. EXIF rotation is applied. Only plain raster formats are opened: nothing that runs an interpreter. Of more than
8 bits see `attar.data.depth`. Ordinary JPEGs are decoded by simplejpeg where it is installed, to the same bits in less
time; whatever it finds odd is left to Pillow.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]
Encoded = bytes | NDArray[Any]
"""One image as stored: the bytes of a file, or an array (h, w) or (h, w, 3): pixels uint8, or values of more bits."""
DEEP = ("RGB", "RGBA")
"""Modes in which Pillow opens colour of 16 bits, of which it gives the upper 8."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""Pillow's names of the formats that are opened."""
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .png .webp .gif .bmp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif".split()  # noqa: SIM905
)
"""Names of image files end so, in any case."""
_ORIENTATION = 0x0112  # the EXIF tag


def to_pixels(
    data: Encoded, resolution: int | None = None, shallow: Callable[[Encoded], Pixels | None] | None = None
) -> Pixels:
    """Decode one image to uint8 (h, w) where it is grey, (h, w, 3) otherwise.

    With a resolution the central square is scaled to it (bicubic, antialiased). `shallow` gives the pixels of images
    of more than 8 bits (None of others); without it 16 bits are taken to fill their range, and floats are refused.
    Raises whatever Pillow does on a damaged file.
    """
    pixels = shallow(data) if shallow is not None else None
    if pixels is None:
        image = opened(data)
        pixels = _fast_jpeg(data, image) if isinstance(data, bytes) else None
    if pixels is None:
        image = plain(image)
    elif resolution is None or pixels.shape[:2] == (resolution, resolution):
        return pixels
    else:
        image = Image.fromarray(pixels)
    if resolution is not None and image.size != (resolution, resolution):
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        square = (left, top, left + side, top + side)
        image = image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=square)
    return np.asarray(image)


def is_deep(data: Encoded) -> bool:
    """Whether an image has more than 8 bits a channel, by its header alone."""
    if not isinstance(data, bytes):
        return data.dtype != np.uint8
    image: Any = opened(data)
    if image.mode in DEEP:
        return any(";16" in str(tile.args) for tile in image.tile)
    return bool(image.mode.startswith("I") or image.mode == "F")


def size_of(data: Encoded) -> tuple[int, int]:
    """Height and width in pixels after rotation, from the header alone."""
    return shown_size(opened(data)) if isinstance(data, bytes) else (data.shape[0], data.shape[1])


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Height and width in pixels of an opened image after rotation; nothing is decoded."""
    turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    return image.size if turned else (image.height, image.width)


def digest_of(data: Encoded) -> bytes:
    """Hash an image as stored."""
    content = data if isinstance(data, bytes) else repr(data.shape).encode() + data.tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()


@functools.cache
def formats() -> tuple[str, ...]:
    """Name the formats that this Pillow can read, of `FORMATS`."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def opened(data: Encoded) -> Image.Image:
    """Open an image, of which only the header is read; raises whatever Pillow does on a damaged one, or a huge one."""
    if not isinstance(data, bytes):
        if data.dtype != np.uint8:
            raise ValueError(f"{data.dtype} values have no agreed range")
        return Image.fromarray(data)
    image = Image.open(io.BytesIO(data), formats=formats())
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:  # where Pillow itself only warns
        raise Image.DecompressionBombError(f"{image.width}x{image.height} px is above the limit of {limit} pixels")
    return image


def is_grey(image: Image.Image) -> bool:
    """Whether an opened image has no colour, whatever its mode."""
    return image.mode.startswith(("1", "L", "I")) or (image.mode == "P" and _grey_palette(image))


def plain(image: Image.Image) -> Image.Image:
    """Bring an opened image to mode L or RGB, upright and opaque; raises whatever Pillow does on a damaged one."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        deep = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("32-bit float images have no agreed range")
    grey = is_grey(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if grey else "RGB")


def _fast_jpeg(data: bytes, image: Image.Image) -> Pixels | None:
    """Pixels of an upright JPEG in grey or RGB; None of other images, and where simplejpeg can't or isn't there."""
    decode = jpeg_decoder()
    if (
        decode is None
        or image.format != "JPEG"
        or image.mode not in ("L", "RGB")
        or image.getexif().get(_ORIENTATION, 1) != 1
    ):
        return None
    grey = image.mode == "L"
    try:
        pixels = decode(data, colorspace="GRAY" if grey else "RGB", strict=True)
    except ValueError:  # damaged, perhaps: Pillow says how
        return None
    return (pixels[..., 0] if grey else pixels) if pixels.shape[:2] == image.size[::-1] else None


@functools.cache
def jpeg_decoder() -> Callable[..., Pixels] | None:
    """simplejpeg's, from bytes to uint8 (h, w, channels); None where it isn't installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    decode: Callable[..., Pixels] = simplejpeg.decode_jpeg
    return decode


def _grey_palette(image: Image.Image) -> bool:
    palette = np.asarray(image.getpalette() or [0, 0, 0]).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())
