import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attar.data.readers import archives
from attar.data.readers.archives import read_archive
from attar.data.sources import SourceSettings, open_source
from attar.errors import DataError
from damage import refusals

Members = list[tuple[str, bytes]]


def write(path: Path, members: Members, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in members:
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def classes(make_image: Callable[..., bytes], start: str = "", num: int = 10) -> Members:
    return [
        (f"{start}{c}/{i:02}.png", make_image(100 * j + i)) for j, c in enumerate(("ant", "bee")) for i in range(num)
    ]


@pytest.fixture(params=["zip", "tar"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("start", ["", "./", "pictures/", "a/b/"])
def test_class_folders_in_an_archive(tmp_path: Path, kind: str, start: str, make_image, make_folder) -> None:
    path = write(tmp_path / f"x.{kind}", classes(make_image, start))
    found = read_archive(path)
    assert found.class_names == ("ant", "bee")
    train = found.splits["train"]
    assert train.labels.tolist() == [0] * 10 + [1] * 10
    read = train.open()
    assert [read(i) for i in (13, 0, 19)] == [make_image(103), make_image(0), make_image(109)]
    assert train.name(13).startswith(f"{path}: ")
    before = sorted(tmp_path.iterdir())
    source = open_source(str(path), SourceSettings(memory_gib=0))
    assert len(source.train) == 14
    assert len(source.test.pixels(torch.arange(4))) == 4
    assert sorted(tmp_path.iterdir()) == before, "nothing is unpacked"


def test_splits_hidden_files_and_attars_own(tmp_path: Path, kind: str, make_image) -> None:
    members = classes(make_image, "set/train/") + classes(make_image, "set/test/", 3)
    extra = ["__MACOSX/set/train/ant/._00.png", "set/train/ant/.ipynb_checkpoints/00.png", "set/.DS_Store"]
    extra += ["set/runs/first/preview.png", "set/runs/first/attar.json", "set/train/ant/x.heic"]
    found = read_archive(write(tmp_path / f"x.{kind}", members + [(name, b"x") for name in extra]))
    assert {split: len(examples) for split, examples in found.splits.items()} == {"train": 20, "test": 6}
    assert any("as attar made them: 'runs/first'" in note for note in found.notes)
    assert any("1 .heic" in note for note in found.notes)


def test_names_that_lead_elsewhere_name_members_only(tmp_path: Path, kind: str, make_image) -> None:
    members = [(f"../../{name}", data) for name, data in classes(make_image)]
    path = write(tmp_path / f"x.{kind}", members)
    assert len(open_source(str(path)).train) == 14
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_name_that_comes_twice_is_told(tmp_path: Path, make_image) -> None:
    members = classes(make_image)
    path = write(tmp_path / "x.tar", [*members, (members[0][0], make_image(77))])
    found = read_archive(path)
    assert found.splits["train"].open()(0) == make_image(77)
    assert found.notes == [f"{path}: names that come more than once, of which the last is read: 1"]


def test_a_tar_with_labels_beside_the_images_is_a_shard(tmp_path: Path, make_image) -> None:
    members = [part for i in range(20) for part in ((f"n/{i}.png", make_image(i)), (f"n/{i}.cls", b"%d" % (i % 2)))]
    assert open_source(str(write(tmp_path / "x.tar", members))).task.class_names == ("0", "1")


def test_what_is_no_archive_of_classes_is_told(tmp_path: Path, make_image) -> None:
    with pytest.raises(DataError, match=r"x.zip holds no folders of images, though 1 image\n"):
        open_source(str(write(tmp_path / "x.zip", [("a.png", make_image())])))
    (tmp_path / "y.zip").write_bytes(b"no archive at all" * 100)
    with pytest.raises(DataError, match=r"y\.zip can't be read as an archive"):
        open_source(str(tmp_path / "y.zip"))


def test_members_too_large_for_images_and_encrypted_ones_are_refused(
    tmp_path: Path, make_image, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.zip", [*classes(make_image), ("ant/bomb.png", bytes(1 << 20))])
    monkeypatch.setattr(archives, "MOST_MEMBER_BYTES", 1 << 19)
    with pytest.raises(DataError, match=r"bomb\.png says that it has 1,048,576 bytes"):
        open_source(str(path))
    whole = write(path, classes(make_image)).read_bytes()
    at = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[: at + 8] + b"\x01" + whole[at + 9 :])
    with pytest.raises(DataError, match="it is encrypted"):
        open_source(str(path))


def test_damaged_archives_are_read_or_told(tmp_path: Path, kind: str, make_image) -> None:
    path = write(tmp_path / f"x.{kind}", classes(make_image, num=6), zipfile.ZIP_STORED)
    assert refusals(path, lambda: open_source(str(path)), 15)
