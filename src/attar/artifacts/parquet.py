"""The data/ folder: parquet shards in the Hugging Face image layout. Needs no torch.

Columns: `image` (PNG bytes and a null path), `label` (ClassLabel), `image_id` (place in the dataset).
The same images give the same bytes under the same library versions.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from attar.data.columns import UNREADABLE, read_columns
from attar.errors import ArtifactError
from attar.runtime.files import write_bytes

SHARD_BYTES = 400_000_000
"""A shard ends before it grows past this."""
MODES = {1: "L", 3: "RGB"}
"""Pillow's mode by number of channels."""

Bytes8 = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True, eq=False)
class Shard:
    """One parquet file: pixels uint8 (n, c, h, w), labels (n,), image_ids (n,), class names in order."""

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


def decode_png(data: bytes, shape: tuple[int, int, int]) -> Bytes8:
    """Decode a PNG into pixels uint8 of this shape (c, h, w); raises ValueError where it has another."""
    channels, height, width = shape
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if (image.mode, image.size) != (MODES[channels], (width, height)):  # told before anything is decoded
            found = f"{image.mode} of {image.width}x{image.height} px"
            raise ValueError(f"{found} where {MODES[channels]} of {width}x{height} px is due")
        image.load()
        array = np.asarray(image, dtype=np.uint8)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def write_shards(folder: Path, pixels: Bytes8, labels: Integers, class_names: Sequence[str]) -> list[str]:
    """Write pixels uint8 (n, c, h, w) and labels (n,) as data/train-*.parquet; return the names, in order."""
    pngs = [encode_png(image) for image in pixels]
    pieces = list(_pieces([len(png) for png in pngs]))
    names = [f"data/train-{i:05d}-of-{len(pieces):05d}.parquet" for i in range(len(pieces))]
    for name, piece in zip(names, pieces, strict=True):
        write_bytes(folder / name, _shard_bytes(pngs[piece], labels[piece], piece.start, class_names))
    return names


def read_shard(path: Path, shape: tuple[int, int, int]) -> Shard:
    """Read one shard of images of this shape (c, h, w); raises ArtifactError that names what is wrong."""
    table = _table(path)
    return Shard(
        pixels=_decode_all(path, table["image"].combine_chunks().field("bytes").to_pylist(), shape),
        labels=table["label"].to_numpy(),
        image_ids=table["image_id"].to_numpy(),
        class_names=_class_names(path, table.schema.metadata or {}),
    )


def _shard_bytes(pngs: list[bytes], labels: Integers, first_id: int, class_names: Sequence[str]) -> bytes:
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(class_names), "_type": "ClassLabel"},
        "image_id": {"dtype": "int64", "_type": "Value"},
    }
    schema = pa.schema(
        [("image", _IMAGE), ("label", pa.int64()), ("image_id", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    images = [pa.array(pngs, pa.binary()), pa.nulls(len(pngs), pa.string())]
    columns = [
        pa.StructArray.from_arrays(images, fields=list(_IMAGE)),
        pa.array(labels, pa.int64()),
        pa.array(range(first_id, first_id + len(pngs)), pa.int64()),
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_arrays(columns, schema=schema),
        sink,
        version="2.6",
        compression={"image.bytes": "none", "image.path": "none", "label": "zstd", "image_id": "zstd"},
        use_dictionary=False,
        write_statistics=False,
        row_group_size=1000,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _table(path: Path) -> Any:
    columns = {"image": _IMAGE, "label": pa.int64(), "image_id": pa.int64()}
    try:
        table = read_columns(path)
        found = {field.name: field.type for field in table.schema}
        if found != columns:
            raise _damaged(path, f"columns {found}", f"columns {columns}")
        if any(table[name].null_count for name in columns):
            raise _damaged(path, "an empty cell", "an image, a label and an id in each row")
        return table
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing", fix="fetch the dataset again") from error
    except UNREADABLE as error:
        raise _damaged(path, str(error), "a parquet file") from error


def _class_names(path: Path, metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
        return tuple(str(name) for name in names)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(path, "no class names in its metadata", "Hugging Face features") from error


def _decode_all(path: Path, pngs: list[bytes], shape: tuple[int, int, int]) -> Bytes8:
    pixels = np.empty((len(pngs), *shape), np.uint8)
    for row, png in enumerate(pngs):
        try:
            pixels[row] = decode_png(png, shape)
        except Exception as error:  # a hostile PNG may raise nearly anything
            raise _damaged(path, f"the image of row {row}: {error}", f"PNGs of shape {shape}") from error
    return pixels


def _damaged(path: Path, found: str, expected: str) -> ArtifactError:
    found = " ".join(found.split())
    return ArtifactError(f"{path.name} is damaged: {found}", expected=expected, fix="fetch the dataset again")


def _pieces(sizes: list[int]) -> Iterator[slice]:
    first = total = 0
    for place, size in enumerate(sizes):
        if place > first and total + size > SHARD_BYTES:
            yield slice(first, place)
            first, total = place, 0
        total += size
    yield slice(first, len(sizes))


def _column(values: Sequence[float]) -> Floats:
    return np.asarray(values, np.float32).reshape(-1, 1, 1)
