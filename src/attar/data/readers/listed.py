"""Image files and a table of their classes: `images/` with `labels.csv`, or `metadata.csv` or `.jsonl` beside them.

    labels.csv          a row for each image: its file (a path, a name, or a name without ending) and its class
    train/metadata.csv  the same for a split, as Hugging Face's image folders have it; or train.csv, or a column `split`
    metadata.jsonl      a line of JSON for each image instead

The column of files is found by its values: they are files that lie below the folder, and no other file is opened.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.data.classes import classify
from attar.data.examples import Found, licence_of, quoted, split_named
from attar.data.readers.base import Reader
from attar.data.walking import Walked, below, hidden, is_image, of_files, visible_folders, walk
from attar.errors import DataError
from attar.options import Reading
from attar.runtime.events import Events
from attar.text import parse_json

ENDINGS = (".csv", ".tsv", ".jsonl")
FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "image",
    "img",
    "path",
    "filepath",
    "image_path",
    "image_id",
    "id",
    "name",
)
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "target", "category", "fine_label")
SPLIT_COLUMNS = ("split", "set", "subset", "fold_name")
_TRIED = 20
"""Rows by which the column of files is found."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Table:
    """A table as read, and the split that its name or folder stands for."""

    path: Path
    home: str
    """Its folder, from that of the source on."""
    split: str | None
    columns: Sequence[str]
    rows: Sequence[Row]


def read_listed(path: Path, how: Reading | None = None) -> Found:
    """List the images that a table names, or the tables in a folder; images that none names are left out, with a note.

    Raises DataError where columns are missing or name no files, an image is listed twice, or one isn't there (unless
    `skip_corrupt`).
    """
    how = how or Reading()
    root = path if path.is_dir() else path.parent
    walked = walk(root)
    tables = [_read_table(file, root) for file in (_tables(path) if path.is_dir() else [path])]
    index, notes = _Index(walked), walked.notes(str(root))
    files: dict[str, list[tuple[str, int]]] = {}
    labels: dict[str, list[Any]] = {}
    gone: list[str] = []
    for table in tables:
        try:
            file_column = _file_column(table, index)
            label_column = _label_column(table, file_column, how.label_column)
        except DataError:
            if table.split in (None, "train"):
                raise
            notes.append(f"{table.path}: the {table.split} split has no labels and is left out")
            continue
        split_column = next((c for c in table.columns if c.lower() in SPLIT_COLUMNS and _names_splits(table, c)), None)
        for row in table.rows:
            found = index.find(_text(row, file_column), table.home)
            if found is None:
                gone.append(_text(row, file_column))
                continue
            split = (split_named(_text(row, split_column)) if split_column else table.split) or "train"
            files.setdefault(split, []).append(found)
            labels.setdefault(split, []).append(row.get(label_column))
    notes += _told(files, gone, walked, tables, how)
    columns = {split: _numbers(values) for split, values in labels.items()}
    classes = classify(columns, None, str(path), skip_unlabelled=how.skip_unlabelled)
    examples = {split: of_files(some, [], below(root), f"{root}/") for split, some in files.items()}
    return classes.found(examples, licence_of(root), notes)


def is_listed(path: Path) -> bool:
    """Whether it is a table, or a folder in which one says more than the folders of the images do."""
    if path.is_file():
        return path.suffix.lower() in ENDINGS
    if not path.is_dir():
        return False
    tables = _tables(path)
    named = [table for table in tables if table.stem.lower() in ("metadata", "labels")]
    if any(column.lower() in LABEL_COLUMNS for table in named for column in _header(table)):
        return True
    return bool(tables) and not _class_folders(path)


def _class_folders(path: Path) -> bool:
    """Whether images are sorted into several folders, below train/ or at once."""
    folders = visible_folders(path)
    train = [folder for folder in folders if split_named(folder.name) == "train"]
    inner = visible_folders(train[0]) if train else [folder for folder in folders if not split_named(folder.name)]
    return len(inner) > 1 and sum(any(is_image(file.name) for file in folder.rglob("*")) for folder in inner[:2]) > 1


def _tables(folder: Path) -> list[Path]:
    """The tables of a folder: metadata, in folders of splits or in it; labels; those of splits; or the only one."""
    here = _named(folder)
    splits = [one for one in visible_folders(folder) if split_named(one.name)]
    deep = [table for one in splits for table in _named(one) if table.stem.lower() == "metadata"]
    for found in (
        deep,
        [table for table in here if table.stem.lower() == "metadata"],
        [table for table in here if table.stem.lower() == "labels"],
        [table for table in here if _split_of(table)],
    ):
        if found:
            return found
    return here if len(here) == 1 else []


def _named(folder: Path) -> list[Path]:
    found = [file for file in folder.iterdir() if file.suffix.lower() in ENDINGS and file.is_file()]
    return sorted(file for file in found if not hidden(file.name))


def _split_of(table: Path) -> str | None:
    return next(filter(None, map(split_named, re.split(r"[-_. ]", table.stem))), None)


def _read_table(path: Path, root: Path) -> _Table:
    split = _split_of(path) or (split_named(path.parent.name) if path.parent != root else None)
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
            if path.suffix.lower() == ".jsonl":
                rows = [parse_json(line) for line in stream if line.strip()]
            else:
                rows = list(csv.DictReader(stream, delimiter=_delimiter(path)))
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"{path} can't be read as a table: {error}",
            expected="a CSV with a header, or a JSON object a line",
            fix="write it again",
        ) from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} holds no rows", expected="a row for each image, below a header", fix="fill it")
    columns = list(dict.fromkeys(str(key) for row in rows[:_TRIED] for key in row if key is not None))
    return _Table(path, path.parent.relative_to(root).as_posix(), split, columns, rows)


def _header(path: Path) -> list[str]:
    """Names of the columns, from the first line alone; none where it makes no sense."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        line = stream.readline(1 << 16)
    try:
        if path.suffix.lower() == ".jsonl":
            return list(map(str, parse_json(line)))
        return next(csv.reader([line], delimiter=_delimiter(path)), [])
    except (ValueError, TypeError, csv.Error):
        return []


def _delimiter(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        line = stream.readline(1 << 16)
    return max("\t" if path.suffix.lower() == ".tsv" else ",", ";", "\t", key=line.count)


class _Index:
    """The images below a folder, to be found by path, by name, or by name without ending."""

    def __init__(self, walked: Walked) -> None:
        self.by_path = {name: (name, size) for name, size in walked.files}
        self._by_name: dict[str, tuple[str, int] | None] = {}
        for file in walked.files:
            name = file[0].rpartition("/")[2]
            for key in (name, name.rpartition(".")[0]):
                self._by_name[key] = None if key in self._by_name else file  # None: several have it

    def find(self, text: str, home: str) -> tuple[str, int] | None:
        """The image that a row names, seen from its table's folder `home`; None where none is, or several are."""
        text = text.strip().replace("\\", "/").removeprefix("./")
        near = text if home == "." else f"{home}/{text}"
        return self.by_path.get(near) or self.by_path.get(text) or self._by_name.get(text.rpartition("/")[2])


def _file_column(table: _Table, index: _Index) -> str:
    usual = [name for key in FILE_COLUMNS for name in table.columns if name.lower() == key]
    for name in dict.fromkeys([*usual, *table.columns]):
        if any(index.find(_text(row, name), table.home) for row in table.rows[:_TRIED]):
            return name
    raise DataError(
        f"{table.path} has no column that names images below {table.path.parent}; columns: {quoted(table.columns, 10)}",
        expected="a column file_name with the path of each image, its name, or its name without the ending",
        fix="put the images beside the table, or mend the names in it",
    )


def _label_column(table: _Table, file_column: str, wanted: str | None) -> str:
    others = [name for name in table.columns if name != file_column]
    if wanted is not None:
        found = [name for name in others if name == wanted]
    else:
        found = [name for key in LABEL_COLUMNS for name in others if name.lower() == key]
        found = found or [name for name in others if len(others) == 1 and _repeats(table, name)]
    if not found:
        what = (
            f"has no column {wanted!r}" if wanted is not None else "is a table without a column of labels that is known"
        )
        raise DataError(
            f"{table.path} {what}; columns: {quoted(table.columns, 10)}",
            expected=f"one of {', '.join(LABEL_COLUMNS)}, or the one that you name",
            fix="name the column of classes with --label-column",
        )
    return found[0]


def _repeats(table: _Table, column: str) -> bool:
    """Whether values are those of classes: captions differ from image to image."""
    return 2 * len({_text(row, column) for row in table.rows}) <= len(table.rows)


def _names_splits(table: _Table, column: str) -> bool:
    return all(split_named(_text(row, column)) for row in table.rows)


def _text(row: Row, column: str) -> str:
    return str(row[column]) if row.get(column) is not None else ""


def _told(
    files: Mapping[str, Sequence[tuple[str, int]]],
    gone: Sequence[str],
    walked: Walked,
    tables: Sequence[_Table],
    how: Reading,
) -> list[str]:
    """Notes on images that are listed and not there, and on those that are there and not listed; or a DataError."""
    where = quoted(table.path.name for table in tables)
    listed = [name for some in files.values() for name, _ in some]
    twice, num = next(iter(Counter(listed).most_common(1)), ("", 0))
    if num > 1:
        raise DataError(
            f"{where} lists {twice} more than once",
            expected="one row and one class for each image",
            fix="keep the row that is right",
        )
    notes = []
    if gone and not how.skip_corrupt:
        raise DataError(
            f"{where} lists {len(gone):,} images that are not there, or whose name several have: {quoted(gone)}",
            expected="an image for each row",
            fix="fetch the rest, write their paths, or leave these rows out with --skip-corrupt",
        )
    if gone:
        notes.append(f"{where}: rows whose image is not there, left out: {len(gone):,} ({quoted(gone)})")
    if spare := len(walked.files) - len(listed):
        notes.append(f"{where}: images that are not listed, left out: {spare:,}")
    return notes


def _numbers(values: Sequence[Any]) -> list[Any]:
    """Labels of a CSV are text: whole numbers where all of them are such."""
    texts = [value.strip() if isinstance(value, str) else value for value in values]
    told = [text for text in texts if isinstance(text, str) and text]
    if told and all(re.fullmatch(r"-?\d{1,18}(\.0*)?", text) for text in told):
        return [int(text.partition(".")[0]) if isinstance(text, str) and text else text for text in texts]
    return texts


def _read(path: str, how: Reading, events: Events) -> Found:
    return read_listed(Path(path), how)


READER = Reader(
    "listed",
    "CSV",
    "images and a table of their classes: labels.csv, metadata.csv or metadata.jsonl, in a folder or by itself",
    _read,
    is_listed,
    rank=30,
    columns=True,
)
