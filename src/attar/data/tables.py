"""Tables with an image column and a label column: what parquet shards and datasets of the hub have in common."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from attar.data.classes import classify
from attar.data.examples import Examples, Found, split_named, unlabelled
from attar.data.raster import Encoded, digest_of
from attar.errors import DataError
from attar.options import Reading
from attar.text import parse_json

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
HASHED = 100_000
"""Images of a dataset handed over that its content is told by."""
_CLASSES = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
)


@dataclass(frozen=True)
class Table:
    """One split of a dataset as a table.

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

    def examples(self, image_column: str) -> Examples:
        """Give the images of this table, not labelled yet."""
        return Examples(unlabelled(), self.row_name, functools.cache(lambda: self._reader(image_column)), self.listing)

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


def read_datasets(splits: Mapping[str, Any], where: str) -> Found:
    """Read datasets of Hugging Face's library that a program hands over, by the names of `SPLITS`.

    Raises DataError where columns or labels aren't as expected.
    """
    whole = {split: dataset.with_format(None).flatten_indices() for split, dataset in splits.items()}
    found = found_in({split: _of_dataset(where, split, dataset) for split, dataset in whole.items()}, where, None)
    hashed = {split: replace(examples, listing=_content(examples)) for split, examples in found.splits.items()}
    return replace(found, splits=hashed)


def _content(examples: Examples) -> str:
    """A hash of all images as they are stored, or of evenly spread ones where they are more than `HASHED`."""
    read, content = examples.open(), hashlib.sha256(str(len(examples)).encode())
    for index in range(0, len(examples), max(1, len(examples) // HASHED)):
        content.update(digest_of(read(index)))
    return content.hexdigest()


def found_in(tables: Mapping[str, Table], where: str, licence: str | None, how: Reading | None = None) -> Found:
    """List the images of tables by split; raises DataError where columns or labels aren't as expected."""
    how = how or Reading()
    first = next(iter(tables.values()))
    image_column, label_column = _image_column(first), _label_column(first, how.label_column)
    if odd := next(
        (table for table in tables.values() if _names(table, label_column) != _names(first, label_column)), None
    ):
        raise DataError(
            f"{odd.name} names other classes than {first.name}, or in another order",
            expected="the same classes in every split",
            fix="write the splits again with one ClassLabel",
        )
    labels = {split: _label_values(table, label_column) for split, table in tables.items()}
    classes = classify(labels, _names(first, label_column), where, skip_unlabelled=how.skip_unlabelled)
    return classes.found({split: table.examples(image_column) for split, table in tables.items()}, licence)


def mapped(where: str, *args: str, **options: Any) -> dict[str, Table]:
    """Open a dataset through Hugging Face's library, memory-mapped, by the splits that we know."""
    import datasets

    try:
        loaded = datasets.load_dataset(*args, **options)
    except Exception as error:  # the library's own, its network client's, and those of every format it reads
        raise DataError(
            f"{where} can't be opened: {error}",
            expected="a dataset with an image and a label column, hf:owner/name or hf:owner/name:config",
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


def features(schema: pa.Schema) -> dict[str, Any]:
    """Read Hugging Face's description of the columns from a parquet file's metadata."""
    try:
        features = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
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
        usual = f"{' or '.join(IMAGE_COLUMNS)}: a struct of bytes and path, or bytes"
        raise _no_column(table, "image ", usual, "write the encoded images into such a column")
    return found[0]


def _label_column(table: Table, wanted: str | None) -> str:
    """The column of labels: the one that is wanted, one of the usual name, or one of classes."""
    names = table.schema.names
    if wanted is not None:
        if wanted not in names:
            raise _no_column(table, "", f"{wanted!r}, as --label-column says", "give the name of one of these columns")
        found = [wanted]
    else:
        classes = [name for name in names if _kind(table, name) == "ClassLabel"]
        found = [name for name in LABEL_COLUMNS if name in names] or classes
    if not found:
        usual = f"{' or '.join(LABEL_COLUMNS)}: whole numbers or strings"
        raise _no_column(table, "label ", usual, "name the column of classes with --label-column")
    kind = table.schema.field(found[0]).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not any(is_kind(kind) for is_kind in _CLASSES):
        raise DataError(
            f"{table.name}: column {found[0]!r} holds {kind}",
            expected="one class for each image, as a whole number or a string",
            fix="name a column of classes with --label-column",
        )
    return found[0]


def _label_values(table: Table, column: str) -> list[Any]:
    if column not in table.schema.names:
        raise _no_column(table, "label ", f"{column!r}, as in the other splits", "name the columns of all splits alike")
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


def _no_column(table: Table, what: str, expected: str, fix: str) -> DataError:
    return DataError(
        f"{table.name} has no {what or 'such '}column; columns: {', '.join(table.schema.names) or 'none'}",
        expected=f"a column {expected}",
        fix=fix,
    )
