"""Parquet shards in the Hugging Face image layout: a file, or a folder of them.

The split is named in a shard's name (`train-00000-of-00002.parquet`) or is that of its folder; where no shard names
one, all are training data, and so is a file given by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from attar.data.columns import UNREADABLE, read_columns
from attar.data.examples import Found, licence_of, split_named
from attar.data.readers.base import Reader
from attar.data.tables import Table, features, found_in, mapped
from attar.errors import DataError
from attar.options import Reading
from attar.runtime.events import Events
from attar.runtime.files import digest

TABLE_LIMIT_BYTES = 2 << 30
"""Parquet files above this in total are read through a memory-mapped copy that `datasets` keeps in its cache."""


def parquet_files(path: Path) -> list[Path]:
    """List the parquet files of a folder and of the folders in it, or the file itself."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    found = [*path.glob("*.parquet"), *path.glob("*/*.parquet")]
    return sorted(file for file in found if file.is_file() and not file.relative_to(path).as_posix().startswith("."))


def read_parquet(path: Path, how: Reading | None = None) -> Found:
    """Read labels and class names of parquet shards; images stay encoded until they are asked for.

    The split is named in a shard's name (`train-00000-of-00002.parquet`) or is that of its folder; where no
    shard names one, all are training data, and so is a file given by itself. Raises DataError where files,
    columns or labels aren't as expected.
    """
    shards = _shards(path)
    size_bytes = sum(file.stat().st_size for files in shards.values() for file in files)
    if size_bytes > TABLE_LIMIT_BYTES:
        tables = mapped(str(path), "parquet", data_files={s: list(map(str, f)) for s, f in shards.items()})
    else:
        tables = {split: _of_files(files) for split, files in shards.items()}
    return found_in(tables, str(path), licence_of(path if path.is_dir() else path.parent), how)


def _shards(path: Path) -> dict[str, list[Path]]:
    files = parquet_files(path)
    if path.is_file():
        return {"train": files}
    homes = sorted({str(f.parent) for f in files if split_named(f.parent.name) is None or f.parent == path})
    if len(homes) > 1:
        raise DataError(
            f"{path} holds parquet files in several folders: {', '.join(homes)}",
            expected="one data set; several configurations aren't mixed",
            fix="give one of these folders",
        )
    splits: dict[str | None, list[Path]] = {}
    for file in files:
        words = [*re.split(r"[-_.]", file.stem), *([] if file.parent == path else [file.parent.name])]
        splits.setdefault(next(filter(None, map(split_named, words)), None), []).append(file)
    unnamed = splits.pop(None, [])
    if splits and unnamed:
        raise DataError(
            f"{unnamed[0]} names no split, though other files here do",
            expected="train, validation or test in the name of each file",
            fix="rename or remove it",
        )
    return {split: files for split, files in splits.items() if split} or {"train": unnamed}


def _of_files(files: Sequence[Path]) -> Table:
    try:
        parts = [pq.ParquetFile(file) for file in files]
        schema, rows = parts[0].schema_arrow, [part.metadata.num_rows for part in parts]
        for part in parts:
            part.close()
        names = schema.names
    except UNREADABLE as error:
        raise _unreadable(files, error) from error
    if len(set(names)) < len(names):
        raise _unreadable(files, ValueError(f"columns of the same name: {', '.join(names)}"))

    def load(columns: list[str]) -> pa.Table:
        try:
            return pa.concat_tables([read_columns(file, columns) for file in files])
        except UNREADABLE as error:
            raise _unreadable(files, error) from error

    def row_name(index: int) -> str:
        for file, num in zip(files, rows, strict=True):
            if index < num:
                return f"{file} row {index}"
            index -= num
        raise IndexError(index)

    listing = digest([[file.name, file.stat().st_size] for file in files])
    return Table(str(files[0]), schema, features(schema), load, listing, row_name)


def _unreadable(files: Sequence[Path], error: Exception) -> DataError:
    return DataError(
        f"{', '.join(file.name for file in files)} can't be read as parquet: {error}",
        expected="parquet files with the same columns",
        fix="fetch or write them again",
    )


def _read(path: str, how: Reading, events: Events) -> Found:
    return read_parquet(Path(path), how)


READER = Reader(
    "parquet",
    "PARQUET",
    "a file or folder of parquet shards with the columns image and label",
    _read,
    lambda path: bool(parquet_files(path)),
    rank=20,
    columns=True,
)
