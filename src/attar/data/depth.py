"""Images of more than 8 bits: 16-bit and float values, and the span of a split's values that becomes 0 to 255.

What such values mean is seldom written down: 12 bits are stored in 16, a thermal camera gives 7,000 to 9,000, a scanner
signed numbers, a network 0 to 1. So the span is found over all training images, and said.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from attar.data.raster import DEEP, Encoded, Pixels, is_deep, opened

Values = NDArray[Any]
_SAMPLED, _FROM_EACH = 4096, 1024
"""Images, and values of each, by which it is found whether few values far off spread the span."""
_TAIL = 0.002
_FAR = 8
"""Tails are cut where the span without them is narrower by more than this factor."""
_USUAL: tuple[tuple[float, float], ...] = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
"""Ranges of float images that people use."""


@dataclass(frozen=True)
class Span:
    """Values `low` to `high` become 0 to 255; what lies outside is cut off. `cut` says that some of the split does."""

    low: float
    high: float
    cut: bool = False

    def pixels(self, values: Values) -> Pixels:
        """Values of any type as uint8, of the same shape."""
        scaled = (values.astype(np.float64) - self.low) * (255 / (self.high - self.low))
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)

    def note(self, where: str) -> str:
        """What a person should hear."""
        cut = f"; the outermost {_TAIL:.1%} at each end, which lie far off, are cut off" if self.cut else ""
        return f"{where}: images of more than 8 bits: values {self.low:g} to {self.high:g} become 0 to 255{cut}"


def values_of(data: Encoded) -> Values | None:
    """Values (h, w) or (h, w, 3) of an image that has more than 8 bits a channel, upright; None of any other.

    Raises whatever Pillow does on a damaged file, and ValueError for values that are not finite.
    """
    if not is_deep(data):
        return None
    if not isinstance(data, bytes):
        values: Values = data
    else:
        image = opened(data)
        values = _joined(data, image) if image.mode in DEEP else np.asarray(ImageOps.exif_transpose(image))
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("it holds values that are no finite numbers")
    if values.ndim == 3 and values.shape[2] == 4:
        if (values[..., 3] != np.iinfo(values.dtype).max).any():
            return None  # laid on white, which has no value before the span is known
        values = values[..., :3]
    return values


def find_span(read: Callable[[int], Encoded], indices: Tensor, workers: int) -> Span | None:
    """The span of all values of more than 8 bits in these images; None where there are none, or none can be read."""
    stride = -(-len(indices) // _SAMPLED)

    def one(place: int) -> tuple[float, float, bool, Values] | None:
        try:
            values = values_of(read(int(indices[place])))
        except MemoryError:
            raise
        except Exception:  # told when it is decoded
            return None
        if values is None or not values.size:
            return None
        flat = values.reshape(-1)
        some = flat[:: -(-len(flat) // _FROM_EACH)] if place % stride == 0 else flat[:0]
        return float(flat.min()), float(flat.max()), values.dtype.kind == "f", some.astype(np.float64)

    with ThreadPoolExecutor(workers, thread_name_prefix="depth") as pool:
        found = [one for one in pool.map(one, range(len(indices))) if one is not None]
    if not found:
        return None
    low, high = min(one[0] for one in found), max(one[1] for one in found)
    near, far = np.quantile(np.concatenate([one[3] for one in found]), [_TAIL, 1 - _TAIL]).tolist()
    if far > near and (far - near) * _FAR < high - low:
        return Span(near, far, cut=True)
    return Span(*_rounded(low, high, any(one[2] for one in found)))


def _rounded(low: float, high: float, real: bool) -> tuple[float, float]:
    """The usual range that these values fill at least half of, else their own."""
    bits = (0.0, 2.0 ** int(max(high, 1)).bit_length() - 1)
    for first, last in _USUAL if real else (bits,):
        if first <= low and high <= last and 2 * (high - low) >= last - first:
            return first, last
    return low, high if high > low else low + 1


def _joined(data: bytes, image: Image.Image) -> Values:
    """Colour of 16 bits, of which Pillow gives the upper bytes, and the lower where it takes their order as swapped."""
    upper = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
    other: Any = opened(data)
    other.tile = [tile._replace(args=_swapped(tile.args)) for tile in other.tile]
    lower = np.asarray(ImageOps.exif_transpose(other))
    joined: Values = (upper << 8) | lower
    return joined


def _swapped(args: object) -> object:
    if isinstance(args, tuple):
        return (_swapped(args[0]), *args[1:])
    mode, _, order = str(args).partition(";")
    native = "L" if sys.byteorder == "little" else "B"
    stored = order.removeprefix("16").replace("N", native)
    return f"{mode};16{'B' if stored == 'L' else 'L'}"
