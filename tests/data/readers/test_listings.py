"""Listings of shards that are kept: as good as the headers, and never of another shard."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attar.data import listings
from attar.data.listings import Listing
from attar.data.readers import shards
from attar.data.readers.shards import read_shards
from attar.errors import DataError


def write_shard(path: Path, classes: list[str], size: int = 10) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(classes):
            for ending, data in (("png", bytes([number]) * size), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{number:04}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own, for shards that are listed the moment they are written."""
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(listings, "_SETTLED_S", -1.0)
    return tmp_path / "cache" / "listings"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shards of which headers are read."""
    seen, listed = list[Path](), shards._listed

    def counted(shard: Path, column: str | None) -> Listing:
        seen.append(shard)
        return listed(shard, column)

    monkeypatch.setattr(shards, "_listed", counted)
    return seen


def images(path: Path) -> tuple[list[bytes], list[int], tuple[str, ...]]:
    found = read_shards(str(path))
    train = found.splits["train"]
    read = train.open()
    return [bytes(read(index)) for index in range(len(train))], train.labels.tolist(), found.class_names  # type: ignore[arg-type]


def test_a_shard_is_listed_once(cache: Path, looks: list[Path], tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", ["cat", "dog", "cat"])
    first, second = images(shard), images(shard)
    assert first == second
    assert first[0] == [bytes([number]) * 10 for number in range(3)]
    assert looks == [shard]
    assert len(list(cache.iterdir())) == 1


def test_a_shard_that_has_changed_is_listed_again(cache: Path, looks: list[Path], tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", ["cat", "dog", "cat"])
    before, about = images(shard), shard.stat()
    write_shard(shard, ["dog", "cat", "cat"])
    os.utime(shard, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert shard.stat().st_size == about.st_size
    assert images(shard)[1] != before[1]
    assert looks == [shard, shard]
    assert len(list(cache.iterdir())) == 1, "what it was before is replaced"


def test_other_labels_are_other_listings(cache: Path, looks: list[Path], tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", ["0", "1", "-1"])
    for column in (None, "cls"):
        known = listings.identity(shard, column)
        assert listings.kept(known) is None
        listings.keep(known, shards._listed(shard, column))
        found = listings.kept(known)
        assert found is not None
        assert list(found.labels) == [0, 1, -1]


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def text(path: Path) -> None:
    path.write_text("no listing")


@pytest.mark.parametrize("damage", [damaged, cut, text, Path.unlink])
def test_a_damaged_listing_is_not_taken(damage, cache: Path, looks: list[Path], tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", ["cat", "dog"])
    before = images(shard)
    damage(next(cache.iterdir()))
    assert images(shard) == before
    assert looks == [shard, shard]
    assert images(shard) == before
    assert len(looks) == 2, "it was kept again"


@pytest.mark.parametrize(("start", "size"), [(-1, 5), (0, -5), (10_300, 10), (2**62, 2**62)])
def test_a_listing_of_bytes_that_are_not_there_is_not_taken(start: int, size: int, cache: Path, tmp_path: Path) -> None:
    known = listings.identity(write_shard(tmp_path / "a.tar", ["cat"]), None)
    listings.keep(known, Listing(np.array([start]), np.array([size]), ["cat"]))
    assert listings.kept(known) is None


def test_a_shard_of_this_moment_and_one_of_many_labels_are_not_kept(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = write_shard(tmp_path / "a.tar", ["cat"])
    monkeypatch.setattr(listings, "MOST_LABEL_BYTES", 3)
    listings.keep(listings.identity(shard, None), shards._listed(shard, None))
    monkeypatch.setattr(listings, "_SETTLED_S", 60.0)
    assert listings.identity(shard, None) is None
    assert not cache.exists()


def test_listings_that_were_not_used_for_longest_go_first(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [listings.identity(write_shard(tmp_path / f"{name}.tar", ["cat"]), None) for name in "abc"]
    for number, one in enumerate(known):
        listings.keep(one, Listing(np.array([0]), np.array([5]), ["cat"]))
        os.utime(cache / listings._name(one or []), (number, number))
    listings.kept(known[0])
    monkeypatch.setattr(listings, "MOST_BYTES", sum(path.stat().st_size for path in cache.iterdir()) - 1)
    listings.tidy()
    assert [listings.kept(one) is not None for one in known] == [True, False, True]


def test_no_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = write_shard(tmp_path / "a.tar", ["cat", "dog"])
    monkeypatch.setattr(listings, "_SETTLED_S", -1.0)
    (tmp_path / "file").write_text("no folder")
    for place in ("", str(tmp_path / "file")):
        monkeypatch.setenv("ATTAR_CACHE", place)
        assert len(images(shard)[0]) == 2
    (tmp_path / "open" / "listings").mkdir(parents=True)
    (tmp_path / "open" / "listings").chmod(0o777)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "open"))
    assert len(images(shard)[0]) == 2
    assert not list((tmp_path / "open" / "listings").iterdir()), "others may write there"


def test_a_damaged_shard_leaves_no_listing(cache: Path, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "a.tar", ["cat", "dog"])
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(DataError):
        read_shards(str(shard))
    assert not cache.exists()
