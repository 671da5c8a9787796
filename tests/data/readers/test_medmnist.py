"""By a stand-in for the package, which names classes and fetches files as the real one does."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from attar.data.sources import SourceSettings, open_source
from attar.errors import AttarError, ConfigError, DataError


def write(path: Path, classes: int = 2) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, num in (("train", 20), ("val", 4), ("test", 6)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (num, 28, 28, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(num) % classes).astype(np.uint8)[:, None]
    np.savez_compressed(path, **arrays)


class Fetched:
    available_sizes = [28, 64]

    def __init__(self, split: str, download: bool, root: str, size: int | None) -> None:
        assert download
        if not Path(root).is_dir():
            raise RuntimeError("no such folder")
        write(Path(root) / f"bloodmnist{f'_{size}' if size else ''}.npz")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("medmnist")
    label = {"0": "basophil", "1": "eosinophil"}
    module.INFO = {  # type: ignore[attr-defined]
        "bloodmnist": {"python_class": "Blood", "task": "multi-class", "label": label},
        "chestmnist": {"python_class": "Blood", "task": "multi-label, binary-class", "label": label},
        "organmnist3d": {"python_class": "Blood", "task": "multi-class", "label": label},
    }
    module.Blood = Fetched  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "medmnist", module)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("name", "file"), [("bloodmnist", "bloodmnist"), ("bloodmnist:64", "bloodmnist_64")])
def test_a_data_set_by_its_name(tmp_path: Path, name: str, file: str) -> None:
    with pytest.raises(DataError, match=rf"{file}\.npz is missing(.|\n)*--download"):
        open_source(f"medmnist:{name}", SourceSettings(data_dir=tmp_path))
    source = open_source(f"medmnist:{name}", SourceSettings(data_dir=tmp_path / "new", download=True))
    assert source.task.class_names == ("basophil", "eosinophil")
    assert [len(source.train), len(source.validation), source.num_test] == [20, 4, 6]
    assert (tmp_path / "new" / f"{file}.npz").is_file()
    again = open_source(f"medmnist:{name}", SourceSettings(data_dir=tmp_path / "new"))
    assert again.fingerprint == source.fingerprint


@pytest.mark.usefixtures("package")
def test_names_sizes_and_kinds_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean bloodmnist"):
        open_source("medmnist:bloodmnst")
    with pytest.raises(ConfigError, match="size"):
        open_source("medmnist:bloodmnist:32")
    with pytest.raises(DataError, match="several labels for each image"):
        open_source("medmnist:chestmnist")
    with pytest.raises(DataError, match="volumes, not images"):
        open_source("medmnist:organmnist3d")


@pytest.mark.usefixtures("package")
def test_a_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, **_: Any) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr(Fetched, "__init__", refuse)
    with pytest.raises(DataError, match=r"can't be fetched into(.|\n)*no route"):
        open_source("medmnist:bloodmnist", SourceSettings(data_dir=tmp_path, download=True))


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "medmnist", None)  # type: ignore[arg-type]
    with pytest.raises(AttarError, match="pip install medmnist"):
        open_source("medmnist:pathmnist")
