"""Pixels kept decoded on disk: those of memory, made once, whole or not there."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attar.data import decoding
from attar.data.pixelfiles import MappedSplit, PixelCache, PixelFile
from attar.data.sources import Source, SourceSettings, open_source
from attar.data.tally import Chunk, channel_sums
from attar.errors import ConfigError, DataError, ResourceError
from attar.runtime.events import Events

SIZE_PX = 6
GIB = 1 << 30


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Indices of the images that were decoded, in chunks of two."""
    seen, chunk = list[int](), decoding._Reader.chunk

    def counted(reader: decoding._Reader, indices: Tensor) -> Chunk:
        seen.extend(indices.tolist())
        return chunk(reader, indices)

    monkeypatch.setattr(decoding, "_CHUNK", 2)
    monkeypatch.setattr(decoding._Reader, "chunk", counted)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Grey images, then coloured ones, of two classes."""
    rng = np.random.default_rng(0)
    for number in range(12):
        shape = (SIZE_PX, SIZE_PX) if number < 4 else (SIZE_PX, SIZE_PX, 3)
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def opened(folder: Path, *, gib: float = 1.0, memory: float = 0.0, skip_corrupt: bool = False) -> Source:
    settings = SourceSettings(memory_gib=memory, cache_gib=gib, skip_corrupt=skip_corrupt, validation_fraction=0.2)
    return open_source(str(folder), settings)


def of_all(source: Source) -> list[object]:
    """All that is known of a source, and its pixels."""
    splits = (source.train, source.validation, source.test)
    pixels = [split.pixels(torch.arange(len(split)).flip(0)).tolist() for split in splits]
    contents = [source.content(split) for split in ("train", "validation", "test")]
    labels = [split.labels.tolist() for split in splits]
    return [pixels, labels, contents, source.task.to_json(), source.fingerprint, source.skipped]


def test_the_same_with_and_without(cache: Path, decoded: list[int], folder: Path) -> None:
    (folder / "a" / "04.png").write_bytes(b"no image")
    plain, held = opened(folder, gib=0, skip_corrupt=True), opened(folder, memory=1, skip_corrupt=True)
    assert not cache.exists()
    first = opened(folder, skip_corrupt=True)
    assert isinstance(first.train, MappedSplit)
    assert of_all(first) == of_all(plain) == of_all(held)
    decoded.clear()
    assert of_all(opened(folder, skip_corrupt=True)) == of_all(first)
    assert decoded == []


def test_grey_images_stay_of_one_channel(cache: Path, folder: Path) -> None:
    for path in folder.glob("*/*.png"):
        Image.open(path).convert("L").save(path)
    assert opened(folder).task.channels == 1
    assert of_all(opened(folder)) == of_all(opened(folder, gib=0))


def test_changed_images_are_others(cache: Path, folder: Path) -> None:
    opened(folder)
    path = folder / "b" / "05.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert of_all(opened(folder)) == of_all(opened(folder, gib=0))


def test_indices_out_of_range_are_refused(cache: Path, folder: Path) -> None:
    train = opened(folder).train
    with pytest.raises(IndexError):
        train.pixels(torch.tensor([len(train)]))


@pytest.mark.parametrize("damage", ["short", "long", "other", "no JSON", "none"])
def test_damaged_files_are_made_again(cache: Path, decoded: list[int], folder: Path, damage: str) -> None:
    before = of_all(opened(folder))
    for about in cache.glob("*/about.json"):
        pixels = about.with_name("pixels.bin")
        if damage == "short":
            pixels.write_bytes(pixels.read_bytes()[:-1])
        elif damage == "long":
            pixels.write_bytes(pixels.read_bytes() + b"1")
        elif damage == "other":
            about.write_text(json.dumps(json.loads(about.read_text()) | {"of": "another"}))
        elif damage == "no JSON":
            about.write_text("{")
        else:
            about.unlink()
    decoded.clear()
    assert of_all(opened(folder)) == before
    assert decoded


def test_what_a_killed_process_left_is_never_used(
    cache: Path, decoded: list[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(file: PixelFile, *_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PixelFile, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(folder)
    assert not list(cache.glob("[!.]*"))
    left = cache / ".0123.new.tmp"  # of a process that had no time to tidy up
    left.mkdir()
    (left / "pixels.bin").write_bytes(b"half")
    assert of_all(opened(folder)) == of_all(opened(folder, gib=0))
    assert not left.exists()


def test_a_damaged_image_is_named_and_nothing_is_left(cache: Path, folder: Path) -> None:
    for path in (folder / "a").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"\.png can't be read"):
        opened(folder)
    assert not list(cache.glob("[!.]*"))


def test_two_at_once_make_them_once(cache: Path, decoded: list[int], folder: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: of_all(opened(folder)), range(2))
    assert one == two == of_all(opened(folder, gib=0))
    assert not list(cache.glob(".*.tmp"))


def written(cache: PixelCache, name: str, num: int) -> None:
    with cache.making(name, num, 1, name) as file:
        assert file is not None
        file.add(np.zeros((num, 1, 1, 1), np.uint8))
        file.finish(name, (1, 1), {})


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "pixels", 5000, Events(quiet=True))
    for age, name in enumerate(["new", "used", "old"]):
        written(cache, name, 1000)
        os.utime(cache.folder / name, (time.time() - 100 * age - 50,) * 2)
    assert cache.find("old")  # which uses it
    written(cache, "more", 2800)
    assert sorted(entry.name for entry in cache.folder.glob("[!.]*")) == ["more", "new", "old"]


def test_a_split_above_the_limit_is_decoded_each_time(cache: Path, folder: Path) -> None:
    source = opened(folder, gib=100 / GIB)
    assert not isinstance(source.train, MappedSplit)
    assert not cache.exists()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path / "pixels", 1 << 60, Events(quiet=True))
    with pytest.raises(ResourceError, match="do not fit on the disk"), cache.making("all", 1 << 59, 1, "all"):
        pass
    assert not list(cache.folder.glob("[!.]*"))


def test_folders_of_others_are_refused(cache: Path, folder: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with pytest.raises(ResourceError, match="others may write"):
        opened(folder)


def test_a_cache_that_is_turned_off_cannot_be_asked_for(folder: Path) -> None:
    with pytest.raises(ConfigError, match="ATTAR_CACHE"):  # empty in all tests
        opened(folder)


def sums_of(pixels: np.ndarray) -> tuple[list[int], list[int]]:
    wide = pixels.astype(np.int64)
    return wide.sum((0, 2, 3)).tolist(), (wide * wide).sum((0, 2, 3)).tolist()


SHAPES = [(0, 1, 3, 3), (1, 3, 5, 700), (3, 3, 256, 256), (2, 1, 300, 257), (400, 3, 16, 16)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_are_exact(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    for pixels in (np.full(shape, 255, np.uint8), rng.integers(0, 256, shape, dtype=np.uint8)):
        sums, squares = channel_sums(pixels)
        assert (sums.tolist(), squares.tolist()) == sums_of(pixels)
