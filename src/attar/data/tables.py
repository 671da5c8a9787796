"""Tables with an image column: parquet shards in the Hugging Face image layout, and data sets of its hub."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from attar.data.columns import UNREADABLE, read_columns
from attar.data.examples import Examples, Found, index_labels, licence_of, split_named
from attar.data.raster import Encoded, digest_of
from attar.errors import DataError
from attar.runtime.files import digest

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
HASHED = 100_000
"""Images of a data set handed over that its content is told by."""
TABLE_LIMIT_BYTES = 2 << 30
"""Parquet files above this in total are read through a memory-mapped copy that `datasets` keeps in its cache."""


@dataclass(frozen=True)
class Table:
    """One split of a data set as a table.

    Attributes:
        name: what to call it in a message.
        schema: its columns.
        features: Hugging Face's description of the columns, by name; may be empty.
        load: read some columns.
        listing: what can be hashed without reading the images.
        row_name: what to call a row in a message.
        paths: whether images may be paths of this machine instead of bytes; never so for a file from elsewhere.
    """

    name: str
    schema: pa.Schema
    features: Mapping[str, Any]
    load: Callable[[list[str]], pa.Table]
    listing: str
    row_name: Callable[[int], str]
    paths: bool = False

    def examples(self, labels: Any, image_column: str) -> Examples:
        """Give the labelled images of this table."""
        return Examples(labels, self.row_name, functools.cache(lambda: self._reader(image_column)), self.listing)

    def _reader(self, column: str) -> Callable[[int], Encoded]:
        images = self.load([column]).column(column)
        is_struct = pa.types.is_struct(images.type)
        blobs = pc.struct_field(images, "bytes") if is_struct else images
        paths = pc.struct_field(images, "path") if is_struct and self.paths else None

        def read(index: int) -> Encoded:
            blob = blobs[index].as_py()
            if blob is None and paths is not None:
                blob = Path(paths[index].as_py()).read_bytes()
            if blob is None:
                raise ValueError("the table holds no bytes for it")
            return bytes(blob)

        return read


def parquet_files(path: Path) -> list[Path]:
    """List the parquet files of a folder and of the folders in it, or the file itself."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    found = [*path.glob("*.parquet"), *path.glob("*/*.parquet")]
    return sorted(file for file in found if file.is_file() and not file.relative_to(path).as_posix().startswith("."))


def read_parquet(path: Path) -> Found:
    """Read labels and class names of parquet shards; images stay encoded until they are asked for.

    The split is named in a shard's name (`train-00000-of-00002.parquet`) or is that of its folder; where no
    shard names one, all are training data, and so is a file given by itself. Raises DataError where files,
    columns or labels aren't as expected.
    """
    shards = _shards(path)
    size_bytes = sum(file.stat().st_size for files in shards.values() for file in files)
    if size_bytes > TABLE_LIMIT_BYTES:
        tables = _mapped(str(path), "parquet", data_files={s: list(map(str, f)) for s, f in shards.items()})
    else:
        tables = {split: _of_files(files) for split, files in shards.items()}
    return _found(tables, str(path), licence_of(path if path.is_dir() else path.parent))


def read_hub(name: str) -> Found:
    """Read `owner/name` or `owner/name:config` of the Hugging Face hub, through its library; runs none of its code.

    Raises DataError where it can't be opened, or its columns or labels aren't as expected.
    """
    repository, _, config = name.partition(":")
    tables = _mapped(f"hf:{name}", repository, *([config] if config else []))
    return _found(tables, f"hf:{name}", _hub_licence(repository))


def read_datasets(splits: Mapping[str, Any], where: str) -> Found:
    """Read data sets of Hugging Face's library that a program hands over, by the names of `SPLITS`.

    Raises DataError where columns or labels aren't as expected.
    """
    whole = {split: dataset.with_format(None).flatten_indices() for split, dataset in splits.items()}
    found = _found({split: _of_dataset(where, split, dataset) for split, dataset in whole.items()}, where, None)
    hashed = {split: replace(examples, listing=_content(examples)) for split, examples in found.splits.items()}
    return replace(found, splits=hashed)


def _content(examples: Examples) -> str:
    """A hash of all images as they are stored, or of evenly spread ones where they are more than `HASHED`."""
    read, content = examples.open(), hashlib.sha256(str(len(examples)).encode())
    for index in range(0, len(examples), max(1, len(examples) // HASHED)):
        content.update(digest_of(read(index)))
    return content.hexdigest()


def _found(tables: Mapping[str, Table], where: str, licence: str | None) -> Found:
    first = next(iter(tables.values()))
    image_column, label_column = _image_column(first), _label_column(first)
    labels = {split: _label_values(table, label_column) for split, table in tables.items()}
    class_names, indexed = index_labels(labels, _names(first, label_column), where)
    notes = [f"the {split} split of {where} has no labels and is left out" for split in labels if split not in indexed]
    splits = {split: tables[split].examples(indexed[split], image_column) for split in indexed}
    return Found(class_names, splits, licence, notes)


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
    return Table(str(files[0]), schema, _features(schema), load, listing, row_name)


def _mapped(where: str, *args: str, **options: Any) -> dict[str, Table]:
    """Open a data set through Hugging Face's library, memory-mapped, by the splits that we know."""
    import datasets

    try:
        loaded = datasets.load_dataset(*args, **options)
    except Exception as error:  # the library's own, its network client's, and those of every format it reads
        raise DataError(
            f"{where} can't be opened: {error}",
            expected="a data set with an image and a label column, hf:owner/name or hf:owner/name:config",
            fix="check the name, the connection, and that you are logged in if it is gated",
        ) from error
    splits = {split_named(name): split for name, split in loaded.items()}
    if splits.keys() == {None}:
        raise DataError(f"{where} has the splits {', '.join(loaded)}", expected="train, validation, test")
    return {name: _of_dataset(where, name, split) for name, split in splits.items() if name}


def _of_dataset(where: str, split: str, dataset: Any) -> Table:
    table = dataset.data.table
    return Table(
        name=f"{where} {split}",
        schema=table.schema,
        features=dataset.features.to_dict(),
        load=table.select,
        listing=str(len(dataset)),
        row_name=lambda index: f"{where} {split} row {index}",
        paths=True,
    )


def _hub_licence(repository: str) -> str | None:
    from huggingface_hub import DatasetCard

    try:
        licence = DatasetCard.load(repository).data.license
    except Exception:  # no card, no connection: the licence then stays unknown
        return None
    return ", ".join(licence) if isinstance(licence, list) else licence


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Read Hugging Face's description of the columns from a parquet file's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _image_column(table: Table) -> str:
    kinds = {name: table.schema.field(name).type for name in table.schema.names}
    able = [name for name, kind in kinds.items() if _holds_images(kind)]
    found = [name for name in IMAGE_COLUMNS if name in able] or [
        name for name in able if _kind(table, name) == "Image" or pa.types.is_struct(kinds[name])
    ]
    if not found:
        raise _no_column(table, "image", f"{' or '.join(IMAGE_COLUMNS)}: a struct of bytes and path, or bytes")
    return found[0]


def _label_column(table: Table) -> str:
    names = table.schema.names
    found = [name for name in LABEL_COLUMNS if name in names] or [
        name for name in names if _kind(table, name) == "ClassLabel"
    ]
    if not found:
        raise _no_column(table, "label", f"{' or '.join(LABEL_COLUMNS)}: a whole number or a string")
    kind = table.schema.field(found[0]).type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise DataError(
            f"{table.name}: column {found[0]!r} holds {kind}",
            expected="one class for each image, as a whole number or a string",
        )
    return found[0]


def _label_values(table: Table, column: str) -> list[Any]:
    if column not in table.schema.names:
        raise _no_column(table, "label", f"{column!r}, as in the other splits")
    values: list[Any] = table.load([column]).column(column).to_pylist()
    return values


def _names(table: Table, column: str) -> list[str] | None:
    feature = table.features.get(column)
    names = feature.get("names") if isinstance(feature, dict) else None
    return [str(name) for name in names] if isinstance(names, list) and names else None


def _kind(table: Table, column: str) -> str | None:
    feature = table.features.get(column)
    return feature.get("_type") if isinstance(feature, dict) else None


def _holds_images(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _no_column(table: Table, what: str, expected: str) -> DataError:
    return DataError(
        f"{table.name} has no {what} column; columns: {', '.join(table.schema.names) or 'none'}",
        expected=f"a column {expected}",
        fix="rename the column",
    )


def _unreadable(files: Sequence[Path], error: Exception) -> DataError:
    return DataError(
        f"{', '.join(file.name for file in files)} can't be read as parquet: {error}",
        expected="parquet files with the same columns",
        fix="fetch or write them again",
    )
