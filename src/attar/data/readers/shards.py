"""Real images in WebDataset shards: tar files in which the files of one image share their name up to the first dot.

    train-000000.tar    n01440764_18.jpg    the image, any ending of `attar.data.raster.SUFFIXES`
                        n01440764_18.cls    its class, a number or a word; or n01440764_18.json with such a `label`
                        n01440764_18.image.jpg, .label.cls, .label.txt    the same, where endings have several parts
    classnames.txt      names of the classes that are numbers, a line each (or classes.txt); may be missing

Shards are listed by their headers, which are kept for the next time (`attar.data.listings`), and read where an image
lies, in any order, from several threads; nothing is unpacked. https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import glob
import itertools
import re
import tarfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from attar.data import listings
from attar.data.classes import classify
from attar.data.examples import Examples, Found, licence_of, split_named, unlabelled
from attar.data.raster import SUFFIXES, Encoded
from attar.data.readers.base import Reader
from attar.errors import DataError
from attar.options import Reading
from attar.runtime.archives import plain_files
from attar.runtime.events import Events
from attar.runtime.files import digest
from attar.text import parse_json

PREFIX = "wds:"
NAMES = ("classnames.txt", "classes.txt")
LABEL_KEYS = ("label", "cls", "class")
IMAGE_KEYS = ("image", "img", "input")
_MOST_SHARDS = 1_000_000
_MOST_LABEL_BYTES = 1 << 20
_BRACES = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")

Label = int | str


def read_shards(pattern: str, how: Reading | None = None, events: Events | None = None) -> Found:
    """List the images of shards; none is opened.

    Args:
        pattern: files, with `{000..146}`, `{train,val}`, `*` and `?` in their path; or a folder of shards, with or
            without folders for splits in it.
        how: which labels to take, and what to do about images without one.
        events: progress.

    The split is named in a shard's name or is that of its folder; shards of one split alone are training images.
    Raises DataError where there are none, or a shard is damaged, or an image has no class.
    """
    files = shard_files(pattern)
    splits = _by_split(files)
    how = how or Reading()
    indices = {split: _Index(how.label_column) for split in splits}
    with (events or Events(quiet=True)).progress(f"listing shards of {pattern}", len(files)) as bar:
        for split, shards in splits.items():
            for shard in shards:
                indices[split].add(shard)
                bar.advance()
    listings.tidy()
    labels = {split: index.labels for split, index in indices.items()}
    if not any(labels.values()):
        raise DataError(f"{pattern}: the shards hold no images", expected="a .jpg or .png and a .cls for each image")
    names = _names(files[0], labels.get("train", []))
    classes = classify(labels, names, pattern, skip_unlabelled=how.skip_unlabelled)
    examples = {split: index.examples() for split, index in indices.items()}
    repeated = sum(index.repeated for index in indices.values())
    notes = [f"{pattern}: samples that have the name of another one beside them, read as such: {repeated:,}"]
    return classes.found(examples, licence_of(files[0].parent), notes if repeated else [])


def shard_files(pattern: str) -> list[Path]:
    """The tar files that a pattern or a folder stands for; raises DataError for none, or one that is missing."""
    if re.match(r"(https?|s3|gs|pipe|hf):", pattern):
        raise DataError(f"{pattern} is no file of this machine", expected="a path", fix="fetch the shards first")
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = sorted(file for file in {*path.glob("*.tar"), *path.glob("*/*.tar")} if file.is_file())
    else:
        found = [file for one in _braces(str(path)) for file in _files(one)]
    if not found:
        raise DataError(
            f"no shards at {pattern}",
            expected="tar files, such as wds:shards/train-{0000..0146}.tar, or a folder that holds them",
            fix="check the path; quote the pattern, so that the shell leaves it alone",
        )
    return list(dict.fromkeys(found))


def _files(path: str) -> list[Path]:
    if glob.has_magic(path):
        return sorted(file for file in map(Path, glob.glob(path)) if file.is_file())  # noqa: PTH207 (a pattern from the root on)
    if not Path(path).is_file():
        raise DataError(f"the shard {path} does not exist", fix="check the pattern, or fetch that shard")
    return [Path(path)]


def _braces(pattern: str) -> Iterator[str]:
    """`a{08..10}` as a08, a09, a10; `{a,b}` as a, b; as the shell does."""
    found = _BRACES.search(pattern)
    if not found:
        yield pattern
        return
    whole = _RANGE.fullmatch(found[1])
    parts = _numbers(*whole.groups()) if whole else found[1].split(",")
    for part in parts:
        yield from _braces(pattern[: found.start()] + part + pattern[found.end() :])


def _numbers(first: str, last: str) -> Iterator[str]:
    if abs(int(last) - int(first)) >= _MOST_SHARDS:
        raise DataError(f"{{{first}..{last}}} names more than {_MOST_SHARDS:,} shards", fix="mend the pattern")
    width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
    step = 1 if int(last) >= int(first) else -1
    return (f"{number:0{width}}" for number in range(int(first), int(last) + step, step))


def _by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    splits: dict[str | None, list[Path]] = {}
    for file in files:
        words = [*re.split(r"[-_.]", file.stem), file.parent.name]
        splits.setdefault(next(filter(None, map(split_named, words)), None), []).append(file)
    if len(splits) == 1:
        return {"train": list(files)}
    unnamed = splits.pop(None, [])
    if unnamed and "train" in splits:
        raise DataError(
            f"{unnamed[0]} names no split, though other shards do",
            expected="train, validation or test in the name of each shard or of its folder",
            fix="rename it, or leave it out of the pattern",
        )
    return {**({"train": unnamed} if unnamed else {}), **{split: some for split, some in splits.items() if split}}


def _names(shard: Path, labels: Sequence[Label]) -> list[str] | None:
    """Names of the classes that are numbers, from a file beside the shards or above them."""
    if not all(isinstance(label, int) for label in labels):
        return None
    for folder, name in itertools.product((shard.parent, shard.parent.parent), NAMES):
        if (folder / name).is_file():
            lines = (folder / name).read_text("utf-8", errors="replace").splitlines()
            return [line.strip() for line in lines if line.strip()]
    return None


@dataclass
class _Index:
    """Where the images of a split lie: of each its shard, and first byte and size in it. 20 bytes an image."""

    column: str | None = None
    repeated: int = 0
    shards: list[Path] = field(default_factory=list)
    home: Any = field(default_factory=lambda: array("i"))
    start: Any = field(default_factory=lambda: array("q"))
    size: Any = field(default_factory=lambda: array("q"))
    labels: list[Any] = field(default_factory=list)

    def add(self, shard: Path) -> None:
        """List the images of one more shard, by its headers or by what was kept of them."""
        known = listings.identity(shard, self.column)
        found = listings.kept(known)
        if found is None:
            found = _listed(shard, self.column)
            if known == listings.identity(shard, self.column):
                listings.keep(known, found)
        self.repeated += found.repeated
        self.home.extend([len(self.shards)] * len(found.labels))
        self.start.frombytes(found.start.tobytes())
        self.size.frombytes(found.size.tobytes())
        self.labels += found.labels
        self.shards.append(shard)

    def examples(self) -> Examples:
        listing = digest([[shard.name, shard.stat().st_size] for shard in self.shards])
        return Examples(unlabelled(), self._name, self._reader, listing)

    def _name(self, index: int) -> str:
        return f"{self.shards[self.home[index]]} byte {self.start[index]}"

    def _reader(self) -> Callable[[int], Encoded]:
        def read(index: int) -> Encoded:
            # opened anew: an open file for each of a thousand shards is more than many machines allow
            with self.shards[self.home[index]].open("rb", buffering=0) as file:
                file.seek(self.start[index])
                data: bytes = file.read(self.size[index])
                return data

        return read


def _listed(shard: Path, column: str | None) -> listings.Listing:
    """The images of a shard, by reading all its headers."""
    before, repeated = "", 0
    start, size, labels = array("q"), array("q"), list[Label | None]()
    for sample in _samples(shard, column):
        repeated += sample.name == before
        before = sample.name
        start.append(sample.image.offset_data)
        size.append(sample.image.size)
        labels.append(sample.label)
    return listings.Listing(np.array(start, np.int64), np.array(size, np.int64), labels, repeated)


@dataclass(frozen=True)
class _Sample:
    name: str
    image: tarfile.TarInfo
    label: Label | None


def _samples(shard: Path, column: str | None) -> Iterator[_Sample]:
    """The samples of a shard, in order. Where a file of one comes a second time, the next sample has begun."""
    with _opened(shard) as file:
        name, files = "", dict[str, tarfile.TarInfo]()
        for member in _members(file, shard):
            found = sample_name(member.name)
            if found is None:
                continue
            if files and (found[0] != name or found[1] in files):
                yield _sample(file, shard, name, files, column)
                files = {}
            name = found[0]
            files[found[1]] = member
        if files:
            yield _sample(file, shard, name, files, column)


def _sample(
    file: BinaryIO, shard: Path, name: str, files: Mapping[str, tarfile.TarInfo], column: str | None
) -> _Sample:
    where = f"{shard}: {name}"
    images = [ending for ending in files if f".{ending.rpartition('.')[2]}" in SUFFIXES]
    ending = _chosen(images, IMAGE_KEYS)
    if ending is None:
        several = f"several images, {', '.join(images)}" if images else f"no image, only {', '.join(files)}"
        raise DataError(
            f"{where} has {several}",
            expected=f"a file ending in {', '.join(sorted(SUFFIXES))}, or one of several called image, img or input",
            fix="write the shard again",
        )
    return _Sample(name, files[ending], _label(file, where, files, column))


def _chosen(endings: Sequence[str], keys: Sequence[str]) -> str | None:
    """The only one, or the one without further parts, or the one whose first part is a usual key."""
    plain = [ending for ending in endings if "." not in ending]
    usual = [ending for ending in endings if ending.split(".")[0] in keys]
    return next((found[0] for found in (endings, plain, usual) if len(found) == 1), None)


def _opened(shard: Path) -> BinaryIO:
    try:
        return shard.open("rb")
    except OSError as error:
        raise DataError(f"the shard {shard} can't be opened: {error.strerror}", fix="check its permissions") from error


def sample_name(path: str) -> tuple[str, str] | None:
    """The name of the sample that a member of a shard belongs to, and its ending in lower case; None where to none.

    As the webdataset package has it: parted at the first dot behind the last slash. Hidden files, and names without a
    dot, belong to no sample.
    """
    match = _NAME.fullmatch(path)
    return (match[1], match[2].lower()) if match else None


def _members(file: BinaryIO, shard: Path) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield from plain_files(tar)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{shard} can't be read as a shard: {error}",
            expected="a tar file, whole and not compressed",
            fix="fetch or write it again, or leave it out of the pattern",
        ) from error


def _label(file: BinaryIO, name: str, files: Mapping[str, tarfile.TarInfo], column: str | None) -> Label | None:
    """The class of a sample; None where a .json has null for it."""
    texts = [ending for ending in files if ending.rpartition(".")[2] in ("cls", "txt")]
    if column is not None:
        texts = [ending for ending in texts if column.lower() in (ending, ending.rpartition(".")[0])]
    else:
        texts = [e for e in texts if e.endswith("cls")] or [e for e in texts if e.split(".")[0] in LABEL_KEYS]
    ending = _chosen(texts, LABEL_KEYS)
    if ending is not None:
        found: Any = _text(file, files[ending])
        return _number(found) if found else None
    tables = [_json(_text(file, member)) for ending, member in files.items() if ending.rpartition(".")[2] == "json"]
    keys = LABEL_KEYS if column is None else (column,)
    for values in tables:
        for key in keys:
            if key in values and isinstance(values[key], int | str | None) and not isinstance(values[key], bool):
                return _number(str(values[key])) if values[key] is not None else None
    wanted = "" if column is None else f" {column!r}"
    raise DataError(
        f"{name} has no class{wanted}, only {', '.join(files)}",
        expected=f"a file .cls with a number or a word, or a .json with one as {' or '.join(keys)}",
        fix="say which file or key it is with --label-column, or write the shard again",
    )


def _number(text: str) -> Label:
    return int(text) if re.fullmatch(r"-?\d{1,9}", text) else text


def _text(file: BinaryIO, member: tarfile.TarInfo) -> str:
    if member.size > _MOST_LABEL_BYTES:
        return ""
    file.seek(member.offset_data)
    return file.read(member.size).decode("utf-8", errors="replace").strip()


def _json(text: str) -> Mapping[str, Any]:
    try:
        values = parse_json(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _read(pattern: str, how: Reading, events: Events) -> Found:
    return read_shards(pattern, how, events)


READER = Reader(
    "shards",
    "wds:PATTERN",
    "WebDataset shards, such as 'wds:shards/{train,val}-{000..146}.tar', or their folder",
    _read,
    lambda path: path.suffix == ".tar" and path.is_file(),
    prefix=PREFIX,
    columns=True,
)
