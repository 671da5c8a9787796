"""Damaged and hostile sources: each is read, or ends in one error for people."""

from __future__ import annotations

import inspect
import io
import json
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attar.data.columns import UNREADABLE, column_bytes
from attar.data.examples import licence_of
from attar.data.readers.folders import read_folder
from attar.data.readers.parquet import read_parquet
from attar.data.sources import SourceSettings, open_source
from attar.errors import AttarError, DataError
from damage import refusals

SIDE, CLASSES, EACH = 8, 2, 4
KINDS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM"}


def picture(kind: str, seed: int = 0) -> bytes:
    pixels, stream = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def write_folder(folder: Path, ending: str) -> Path:
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for place in range(EACH):
            (folder / f"class{label}/{place}.{ending}").write_bytes(picture(KINDS[ending], 10 * label + place))
    return folder / f"class0/0.{ending}"


def table(rows: int = 10) -> pa.Table:
    names = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    made = pa.table(
        {
            "image": pa.array([{"bytes": picture("PNG", row), "path": None} for row in range(rows)], image),
            "label": pa.array([row % CLASSES for row in range(rows)], pa.int64()),
        }
    )
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": names}})})


def write_parquet(folder: Path, _: str) -> Path:
    folder.mkdir()
    pq.write_table(table(), folder / "train.parquet")
    return folder / "train.parquet"


def write_shard(folder: Path, _: str) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for place in range(CLASSES * EACH):
            for ending, data in (("png", picture("PNG", place)), ("cls", str(place % CLASSES).encode())):
                member = tarfile.TarInfo(f"{place}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return folder / "train-0.tar"


WRITERS: dict[str, Callable[[Path, str], Path]] = {"parquet": write_parquet, "wds": write_shard}


def read(folder: Path) -> None:
    prefix = "wds:" if any(folder.glob("*.tar")) else ""
    source = open_source(f"{prefix}{folder}", SourceSettings())
    assert len(source.train.labels) + len(source.validation.labels) + len(source.test.labels) >= CLASSES


@pytest.mark.parametrize("num", [4, pytest.param(80, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [*KINDS, *WRITERS])
def test_damaged_bytes_are_read_or_told(tmp_path: Path, kind: str, num: int) -> None:
    file = WRITERS.get(kind, write_folder)(tmp_path / "x", kind)
    read(tmp_path / "x")
    assert refusals(file, lambda: read(tmp_path / "x"), num)


def test_no_damage_of_a_parquet_files_end_ends_the_process(tmp_path: Path) -> None:
    """pyarrow's descriptions of columns end the process where they are damaged, and raise nothing."""
    path = tmp_path / "x.parquet"
    pq.write_table(table(2).replace_schema_metadata(None), path, store_schema=False)
    whole = path.read_bytes()
    assert column_bytes(path, "image.bytes") > 0
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    refused = 0
    for place in range(start, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x01]) + whole[place + 1 :])
        try:
            column_bytes(path, "image.bytes")
        except UNREADABLE:
            refused += 1
    assert refused


@pytest.mark.parametrize("column", ["label", "image"])
def test_parquet_that_unfolds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str) -> None:
    """A few thousand bytes, by a dictionary with one entry, are millions of rows, or gigabytes of one image."""
    monkeypatch.setattr("attar.data.columns._LEAST_BYTES", 1 << 16)
    rows, blob = (6_000_000, b"x") if column == "label" else (3_000, bytes(1_000_000))
    image = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([blob], pa.binary()))
    schema = pa.schema([("image", image.type), ("label", pa.int64())])
    made = pa.Table.from_arrays([image, pa.array(np.zeros(rows, np.int64))], schema=schema)
    pq.write_table(made, tmp_path / "x.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "x.parquet").stat().st_size < 1_000_000
    with pytest.raises(DataError, match="unfolds to more than"):
        read_parquet(tmp_path / "x.parquet").splits["train"].open()


def test_two_columns_of_one_name_are_told(tmp_path: Path) -> None:
    made = table()
    pq.write_table(made.append_column("label", made.column("label")), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="columns of the same name"):
        read_parquet(tmp_path / "x.parquet")


def test_what_only_looks_like_files_is_left_alone(tmp_path: Path) -> None:
    """Pipes, which would keep us waiting."""
    write_folder(tmp_path / "x", "png")
    for name in ("class0/pipe.png", "README.md", "train.parquet"):
        os.mkfifo(tmp_path / "x" / name)
    read(tmp_path / "x")


def test_folders_nested_deeper_than_python_calls_may_be_are_walked(tmp_path: Path) -> None:
    write_folder(tmp_path / "x", "png")
    deep = tmp_path / "x/class0" / "/".join("a" * 300)
    deep.mkdir(parents=True)
    (deep / "deep.png").write_bytes(picture("PNG"))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 250)
    try:
        assert len(read_folder(tmp_path / "x").splits["train"]) == CLASSES * EACH + 1
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    "header",
    [
        "license: " + "[" * 1500,
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "\n".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True))
        + "\nlicense: *j",
        "license: {a: b}",
        "license: \x00",
    ],
    ids=lambda text: text[:20],
)
def test_cards_that_make_no_sense_name_no_licence(tmp_path: Path, header: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n")
    assert licence_of(tmp_path) is None


@pytest.mark.parametrize("labels", [[2] * 10, [-1] * 9 + [0], [2**62] * 10, [None] * 10])
def test_labels_out_of_range_are_told(tmp_path: Path, labels: list[Any]) -> None:
    made = table().set_column(1, "label", pa.array(labels, pa.int64()))
    pq.write_table(made, tmp_path / "train.parquet")
    with pytest.raises(AttarError, match=r"have no class|no training images"):
        read(tmp_path)


def test_names_that_are_no_utf8_are_told(tmp_path: Path) -> None:
    write_folder(tmp_path / "x", "png")
    (tmp_path / "x/class0").rename(tmp_path / "x" / os.fsdecode(b"\xff\xfe"))
    with pytest.raises(DataError, match="UTF-8"):
        read(tmp_path / "x")


def test_without_permission_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for the system's refusal, as tests may run as root."""
    write_folder(tmp_path / "x", "png")

    def locked(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("attar.data.walking.os.scandir", locked)
        with pytest.raises(DataError, match="Permission denied"):
            read(tmp_path / "x")
    monkeypatch.setattr(Path, "read_bytes", locked)
    with pytest.raises(DataError, match="Permission denied"):
        read(tmp_path / "x")
