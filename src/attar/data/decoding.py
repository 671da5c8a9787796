"""One pass over the images of a split: pixels of one size and kind, statistics, a hash, and what is damaged."""

from __future__ import annotations

import hashlib
import os
import statistics
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from attar.data.depth import Span, find_span, values_of
from attar.data.examples import Examples
from attar.data.loading import EVERY_BYTE, Content, LazySplit, MemorySplit, Split
from attar.data.pixelfiles import MappedSplit, PixelCache, PixelFile, name_of
from attar.data.raster import Encoded, Pixels, digest_of, formats, is_deep, size_of, to_pixels
from attar.data.tally import Chunk, DamagedError, Store, Tally, channel_sums
from attar.errors import DataError, ResourceError
from attar.runtime.events import Events
from attar.runtime.seeding import generator
from attar.task import Normalization

_CHUNK = 128
_WORKERS = min(8, os.cpu_count() or 1)
_BAR_FROM = 2000
_PROBED = 500
"""Images of a split whose headers are read before any is decoded, at most."""
SAMPLED = 256
"""Images of which the bytes are hashed where reading all of a split would take long."""
_COMMON_RESOLUTIONS = (8, 16, 28, 32, 64, 96, 128, 160, 224, 256, 384, 512)


@dataclass(frozen=True)
class Form:
    """What every image of a source is brought to.

    `channels` is 1, 3, or None for "1 if all are grey". With `resolution` None the size is left as it is, and
    every image must have it already. `span` is what becomes of images of more than 8 bits, where there are any.
    """

    height_px: int
    width_px: int
    channels: int | None
    resolution: int | None
    span: Span | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of one image as uint8, at most."""
        return self.height_px * self.width_px * (self.channels or 3)


@dataclass(frozen=True)
class Decoded:
    """A split, and what was learnt on the way.

    `normalization` is that of these pixels, `content` a hash of the encoded images and their labels, `skipped`
    names the images that couldn't be read.
    """

    split: Split
    form: Form
    normalization: Normalization
    content: Content
    skipped: list[str]


def choose_form(examples: Examples, indices: Tensor, resolution: int | None) -> Form:
    """Find the size that images have, by the headers of some of them; and where these have more than 8 bits, the span
    of values of all.

    Raises DataError where sizes differ and no resolution is given.
    """
    read = examples.open()
    sizes: Counter[tuple[int, int]] = Counter()
    problem: DataError | None = None
    deep = False
    for index in _probed(indices):
        try:
            data = read(index)
            sizes[size_of(data)] += 1
            deep = deep or is_deep(data)
        except Exception as error:  # as in _Reader.one
            problem = problem or _damaged(examples.name(index), error)
    span = find_span(read, indices, _WORKERS) if deep else None
    if resolution is not None:
        return Form(resolution, resolution, None, resolution, span)
    if not sizes:
        raise problem or DataError("no images to find a size from")
    if len(sizes) > 1:
        raise _mixed(sizes)
    ((height, width),) = sizes
    return Form(height, width, None, None, span)


def require_size(examples: Examples, indices: Tensor, form: Form) -> None:
    """Raise DataError where one of the images that are probed has another size than the form; damaged ones pass."""
    read, wanted = examples.open(), (form.height_px, form.width_px)
    for index in _probed(indices):
        found = wanted
        with suppress(Exception):  # as in _Reader.one, which tells of it
            found = size_of(read(index))
        if found != wanted:
            raise _mixed(Counter([wanted, found]), examples.name(index))


def decode(
    examples: Examples,
    indices: Tensor,
    form: Form,
    *,
    known: Normalization | None = None,
    memory_bytes: int,
    skip_corrupt: bool,
    events: Events,
    title: str,
    cache: PixelCache | None = None,
) -> Decoded:
    """Decode these images once: into memory where they fit, else into `cache`, else only to learn their statistics.

    Where the normalisation is `known` and they don't fit there is nothing to learn, and none is decoded before it is
    needed (a million photographs take half an hour) unless `skip_corrupt` asks for the damaged ones. The content is
    then known by names, sizes and the bytes of some images, in either case.
    Raises DataError for an image that can't be read (unless `skip_corrupt`) or has another size.
    """
    if known is not None:
        form = replace(form, channels=len(known.mean))
    reader = _Reader(examples, examples.open(), form)
    most_bytes = len(indices) * form.size_bytes
    fits = most_bytes <= memory_bytes
    if fits or (cache and most_bytes > cache.most_bytes):
        cache = None
    if known is not None and not fits and not skip_corrupt and cache is None:
        return _undecoded(reader, indices, known)
    shown = events if len(indices) > _BAR_FROM else Events(quiet=True)
    run = partial(_run, reader, indices, skip_corrupt=skip_corrupt, title=title, shown=shown)
    split: Split | None = None
    if cache is not None:
        tally, split = _mapped(reader, indices, known, cache, skip_corrupt, run)
    elif fits:
        tally = run(store := Store(len(indices), form.channels, (form.height_px, form.width_px)))
        split = MemorySplit(store.tensor(), examples.labels[tally.kept])
    else:
        tally = run(None)
    labels, form = examples.labels[tally.kept], replace(form, channels=form.channels or len(tally.sums))
    if split is None:
        split = LazySplit(labels, _Lazy(replace(reader, form=form), tally.kept), workers=_WORKERS)
    if known is not None:
        return Decoded(split, form, known, _sampled(reader, tally.kept), tally.skipped)
    content = Content(tally.digest(labels), EVERY_BYTE)
    return Decoded(split, form, tally.normalization(form.height_px * form.width_px), content, tally.skipped)


class _Pixels(Protocol):
    """Where pixels go."""

    def add(self, pixels: Pixels) -> None:
        """Append pixels (k, c, h, w) of one channel or three."""


def _run(
    reader: _Reader, indices: Tensor, store: _Pixels | None, *, skip_corrupt: bool, title: str, shown: Events
) -> Tally:
    """Decode all images, chunk by chunk, into `store` where there is one."""
    tally = Tally()
    with shown.progress(title, len(indices)) as bar:
        for chunk in _in_threads(reader.chunk, [indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK)]):
            if chunk.damaged and not skip_corrupt:
                raise chunk.damaged[0][1]
            tally.add(chunk)
            if store is not None:
                store.add(chunk.pixels)
            bar.advance(len(chunk.kept) + len(chunk.damaged))
    return tally


def _mapped(
    reader: _Reader,
    indices: Tensor,
    known: Normalization | None,
    cache: PixelCache,
    skip_corrupt: bool,
    run: Callable[[PixelFile], Tally],
) -> tuple[Tally, Split]:
    """Find the pixels of these images in a cache, or decode them into it."""
    content = _sampled(reader, indices).digest if known is not None else _stored(reader, indices)
    of = name_of(content, reader.form, skip_corrupt)
    kept = cache.find(of)
    if kept is None:
        form = reader.form
        with cache.making(of, len(indices) * form.size_bytes, form.channels or 1, f"{len(indices):,} images") as file:
            if file is not None:
                learnt = run(file).learnt(indices, reader.examples.labels)
                file.finish(of, (form.height_px, form.width_px), learnt)
        kept = cache.find(of)
    if kept is None:
        raise ResourceError(f"{cache.folder / of} was removed while it was made", fix="run the command again")
    tally = Tally.of(kept.learnt, indices, reader.examples.name)
    return tally, MappedSplit(kept.path, kept.shape, reader.examples.labels[tally.kept])


def _stored(reader: _Reader, indices: Tensor) -> str:
    """Hash every image as stored, and the labels."""

    def hashed(index: int) -> bytes:
        try:
            return reader.hashed(index)
        except Exception as error:  # as in _Reader.one, which decides what becomes of it
            return repr(error).encode()

    content = hashlib.sha256(reader.examples.labels[indices].numpy().tobytes())
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="decode") as pool:
        for part in indices.split(_CHUNK):
            content.update(b"".join(pool.map(hashed, part.tolist())))
    return content.hexdigest()


def _undecoded(reader: _Reader, indices: Tensor, known: Normalization) -> Decoded:
    split = LazySplit(reader.examples.labels[indices], _Lazy(reader, indices), workers=_WORKERS)
    return Decoded(split, reader.form, known, _sampled(reader, indices), [])


def _sampled(reader: _Reader, indices: Tensor) -> Content:
    """Hash names, sizes, labels, and the bytes of SAMPLED images: the same ones each time, drawn at random.

    Times of files are left out: a copy of the images is the same images.
    """
    examples = reader.examples
    numbers = torch.stack([indices, examples.labels[indices]]).numpy()
    content = hashlib.sha256(examples.listing.encode() + numbers.tobytes())
    places = torch.randperm(len(indices), generator=generator(0, "data", "content"))[:SAMPLED].sort().values
    for index in indices[places].tolist():
        content.update(reader.hashed(index))
    return Content(content.hexdigest(), f"names, sizes and {len(places):,} of {len(indices):,} images")


@dataclass(frozen=True)
class _Reader:
    """Brings images to a form; several threads use it at once."""

    examples: Examples
    read: Callable[[int], Encoded]
    form: Form

    def one(self, index: int) -> tuple[Pixels, bytes]:
        """Decode an image, (h, w) or (h, w, 3), and hash its bytes."""
        try:
            data = self.read(index)
            pixels = to_pixels(data, self.form.resolution, self._shallow if self.form.span else None)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's readers raise nearly everything on damaged files
            raise _damaged(self.examples.name(index), error) from error
        found, wanted = pixels.shape[:2], (self.form.height_px, self.form.width_px)
        if found != wanted:
            raise _mixed(Counter([wanted, found]), self.examples.name(index))
        return pixels, digest_of(data)

    def hashed(self, index: int) -> bytes:
        """Hash an image as stored, which need not be one that can be decoded."""
        try:
            return digest_of(self.read(index))
        except OSError as error:
            raise _damaged(self.examples.name(index), error) from error

    def _shallow(self, data: Encoded) -> Pixels | None:
        values = values_of(data)
        return None if values is None or self.form.span is None else self.form.span.pixels(values)

    def chunk(self, indices: Tensor) -> Chunk:
        """Decode some images, leaving out those that can't be read."""
        kept: list[int] = []
        arrays: list[Pixels] = []
        digests: list[bytes] = []
        damaged: list[tuple[str, DamagedError]] = []
        for index in indices.tolist():
            try:
                pixels, digest = self.one(index)
            except DamagedError as error:
                damaged.append((self.examples.name(index), error))
            else:
                kept.append(index)
                arrays.append(pixels)
                digests.append(digest)
        pixels = self.stack(arrays)
        sums, squares = channel_sums(pixels)
        return Chunk(kept, pixels, sums, squares, digests, damaged)

    def stack(self, arrays: list[Pixels]) -> Pixels:
        """Join images to (k, c, h, w), with one channel where all of them are grey, or as the form says."""
        channels = self.form.channels or (3 if any(array.ndim == 3 for array in arrays) else 1)
        stacked = np.empty((len(arrays), channels, self.form.height_px, self.form.width_px), np.uint8)
        for row, array in zip(stacked, arrays, strict=True):
            if channels == 1 and array.ndim == 3:
                array = np.asarray(Image.fromarray(array).convert("L"))
            row[:] = array.transpose(2, 0, 1) if array.ndim == 3 else array
        return stacked


@dataclass(frozen=True)
class _Lazy:
    """Decodes image i of the kept ones: what a `LazySplit` calls."""

    reader: _Reader
    kept: Tensor

    def __call__(self, place: int) -> Tensor:
        pixels, _ = self.reader.one(int(self.kept[place]))
        return torch.from_numpy(self.reader.stack([pixels])[0])


def _probed(indices: Tensor) -> list[int]:
    every: list[int] = indices[:: max(1, -(-len(indices) // _PROBED))].tolist()
    return every


def _in_threads(work: Callable[[Tensor], Chunk], items: Sequence[Tensor]) -> Iterator[Chunk]:
    """Results in order, of which no more than two for each thread wait for whoever takes them."""
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="decode")
    waiting: deque[Future[Chunk]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * _WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _damaged(name: str, error: Exception) -> DamagedError:
    reason = "it is no image of a known format" if type(error).__name__ == "UnidentifiedImageError" else str(error)
    return DamagedError(
        f"{name} can't be read: {reason or type(error).__name__}",
        expected=f"an image in one of: {', '.join(formats())}",
        fix="mend it, or leave all such images out with --skip-corrupt",
    )


def _mixed(sizes: Counter[tuple[int, int]], name: str = "") -> DataError:
    shown = ", ".join(f"{width}x{height}" for (height, width), _ in sizes.most_common(5))
    more = f" and {len(sizes) - 5} others" if len(sizes) > 5 else ""
    where = f"; {name} is the first that differs" if name else ""
    middle = statistics.median_low(min(size) for size in sizes.elements())
    suggested = max((r for r in _COMMON_RESOLUTIONS if r <= middle), default=middle)
    return DataError(
        f"the images have different sizes: {shown}{more} px{where}",
        expected="images of one size, or a resolution to bring them to",
        fix=f"pass a resolution, for example --resolution {suggested}",
    )
