from pathlib import Path

import pytest

from attar.data.readers.folders import class_folders
from attar.data.walking import walk


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")


def paths(root: Path) -> list[str]:
    return sorted(name for name, _ in walk(root).files)


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", ".Trash-1000", "@eaDir", "@EADIR", "__MACOSX", "#recycle", "$RECYCLE.BIN", ".git"]
)
def test_hidden_and_system_folders_are_left_out_at_any_depth(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "cats/1.png", f"cats/{name}/1-checkpoint.png", f"cats/deep/{name}/2.png", f"{name}/3.png")
    assert paths(tmp_path) == ["cats/1.png"]
    assert [folder.name for folder in class_folders(tmp_path)] == ["cats"]


def test_links_to_folders_are_followed_at_any_depth(tmp_path: Path) -> None:
    root = tmp_path / "data"
    touch(root, "cats/1.png", "cats/near/2.png")
    touch(tmp_path, "shot2/3.png", "shot2/more/4.png", "dogs/5.png")
    (root / "cats/near/shot2").symlink_to(tmp_path / "shot2")
    (root / "dogs").symlink_to(tmp_path / "dogs")
    assert paths(root) == [
        "cats/1.png",
        "cats/near/2.png",
        "cats/near/shot2/3.png",
        "cats/near/shot2/more/4.png",
        "dogs/5.png",
    ]
    assert not walk(root).notes("data")


def test_a_link_to_what_is_read_anyway_adds_nothing_and_is_told(tmp_path: Path) -> None:
    """Whichever name sorts first: the images stay those of the real folder."""
    touch(tmp_path, "cats/1.png", "dogs/2.png")
    (tmp_path / "cats/a").symlink_to(tmp_path / "dogs")
    (tmp_path / "zebras").symlink_to(tmp_path / "dogs")
    assert paths(tmp_path) == ["cats/1.png", "dogs/2.png"]
    (note,) = walk(tmp_path).notes("data")
    assert "'cats/a', 'zebras'" in note


def test_two_links_to_one_folder_are_read_once(tmp_path: Path) -> None:
    root = tmp_path / "data"
    touch(root, "cats/1.png")
    touch(tmp_path, "more/2.png")
    for name in ("one", "two"):
        (root / "cats" / name).symlink_to(tmp_path / "more")
    assert paths(root) == ["cats/1.png", "cats/one/2.png"]
    assert walk(root).again == ["cats/two"]


def test_cycles_end_and_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.png", "dogs/2.png")
    (tmp_path / "cats/up").symlink_to(tmp_path)
    (tmp_path / "dogs/self").symlink_to(tmp_path / "dogs")
    found = walk(tmp_path)
    assert len(found.files) == 2
    assert sorted(found.again) == ["cats/up", "dogs/self"]


def test_links_of_images_that_lead_nowhere_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.png", "elsewhere.jpg")
    (tmp_path / "cats/2.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (tmp_path / "cats/3.jpg").symlink_to(tmp_path / "gone.jpg")
    assert paths(tmp_path) == ["cats/1.png", "cats/2.jpg", "elsewhere.jpg"]
    assert walk(tmp_path).broken == ["cats/3.jpg"]


def test_images_of_other_kinds_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.png", "cats/2.HEIC", "cats/3.heic", "cats/4.dcm", "cats/notes.txt")
    assert walk(tmp_path).notes("data") == ["data: left out, as attar reads no files of these kinds: 2 .heic, 1 .dcm"]


@pytest.mark.parametrize(
    "marks", [["attar.json"], ["attar-export.json"], ["events.jsonl"], ["config.yaml", ".lock"], ["judged.json"]]
)
def test_what_attar_made_is_left_out_and_told(tmp_path: Path, marks: list[str]) -> None:
    touch(tmp_path, "cats/1.png", "cats/config.yaml", "runs/first/preview.png", "runs/first/deep/2.png")
    touch(tmp_path, *(f"runs/first/{name}" for name in marks))
    found = walk(tmp_path)
    assert [name for name, _ in found.files] == ["cats/1.png"]
    assert found.ours == ["runs/first"]
    assert "as attar made them: 'runs/first'" in found.notes("data")[0]


def test_a_folder_that_attar_made_can_be_read_by_its_own_name(tmp_path: Path) -> None:
    touch(tmp_path, "attar-export.json", "cats/1.png")
    assert paths(tmp_path) == ["cats/1.png"]
