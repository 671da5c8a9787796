import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from attar.data.readers import hub, parquet
from attar.data.readers.hub import read_hub
from attar.data.readers.parquet import read_parquet
from attar.data.sources import SourceSettings, open_source
from attar.errors import DataError
from attar.options import Reading

Make = Callable[..., Path]
NAMES = ["wasp", "ant"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def test_shards_are_joined_in_order_with_their_class_names(make_parquet: Make, tmp_path: Path) -> None:
    for i, labels in enumerate([[0, 1, 1], [1, 0]]):
        make_parquet(f"data/train-0000{i}-of-00002.parquet", labels, names=NAMES)
    make_parquet("data/test-00000-of-00001.parquet", [1, 0], names=NAMES)
    found = read_parquet(tmp_path)
    assert found.class_names == ("wasp", "ant")
    train = found.splits["train"]
    assert train.labels.tolist() == [0, 1, 1, 1, 0]
    assert set(found.splits) == {"train", "test"}
    assert train.name(4) == f"{tmp_path}/data/train-00001-of-00002.parquet row 1"
    second = pq.read_table(tmp_path / "data/train-00001-of-00002.parquet")
    assert train.open()(4) == second["image"][1]["bytes"].as_py()


def test_parquet_opens_as_a_source(make_parquet: Make, tmp_path: Path) -> None:
    make_parquet("train-0.parquet", [0, 1] * 10, names=NAMES)
    make_parquet("validation-0.parquet", [0, 1], names=NAMES)
    source = open_source(str(tmp_path))
    assert (len(source.train), len(source.validation), len(source.test)) == (18, 2, 2)
    assert source.task.class_names == ("wasp", "ant")


def test_a_file_by_itself_is_training_data(make_parquet: Make) -> None:
    found = read_parquet(make_parquet("test-0.parquet", [0, 1], names=NAMES))
    assert set(found.splits) == {"train"}


@pytest.mark.parametrize(
    ("name", "split"),
    [("0000.parquet", "train"), ("train/0000.parquet", "train"), ("plain_text/cifar_train.0.parquet", "train")],
)
def test_names_of_shards(make_parquet: Make, tmp_path: Path, name: str, split: str) -> None:
    make_parquet(name, [0, 1], names=NAMES)
    assert set(read_parquet(tmp_path).splits) == {split}


def test_a_shard_of_no_split_among_others(make_parquet: Make, tmp_path: Path) -> None:
    make_parquet("train-0.parquet", [0, 1], names=NAMES)
    make_parquet("extra-0.parquet", [0, 1], names=NAMES)
    with pytest.raises(DataError, match=r"extra-0.parquet names no split"):
        read_parquet(tmp_path)


def test_configurations_are_not_mixed(make_parquet: Make, tmp_path: Path) -> None:
    for config in ("small", "large"):
        make_parquet(f"{config}/train-0.parquet", [0, 1], names=NAMES)
    with pytest.raises(DataError, match="in several folders"):
        read_parquet(tmp_path)


def test_the_parquet_branch_of_the_hub(make_parquet: Make, tmp_path: Path) -> None:
    for name in ("default/train/0000", "default/train/0001", "default/test/0000", "default/.cache/train/0000"):
        make_parquet(f"{name}.parquet", [0, 1], names=NAMES)
    found = read_parquet(tmp_path)
    assert {split: len(examples) for split, examples in found.splits.items()} == {"train": 4, "test": 2}
    make_parquet("other/partial-train/0000.parquet", [0, 1], names=NAMES)
    with pytest.raises(DataError, match=f"in several folders: {tmp_path}/default, {tmp_path}/other"):
        read_parquet(tmp_path)
    assert set(read_parquet(tmp_path / "other").splits) == {"train"}


def test_sets_that_attar_distilled_are_no_shards_of_a_source(make_parquet: Make, tmp_path: Path) -> None:
    make_parquet("data/train-0.parquet", [0, 1], names=NAMES)
    make_parquet("mine/train-0.parquet", [0, 1], names=NAMES)
    (tmp_path / "mine" / "attar.json").write_text("{}")
    assert len(read_parquet(tmp_path).splits["train"]) == 2
    assert len(read_parquet(tmp_path / "mine").splits["train"]) == 2


def test_splits_that_name_their_classes_otherwise_are_told(make_parquet: Make, tmp_path: Path) -> None:
    make_parquet("train-0.parquet", [0, 1], names=NAMES)
    make_parquet("test-0.parquet", [0, 1], names=NAMES[::-1])
    with pytest.raises(DataError, match=r"train-0.parquet names other classes than .*test-0.parquet"):
        read_parquet(tmp_path)


@pytest.mark.parametrize("options", [{"image": "img", "label": "fine_label"}, {"plain_bytes": True}])
def test_other_columns(make_parquet: Make, options: dict[str, str]) -> None:
    found = read_parquet(make_parquet("train.parquet", [0, 1], **options))
    assert found.splits["train"].open()(1).startswith(b"\x89PNG")  # type: ignore[union-attr]


def test_columns_found_by_their_kind(make_parquet: Make) -> None:
    found = read_parquet(make_parquet("train.parquet", [1, 0], names=NAMES, image="photo", label="species"))
    assert found.class_names == ("wasp", "ant")


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [([7, 3, 7], ("3", "7"), [1, 0, 1]), (["b", "a", "b"], ("a", "b"), [1, 0, 1])],
)
def test_classes_without_names_are_the_sorted_values(
    make_parquet: Make, values: list[int], names: tuple[str, ...], labels: list[int]
) -> None:
    found = read_parquet(make_parquet("train.parquet", values))
    assert found.class_names == names
    assert found.splits["train"].labels.tolist() == labels


def test_damaged_metadata_is_no_metadata(make_parquet: Make) -> None:
    path = make_parquet("train.parquet", [1, 0])
    for text in ("{", "[]", json.dumps({"info": {"features": 3}})):
        pq.write_table(pq.read_table(path).replace_schema_metadata({"huggingface": text}), path)
        assert read_parquet(path).class_names == ("0", "1")


@pytest.mark.parametrize("label", [2, -1, "null"])
def test_a_label_out_of_range_is_named_or_left_out(make_parquet: Make, label: int | str) -> None:
    path = make_parquet("train.parquet", [0, 1, None if label == "null" else label], names=NAMES)
    with pytest.raises(
        DataError, match=rf"1 of 3 train images have no class: train image 2 has label {label}(.|\n)*0..1"
    ):
        read_parquet(path)
    found = read_parquet(path, Reading(skip_unlabelled=True))
    assert found.splits["train"].labels.tolist() == [0, 1]
    assert "1 of 3 train images have no class" in found.notes[0]


def test_images_keep_their_labels_where_others_are_left_out(make_parquet: Make) -> None:
    path = make_parquet("train.parquet", [None, 0, -1, 1], names=NAMES)
    train = read_parquet(path, Reading(skip_unlabelled=True)).splits["train"]
    rows = pq.read_table(path)["image"].to_pylist()
    assert [train.open()(i) for i in (0, 1)] == [rows[1]["bytes"], rows[3]["bytes"]]
    assert [train.name(i) for i in (0, 1)] == [f"{path} row 1", f"{path} row 3"]
    assert train.listing != read_parquet(make_parquet("train.parquet", [0, 0, 1, 1])).splits["train"].listing


def test_any_column_may_be_that_of_the_labels(make_parquet: Make) -> None:
    path = make_parquet("train.parquet", [1, 0], label="coarse_label")
    with pytest.raises(DataError, match=r"no label column; columns: image, coarse_label(.|\n)*--label-column"):
        read_parquet(path)
    assert read_parquet(path, Reading(label_column="coarse_label")).splits["train"].labels.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"no such column; columns: image, coarse_label(.|\n)*'coarse'"):
        read_parquet(path, Reading(label_column="coarse"))


def test_a_named_column_comes_before_the_usual_ones(make_parquet: Make) -> None:
    path = make_parquet("train.parquet", [1, 0])
    table = pq.read_table(path).append_column("fine", pa.array(["x", "y"]).dictionary_encode())
    pq.write_table(table, path)
    assert read_parquet(path).class_names == ("0", "1")
    assert read_parquet(path, Reading(label_column="fine")).class_names == ("x", "y")


def test_whole_numbers_with_gaps_as_pandas_stores_them(make_parquet: Make) -> None:
    path = make_parquet("train.parquet", [1.0, 0.0, float("nan")])
    assert read_parquet(path, Reading(skip_unlabelled=True)).class_names == ("0", "1")


def test_names_of_classes_without_images_are_left_out_with_a_note(make_parquet: Make, tmp_path: Path) -> None:
    make_parquet("train.parquet", [3, 1, 3], names=["a", "b", "c", "d"])
    make_parquet("test.parquet", [1, 3], names=["a", "b", "c", "d"])
    found = read_parquet(tmp_path)
    assert found.class_names == ("b", "d")
    assert [found.splits[split].labels.tolist() for split in ("train", "test")] == [[1, 0, 1], [0, 1]]
    assert found.notes == [f"{tmp_path}: 2 of 4 classes have no image and are left out: 'a', 'c'"]


def test_an_unlabelled_test_split_is_left_out(make_parquet: Make, tmp_path: Path) -> None:
    make_parquet("train.parquet", [0, 1], names=NAMES)
    make_parquet("test.parquet", [-1, -1], names=NAMES)
    found = read_parquet(tmp_path)
    assert set(found.splits) == {"train"}
    assert "test split" in found.notes[0]


def test_a_class_that_one_split_lacks(make_parquet: Make, tmp_path: Path) -> None:
    make_parquet("train.parquet", [0, 1], names=NAMES)
    make_parquet("test.parquet", [0, 0], names=NAMES)
    with pytest.raises(DataError, match="the test split has no image of 'ant'"):
        open_source(str(tmp_path))


def test_one_class_or_no_training_split(make_parquet: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one class only: 5"):
        open_source(str(make_parquet("one.parquet", [5, 5])))
    (tmp_path / "one.parquet").unlink()
    make_parquet("test.parquet", [0, 1])
    with pytest.raises(DataError, match="no training images; found: test"):
        open_source(str(tmp_path))
    (tmp_path / "test.parquet").unlink()
    empty = make_parquet("none.parquet", [0, 1])
    pq.write_table(pq.read_table(empty).slice(0, 0), empty)
    with pytest.raises(DataError, match="no training images"):
        open_source(str(empty))


def test_missing_columns_are_named_with_those_found(tmp_path: Path, make_parquet: Make) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match="no image column; columns: text, label"):
        read_parquet(tmp_path / "text.parquet")
    pq.write_table(pa.table({"image": [b"a"], "caption": ["x"]}), tmp_path / "captions.parquet")
    with pytest.raises(DataError, match="no label column; columns: image, caption"):
        read_parquet(tmp_path / "captions.parquet")
    with pytest.raises(DataError, match="a label that is no class"):
        read_parquet(make_parquet("floats.parquet", [0.5, 1.0]))


def test_files_that_are_no_parquet_or_disagree(tmp_path: Path, make_parquet: Make) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(DataError, match=r"bad.parquet can't be read as parquet"):
        read_parquet(tmp_path / "bad.parquet")
    (tmp_path / "bad.parquet").unlink()
    make_parquet("train-0.parquet", [0, 1])
    make_parquet("train-1.parquet", ["a", "b"])
    with pytest.raises(DataError, match="can't be read as parquet"):
        read_parquet(tmp_path)


def test_rows_without_bytes_never_open_a_path(
    tmp_path: Path, make_parquet: Make, make_image: Callable[..., bytes]
) -> None:
    (tmp_path / "secret.png").write_bytes(make_image())
    rows = [{"bytes": None, "path": str(tmp_path / "secret.png")}, {"bytes": make_image(), "path": None}]
    pq.write_table(pa.table({"image": rows, "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet row 0 can't be read: the table holds no bytes"):
        open_source(str(tmp_path))


@pytest.mark.usefixtures("cache")
def test_files_too_large_for_memory_are_mapped(
    make_parquet: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_parquet("data/train-0.parquet", [0, 1] * 4, names=NAMES)
    make_parquet("data/test-0.parquet", [0, 1], names=NAMES)
    settings = SourceSettings(validation_fraction=0)
    direct = open_source(str(tmp_path), settings)
    monkeypatch.setattr(parquet, "TABLE_LIMIT_BYTES", 0)
    mapped = open_source(str(tmp_path), settings)
    assert mapped.task == direct.task
    assert torch.equal(mapped.train.labels, direct.train.labels)
    for split in ("train", "test"):
        indices = torch.arange(len(getattr(direct, split)))
        assert torch.equal(getattr(mapped, split).pixels(indices), getattr(direct, split).pixels(indices))


def test_the_hub_by_name_and_configuration(monkeypatch: pytest.MonkeyPatch, make_image: Callable[..., bytes]) -> None:
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"img": [{"bytes": make_image(i), "path": None} for i in range(4)], "label": [0, 1, 0, 1]}
    split = datasets.Dataset.from_dict(rows, features=features)
    asked: list[tuple[str, ...]] = []

    def load_dataset(*args: str) -> dict[str, datasets.Dataset]:
        asked.append(args)
        return {"train": split, "valid": split, "unsupervised": split}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "_hub_licence", lambda name: f"licence of {name}")
    source = open_source("hf:owner/insects:small")
    assert asked == [("owner/insects", "small")]
    assert source.licence == "licence of owner/insects"
    assert source.task.class_names == ("wasp", "ant")
    assert len(source.test) == 4
    read_hub("owner/insects")
    assert asked[1] == ("owner/insects",)


def test_the_hub_may_keep_images_as_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_image: Callable[..., bytes]
) -> None:
    import datasets

    (tmp_path / "x.png").write_bytes(make_image(7))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"image": [{"bytes": None, "path": str(tmp_path / "x.png")}] * 2, "label": [0, 1]}
    split = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"train": split})
    monkeypatch.setattr(hub, "_hub_licence", lambda _: None)
    assert read_hub("owner/insects").splits["train"].open()(1) == make_image(7)


def test_the_hub_out_of_reach_or_of_other_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*_: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="hf:owner/insects can't be opened: no route"):
        open_source("hf:owner/insects")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"queen": None, "worker": None})
    with pytest.raises(DataError, match="has the splits queen, worker"):
        open_source("hf:owner/insects")
