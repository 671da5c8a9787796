"""The data/ folder: parquet shards in the Hugging Face image layout. Needs no torch.

Columns: `image` (PNG bytes and a null path), `label` (ClassLabel), `image_id` (place in the dataset).
The same images give the same bytes under the same library versions.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from attar.data.columns import UNREADABLE, read_batches
from attar.errors import ArtifactError
from attar.runtime.files import new_file
from attar.text import parse_json

SHARD_BYTES = 400_000_000
"""A shard ends before it grows past this."""
ROWS = 1000
"""Rows that are written together."""
_LEAST_PNG_BYTES = 67
"""Of one grey pixel."""
MODES = {1: "L", 3: "RGB"}
"""Pillow's mode by number of channels."""

Bytes8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_COLUMNS = {"image": _IMAGE, "label": pa.int64(), "image_id": pa.int64()}
_FORMAT: dict[str, Any] = {
    "version": "2.6",
    "compression": {"image.bytes": "none", "image.path": "none", "label": "zstd", "image_id": "zstd"},
    "use_dictionary": False,
    "write_statistics": False,
}


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a shard: pixels uint8 (b, c, h, w), labels (b,), image_ids (b,); and its class names in order."""

    pixels: Bytes8
    labels: Integers
    image_ids: Integers
    class_names: tuple[str, ...]


def quantise(images: Floats, mean: Sequence[float], std: Sequence[float]) -> Bytes8:
    """Turn finite normalised images (n, c, h, w) into 8-bit pixels, clamped and rounded."""
    pixels = images * _column(std) + _column(mean)
    rounded: Bytes8 = np.rint(np.clip(pixels, 0, 1) * np.float32(255)).astype(np.uint8)
    return rounded


def encode_png(pixels: Bytes8) -> bytes:
    """Encode pixels uint8 (c, h, w), c 1 or 3, as a PNG."""
    buffer = io.BytesIO()
    picture(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def picture(pixels: Bytes8) -> Image.Image:
    """Pixels uint8 (c, h, w), c 1 or 3, as a Pillow image."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _decode_png(data: bytes, shape: tuple[int, int, int]) -> Bytes8:
    """Decode a PNG into pixels uint8 of this shape (c, h, w); raises ValueError where it has another."""
    channels, height, width = shape
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if (image.mode, image.size) != (MODES[channels], (width, height)):  # told before anything is decoded
            found = f"{image.mode} of {image.width}x{image.height} px"
            raise ValueError(f"{found} where {MODES[channels]} of {width}x{height} px is due")
        image.load()
        array = np.asarray(image, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def write_shards(folder: Path, pixels: Iterable[Bytes8], labels: Integers, class_names: Sequence[str]) -> list[str]:
    """Write pixels uint8 (c, h, w) of each image, and labels (n,), as data/train-*.parquet; return the names, in order.

    A group of rows is in memory at a time. Raises ValueError where images and labels are not as many.
    """
    schema, first, paths = _schema(class_names), 0, list[Path]()
    for number, groups in groupby(_groups(encode_png(image) for image in pixels), itemgetter(0)):
        paths.append(folder / f"data/train-{number:05d}.parquet")
        with new_file(paths[-1]) as file, pq.ParquetWriter(file, schema, **_FORMAT) as writer:
            for _, pngs in groups:
                ids = range(first, first + len(pngs))
                writer.write_table(_table(schema, pngs, labels[first : ids.stop], ids), ROWS)
                pngs.clear()  # before the next are encoded
                first = ids.stop
    if first != len(labels):
        raise ValueError(f"{first} images with {len(labels)} labels")
    return [_named(path, number, len(paths)) for number, path in enumerate(paths)]


def writing_bytes(num: int, shape: tuple[int, int, int]) -> int:
    """About the most memory that `write_shards` takes for num images (c, h, w): five groups of rows, as measured."""
    return 5 * min(num, ROWS) * math.prod(shape)


def read_shard(path: Path, shape: tuple[int, int, int]) -> Iterator[Block]:
    """Read a shard of images of this shape (c, h, w) block by block; raises ArtifactError that names what is wrong."""
    _, schema = _schema_of(path)
    class_names, first = _class_names(path, schema.metadata or {}), 0
    for rows in _batches(path, list(_COLUMNS)):
        pngs = rows["image"].field("bytes")
        yield Block(
            pixels=_decode_all(path, first, pngs, shape),
            labels=rows["label"].to_numpy(),
            image_ids=rows["image_id"].to_numpy(),
            class_names=class_names,
        )
        first += len(pngs)


def read_labels(path: Path) -> Integers:
    """Read the labels (n,) of a shard, and no image; raises ArtifactError that names what is wrong."""
    _schema_of(path)
    parts = [rows["label"].to_numpy() for rows in _batches(path, ["label"])]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def num_rows(path: Path) -> int:
    """Rows of a shard; raises ArtifactError where it is damaged, or too short to hold as many PNGs as it says."""
    num, _ = _schema_of(path)
    if num * _LEAST_PNG_BYTES > path.stat().st_size:
        raise _damaged(path, f"{num} rows in {path.stat().st_size} bytes", f"{_LEAST_PNG_BYTES} bytes a row or more")
    return num


def _groups(pngs: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Rows that are written together, each with the number of the shard that they are in."""
    number, size, group = 0, 0, list[bytes]()
    for png in pngs:
        full = size > 0 and size + len(png) > SHARD_BYTES
        if full or len(group) == ROWS:
            yield number, group
            group = []
        if full:
            number, size = number + 1, 0
        group.append(png)
        size += len(png)
    yield number, group


def _named(path: Path, number: int, num: int) -> str:
    """Give a shard the name that says how many there are; return that, relative to the dataset's folder."""
    name = f"data/train-{number:05d}-of-{num:05d}.parquet"
    path.rename(path.parent.parent / name)
    return name


def _schema(class_names: Sequence[str]) -> Any:
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
        "image_id": {"dtype": "int64", "_type": "Value"},
    }
    return pa.schema(list(_COLUMNS.items()), metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _table(schema: Any, pngs: list[bytes], labels: Integers, ids: range) -> Any:
    images = [pa.array(pngs, pa.binary()), pa.nulls(len(pngs), pa.string())]
    columns = [
        pa.StructArray.from_arrays(images, fields=list(_IMAGE)),
        pa.array(labels, pa.int64()),
        pa.array(ids, pa.int64()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _schema_of(path: Path) -> tuple[int, Any]:
    """Number of rows, and the schema, which has been looked at."""
    with _telling(path), pq.ParquetFile(path) as file:
        found = {field.name: field.type for field in file.schema_arrow}
        if found != _COLUMNS:
            raise _damaged(path, f"columns {found}", f"columns {_COLUMNS}")
        return int(file.metadata.num_rows), file.schema_arrow


def _batches(path: Path, columns: list[str]) -> Iterator[Any]:
    """Some rows of these columns after the others; no cell is empty."""
    with _telling(path):
        for rows in read_batches(path, columns):
            if any(column.null_count for column in rows.columns):
                raise _damaged(path, "an empty cell", "an image, a label and an id in each row")
            yield rows


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turn what a missing or damaged file makes its reader raise into an ArtifactError."""
    try:
        yield
    except ArtifactError:
        raise
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", fix="fetch the dataset again") from error
    except UNREADABLE as error:
        raise _damaged(path, str(error), "a parquet file") from error


def _class_names(path: Path, metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    try:
        names = parse_json(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        return tuple(str(name) for name in names)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, "no class names in its metadata", "Hugging Face features") from error


def _decode_all(path: Path, first: int, pngs: Any, shape: tuple[int, int, int]) -> Bytes8:
    pixels = np.empty((len(pngs), *shape), np.uint8)
    for row, png in enumerate(pngs):
        try:
            pixels[row] = _decode_png(png.as_py(), shape)
        except Exception as error:  # a hostile PNG may raise nearly anything
            raise _damaged(path, f"the image of row {first + row}: {error}", f"PNGs of shape {shape}") from error
    return pixels


def _damaged(path: Path, found: str, expected: str) -> ArtifactError:
    found = " ".join(found.split())
    return ArtifactError(f"{path.name} is damaged: {found}", expected=expected, fix="fetch the dataset again")


def _column(values: Sequence[float]) -> Floats:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)
