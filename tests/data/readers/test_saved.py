import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from attar.data.readers.saved import read_saved
from attar.data.sources import SourceSettings, open_source
from attar.errors import DataError
from attar.options import Reading
from damage import refusals


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    import datasets

    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def make(make_image: Callable[..., bytes]) -> Callable[..., Any]:
    """A dataset of the library with the labels given."""
    import datasets

    def dataset(labels: list[int | None], names: list[str] | None = None) -> Any:
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=names or ["wasp", "ant"])}
        )
        rows = {"image": [{"bytes": make_image(i), "path": None} for i in range(len(labels))], "label": labels}
        return datasets.Dataset.from_dict(rows, features=features)

    return dataset


def test_a_saved_data_set_with_splits(make: Callable[..., Any], tmp_path: Path, make_image: Any) -> None:
    import datasets

    splits = {"train": make([0, 1] * 5), "validation": make([1, 0]), "test": make([1, 0, 1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set", num_shards={"train": 2, "validation": 1, "test": 1})
    found = read_saved(tmp_path / "set")
    assert found.class_names == ("wasp", "ant")
    assert {split: len(examples) for split, examples in found.splits.items()} == {
        "train": 10,
        "validation": 2,
        "test": 3,
    }
    assert found.splits["train"].labels.tolist() == [0, 1] * 5
    assert found.splits["train"].open()(7) == make_image(7)
    assert len(open_source(str(tmp_path / "set")).train) == 10


def test_a_saved_split_by_itself(make: Callable[..., Any], tmp_path: Path, make_image: Any) -> None:
    import datasets

    make([0, 1] * 5).save_to_disk(tmp_path / "set")
    assert set(read_saved(tmp_path / "set").splits) == {"train"}
    datasets.DatasetDict({"all": make([0, 1])}).save_to_disk(tmp_path / "odd")
    assert set(read_saved(tmp_path / "odd").splits) == {"train"}
    datasets.DatasetDict({"a": make([0, 1]), "b": make([0, 1])}).save_to_disk(tmp_path / "two")
    with pytest.raises(DataError, match="written by save_to_disk, has the splits 'a', 'b'"):
        read_saved(tmp_path / "two")


def test_a_filtered_set_keeps_the_names_in_use(make: Callable[..., Any], tmp_path: Path) -> None:
    filtered = make([0, 1, 2, 2], ["a", "b", "c"]).filter(lambda row: row["label"] != 1)
    filtered.save_to_disk(tmp_path / "set")
    found = read_saved(tmp_path / "set")
    assert found.class_names == ("a", "c")
    assert found.splits["train"].labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_an_arrow_file(make: Callable[..., Any], tmp_path: Path, new: Any) -> None:
    table = make([1, 0, None]).data.table
    with new(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    found = read_saved(tmp_path / "x.arrow", Reading(skip_unlabelled=True))
    assert found.splits["train"].labels.tolist() == [1, 0]
    assert len(open_source(str(tmp_path / "x.arrow"), SourceSettings(skip_unlabelled=True)).train.labels)


def test_files_that_are_missing_are_told(make: Callable[..., Any], tmp_path: Path) -> None:
    make([0, 1]).save_to_disk(tmp_path / "set")
    (file,) = (tmp_path / "set").glob("*.arrow")
    file.rename(tmp_path / "elsewhere.arrow")
    with pytest.raises(DataError, match=f"a folder written by save_to_disk, lacks '{file.name}'"):
        read_saved(tmp_path / "set")
    state = json.loads((tmp_path / "set/state.json").read_text())
    state["_data_files"] = [{"filename": str(tmp_path / "elsewhere.arrow")}]
    (tmp_path / "set/state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=r"lacks 'elsewhere.arrow'"):
        read_saved(tmp_path / "set")
    for text in ("[", "[]", '{"_data_files": 3}', '{"_data_files": [{"filename": 3}]}'):
        (tmp_path / "set/state.json").write_text(text)
        with pytest.raises(DataError, match=r"lacks its .arrow files"):
            read_saved(tmp_path / "set")


def test_damaged_files_are_read_or_told(make: Callable[..., Any], tmp_path: Path) -> None:
    make([0, 1] * 5).save_to_disk(tmp_path / "set")
    (file,) = (tmp_path / "set").glob("*.arrow")

    def read() -> None:
        open_source(str(tmp_path / "set"))

    assert refusals(file, read, 60)


def test_tables_that_unfold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.data.readers.saved._LEAST_BYTES", 1 << 12)
    table = pa.table({"image": [bytes(100_000)] * 20, "label": [0, 1] * 10})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="unfolds to more than"):
        read_saved(tmp_path / "x.arrow")
