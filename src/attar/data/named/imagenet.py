"""ImageNet-1K, named subsets of it, and Tiny-ImageNet in the folders that their authors publish, and what their classes
are called.

Classes are numbered as everybody numbers them: by their WordNet ids, sorted; those of a subset as in the code that made
it known. People read words instead, the first of
WordNet's synonyms; where two classes share it (`crane`, the bird and the machine) the id stands behind it.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attar.data.examples import Examples, Found, quoted
from attar.data.named.base import NamedSource
from attar.data.readers.folders import class_folders, read_split
from attar.data.walking import below, of_files
from attar.errors import DataError
from attar.task import Normalization

SUBSETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "imagenet-nette": (
            *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
            *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
        ),
        "imagenet-woof": (
            *("n02096294", "n02093754", "n02111889", "n02088364", "n02086240"),
            *("n02089973", "n02087394", "n02115641", "n02099601", "n02105641"),
        ),
        "imagenet-fruit": (
            *("n07753275", "n07753592", "n07745940", "n07747607", "n07749582"),
            *("n07768694", "n07753113", "n07720875", "n07718472", "n07742313"),
        ),
        "imagenet-meow": (
            *("n02123045", "n02123159", "n02123394", "n02123597", "n02124075"),
            *("n02129165", "n02129604", "n02128925", "n02128757", "n02127052"),
        ),
        "imagenet-squawk": (
            *("n01806143", "n02007558", "n01818515", "n02051845", "n02056570"),
            *("n01614925", "n01843383", "n01518878", "n01860187", "n01819313"),
        ),
        "imagenet-yellow": (
            *("n02206856", "n12057211", "n07753592", "n07749582", "n12144580"),
            *("n04146614", "n03530642", "n02129165", "n01773157", "n01531178"),
        ),
    }
)
"""WordNet ids of ten classes each, in label order: the subsets of MTT (Cazenavette et al. 2022), which read them at 128
px. Its files of distilled images number the classes so."""
IMAGENETS = ("tiny-imagenet", "imagenet-1k", *SUBSETS)
"""Names that `read_imagenet` reads."""
TINY_FOLDER = "tiny-imagenet-200"
NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""ImageNet-1K's, as everybody writes it and as released networks were trained with."""
RESOLUTION, SUBSET_RESOLUTION = 224, 128
_ANNOTATIONS = "val_annotations.txt"
_TABLES = Path("data", "_info")


def read_imagenet(name: str, data_dir: Path | None, download: bool = False) -> Found:
    """List a dataset of `IMAGENETS`; no image is opened, and none is fetched.

    Raises DataError where the folder, a split or a class is missing, or the folders aren't this dataset's.
    """
    expected = f"--data-dir, the folder that holds {TINY_FOLDER + '/' if name == IMAGENETS[0] else 'train/ and val/'}"
    if data_dir is None:
        fix = "fetch it from its authors, who ask for their terms to be accepted, and add --data-dir DIR"
        raise DataError(f"{name} needs a folder", expected=expected, fix=fix)
    root = data_dir / TINY_FOLDER if (data_dir / TINY_FOLDER).is_dir() else data_dir
    for split in ("train", "val"):
        if not (root / split).is_dir():
            raise DataError(f"{root} has no folder {split}/", expected=expected, fix="check --data-dir")
    try:
        if name in SUBSETS:
            return _subset(root, name)
        return _tiny(root) if name == IMAGENETS[0] else _full(root)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{root} can't be read: {error}", fix="check its permissions, or unpack it again") from error


def classes_of(name: str) -> Found:
    """Name the classes of ImageNet-1K or of a subset, as `read_imagenet` does; there are no images."""
    known, synonyms = _wordnet()
    ids, size_px = (SUBSETS[name], SUBSET_RESOLUTION) if name in SUBSETS else (sorted(known), RESOLUTION)
    return Found(readable(ids, synonyms), {}, normalization=NORMALIZATION, resolution=size_px, without_images=True)


def readable(ids: Sequence[str], synonyms: Mapping[str, str]) -> tuple[str, ...]:
    """Name classes by the first of their synonyms (`goldfish, Carassius auratus`), all of them differently."""
    words = [synonyms.get(wordnet_id, wordnet_id).split(",")[0].strip() for wordnet_id in ids]
    counts = Counter(words)
    return tuple(f"{word}, {i}" if counts[word] > 1 else word for word, i in zip(words, ids, strict=True))


def _full(root: Path) -> Found:
    train, val = class_folders(root / "train"), class_folders(root / "val")
    ids, (known, synonyms) = [folder.name for folder in train], _wordnet()
    strangers = sorted(set(ids) - known)
    if strangers or not ids:
        raise DataError(
            f"{root / 'train'} holds {f'folders {quoted(strangers)}' if strangers else 'no folders'}",
            expected="the class folders of ImageNet-1K, named by WordNet ids such as n01440764",
            fix="to read other classes, give the folder itself as the source",
        )
    if not val:
        raise DataError(
            f"{root / 'val'} holds no class folders",
            expected="validation images sorted into the same folders as the training images",
            fix="move each image into the folder of its class, as torchvision's `parse_val_archive` does",
        )
    splits = {"train": read_split(root, "train", ids, train), "validation": read_split(root, "val", ids, val)}
    notes = [] if len(ids) == len(known) else [f"{root} holds {len(ids)} of ImageNet-1K's {len(known):,} classes"]
    return Found(readable(ids, synonyms), splits, notes=notes, normalization=NORMALIZATION, resolution=RESOLUTION)


def _subset(root: Path, name: str) -> Found:
    """Read some class folders of ImageNet-1K, in the subset's order; others may lie beside them."""
    ids = SUBSETS[name]
    splits = {}
    for split, folder in (("train", "train"), ("validation", "val")):
        found = {home.name: home for home in class_folders(root / folder)}
        if missing := sorted(set(ids) - set(found)):
            raise DataError(
                f"{root / folder} lacks {len(missing)} of the 10 class folders of {name}: {quoted(missing)}",
                expected="class folders of ImageNet-1K, named by WordNet ids, in train/ and in val/",
                fix="unpack them too; for an ImageNette or ImageWoof of its own, give its folder as the source",
            )
        splits[split] = read_split(root, folder, ids, [found[one] for one in ids])
    return Found(readable(ids, _wordnet()[1]), splits, normalization=NORMALIZATION, resolution=SUBSET_RESOLUTION)


def _tiny(root: Path) -> Found:
    train = class_folders(root / "train")
    listed = root / "wnids.txt"
    ids = sorted(listed.read_text().split()) if listed.exists() else [folder.name for folder in train]
    annotated = (root / "val" / _ANNOTATIONS).exists()
    val = _annotated(root, ids) if annotated else read_split(root, "val", ids, class_folders(root / "val"))
    splits = {"train": read_split(root, "train", ids, train), "validation": val}
    return Found(readable(ids, _wordnet()[1]), splits)


def _annotated(root: Path, ids: Sequence[str]) -> Examples:
    """Read the validation split as published: one folder of images, and a table of their classes."""
    places = {wordnet_id: label for label, wordnet_id in enumerate(ids)}
    files: list[tuple[str, int]] = []
    labels: list[int] = []
    for line, row in enumerate((root / "val" / _ANNOTATIONS).read_text().splitlines(), 1):
        name, _, rest = row.partition("\t")
        wordnet_id, file = rest.partition("\t")[0].strip(), root / "val" / "images" / Path(name).name
        if wordnet_id not in places or not file.is_file():
            raise DataError(
                f"{root / 'val' / _ANNOTATIONS}, line {line}: {row[:80]!r} names "
                f"{'no class of train/' if wordnet_id not in places else f'{file}, which is missing'}",
                expected="the name of an image in val/images and the WordNet id of its class",
                fix="unpack the archive again",
            )
        files.append((file.relative_to(root).as_posix(), file.stat().st_size))
        labels.append(places[wordnet_id])
    return of_files(files, labels, below(root), f"{root}/")


@cache
def _wordnet() -> tuple[frozenset[str], Mapping[str, str]]:
    """Ids of ImageNet-1K's classes, and the synonyms of all of ImageNet's, as timm brings them.

    Its tables are read where they lie: importing timm takes as long as importing torch.
    """
    package = find_spec("timm")
    folder = Path(package.origin if package and package.origin else "").parent / _TABLES
    ids, words = folder / "imagenet_synsets.txt", folder / "imagenet_synset_to_lemma.txt"
    if ids.exists() and words.exists():
        lines = words.read_text(encoding="utf-8").splitlines()
        return frozenset(ids.read_text().split()), dict(csv.reader(lines, delimiter="\t"))
    from timm.data import imagenet_info  # a timm that keeps them elsewhere

    info: Any = imagenet_info.ImageNetInfo
    return frozenset(info("imagenet-1k").label_names()), info("imagenet-22k").label_descriptions(as_dict=True)


_ABOUT = {
    "tiny-imagenet": "110,000 images of 64x64 px in 200 classes; tiny-imagenet-200/ as published, in --data-dir",
    "imagenet-1k": "1.3 million photographs in 1,000 classes; train/ and val/ of class folders in --data-dir",
    **{
        f"imagenet-{name}": f"13,000 photographs of imagenet-1k in 10 classes ({what}), at 128 px; in its folders"
        for name, what in (
            ("nette", "tench, springer, church, ..."),
            ("woof", "dogs"),
            ("fruit", "fruit and vegetables"),
            ("meow", "cats"),
            ("squawk", "birds"),
            ("yellow", "yellow things"),
        )
    },
}
SOURCES = tuple(
    NamedSource(
        name, _ABOUT[name], partial(read_imagenet, name), None if name == IMAGENETS[0] else partial(classes_of, name)
    )
    for name in IMAGENETS
)
