from collections.abc import Callable
from pathlib import Path

import pytest

from attar.data.readers.folders import read_folder
from attar.errors import DataError

Make = Callable[..., Path]


def test_classes_are_the_sorted_names_and_files_come_in_order(make_folder: Make) -> None:
    root = make_folder({"": 2}, classes=("zebra", "Ant", "10", "9"))
    found = read_folder(root)
    assert found.class_names == ("10", "9", "Ant", "zebra")
    train = found.splits["train"]
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [train.name(i) for i in (0, 7)] == [str(root / "10/0000.png"), str(root / "zebra/0001.png")]
    assert train.open()(0) == (root / "10/0000.png").read_bytes()


def test_other_files_hidden_folders_and_deeper_folders(make_folder: Make) -> None:
    root = make_folder({"": 1})
    (root / "readme.txt").write_text("hello")
    (root / "ant" / "Thumbs.db").write_bytes(b"")
    (root / "ant" / "._0000.png").write_bytes(b"")
    (root / ".git").mkdir()
    (root / "__MACOSX").mkdir()
    (root / "bee" / "images").mkdir()
    (root / "bee" / "0000.png").rename(root / "bee" / "images" / "b.PNG")
    found = read_folder(root)
    assert found.class_names == ("ant", "bee")
    assert found.splits["train"].labels.tolist() == [0, 1]


@pytest.mark.parametrize("name", ["val", "validation", "valid", "dev"])
def test_split_folders_by_their_names(make_folder: Make, name: str) -> None:
    found = read_folder(make_folder({"train": 1, name: 1, "test": 1}))
    assert set(found.splits) == {"train", "validation", "test"}


def test_a_class_may_be_called_train(make_folder: Make) -> None:
    found = read_folder(make_folder({"": 1}, classes=("bus", "car", "train")))
    assert found.class_names == ("bus", "car", "train")
    assert set(found.splits) == {"train"}


def test_two_folders_for_one_split(make_folder: Make) -> None:
    with pytest.raises(DataError, match="several folders for one split"):
        read_folder(make_folder({"train": 1, "val": 1, "valid": 1}))


@pytest.mark.parametrize(
    ("name", "fix"), [("a-000.tar", "give wds:{0}, .*or {0}/a-000.tar"), ("x.npz", "give {0}/x.npz")]
)
def test_a_folder_of_files_that_hold_images_is_told_from_an_empty_one(tmp_path: Path, name: str, fix: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=f"holds no images, but '{name}'(.|\n)*to fix: {fix.format(tmp_path)}"):
        read_folder(tmp_path)


def test_an_empty_class_folder_is_named(make_folder: Make) -> None:
    root = make_folder({"train": 1})
    (root / "train" / "cat").mkdir()
    with pytest.raises(DataError, match=f"class folder {root / 'train' / 'cat'} holds no images"):
        read_folder(root)


def test_a_class_that_one_split_lacks_or_has_more(make_folder: Make) -> None:
    root = make_folder({"train": 1, "test": 1})
    (root / "test" / "cat").mkdir()
    with pytest.raises(DataError, match="the test split has folders 'cat' more"):
        read_folder(root)
    (root / "train" / "cat").mkdir()
    (root / "train" / "cat" / "x.png").write_bytes(b"")
    (root / "test" / "cat").rmdir()
    with pytest.raises(DataError, match="the test split lacks the class folders 'cat'"):
        read_folder(root)


def test_images_without_class_folders(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DataError, match="holds no folders of images"):
        read_folder(tmp_path)


def test_the_licence_is_read_from_a_card(make_folder: Make) -> None:
    root = make_folder({"": 1})
    assert read_folder(root).licence is None
    (root / "README.md").write_text("---\nlicense: mit\n---\n# Insects\n")
    assert read_folder(root).licence == "mit"
    (root / "README.md").write_text("---\nlicense: [mit, cc0-1.0]\n---\n")
    assert read_folder(root).licence == "mit, cc0-1.0"
    for text in ("# Insects", "---\n: [\n---\n", "---\n- a\n---\n", "---"):
        (root / "README.md").write_text(text)
        assert read_folder(root).licence is None


def test_what_attar_made_in_a_source_is_no_class(make_folder: Make, make_image: Callable[..., bytes]) -> None:
    root = make_folder({"": 2})
    before = read_folder(root)
    for name in ("runs/first/events.jsonl", "runs/first/distilled/attar.json", "mine/attar.json"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_text("{}")
        ((root / name).parent / "preview.png").write_bytes(make_image())
    found = read_folder(root)
    assert found.class_names == before.class_names
    assert found.splits["train"].listing == before.splits["train"].listing
    assert "'mine', 'runs/first'" in found.notes[0] or "'runs/first', 'mine'" in found.notes[0]


@pytest.mark.parametrize("below", ["", "unknown/"])
def test_a_split_without_labels_is_left_out_with_a_note(
    make_folder: Make, make_image: Callable[..., bytes], below: str
) -> None:
    root = make_folder({"train": 3})
    (root / "test" / below).mkdir(parents=True)
    for i in range(4):
        (root / "test" / below / f"{i}.png").write_bytes(make_image(i))
    found = read_folder(root)
    assert set(found.splits) == {"train"}
    assert found.notes == [f"{root}: the test split has no labels (no folders of the classes in test/): left out"]


def test_folders_of_splits_without_class_folders_are_no_classes(tmp_path: Path) -> None:
    for name in ("train/cat.0.png", "train/dog.0.png", "test/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"'test', 'train' hold images that are in no class folder(.|\n)*labels.csv"):
        read_folder(tmp_path)


def test_images_beside_the_class_folders_are_told(make_folder: Make) -> None:
    root = make_folder({"": 1})
    (root / "overview.png").write_bytes(b"")
    assert read_folder(root).notes == [f"{root}: images in no class folder, left out: 1"]
    split = make_folder({"more/train": 1})
    (split / "more/extra").mkdir()
    (split / "more/extra/x.png").write_bytes(b"")
    (note,) = read_folder(split / "more").notes
    assert note.endswith("images in no class folder, left out: 1; no names of splits: 'extra'")


def test_one_folder_above_the_classes_is_told(make_folder: Make) -> None:
    root = make_folder({"flowers": 1})
    with pytest.raises(DataError, match=rf"holds one folder only: flowers(.|\n)*give {root}/flowers"):
        read_folder(root)


def test_no_advice_is_to_remove_what_people_have(make_folder: Make) -> None:
    root = make_folder({"": 1})
    (root / "cats").mkdir()
    with pytest.raises(DataError) as raised:
        read_folder(root)
    assert "remove" not in raised.value.fix
    assert "begin its name with a dot" in raised.value.fix
