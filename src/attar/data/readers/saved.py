"""Folders that `save_to_disk` of Hugging Face's library writes, and single Arrow files; read where they lie.

dataset_dict.json    the splits, each of them a folder as below; may be missing where there is one
state.json           names of the data files
data-*.arrow         a table as a stream of Arrow's, its columns described as in parquet
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from attar.data.columns import MOST_UNFOLDED, UNREADABLE, require_names
from attar.data.examples import Found, licence_of, quoted, split_named
from attar.data.readers.base import Reader
from attar.data.tables import Table, features, found_in
from attar.errors import ArtifactError, DataError
from attar.options import Reading
from attar.runtime.events import Events
from attar.runtime.files import digest, read_json

SPLITS, STATE, DATA = "dataset_dict.json", "state.json", ".arrow"
_LEAST_BYTES = 1 << 20


def read_saved(path: Path, how: Reading | None = None) -> Found:
    """Read labels and class names of such a folder or file; images stay where they are until they are asked for.

    Raises DataError where files are missing or damaged, or columns or labels aren't as expected.
    """
    folders = _splits(path)
    tables = {split: _table(_files(folder)) for split, folder in folders.items()}
    return found_in(tables, str(path), licence_of(path if path.is_dir() else path.parent), how)


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote it, or it is a file of Arrow's."""
    return (path / SPLITS).is_file() or (path / STATE).is_file() or (path.suffix == DATA and path.is_file())


def _splits(path: Path) -> dict[str, Path]:
    if not (path / SPLITS).is_file():
        return {"train": path}
    names = _json(path / SPLITS).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = [folder.name for folder in path.iterdir() if (folder / STATE).is_file()]
    splits = {split: path / name for name in names if (split := split_named(name))}
    if not splits and len(names) == 1:
        return {"train": path / Path(names[0]).name}
    if not splits:
        raise DataError(
            f"{path}, a folder written by save_to_disk, has the splits {quoted(names)}",
            expected="train, validation, test",
            fix="give the folder of one split, or save the splits under these names",
        )
    return splits


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    listed = _json(path / STATE).get("_data_files")
    names = [file.get("filename") for file in listed if isinstance(file, dict)] if isinstance(listed, list) else []
    # by their last part alone: a description may name any file of this machine
    files = [path / Path(name).name for name in names if isinstance(name, str)] or sorted(path.glob(f"*{DATA}"))
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise DataError(
            f"{path}, a folder written by save_to_disk, lacks {quoted(missing) if missing else 'its .arrow files'}",
            expected="the files that its state.json names",
            fix="copy the whole folder, or save the dataset again",
        )
    return files


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except ArtifactError:
        return {}
    return found if isinstance(found, dict) else {}


def _table(files: Sequence[Path]) -> Table:
    try:
        whole = pa.concat_tables([pa.Table.from_batches(list(_batches(file)), _schema(file)) for file in files])
        require_names(whole.schema)
    except UNREADABLE as error:
        raise _unreadable(files, error) from error

    def load(columns: list[str]) -> pa.Table:
        found = whole.select(columns)
        try:
            found.validate(full=True)  # offsets that lie would be followed
        except UNREADABLE as error:
            raise _unreadable(files, error) from error
        return found

    listing = digest([[file.name, file.stat().st_size] for file in files])
    where = str(files[0] if len(files) == 1 else files[0].parent)
    return Table(where, whole.schema, features(whole.schema), load, listing, lambda index: f"{where} row {index}")


def _schema(file: Path) -> Any:
    with _opened(file) as reader:
        return reader.schema


def _batches(file: Path) -> Iterator[Any]:
    """The batches of a file, which lie in it unless they are compressed."""
    left = MOST_UNFOLDED * max(file.stat().st_size, _LEAST_BYTES)
    with _opened(file) as reader:
        whole = isinstance(reader, pa.ipc.RecordBatchFileReader)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if whole else reader
        for batch in batches:
            left -= batch.nbytes
            if left < 0:
                raise ValueError(f"{file.name} unfolds to more than {MOST_UNFOLDED} times its bytes")
            yield batch


def _opened(file: Path) -> Any:
    source = pa.memory_map(str(file))
    with file.open("rb") as stream:
        begins = stream.read(6)
    return pa.ipc.open_file(source) if begins == b"ARROW1" else pa.ipc.open_stream(source)


def _unreadable(files: Sequence[Path], error: Exception) -> DataError:
    return DataError(
        f"{quoted(file.name for file in files)} in {files[0].parent} can't be read as a table of Arrow's: {error}",
        expected="files that save_to_disk wrote, whole, with the same columns",
        fix="copy the whole folder, or save the dataset again",
    )


def _read(path: str, how: Reading, events: Events) -> Found:
    return read_saved(Path(path), how)


READER = Reader(
    "saved",
    "SAVED",
    "a folder written by save_to_disk of the datasets library, or an .arrow file",
    _read,
    is_saved,
    rank=10,
    columns=True,
)
