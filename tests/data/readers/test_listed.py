import json
from collections.abc import Callable
from pathlib import Path

import pytest

from attar.data.readers.listed import read_listed
from attar.data.sources import open_source
from attar.errors import DataError
from attar.options import Reading
from damage import refusals


@pytest.fixture
def images(tmp_path: Path, make_image: Callable[..., bytes]) -> Callable[..., list[str]]:
    """Write images of noise below `root`, whose number is their seed; return their names."""

    def make(folder: str, num: int, first: int = 0) -> list[str]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        names = [f"{first + i:03}.png" for i in range(num)]
        for i, name in enumerate(names):
            (tmp_path / folder / name).write_bytes(make_image(first + i))
        return names

    return make


def table(path: Path, header: str, rows: list[str]) -> None:
    path.write_text("\n".join([header, *rows]) + "\n")


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("file_name,label", "{name},{label}"),
        ("label;image", "{label};images/{name}"),
        ("id\tbreed", "{stem}\t{label}"),
        ("Filename,width,Class", "./images/{name},8,{label}"),
        ("path,age,target", "C:\\data\\{name},3,{label}"),
    ],
)
def test_a_table_beside_a_folder_of_images(images, tmp_path: Path, make_image, header: str, row: str) -> None:
    names = images("images", 12)
    rows = [row.format(name=name, stem=name[:-4], label="cat" if i % 3 else "dog") for i, name in enumerate(names)]
    table(tmp_path / "labels.csv", header, rows[::-1])
    found = read_listed(tmp_path)
    train = found.splits["train"]
    assert found.class_names == ("cat", "dog")
    assert train.labels.tolist() == [0 if i % 3 else 1 for i in range(12)][::-1]
    assert train.open()(0) == make_image(11)
    assert train.name(0) == f"{tmp_path}/images/011.png"
    assert len(open_source(str(tmp_path)).train) + 2 + 2 >= 9
    assert read_listed(tmp_path / "labels.csv").splits["train"].listing == train.listing


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_of_hugging_faces_image_folders(images, tmp_path: Path, make_image, kind: str) -> None:
    for split, first in (("train", 0), ("test", 100)):
        names = images(f"{split}/pictures", 6, first)
        rows = [{"file_name": f"pictures/{name}", "label": i % 2, "text": f"no. {i}"} for i, name in enumerate(names)]
        if kind == "csv":
            table(
                tmp_path / split / "metadata.csv",
                "file_name,label,text",
                [",".join(map(str, r.values())) for r in rows],
            )
        else:
            (tmp_path / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_listed(tmp_path)
    assert found.class_names == ("0", "1")
    assert [found.splits[split].labels.tolist() for split in ("train", "test")] == [[0, 1] * 3] * 2
    assert found.splits["test"].open()(1) == make_image(101)
    assert open_source(str(tmp_path)).num_test == 6


def test_tables_and_columns_of_splits(images, tmp_path: Path) -> None:
    names = images("images", 12)
    table(
        tmp_path / "labels.csv",
        "file,label,split",
        [f"{n},{i % 2},{'test' if i > 7 else 'train'}" for i, n in enumerate(names)],
    )
    assert {split: len(some) for split, some in read_listed(tmp_path).splits.items()} == {"train": 8, "test": 4}
    (tmp_path / "labels.csv").unlink()
    table(tmp_path / "train.csv", "file,label", [f"{n},{i % 2}" for i, n in enumerate(names[:8])])
    table(tmp_path / "test.csv", "file", names[8:])
    table(tmp_path / "sample_submission.csv", "file,label", [f"{n},0" for n in names[8:]])
    found = read_listed(tmp_path)
    assert set(found.splits) == {"train"}
    assert any("test split has no labels" in note for note in found.notes)


def test_class_folders_come_before_tables_of_other_things(make_folder, tmp_path: Path) -> None:
    root = make_folder({"": 6})
    for name in ("notes.csv", "metadata.csv"):
        table(root / name, "file_name,caption", ["ant/0000.png,an ant", "bee/0000.png,a bee"])
    assert open_source(str(root)).task.class_names == ("ant", "bee")
    table(
        root / "metadata.csv", "file_name,label", [f"{c}/{i:04}.png,{i % 2}" for c in ("ant", "bee") for i in range(6)]
    )
    assert open_source(str(root)).task.class_names == ("0", "1")


def test_labels_of_any_column_and_missing_ones(images, tmp_path: Path) -> None:
    names = images("images", 8)
    rows = [f"{name},{i % 2}.0,{'xy'[i // 4]}" for i, name in enumerate(names)]
    rows[3] = f"{names[3]},,y"
    table(tmp_path / "labels.csv", "image,label,coarse", rows)
    assert read_listed(tmp_path, Reading(label_column="coarse")).class_names == ("x", "y")
    with pytest.raises(DataError, match="1 of 8 train images have no class: train image 3"):
        read_listed(tmp_path)
    assert read_listed(tmp_path, Reading(skip_unlabelled=True)).splits["train"].labels.tolist() == [0, 1, 0, 0, 1, 0, 1]


def test_what_a_table_lacks_is_told(images, tmp_path: Path) -> None:
    names = images("images", 4)
    table(tmp_path / "labels.csv", "image,text", [f"{name},picture {name}" for name in names])
    with pytest.raises(DataError, match=r"without a column of labels that is known; columns: 'image', 'text'"):
        open_source(str(tmp_path))
    with pytest.raises(DataError, match=r"has no column 'coarse'(.|\n)*--label-column"):
        read_listed(tmp_path, Reading(label_column="coarse"))
    table(tmp_path / "labels.csv", "image,label", ["x,0", "y,1"])
    with pytest.raises(DataError, match="no column that names images below"):
        read_listed(tmp_path)
    table(tmp_path / "labels.csv", "image,label", [])
    with pytest.raises(DataError, match="holds no rows"):
        read_listed(tmp_path)


def test_rows_without_an_image_and_images_without_a_row(images, tmp_path: Path) -> None:
    names = images("images", 5)
    rows = [f"{name},{i % 2}" for i, name in enumerate(names[:4])]
    table(tmp_path / "labels.csv", "image,label", [*rows, "gone.png,1"])
    with pytest.raises(DataError, match=r"lists 1 images that are not there.*'gone.png'"):
        read_listed(tmp_path)
    found = read_listed(tmp_path, Reading(skip_corrupt=True))
    assert len(found.splits["train"]) == 4
    assert found.notes == [
        "'labels.csv': rows whose image is not there, left out: 1 ('gone.png')",
        "'labels.csv': images that are not listed, left out: 1",
    ]
    table(tmp_path / "labels.csv", "image,label", [*rows, rows[0]])
    with pytest.raises(DataError, match=r"lists images/000\.png more than once"):
        read_listed(tmp_path)


def test_names_that_several_images_have_are_not_guessed(images, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        images(folder, 4)
    table(tmp_path / "labels.csv", "image,label", [f"a/00{i}.png,{i % 2}" for i in range(4)] + ["003.png,0"])
    with pytest.raises(DataError, match=r"or whose name several have: '003.png'"):
        read_listed(tmp_path)


def test_no_file_outside_is_opened(images, tmp_path: Path, make_image) -> None:
    images("set/images", 4)
    (tmp_path / "secret.png").write_bytes(make_image())
    rows = [f"images/00{i}.png,{i % 2}" for i in range(4)]
    for path in ("../secret.png", str(tmp_path / "secret.png")):
        table(tmp_path / "set/labels.csv", "image,label", [*rows, f"{path},1"])
        with pytest.raises(DataError, match="that are not there"):
            read_listed(tmp_path / "set")


@pytest.mark.parametrize("name", ["labels.csv", "metadata.jsonl"])
def test_damaged_tables_are_read_or_told(images, tmp_path: Path, name: str) -> None:
    names = images("images", 8)
    if name.endswith("csv"):
        table(tmp_path / name, "image,label", [f"{file},{i % 2}" for i, file in enumerate(names)])
    else:
        rows = [{"file_name": file, "label": i % 2} for i, file in enumerate(names)]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    assert refusals(tmp_path / name, lambda: open_source(str(tmp_path)), 40)
