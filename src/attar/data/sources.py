"""From what a user types to images: a name, a folder, parquet shards or a hub address become a `Source`.

Which split is which: where a source brings train, validation and test, they are used as they are. Without a
validation split, one is cut from train. Without a test split, the validation split given becomes the test split and
a new one is cut from train; with neither, both are cut, test first. Cuts are stratified and drawn with a constant
seed, so that they are the same in every run whatever its seed: only `validation_fraction` moves them.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from attar.data.decoding import Decoded, Form, choose_form, decode, require_size
from attar.data.examples import Examples, Found, check, quoted
from attar.data.kinds import described
from attar.data.loading import (
    EVERY_BYTE,
    Content,
    MemorySplit,
    NumberedSplit,
    Split,
    limit_indices,
    stratified_split,
)
from attar.data.named import NAMED
from attar.data.named.memory import PREFIX as MEMORY
from attar.data.pixelfiles import PixelCache
from attar.data.readers import READERS, addressed, recognised
from attar.data.readers.base import Reader
from attar.data.whitening import require_whitenable
from attar.errors import ConfigError, DataError, nearest
from attar.marks import Mark
from attar.normalizations import parse_normalization
from attar.options import Reading
from attar.runtime.events import Events
from attar.runtime.files import digest
from attar.task import Normalization, Task, Whitening

CUT_SEED = 0
"""Seed of every cut that attar makes itself."""
TEST_FRACTION = 0.2
"""Part of the training images that becomes the test split where a source has no other."""
_GIB = 1 << 30
PLACES = tuple((one.shown, one.summary) for one in sorted(READERS.own.values(), key=lambda one: -one.rank))
"""What can stand for a source beside names."""


class SourceSettings(Reading):
    """How a source is read."""

    validation_fraction: float = Field(default=0.1, ge=0, le=0.5)
    """Part of the training images that is held out for validation where the source has no such split; 0 keeps all
    of them and leaves validation empty."""
    train_per_class: int | None = Field(default=None, ge=1)
    """Use only so many training images of each class, drawn at random; None uses all."""
    memory_gib: Annotated[float, Mark.HOW] = Field(default=2.0, ge=0)
    """Keep a split's pixels in memory up to this size (3 bytes per pixel), decode on demand above it."""
    cache_gib: Annotated[float, Mark.HOW] = Field(default=0.0, ge=0)
    """Keep the pixels of splits that don't fit in memory decoded on disk, up to this size together, and read them
    through a memory map; 0 decodes them each time. They lie in ~/.cache/attar/pixels (ATTAR_CACHE moves it), for all
    runs on the same images; what was not used for longest makes room."""
    strip: Annotated[int, Mark.HOW] = Field(default=5, ge=0, le=10)
    """Real images of each class that a run keeps as small pictures, for its page to show beside the synthetic ones; 0:
    none, for images that must not be shown elsewhere. They are no part of the distilled dataset."""
    zca: bool = False
    """Whiten all images by ZCA, measured on the training split: networks are trained, images distilled and students
    judged in whitened space, pictures show pixels. As MTT and TESLA do for CIFAR; for images of up to 4,096 values. The
    matrix is stored with the result and counts towards its size (19 MB at 32 px in colour)."""
    zca_epsilon: float = Field(default=0.1, gt=0, le=1e6)
    """ε of that whitening, beside the variances of pixels in 0..1; directions that vary far less are scaled alike."""
    normalization: str = "own"
    """What pixels are normalised by: own (mean and standard deviation of the training split; imagenet where there are
    class names alone), imagenet, cifar, cifar100, mnist, fashion-mnist, svhn (constants of published code), half (0.5
    and 0.5), unit (0 and 1), or numbers such as 0.5,0.5,0.5/0.25,0.25,0.25 (means, then standard deviations). Other
    people's experts want theirs."""

    @field_validator("normalization")
    @classmethod
    def _known(cls, text: str) -> str:
        if text != "own":
            parse_normalization(text, beside=("own",))
        return text


@dataclass
class Source:
    """Real images, ready to use.

    Attributes:
        name: as the user typed it.
        task: classes, size, channels and the normalisation of the training split.
        train: images to learn from.
        validation: images to choose settings with; empty where `validation_fraction` is 0.
        licence: as the source states it, or None.
        num_test: images of the test split as listed, none of them decoded.
        skipped: images that couldn't be read; grows when the test split is opened.
        fingerprint: short hash of the training and validation images, all labels and the settings that matter.
        description: one line for a person.
        open_test: decodes the test split, with its content.
        contents: what tells the training and validation images from others, by split.
        how: the settings by which it was read.
        skipped_test: those of the skipped images that are of the test split.
        opened_s: seconds that it took to list it and to decode train and validation.
    """

    name: str
    task: Task
    train: Split
    validation: Split
    num_test: int
    licence: str | None
    skipped: list[str]
    fingerprint: str
    description: str
    open_test: Callable[[], tuple[Split, Content]] = field(repr=False)
    contents: Mapping[str, Content] = field(default_factory=dict, repr=False)
    how: SourceSettings = field(default_factory=SourceSettings, repr=False)
    skipped_test: list[str] = field(default_factory=list)
    opened_s: float = 0.0

    @cached_property
    def test(self) -> Split:
        """The test split, decoded when first asked for: `evaluate` is the only one to ask."""
        return self._tested[0]

    @cached_property
    def _tested(self) -> tuple[Split, Content]:
        return self.open_test()

    def content(self, split: Literal["train", "validation", "test"]) -> Content:
        """What tells the images of a split from others; those of the test split are decoded for it."""
        return self._tested[1] if split == "test" else self.contents[split]

    @property
    def has_images(self) -> bool:
        """Whether there are images, and not class names alone."""
        return len(self.train) > 0

    @property
    def skipped_training(self) -> list[str]:
        """Images of the training and validation splits that couldn't be read."""
        return self.skipped[: len(self.skipped) - len(self.skipped_test)]

    @property
    def size_bytes(self) -> int:
        """Bytes of the training images as uint8 pixels."""
        channels, height, width = self.task.shape
        return len(self.train) * channels * height * width


def open_source(
    name: str,
    settings: SourceSettings | None = None,
    *,
    seed: int = 0,
    events: Events | None = None,
    without_images: bool = False,
) -> Source:
    """Open a source by name, path or hub address: list it, cut its splits, decode train and validation.

    Args:
        name: a name in `NAMED`, or one of `PLACES`.
        settings: how to read it.
        seed: chooses which images `train_per_class` keeps, and nothing else.
        events: progress and notes go there.
        without_images: whether class names alone will do, which have empty splits; DataError for them otherwise.

    Images of the source are not whitened yet, whatever `zca` says: see `whitened`.
    Raises ConfigError for an unknown name, or images too large for `zca`; DataError for anything wrong with the images.
    """
    began_s = time.perf_counter()
    settings, events = settings or SourceSettings(), events or Events(quiet=True)
    found = _find(name, settings, events)
    for note in found.notes:
        events.say(note)
    if found.without_images:
        return _of_classes(name, found, settings, allowed=without_images)
    check(found, name)
    parts = _parts(found, settings, seed)
    cache = PixelCache.of(settings.cache_gib, events)
    skipped: list[str] = []
    skipped_test: list[str] = []
    resolution = settings.resolution or found.resolution
    form = choose_form(parts["train"].examples, parts["train"].indices, resolution)
    if form.span is not None:
        events.say(form.span.note(name))
    if settings.zca:
        require_whitenable((form.channels or 1, form.height_px, form.width_px))

    def read(part: _Part, form: Form, split: str) -> Decoded:
        title = f"reading {split} images of {name}"
        decoded = _decode(part, form, found.normalization, settings, events, title, skipped, cache)
        skipped_test.extend(decoded.skipped if split == "test" else [])
        return decoded

    train = read(parts["train"], form, "train")
    _require_classes(train.split.labels, found.class_names, name)
    validation = read(parts["validation"], train.form, "validation")
    channels = train.form.channels or 3
    if settings.zca:
        require_whitenable((channels, form.height_px, form.width_px))
    normalization = _stated(settings.normalization, channels) or train.normalization
    task = Task(found.class_names, channels, form.height_px, form.width_px, normalization)
    test = parts["test"]
    if resolution is None:  # long before it is decoded
        require_size(test.examples, test.indices, form)
    _tell_unjudged(test, task, name, events)

    def open_test() -> tuple[Split, Content]:
        decoded = read(test, train.form, "test")
        return decoded.split, decoded.content

    return Source(
        name=name,
        task=task,
        train=train.split,
        validation=validation.split,
        num_test=len(test.indices),
        licence=found.licence,
        skipped=skipped,
        fingerprint=digest(
            [task.class_names, task.shape, train.content.digest, validation.content.digest, test.listing()]
        ),
        description=_describe(task, len(train.split), len(validation.split), len(test.indices)),
        open_test=open_test,
        contents={"train": train.content, "validation": validation.content},
        how=settings,
        skipped_test=skipped_test,
        opened_s=time.perf_counter() - began_s,
    )


def _of_classes(name: str, found: Found, settings: SourceSettings, *, allowed: bool) -> Source:
    """A source that names classes and has no images."""
    if not allowed:
        raise DataError(
            f"{name} names classes and has no images",
            expected="real images, to train networks on or to judge by",
            fix="give a source of images here; `attar distill` makes a set of classes alone by sre2l, with --weights",
        )
    if settings.zca:
        raise ConfigError(f"source.zca whitens images, and {name} has none", fix="--set source.zca=false")
    size_px = settings.resolution or found.resolution
    if size_px is None:
        raise ConfigError(
            f"{name} does not say how large images are",
            expected="a resolution, that of the images that the network was trained on",
            fix="pass a resolution, for example --resolution 224",
        )
    normalization = found.normalization or parse_normalization("imagenet")
    if settings.normalization != "own":
        normalization = parse_normalization(settings.normalization)
    task = Task(found.class_names, len(normalization.mean), size_px, size_px, normalization)
    nothing = MemorySplit(torch.zeros(0, *task.shape, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    content = Content(digest([]), EVERY_BYTE)
    return Source(
        name=name,
        task=task,
        train=nothing,
        validation=nothing,
        num_test=0,
        licence=found.licence,
        skipped=[],
        fingerprint=digest([task.to_json(), "no images"]),
        description=f"{task.num_classes} classes at {size_px}x{size_px} px, without images",
        open_test=lambda: (nothing, content),
        contents={"train": content, "validation": content},
        how=settings,
    )


def whitened(source: Source, whitening: Whitening) -> Source:
    """The same source, its images whitened."""
    return replace(source, task=source.task.whitened(whitening))


def of_classes(source: Source, class_names: Sequence[str]) -> Source:
    """The images that a source has of these classes, numbered in this order; its test split is decoded.

    It is the source itself where its classes are these already, or where it lacks one of them.
    """
    names, own = tuple(class_names), source.task.class_names
    if names == own or len(set(names)) < len(names) or not set(names) <= set(own):
        return source
    numbers = torch.full((len(own),), -1)
    numbers[[own.index(name) for name in names]] = torch.arange(len(names))
    train, validation, test = (NumberedSplit(one, numbers) for one in (source.train, source.validation, source.test))

    task = replace(source.task, class_names=names)

    def of_these(content: Content) -> Content:
        return Content(digest([content.digest, names]), content.by)

    return replace(
        source,
        task=task,
        train=train,
        validation=validation,
        num_test=len(test),
        fingerprint=digest([source.fingerprint, names]),
        description=_describe(task, len(train), len(validation), len(test)),
        open_test=lambda: (test, of_these(source.content("test"))),
        contents={name: of_these(content) for name, content in source.contents.items()},
    )


@dataclass(frozen=True)
class _Part:
    """Some images of a split as found."""

    examples: Examples
    indices: Tensor

    def listing(self) -> str:
        return digest([self.examples.listing, self.indices.tolist(), self.examples.labels[self.indices].tolist()])


def _find(name: str, settings: SourceSettings, events: Events) -> Found:
    if not name.strip():  # as a path it would be the folder that one is in
        raise ConfigError("the source has no name", expected="a folder, a file, or a name of `attar list datasets`")
    if name in NAMED:
        _require_columns(None, name, settings)
        return NAMED[name].read(Path(settings.data_dir) if settings.data_dir else None, settings.download)
    if reader := addressed(name):
        _require_columns(reader, name, settings)
        return reader.read(name.removeprefix(reader.prefix), settings, events)
    path = Path(name).expanduser()
    try:
        if path.exists() and (reader := recognised(path)):
            _require_columns(reader, name, settings)
            return reader.read(str(path), settings, events)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error}", fix="check its permissions") from error
    if path.exists():
        what, fix = described(path)
        raise DataError(f"{path} is {what}", expected=", ".join(kind for kind, _ in PLACES), fix=fix)
    if path.name != name or path.suffix:
        raise DataError(f"{path} does not exist", expected="a file or folder of this machine", fix="check the path")
    if name.startswith(MEMORY):
        raise DataError(
            f"{name} stands for images that a Python program handed over, and this one has not",
            expected="the same images again",
            fix="go on from Python: attar.distill(images, out=...), with what it was called with",
        )
    entries: list[str] = []
    with suppress(OSError):
        entries = [one.name for one in Path().iterdir() if not one.name.startswith(".")]
    here = [f"./{one}" for one in difflib.get_close_matches(name, entries, n=2)]
    near = [*difflib.get_close_matches(name, list(NAMED), n=2), *here]
    known = [*NAMED, *(kind for kind, _ in PLACES)]
    raise ConfigError(
        f"unknown source {name!r}: no dataset has this name, and there is no such file or folder here",
        expected=f"did you mean {' or '.join(near)}?" if here else nearest(name, known),
        fix="check the path, or see `attar list datasets` for names",
    )


def _require_columns(reader: Reader | None, name: str, settings: SourceSettings) -> None:
    if settings.label_column is not None and not (reader and reader.columns):
        raise ConfigError(
            f"--label-column {settings.label_column}, and {name} has no columns: its classes are known otherwise",
            expected="--label-column for " + ", ".join(one.shown for one in READERS.own.values() if one.columns),
            fix="leave it out",
        )


def _parts(found: Found, settings: SourceSettings, seed: int) -> dict[str, _Part]:
    """Say which images make each split, before any is decoded."""
    train, test, validation = (found.splits.get(split) for split in ("train", "test", "validation"))
    assert train is not None  # `check` saw to it
    indices = torch.arange(len(train))
    if test is None:
        test, validation = validation, None
    parts = {split: _whole(given) for split, given in (("test", test), ("validation", validation)) if given}
    for split, fraction in (("test", TEST_FRACTION), ("validation", settings.validation_fraction)):
        if split not in parts:
            kept, held = stratified_split(train.labels[indices], fraction, CUT_SEED)
            parts[split] = _Part(train, indices[held])
            indices = indices[kept]
    if settings.train_per_class is not None:
        indices = indices[limit_indices(train.labels[indices], settings.train_per_class, seed)]
    return parts | {"train": _Part(train, indices)}


def _whole(examples: Examples) -> _Part:
    return _Part(examples, torch.arange(len(examples)))


def _decode(
    part: _Part,
    form: Form,
    known: Normalization | None,
    settings: SourceSettings,
    events: Events,
    title: str,
    skipped: list[str],
    cache: PixelCache | None,
) -> Decoded:
    decoded = decode(
        part.examples,
        part.indices,
        form,
        known=known,
        memory_bytes=int(settings.memory_gib * _GIB),
        skip_corrupt=settings.skip_corrupt,
        events=events,
        title=title,
        cache=cache,
    )
    if decoded.skipped:
        count = f"{len(decoded.skipped)} of {len(part.indices)} images"
        events.say(f"left out, as they can't be read, {count}: {quoted(decoded.skipped)}")
        skipped += decoded.skipped
    return decoded


def _stated(text: str, channels: int) -> Normalization | None:
    if text == "own":
        return None
    stated = parse_normalization(text, channels)
    if len(stated.mean) != channels:
        raise ConfigError(
            f"source.normalization={text} has {len(stated.mean)} channels, the images {channels}",
            expected="a mean and a standard deviation for each channel",
        )
    return stated


def _require_classes(labels: Tensor, class_names: Sequence[str], where: str) -> None:
    counts = labels.bincount(minlength=len(class_names)).tolist()
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        raise DataError(
            f"{where}: no training image of {quoted(empty)} can be read",
            expected="at least one of each class",
            fix="mend the images, or leave the class out of all splits",
        )


def _tell_unjudged(test: _Part, task: Task, name: str, events: Events) -> None:
    """Say which classes the test images, where there are any, do not judge."""
    counts = test.examples.labels[test.indices].bincount(minlength=task.num_classes).tolist()
    if any(counts) and not all(counts):
        none = [name for name, count in zip(task.class_names, counts, strict=True) if not count]
        events.say(f"{name}: no test image is of {quoted(none)}: test accuracies are of the other classes")


def _describe(task: Task, train: int, validation: int, test: int) -> str:
    kind = "grey" if task.channels == 1 else "colour"
    return (
        f"{train:,} training, {validation:,} validation and {test:,} test images of {task.num_classes} classes, "
        f"{task.width_px}x{task.height_px} px, {kind}"
    )
