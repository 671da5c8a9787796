"""Sources in WebDataset shards."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.data.raster import to_pixels
from attar.data.readers.shards import read_shards, shard_files
from attar.data.sources import Source, SourceSettings, open_source
from attar.errors import DataError
from attar.run.settings import source_name

Members = list[tuple[str, bytes]]


def write_shard(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def make_shard(tmp_path: Path, make_image: Callable[..., bytes]) -> Callable[..., Path]:
    """A shard of `num` noise images, of classes in turn; `told` says how a label is written."""

    def make(name: str, num: int = 6, told: Callable[[int], tuple[str, bytes]] | None = None, first: int = 0) -> Path:
        told = told or (lambda i: ("cls", str(i % 2).encode()))
        members: Members = []
        for i in range(num):
            ending, label = told(i)
            key = f"n0{i}/{first + i:04}"
            members += [(f"{key}.{ending}", label), (f"{key}.png", make_image(first + i)), (f"{key}.txt", b"more")]
        return write_shard(tmp_path / name, members)

    return make


def opened(pattern: object, **settings: Any) -> Source:
    return open_source(f"wds:{pattern}", SourceSettings(**settings))


def test_images_and_labels_are_those_of_the_same_files_in_folders(make_shard, tmp_path, make_image):
    shards = [make_shard(f"train-{number:03}.tar", 5, first=100 * number) for number in range(2)]
    source = opened(tmp_path / "train-{000..001}.tar", validation_fraction=0.25)
    with tarfile.open(shards[0]) as tar:
        files = {name: tar.extractfile(name).read() for name in tar.getnames()}
    folder = tmp_path / "folder"
    for number in range(2):
        for i in range(5):
            home = folder / str(i % 2)
            home.mkdir(parents=True, exist_ok=True)
            (home / f"{100 * number + i:04}.png").write_bytes(make_image(100 * number + i))
    assert files["n00/0000.png"] == make_image(0)
    other = open_source(str(folder), SourceSettings(validation_fraction=0.25))

    def whole(one: Source) -> list[Any]:
        found = []
        for part in (one.train, one.validation, one.test):
            found += zip(part.pixels(torch.arange(len(part))).flatten(1).tolist(), part.labels.tolist(), strict=True)
        return sorted(found)

    assert whole(source) == whole(other)


def test_splits_are_named_by_shards_or_their_folders(make_shard, tmp_path):
    for name, num in (("train-0", 6), ("train-1", 4), ("val-0", 4)):
        make_shard(f"flat/{name}.tar", num)
    source = opened(str(tmp_path / "flat/{train-{0..1},val-0}.tar"))
    assert len(source.test) == 4, "the only other split is the test split"
    assert len(source.train) + len(source.validation) == 10
    for name, num in (("train/000", 8), ("test/000", 4), ("validation/000", 2)):
        make_shard(f"deep/{name}.tar", num)
    source = opened(tmp_path / "deep")
    assert [len(part) for part in (source.train, source.validation, source.test)] == [8, 2, 4]


def test_shards_of_one_split_alone_are_training_images(make_shard, tmp_path):
    make_shard("val-0.tar", 20)
    assert len(opened(tmp_path / "val-*.tar").train) == 20 - 4 - 2


@pytest.mark.parametrize(
    ("told", "names"),
    [
        (lambda i: ("cls", b"cat\n" if i % 2 else b"ant"), ("ant", "cat")),
        (lambda i: ("json", json.dumps({"label": i % 2}).encode()), ("0", "1")),
        (lambda i: ("json", json.dumps({"cls": "bee" if i % 2 else "ant"}).encode()), ("ant", "bee")),
    ],
)
def test_a_class_is_a_number_or_a_word_in_cls_or_json(make_shard, tmp_path, told, names):
    make_shard("train.tar", 20, told)
    assert opened(tmp_path / "train.tar").task.class_names == names


def test_numbers_are_named_by_a_file_beside_them(make_shard, tmp_path):
    make_shard("set/train/0.tar", 8)
    make_shard("set/test/0.tar", 8)
    (tmp_path / "set" / "classnames.txt").write_text("ant\nbee\n")
    assert opened(tmp_path / "set").task.class_names == ("ant", "bee")
    (tmp_path / "set" / "classnames.txt").write_text("ant\n")
    with pytest.raises(DataError, match="have no class"):
        opened(tmp_path / "set")


def test_members_that_belong_to_no_sample_are_left_out(tmp_path, make_image):
    members = [("./README", b"who"), ("./.index.json", b"{}")]
    for i in range(20):
        members += [(f"./{i}.JPG", make_image(i)), (f"./{i}.cls", b"%d" % (i % 2))]
    write_shard(tmp_path / "train.tar", members)
    assert len(opened(tmp_path).train) == 20 - 4 - 2


def test_large_splits_are_read_where_they_lie(make_shard, tmp_path):
    make_shard("train.tar", 20)
    lazy, held = opened(tmp_path, memory_gib=0), opened(tmp_path)
    every = torch.arange(len(held.train)).flip(0)
    assert torch.equal(lazy.train.pixels(every), held.train.pixels(every))
    assert lazy.fingerprint == held.fingerprint


def test_a_file_that_is_a_shard_needs_no_prefix(make_shard):
    path = make_shard("train.tar", 20)
    assert open_source(str(path)).task.num_classes == 2


def test_braces_are_read_as_the_shell_reads_them(make_shard, tmp_path):
    for number in range(8, 12):
        make_shard(f"a{number:02}.tar", 1)
    names = [file.name for file in shard_files(str(tmp_path / "a{08..11}.tar"))]
    assert names == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert [file.name for file in shard_files(str(tmp_path / "a{11,0{8,9}}.tar"))] == ["a11.tar", "a08.tar", "a09.tar"]
    with pytest.raises(DataError, match=r"a12\.tar does not exist"):
        shard_files(str(tmp_path / "a{10..12}.tar"))
    with pytest.raises(DataError, match="more than"):
        shard_files(str(tmp_path / "a{0..99999999}.tar"))


def test_a_run_keeps_the_pattern_without_its_place(tmp_path):
    assert source_name(f"wds:{tmp_path}/train-{{0..9}}.tar") == "wds:train-{0..9}.tar"


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("no image", [("a.cls", b"1"), ("a.txt", b"")], "a has no image, only cls, txt"),
        ("no class", [("a.png", b"1")], "a has no class"),
        ("another json", [("a.png", b"1"), ("a.json", b"[" * 100_000)], "a has no class"),
        ("a list", [("a.png", b"1"), ("a.json", b'{"label": [1]}')], "a has no class"),
        ("nothing", [], "hold no images"),
    ],
)
def test_what_is_no_image_with_a_class_is_told(tmp_path, name, data, match):
    write_shard(tmp_path / "train.tar", data)
    with pytest.raises(DataError, match=match):
        opened(tmp_path)


def test_damaged_shards_are_told(make_shard, tmp_path):
    path = make_shard("train.tar", 20)
    whole = path.read_bytes()
    used = whole.rstrip(b"\0")
    cuts = [whole[:end] for end in range(0, len(used), 300) if end % 1536]  # a cut between two images is a tar still
    flips = [whole[: block * 512 + 5] + b"\xff" + whole[block * 512 + 6 :] for block in (0, 2, 4, 6)]
    for damaged in (*cuts, *flips, b"no tar at all" * 100, b"\x1f\x8b" + whole):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"train\.tar"):
            opened(tmp_path)


@pytest.mark.parametrize("pattern", ["https://example.org/{0..9}.tar", "pipe:cat x.tar", "nowhere", "nowhere-*.tar"])
def test_a_pattern_of_nothing_is_told(pattern):
    with pytest.raises(DataError):
        opened(pattern)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shard_that_may_not_be_read_is_told(make_shard, tmp_path):
    make_shard("train.tar").chmod(0)
    with pytest.raises(DataError, match="can't be opened"):
        opened(tmp_path)


def samples(make_image, files: Callable[[int], Members], num: int = 20) -> Members:
    return [(f"{i:04}.{ending}", data) for i in range(num) for ending, data in files(i)]


def test_endings_of_several_parts(tmp_path, make_image):
    """As writers of samples with named fields leave them."""
    members = samples(
        make_image,
        lambda i: [("image.png", make_image(i)), ("label.cls", b"%d" % (i % 2)), ("mask.png", make_image(500 + i))],
    )
    write_shard(tmp_path / "train.tar", members)
    source = opened(tmp_path, validation_fraction=0)
    assert source.task.class_names == ("0", "1")
    expected = {to_pixels(make_image(i)).tobytes() for i in range(20)}
    pixels = source.train.pixels(torch.arange(len(source.train))).permute(0, 2, 3, 1).numpy()
    assert {image.tobytes() for image in pixels} < expected


def test_of_several_images_or_labels_one_must_be_known_by_its_name(tmp_path, make_image):
    write_shard(tmp_path / "train.tar", samples(make_image, lambda i: [(f"{k}.png", make_image(i)) for k in "ab"]))
    with pytest.raises(DataError, match=r"0000 has several images, a\.png, b\.png"):
        opened(tmp_path)
    both = samples(
        make_image, lambda i: [("png", make_image(i)), ("fine.cls", b"%d" % (i % 4)), ("coarse.cls", b"%d" % (i % 2))]
    )
    write_shard(tmp_path / "train.tar", both)
    with pytest.raises(DataError, match=r"no class, only png, fine\.cls, coarse\.cls(.|\n)*--label-column"):
        opened(tmp_path)
    assert opened(tmp_path, label_column="coarse").task.class_names == ("0", "1")
    assert opened(tmp_path, label_column="fine.cls").task.class_names == ("0", "1", "2", "3")


def test_a_key_of_json_is_a_column(tmp_path, make_image):
    about = [json.dumps({"label": i % 2, "coarse": "ab"[i // 2 % 2]}).encode() for i in range(20)]
    write_shard(tmp_path / "train.tar", samples(make_image, lambda i: [("png", make_image(i)), ("json", about[i])]))
    assert opened(tmp_path).task.class_names == ("0", "1")
    assert opened(tmp_path, label_column="coarse").task.class_names == ("a", "b")


@pytest.mark.parametrize("blank", [b"-1", b"", b"null"])
def test_samples_without_a_label_are_told_or_left_out(tmp_path, make_image, blank):
    ending = "json" if blank == b"null" else "cls"

    def files(i: int) -> Members:
        text = blank if i == 3 else b"%d" % (i % 2)
        return [("png", make_image(i)), (ending, b'{"label": %s}' % text if ending == "json" else text)]

    write_shard(tmp_path / "train.tar", samples(make_image, files))
    with pytest.raises(DataError, match="1 of 20 train images have no class: train image 3"):
        opened(tmp_path)
    source = opened(tmp_path, skip_unlabelled=True)
    assert len(source.train) + len(source.validation) + len(source.test) == 19


def test_samples_of_one_name_are_read_as_several_and_told(tmp_path, make_image):
    """As a writer leaves them that is given the same key each time."""
    members = [(f"x.{ending}", data) for _, ending, data in _parts(make_image)]
    write_shard(tmp_path / "train.tar", members)
    found = read_shards(str(tmp_path))
    assert found.splits["train"].labels.tolist() == [0, 1] * 3
    assert [found.splits["train"].open()(i) for i in range(6)] == [make_image(i) for i in range(6)]
    assert found.notes == [f"{tmp_path}: samples that have the name of another one beside them, read as such: 5"]


def _parts(make_image) -> list[tuple[int, str, bytes]]:
    return [part for i in range(6) for part in ((i, "png", make_image(i)), (i, "cls", b"%d" % (i % 2)))]
