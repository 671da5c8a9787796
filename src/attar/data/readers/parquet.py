"""Parquet shards in the Hugging Face image layout: a file, or a folder of them.

The split is named in a shard's name (`train-00000-of-00002.parquet`) or is that of its folder, as in the hub's branch
of converted datasets (`CONFIG/train/0000.parquet`); where no shard names one, all are training data, and so is a file
given by itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from attar.data.columns import UNREADABLE, read_columns, require_names
from attar.data.examples import Found, licence_of, split_named
from attar.data.readers.base import Reader
from attar.data.tables import Table, features, found_in, mapped
from attar.data.walking import hidden, is_ours
from attar.errors import DataError
from attar.options import Reading
from attar.runtime.events import Events
from attar.runtime.files import digest

TABLE_LIMIT_BYTES = 2 << 30
"""Parquet files above this in total are read through a memory-mapped copy that `datasets` keeps in its cache."""


def parquet_files(path: Path) -> list[Path]:
    """List the parquet files of a folder, of those in it and of folders of splits in these; or the file itself."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    found = list[str]()
    left = [(str(path), 0)] if path.is_dir() else []
    while left:
        folder, depth = left.pop()
        with os.scandir(folder) as entries:  # class folders may hold millions of files
            here = [entry for entry in entries if not hidden(entry.name)]
        if depth and is_ours([entry.name for entry in here]):
            continue
        found += [entry.path for entry in here if entry.name.endswith(".parquet") and entry.is_file()]
        below = [entry for entry in here if depth == 0 or (depth == 1 and _split_of(entry.name))]
        left += [(entry.path, depth + 1) for entry in below if entry.is_dir()]
    return sorted(map(Path, found))


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
    homes = sorted({str(f.parent.parent if f.parent != path and _split_of(f.parent.name) else f.parent) for f in files})
    if len(homes) > 1:
        raise DataError(
            f"{path} holds parquet files in several folders: {', '.join(homes)}",
            expected="one dataset; several configurations aren't mixed",
            fix="give one of these folders",
        )
    splits: dict[str | None, list[Path]] = {}
    for file in files:
        split = _split_of(file.stem) or (None if file.parent == path else _split_of(file.parent.name))
        splits.setdefault(split, []).append(file)
    unnamed = splits.pop(None, [])
    if splits and unnamed:
        raise DataError(
            f"{unnamed[0]} names no split, though other files here do",
            expected="train, validation or test in the name of each file",
            fix="put the split into its name; a file whose name begins with a dot is left out",
        )
    return {split: files for split, files in splits.items() if split} or {"train": unnamed}


def _split_of(name: str) -> str | None:
    """The split that a word of a name stands for, as in `train-00000-of-00002` or `partial-train`."""
    return next(filter(None, map(split_named, re.split(r"[-_.]", name))), None)


def _of_files(files: Sequence[Path]) -> Table:
    try:
        parts = [pq.ParquetFile(file) for file in files]
        schema, rows = parts[0].schema_arrow, [part.metadata.num_rows for part in parts]
        for part in parts:
            part.close()
        require_names(schema)
    except UNREADABLE as error:
        raise _unreadable(files, error) from error

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
