"""Real images in WebDataset shards: tar files in which the files of one image share their name up to the first dot.

    train-000000.tar    n01440764_18.jpg    the image, any ending of `attar.data.raster.SUFFIXES`
                        n01440764_18.cls    its class, a number or a word; or n01440764_18.json with such a `label`
    classnames.txt      names of the classes that are numbers, a line each (or classes.txt); may be missing

Shards are listed by their headers and read where an image lies, in any order, from several threads; nothing is
unpacked. https://github.com/webdataset/webdataset
"""

from __future__ import annotations

import glob
import itertools
import json
import re
import tarfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from attar.data.examples import Examples, Found, index_labels, licence_of, split_named
from attar.data.raster import SUFFIXES, Encoded
from attar.data.readers.base import Reader
from attar.errors import DataError
from attar.options import Reading
from attar.runtime.archives import plain_files
from attar.runtime.events import Events
from attar.runtime.files import digest

PREFIX = "wds:"
NAMES = ("classnames.txt", "classes.txt")
LABEL_KEYS = ("label", "cls", "class")
_MOST_SHARDS = 1_000_000
_MOST_LABEL_BYTES = 1 << 20
_BRACES = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")

Label = int | str


def read_shards(pattern: str, events: Events | None = None) -> Found:
    """List the images of shards; none is opened.

    Args:
        pattern: files, with `{000..146}`, `{train,val}`, `*` and `?` in their path; or a folder of shards, with or
            without folders for splits in it.
        events: progress.

    The split is named in a shard's name or is that of its folder; shards of one split alone are training images.
    Raises DataError where there are none, or a shard is damaged, or an image has no class.
    """
    files = shard_files(pattern)
    splits = _by_split(files)
    indices = {split: _Index() for split in splits}
    with (events or Events(quiet=True)).progress(f"listing shards of {pattern}", len(files)) as bar:
        for split, shards in splits.items():
            for shard in shards:
                indices[split].add(shard)
                bar.advance()
    labels = {split: index.labels for split, index in indices.items()}
    if not any(labels.values()):
        raise DataError(f"{pattern}: the shards hold no images", expected="a .jpg or .png and a .cls for each image")
    class_names, numbers = index_labels(labels, _names(files[0], labels["train"]), pattern)
    examples = {split: indices[split].examples(numbers[split]) for split in numbers}
    return Found(class_names, examples, licence_of(files[0].parent))


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

    shards: list[Path] = field(default_factory=list)
    home: Any = field(default_factory=lambda: array("i"))
    start: Any = field(default_factory=lambda: array("q"))
    size: Any = field(default_factory=lambda: array("q"))
    labels: list[Any] = field(default_factory=list)

    def add(self, shard: Path) -> None:
        """List the images of one more shard."""
        for start, size, label in _images(shard):
            self.home.append(len(self.shards))
            self.start.append(start)
            self.size.append(size)
            self.labels.append(label)
        self.shards.append(shard)

    def examples(self, labels: Any) -> Examples:
        listing = digest([[shard.name, shard.stat().st_size] for shard in self.shards])
        return Examples(labels, self._name, self._reader, listing)

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


def _images(shard: Path) -> Iterator[tuple[int, int, Label]]:
    """First byte, size and label of each image in a shard, in order."""
    with _opened(shard) as file:
        found = ((sample_name(member.name), member) for member in _members(file, shard))
        named = ((*name, member) for name, member in found if name)
        for name, parts in itertools.groupby(named, key=itemgetter(0)):
            files = {ending: member for _, ending, member in parts}
            image = next((member for ending, member in files.items() if f".{ending}" in SUFFIXES), None)
            if image is None:
                raise DataError(
                    f"{shard}: {name} has no image, only {', '.join(files)}",
                    expected=f"a file ending in {', '.join(sorted(SUFFIXES))}",
                    fix="write the shard again",
                )
            yield image.offset_data, image.size, _label(file, f"{shard}: {name}", files)


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


def _label(file: BinaryIO, name: str, files: dict[str, tarfile.TarInfo]) -> Label:
    member = files.get("cls", files.get("json"))
    if member is not None and member.size <= _MOST_LABEL_BYTES:
        file.seek(member.offset_data)
        text = file.read(member.size).decode("utf-8", errors="replace").strip()
        found = text if member is files.get("cls") else _of_json(text)
        if found:
            return int(found) if re.fullmatch(r"-1|\d{1,9}", found) else found
    raise DataError(
        f"{name} has no class",
        expected=f"a file .cls with a number or a word, or a .json with one as {' or '.join(LABEL_KEYS)}",
        fix="write the shard again",
    )


def _of_json(text: str) -> str:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    found = [values[key] for key in LABEL_KEYS if key in values] if isinstance(values, dict) else []
    return str(found[0]) if found and isinstance(found[0], int | str) and not isinstance(found[0], bool) else ""


def _read(pattern: str, how: Reading, events: Events) -> Found:
    return read_shards(pattern, events)


READER = Reader(
    "shards",
    "wds:PATTERN",
    "WebDataset shards, such as 'wds:shards/{train,val}-{000..146}.tar', or their folder",
    _read,
    lambda path: path.suffix == ".tar" and path.is_file(),
    prefix=PREFIX,
)
