"""A folder of class folders, with or without train, validation and test folders above them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from attar.data.examples import Examples, Found, licence_of, quoted, split_named
from attar.data.raster import SUFFIXES
from attar.data.readers.base import Reader
from attar.data.walking import Walked, below, hidden, of_files, visible_folders, walk
from attar.errors import DataError
from attar.options import Reading
from attar.runtime.events import Events

Files = list[tuple[str, int]]
_FIX = "sort the images into one folder per class, or list file and class of each in labels.csv beside them"


@dataclass(frozen=True)
class Classed:
    """Image files sorted into splits and classes: paths and sizes, and labels; and what a person should hear."""

    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[Files, list[int]]]
    notes: list[str] = field(default_factory=list)


def read_folder(path: Path) -> Found:
    """List the images of a folder; classes are the sorted names of the folders that hold them.

    Raises DataError where a class is empty, or has no folder in one of the splits.
    """
    walked = walk(path)
    if not walked.files and (packed := _packed(path)):
        shards = f"wds:{path}, if these are WebDataset shards, or " if packed[0].endswith(".tar") else ""
        raise DataError(
            f"{path} holds no images, but {quoted(packed)}",
            expected="a folder for each class, or one file that holds all",
            fix=f"give {shards}{path}/{packed[0]}",
        )
    classed = sort_out(walked, str(path))
    splits = {
        split: of_files(files, labels, below(path), f"{path}/") for split, (files, labels) in classed.splits.items()
    }
    return Found(classed.class_names, splits, licence_of(path), walked.notes(str(path)) + classed.notes)


def sort_out(walked: Walked, where: str) -> Classed:
    """Say which split and class each file is of, by the folders it lies in.

    Raises DataError where there are no class folders, one is empty, or splits differ in their classes.
    """
    homes = _homes(walked)
    named = [(split, name) for name in homes if (split := split_named(name))]
    if any(homes[name] for _, name in named):  # a class that is called `train` holds images, not folders
        return _by_split(walked, where, homes, named)
    if homes and len(named) == len(homes):
        raise DataError(
            f"{where}: {quoted(homes)} {'hold' if len(homes) > 1 else 'holds'} images that are in no class folder",
            expected="a folder for each class in train/, or a table that names the class of each image",
            fix=_FIX,
        )
    if not homes:
        raise _no_folders(walked, where)
    names = tuple(homes)
    if len(names) == 1 and len(homes[names[0]]) > 1:
        raise DataError(
            f"{where} holds one folder only: {names[0]}, in which there are {quoted(sorted(homes[names[0]]))}",
            expected="a folder for each class",
            fix=f"give {where.rstrip('/')}/{names[0]}, if these are the classes",
        )
    files, labels = _labelled(walked, where, "", names)
    return Classed(names, {"train": (files, labels)}, _loose(where, len(walked.files) - len(files)))


def class_folders(path: Path) -> list[Path]:
    """List the folders in a folder by name: not hidden ones, the system's or attar's own."""
    return visible_folders(path)


def read_split(root: Path, split: str, names: Sequence[str], folders: Sequence[Path]) -> Examples:
    """List the images of a split, a folder for each class; no image is opened.

    Args:
        root: what the images are named from.
        split: its name, for messages.
        names: the classes, as folders are called, in label order.
        folders: those of this split, sorted as `names`.

    Raises DataError where the folders aren't the classes, or one of them holds no images.
    """
    _require_same(names, [folder.name for folder in folders], str(root), split)
    files: Files = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        walked = walk(folder, folder.relative_to(root).as_posix())
        if not walked.files:
            raise _empty(str(folder), walked)
        files += sorted(walked.files, key=_order)
        labels += [label] * len(walked.files)
    return of_files(files, labels, below(root), f"{root}/")


def _homes(walked: Walked) -> dict[str, set[str]]:
    """The folders at the top, sorted, with those in each that are not empty; without what holds attar's own alone."""
    tops = {name for name in walked.folders if "/" not in name}
    inner: dict[str, set[str]] = defaultdict(set)
    filled = set()
    for name, _ in walked.files:
        top, slash, rest = name.partition("/")
        if slash:
            filled.add(top)
        if "/" in rest:
            inner[top].add(rest.partition("/")[0])
    theirs = {name.partition("/")[0] for name in walked.ours}
    return {top: inner[top] for top in sorted(tops) if top in filled or top not in theirs}


def _by_split(walked: Walked, where: str, homes: dict[str, set[str]], named: Sequence[tuple[str, str]]) -> Classed:
    if len({split for split, _ in named}) < len(named):
        raise DataError(
            f"{where} has several folders for one split: {quoted(name for _, name in named)}",
            expected="one folder for each of train, validation and test",
            fix="rename those that are not to be read: names that begin with a dot are left out",
        )
    folders = {split: _in(walked, name) for split, name in named}
    if not folders.get("train"):
        raise DataError(
            f"{where} has no class folders in train/, only {quoted(name for _, name in named)}",
            expected="train/ with a folder for each class",
            fix="name the folder of the training images train",
        )
    names = tuple(folders["train"])
    splits: dict[str, tuple[Files, list[int]]] = {}
    counts = Counter(name.partition("/")[0] for name, _ in walked.files)
    left, notes = len(walked.files), list[str]()
    for split, name in named:
        if split != "train" and _is_unlabelled(homes[name], names):
            notes.append(f"{where}: the {split} split has no labels (no folders of the classes in {name}/): left out")
            left -= counts[name]
            continue
        _require_same(names, folders[split], where, split)
        splits[split] = _labelled(walked, where, f"{name}/", names)
        left -= len(splits[split][0])
    others = [top for top in homes if split_named(top) is None]
    return Classed(names, splits, notes + _loose(where, left, others))


def _is_unlabelled(found: set[str], names: Sequence[str]) -> bool:
    """Whether the folders of a split are those of images without labels: none, or one that is no class (`unknown`)."""
    return not found or (len(found) == 1 and not found & set(names))


def _loose(where: str, num: int, folders: Sequence[str] = ()) -> list[str]:
    which = f"; no names of splits: {quoted(folders)}" if folders else ""
    return [f"{where}: images in no class folder, left out: {num:,}{which}"] if num else []


def _in(walked: Walked, top: str) -> list[str]:
    """The names of the folders in one at the top, sorted, without those that hold attar's own alone."""
    start = f"{top}/"
    theirs = {name.split("/")[1] for name in walked.ours if name.startswith(start)}
    filled = {name.split("/")[1] for name, _ in walked.files if name.startswith(start) and name.count("/") > 1}
    found = [name.removeprefix(start) for name in walked.folders if name.startswith(start) and name.count("/") == 1]
    return sorted(name for name in found if name in filled or name not in theirs)


def _labelled(walked: Walked, where: str, prefix: str, names: Sequence[str]) -> tuple[Files, list[int]]:
    """The files in the class folders below a folder, class by class, and their labels."""
    by_class: dict[str, Files] = {name: [] for name in names}
    for file in walked.files:
        if file[0].startswith(prefix):
            home, slash, _ = file[0].removeprefix(prefix).partition("/")
            if slash and home in by_class:
                by_class[home].append(file)
    if empty := next((name for name, files in by_class.items() if not files), None):
        raise _empty(f"{where}/{prefix}{empty}", walked)
    files = [file for name in names for file in sorted(by_class[name], key=_order)]
    return files, [label for label, name in enumerate(names) for _ in by_class[name]]


def _order(file: tuple[str, int]) -> list[str]:
    return file[0].split("/")


def _require_same(names: Sequence[str], found: Sequence[str], where: str, split: str) -> None:
    if set(found) != set(names):
        missing, extra = sorted(set(names) - set(found)), sorted(set(found) - set(names))
        what = f"lacks the class folders {quoted(missing)}" if missing else f"has folders {quoted(extra)} more"
        raise DataError(
            f"{where}: the {split} split {what}",
            expected=f"the same {len(names)} class folders in every split",
            fix="add those that are missing; a folder whose name begins with a dot is left out",
        )


def _empty(folder: str, walked: Walked) -> DataError:
    others = f" ({', '.join(sorted(walked.unread))} files are not read)" if walked.unread else ""
    return DataError(
        f"the class folder {folder} holds no images{others}",
        expected=f"at least one file ending in {', '.join(sorted(SUFFIXES))}",
        fix="add images to it; if it is no class, begin its name with a dot, and it is left out",
    )


def _packed(path: Path) -> list[str]:
    """Files in a folder that are sources themselves, by their endings; tar files first."""
    found = [file.name for file in path.iterdir() if not hidden(file.name) and file.suffix in (".tar", ".zip", ".npz")]
    return sorted(found, key=lambda name: (not name.endswith(".tar"), name))


def _no_folders(walked: Walked, where: str) -> DataError:
    num = len(walked.files)
    loose = f", though {num:,} image{'s' * (num > 1)}" if num else ""
    return DataError(
        f"{where} holds no folders of images{loose}",
        expected="a folder for each class (under train/, if there are splits), a table of files and classes, or "
        "parquet files",
        fix=_FIX,
    )


def _read(path: str, how: Reading, events: Events) -> Found:
    return read_folder(Path(path))


READER = Reader(
    "folders",
    "FOLDER",
    "a folder of class folders, with or without train/, val/ and test/ above them",
    _read,
    Path.is_dir,
    rank=90,
)
