from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attar.data.named import NAMED, imagenet
from attar.data.sources import SourceSettings, open_source
from attar.errors import DataError
from attar.runtime.events import Events

MakeImage = Callable[..., bytes]
TENCH, GOLDFISH, BIRD, MACHINE = "n01440764", "n01443537", "n02012849", "n03126707"
NAMES = ("tench", "goldfish", f"crane, {BIRD}", f"crane, {MACHINE}")
EVERY = (TENCH, GOLDFISH, BIRD, MACHINE)


@pytest.fixture
def tiny(tmp_path: Path, make_image: MakeImage) -> Path:
    """Write four classes in the layout of tiny-imagenet-200.zip."""
    root = tmp_path / "tiny-imagenet-200"
    rows = []
    for c, wordnet_id in enumerate(EVERY):
        folder = root / "train" / wordnet_id / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{wordnet_id}_boxes.txt").write_text("")
        for i in range(5):
            (folder / f"{wordnet_id}_{i}.JPEG").write_bytes(make_image(10 * c + i, kind="JPEG"))
        rows.append((f"val_{3 - c}.JPEG", wordnet_id))
    for split in ("val", "test"):
        (root / split / "images").mkdir(parents=True)
        for i in range(4):
            (root / split / "images" / f"{split}_{i}.JPEG").write_bytes(make_image(100 + i, kind="JPEG"))
    (root / "wnids.txt").write_text("\n".join([MACHINE, GOLDFISH, BIRD, TENCH]))  # in no order, as published
    (root / "val" / "val_annotations.txt").write_text("".join(f"{n}\t{w}\t0\t0\t62\t44\n" for n, w in rows))
    return tmp_path


@pytest.fixture
def full(tmp_path: Path, make_image: MakeImage) -> Path:
    """Write four classes of photographs of several sizes as ImageNet-1K is kept."""
    for split, num in (("train", 10), ("val", 2)):
        for c, wordnet_id in enumerate(EVERY):
            folder = tmp_path / split / wordnet_id
            folder.mkdir(parents=True)
            for i in range(num):
                size = (20 + i, 30)
                (folder / f"{wordnet_id}_{i}.JPEG").write_bytes(make_image(100 * num + 10 * c + i, size, kind="JPEG"))
    return tmp_path


def test_tiny_imagenet_as_published(tiny: Path) -> None:
    source = open_source("tiny-imagenet", SourceSettings(data_dir=tiny, validation_fraction=0.2))
    assert source.task.class_names == NAMES
    assert (len(source.train), len(source.validation), source.num_test) == (16, 4, 4)
    assert source.test.labels.tolist() == [0, 1, 2, 3]  # rows of the table, whose images count down
    inside = SourceSettings(data_dir=tiny / "tiny-imagenet-200", validation_fraction=0.2)
    assert open_source("tiny-imagenet", inside).fingerprint == source.fingerprint


def test_tiny_imagenet_with_its_validation_images_in_class_folders(tiny: Path) -> None:
    before = open_source("tiny-imagenet", SourceSettings(data_dir=tiny))
    test = before.test
    root = tiny / "tiny-imagenet-200"
    for row in (root / "val" / "val_annotations.txt").read_text().splitlines():
        name, wordnet_id, *_ = row.split("\t")
        (root / "val" / wordnet_id / "images").mkdir(parents=True)
        (root / "val" / "images" / name).rename(root / "val" / wordnet_id / "images" / name)
    (root / "val" / "val_annotations.txt").unlink()
    (root / "val" / "images").rmdir()
    (root / "wnids.txt").unlink()
    after = open_source("tiny-imagenet", SourceSettings(data_dir=tiny))
    assert after.task == before.task
    assert torch.equal(after.test.labels, test.labels)
    assert torch.equal(after.test.pixels(torch.arange(4)), test.pixels(torch.arange(4)))


@pytest.mark.parametrize(
    ("row", "problem"), [(f"val_9.JPEG\t{TENCH}\t0", "val_9.JPEG, which is missing"), ("val_0.JPEG\tcat", "no class")]
)
def test_a_row_of_the_table_that_leads_nowhere(tiny: Path, row: str, problem: str) -> None:
    table = tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    table.write_text(table.read_text() + row)
    with pytest.raises(DataError, match=rf"line 5: .*{problem}"):
        open_source("tiny-imagenet", SourceSettings(data_dir=tiny))


def test_a_class_that_was_not_unpacked(tiny: Path) -> None:
    listed = tiny / "tiny-imagenet-200" / "wnids.txt"
    listed.write_text(listed.read_text() + "\nn02124075")
    with pytest.raises(DataError, match="train split lacks the class folders 'n02124075'"):
        open_source("tiny-imagenet", SourceSettings(data_dir=tiny))


def test_imagenet_is_brought_to_224_pixels_unless_told_otherwise(full: Path) -> None:
    said: list[str] = []
    events = Events(quiet=True)
    events.say = lambda text, **_: said.append(text)
    source = open_source("imagenet-1k", SourceSettings(data_dir=full), events=events)
    assert source.task.class_names == NAMES
    assert source.task.shape == (3, 224, 224)
    assert source.task.normalization == imagenet.NORMALIZATION
    assert source.test.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert any("holds 4 of ImageNet-1K's 1,000 classes" in text for text in said)
    small = open_source("imagenet-1k", SourceSettings(data_dir=full, resolution=16))
    assert small.task.shape == (3, 16, 16)


PUBLISHED_SUBSETS = {
    "imagenet-nette": [0, 217, 482, 491, 497, 566, 569, 571, 574, 701],
    "imagenet-woof": [193, 182, 258, 162, 155, 167, 159, 273, 207, 229],
    "imagenet-meow": [281, 282, 283, 284, 285, 291, 292, 290, 289, 287],
    "imagenet-squawk": [84, 130, 88, 144, 145, 22, 96, 9, 100, 89],
    "imagenet-fruit": [953, 954, 949, 950, 951, 957, 952, 945, 943, 948],
    "imagenet-yellow": [309, 986, 954, 951, 987, 779, 599, 291, 72, 11],
}
"""Classes of ImageNet-1K by their numbers, as the `Config` in MTT's utils.py has them."""


def test_subsets_have_the_classes_of_mtt_in_its_order() -> None:
    ids = sorted(imagenet._wordnet()[0])
    assert {
        name: [ids.index(one) for one in members] for name, members in imagenet.SUBSETS.items()
    } == PUBLISHED_SUBSETS
    assert set(imagenet.SUBSETS) < set(NAMED)


def test_a_subset_is_read_from_the_folders_of_imagenet(tmp_path: Path, make_image: MakeImage) -> None:
    ids = imagenet.SUBSETS["imagenet-fruit"]
    for split, num in (("train", 3), ("val", 1)):
        for c, wordnet_id in enumerate((*sorted(ids), TENCH)):
            folder = tmp_path / split / wordnet_id
            folder.mkdir(parents=True)
            for i in range(num):
                (folder / f"{wordnet_id}_{i}.JPEG").write_bytes(make_image(10 * c + i, (20, 30), kind="JPEG"))
    source = open_source("imagenet-fruit", SourceSettings(data_dir=tmp_path, validation_fraction=0))
    assert source.task.class_names[:3] == ("pineapple", "banana", "strawberry")
    assert source.task.shape == (3, 128, 128)
    assert source.task.normalization == imagenet.NORMALIZATION
    assert (len(source.train), source.test.labels.tolist()) == (30, list(range(10)))
    everything = open_source("imagenet-1k", SourceSettings(data_dir=tmp_path, validation_fraction=0, resolution=128))
    banana = everything.task.class_names.index("banana")
    ours, theirs = (
        one.test.pixels((one.test.labels == label).nonzero().squeeze(1))
        for one, label in ((source, 1), (everything, banana))
    )
    assert torch.equal(ours, theirs)
    (tmp_path / "val" / ids[1]).rename(tmp_path / "val" / "elsewhere")
    with pytest.raises(DataError, match=f"val lacks 1 of the 10 class folders of imagenet-fruit: '{ids[1]}'"):
        open_source("imagenet-fruit", SourceSettings(data_dir=tmp_path))


def test_imagenet_is_not_decoded_before_it_is_needed(full: Path) -> None:
    broken = full / "train" / GOLDFISH / f"{GOLDFISH}_3.JPEG"
    broken.write_bytes(b"no image")
    lazy = SourceSettings(data_dir=full, resolution=16, memory_gib=0, validation_fraction=0)
    source = open_source("imagenet-1k", lazy)
    assert len(source.train) == 40
    assert source.train.pixels(torch.tensor([12])).shape == (1, 3, 16, 16)
    with pytest.raises(DataError, match=f"{GOLDFISH}_3.JPEG can't be read"):
        source.train.pixels(torch.tensor([13]))
    with pytest.raises(DataError, match=f"{GOLDFISH}_3.JPEG can't be read"):
        open_source("imagenet-1k", lazy.model_copy(update={"memory_gib": 2.0}))
    left = open_source("imagenet-1k", lazy.model_copy(update={"skip_corrupt": True}))
    assert (len(left.train), left.skipped) == (39, [str(broken)])


def test_memory_changes_neither_pixels_nor_fingerprint(full: Path) -> None:
    first, second = (
        open_source("imagenet-1k", SourceSettings(data_dir=full, resolution=16, memory_gib=gib)) for gib in (0, 2)
    )
    assert first.fingerprint == second.fingerprint
    every = torch.arange(len(first.train))
    assert torch.equal(first.train.pixels(every), second.train.pixels(every))
    (full / "train" / TENCH / f"{TENCH}_0.JPEG").write_bytes(b"more")
    changed = open_source("imagenet-1k", SourceSettings(data_dir=full, resolution=16, memory_gib=0))
    assert changed.fingerprint != first.fingerprint


def test_other_bytes_of_the_same_size_are_noticed_where_images_are_not_decoded(full: Path) -> None:
    lazy = SourceSettings(data_dir=full, resolution=16, memory_gib=0)
    first = open_source("imagenet-1k", lazy)
    assert first.content("train").by == "names, sizes and 36 of 36 images"
    tested = first.content("test")
    photo = full / "val" / TENCH / f"{TENCH}_1.JPEG"
    photo.write_bytes(photo.read_bytes()[::-1])
    judged = open_source("imagenet-1k", lazy)
    assert judged.fingerprint == first.fingerprint, "of what is learnt from"
    assert tested.by == judged.content("test").by == "names, sizes and 8 of 8 images"
    assert tested != judged.content("test")


def test_folders_that_are_not_imagenets(full: Path) -> None:
    (full / "train" / "cats").mkdir()
    with pytest.raises(DataError, match=r"folders 'cats'(.|\n)*give the folder itself"):
        open_source("imagenet-1k", SourceSettings(data_dir=full))


def test_validation_images_that_were_not_sorted(full: Path) -> None:
    for wordnet_id in EVERY:
        for file in (full / "val" / wordnet_id).iterdir():
            file.rename(full / "val" / file.name)
        (full / "val" / wordnet_id).rmdir()
    with pytest.raises(DataError, match=r"val holds no class folders(.|\n)*into the folder of its class"):
        open_source("imagenet-1k", SourceSettings(data_dir=full))


def test_folders_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"imagenet-1k needs a folder(.|\n)*train/ and val/(.|\n)*--data-dir DIR"):
        open_source("imagenet-1k")
    with pytest.raises(DataError, match=r"tiny-imagenet needs a folder(.|\n)*tiny-imagenet-200/"):
        open_source("tiny-imagenet")
    with pytest.raises(DataError, match="has no folder train/"):
        open_source("imagenet-1k", SourceSettings(data_dir=tmp_path))


def test_the_classes_of_imagenet_have_a_thousand_names() -> None:
    known, synonyms = imagenet._wordnet()
    names = imagenet.readable(sorted(known), synonyms)
    assert len(set(names)) == len(names) == 1000
    assert (names[0], names[134], names[517], names[999]) == (NAMES[0], NAMES[2], NAMES[3], "toilet tissue")


@pytest.mark.slow
def test_timm_itself_says_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    direct = imagenet._wordnet()
    monkeypatch.setattr(imagenet, "_TABLES", tmp_path)
    known, synonyms = imagenet._wordnet.__wrapped__()
    assert known == direct[0]
    assert all(direct[1][wordnet_id] == words for wordnet_id, words in synonyms.items())
