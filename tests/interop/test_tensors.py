from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from bringing import import_tensors

from attar.artifacts.distilled import Distilled
from attar.artifacts.verify import verify
from attar.errors import ArtifactError, ResourceError
from attar.interop.tensors import export_tensors
from attar.task import Task


def save(folder: Path, ending: str = "_best", **tensors: Any) -> None:
    folder.mkdir(exist_ok=True)
    for name, tensor in tensors.items():
        torch.save(tensor, folder / f"{name}{ending}.pt")


def test_others_load_plain_tensors(tmp_path: Path, floats: Distilled) -> None:
    export = export_tensors(floats, tmp_path / "out")
    images = torch.load(tmp_path / "out/images_best.pt", weights_only=True)
    labels = torch.load(tmp_path / "out/labels_best.pt", weights_only=True)
    assert torch.equal(images, floats.images)
    assert torch.equal(labels, floats.labels)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    rate = torch.load(tmp_path / "out/lr_best.pt", weights_only=True)
    assert rate.item() == floats.learning_rate
    assert len(export.lost) == 1
    assert export.files == 6


def test_an_export_comes_back_whole_and_has_the_same_bytes_again(tmp_path: Path, floats: Distilled) -> None:
    export_tensors(floats, tmp_path / "out")
    back = import_tensors(tmp_path / "out", tmp_path / "back")
    assert torch.equal(back.images, floats.images)
    assert torch.equal(back.labels, floats.labels)
    assert back.soft_labels is not None
    assert floats.soft_labels is not None
    assert torch.equal(back.soft_labels, floats.soft_labels)
    assert back.learning_rate == floats.learning_rate
    assert back.task == floats.task
    assert back.info["method"] == "tesla"
    assert verify(tmp_path / "back").ok
    export_tensors(floats, tmp_path / "again")
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


@pytest.mark.parametrize("ending", ["_best", "", "_5000"])
def test_tensors_of_other_programs_need_a_task(tmp_path: Path, task: Task, ending: str) -> None:
    images = torch.randn(4, *task.shape, dtype=torch.float64, requires_grad=True)
    save(tmp_path / "src", ending, images=images, labels=torch.arange(4, dtype=torch.int32))
    source = tmp_path / "src" / (f"images{ending}.pt" if ending == "_5000" else "")
    with pytest.raises(ArtifactError, match="tensors only"):
        import_tensors(source, tmp_path / "out")
    back = import_tensors(source, tmp_path / "out", task=task)
    assert torch.equal(back.images, images.detach().float())
    assert back.labels.tolist() == [0, 1, 2, 3]
    assert back.info["method"] == "unknown"


def test_float_labels_are_probabilities(tmp_path: Path, task: Task) -> None:
    soft = torch.tensor([[0.25, 0.5, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]])
    save(tmp_path / "src", images=torch.zeros(2, *task.shape), labels=soft)
    back = import_tensors(tmp_path / "src", tmp_path / "out", task=task)
    assert back.soft_labels is not None
    assert torch.equal(back.soft_labels, soft)
    assert back.labels.tolist() == [1, 3]


ZEROS = torch.zeros(2, 3, 6, 5)
BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "shape": (r"images float32 \(2, 3, 5, 6\)", {"images": torch.zeros(2, 3, 5, 6), "labels": torch.tensor([0, 1])}),
    "bytes": ("images uint8", {"images": ZEROS.byte(), "labels": torch.tensor([0, 1])}),
    "count": (r"labels int64 \(3,\)", {"images": ZEROS, "labels": torch.tensor([0, 1, 2])}),
    "float labels": ("labels float32", {"images": ZEROS, "labels": torch.tensor([0.0, 1.0])}),
    "range": (r"outside 0\.\.3", {"images": ZEROS, "labels": torch.tensor([0, 4])}),
    "nan": ("not finite", {"images": ZEROS + torch.nan, "labels": torch.tensor([0, 1])}),
    "logits": ("foreign.soft_labels=logits", {"images": ZEROS, "labels": torch.full((2, 4), 3.0)}),
    "classes": ("soft labels", {"images": ZEROS, "labels": torch.full((2, 5), 0.2)}),
    "dict": ("holds a dict", {"images": {"a": ZEROS}, "labels": torch.tensor([0, 1])}),
    "empty": ("images float32", {"images": torch.zeros(0, 3, 6, 5), "labels": torch.tensor([]).long()}),
}


@pytest.mark.parametrize("case", BAD)
def test_other_tensors_are_told(tmp_path: Path, task: Task, case: str) -> None:
    message, tensors = BAD[case]
    save(tmp_path / "src", **tensors)
    with pytest.raises(ArtifactError, match=message):
        import_tensors(tmp_path / "src", tmp_path / "out", task=task)
    assert not (tmp_path / "out").exists()


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("attacked"),)


def test_code_in_a_file_is_never_run(tmp_path: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "src", images=Attack(), labels=torch.tensor([0]))
    with pytest.raises(ArtifactError, match="cannot be read as a tensor"):
        import_tensors(tmp_path / "src", tmp_path / "out", task=task)
    (tmp_path / "src/images_best.pt").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ArtifactError, match="cannot be read as a tensor"):
        import_tensors(tmp_path / "src", tmp_path / "out", task=task)
    assert not Path("attacked").exists()


def test_missing_files_are_told(tmp_path: Path, task: Task) -> None:
    with pytest.raises(ArtifactError, match=r"images_best\.pt and labels_best\.pt or images\.pt and labels\.pt"):
        import_tensors(tmp_path, tmp_path / "out", task=task)


def test_the_current_folder_is_not_replaced(tmp_path: Path, floats: Distilled, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ResourceError, match=r"cannot take the place of \.\n"):
        export_tensors(floats, Path())
    export_tensors(floats, tmp_path / "out")
    with pytest.raises(ResourceError, match=r"cannot take the place of \.\n"):
        import_tensors(tmp_path / "out", Path())
    assert not any(Path().iterdir())


def test_nothing_is_replaced_unasked(tmp_path: Path, floats: Distilled, exact: Distilled) -> None:
    export_tensors(floats, tmp_path / "out")
    with pytest.raises(ArtifactError, match="--overwrite"):
        export_tensors(exact, tmp_path / "out")
    export_tensors(exact, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out/soft_labels_best.pt").exists()
    with pytest.raises(ArtifactError, match="not empty"):
        import_tensors(tmp_path / "out", floats.path)
    assert torch.equal(import_tensors(tmp_path / "out", floats.path, overwrite=True).images, exact.images)
