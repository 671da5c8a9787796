"""Runs on whitened images, at toy size: from the source to the report, resumed, and judged elsewhere."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import attar
from attar.artifacts.verify import verify
from attar.errors import ConfigError
from attar.run.settings import resolve
from attar.task import Normalization

TOY = {
    "source.zca": True,
    "source.train_per_class": 8,
    "squeeze.model": "convnet-d1-w4",
    "squeeze.num_experts": 1,
    "squeeze.epochs": 1,
    "method.num_steps": 2,
    "method.expert_epochs": 1,
    "method.lr_images": 1,
    "recover.iterations": 2,
    "recover.num_snapshots": 2,
    "train.epochs": 2,
    "evaluate.seeds": 1,
    "evaluate.full_epochs": 1,
    "evaluate.models": ["convnet-d1-w4"],
    "run.workers": 1,
}


def distill(out: Path, method: str = "tesla", settings: dict | None = None):
    return attar.distill("digits", method, 1, recipe="none", out=out, settings=settings or TOY)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    return distill(tmp_path_factory.mktemp("whitened") / "run")


def test_it_lives_in_whitened_space_and_is_pictured_in_pixels(run) -> None:
    tiny, plain = run.load(), attar.load(run.path)
    whitening = tiny.task.normalization.whitening
    assert whitening is not None
    assert plain.task == tiny.task
    assert verify(run.path).problems == []
    assert (run.path / "squeeze/whitening.safetensors").read_bytes() == (
        run.path / "distilled/whitening.safetensors"
    ).read_bytes()
    manifest = json.loads((run.path / "squeeze/manifest.json").read_text())
    assert "whitening.safetensors" in manifest["files"]
    shown = tiny.pixels_8bit().float() / 255  # of real digits, moved a little: dark borders, bright strokes
    assert 0.1 < float(shown.mean()) < 0.5
    assert float((tiny.images - Normalization((0.0,), (1.0,)).normalize(shown)).abs().mean()) > 0.1
    assert run.report.exists()
    assert {record.subject for record in run.records} == {"distilled", "random", "full"}
    assert all(record.size_bytes > tiny.sizes["whitening"] for record in run.records)


def test_elsewhere_it_is_judged_by_the_matrix_that_came_along(run, tmp_path: Path) -> None:
    shutil.copytree(run.path / "distilled", tmp_path / "d")
    again = attar.evaluate(tmp_path / "d", "digits")
    assert [record.values for record in again.records] == [record.values for record in run.records]
    other = {"source.train_per_class": 30}  # another split would have another whitening
    (first,) = attar.evaluate(tmp_path / "d", "digits", baselines=[], settings=other, out=tmp_path / "other").records
    assert first.values == run.records[0].values


def test_the_same_command_goes_on_with_the_matrix_that_is_there(run) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*.safetensors")}
    again = distill(run.path)
    assert again.records == run.records
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*.safetensors")} == before


def test_a_coreset_of_whitened_images_is_stored_as_pixels(tmp_path: Path) -> None:
    settings = {key: value for key, value in TOY.items() if key.split(".")[0] not in ("squeeze", "method", "recover")}
    tiny = distill(tmp_path / "run", "random", settings).load()
    assert tiny.exact_8bit
    assert tiny.task.normalization.whitening is not None
    torch.testing.assert_close(tiny.task.normalization.pixels(tiny.images), tiny.pixels(), rtol=0, atol=1e-5)


def test_training_on_the_source_itself_whitens_it(tmp_path: Path) -> None:
    settings = {"source.zca": True, "epochs": 1, "source.train_per_class": 8}
    attar.train("digits", "convnet-d1-w4", settings=settings, out=tmp_path / "net")
    assert (tmp_path / "net/whitening.safetensors").exists()
    weights = {"squeeze.weights": str(tmp_path / "net/model.safetensors"), "squeeze.model": "convnet-d1-w4"}
    with pytest.raises(ConfigError, match="trained on whitened images"):
        attar.distill("digits", "herding", 1, recipe="none", out=tmp_path / "run", settings=weights)


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("sre2l", [], "sre2l keeps each pixel in 0..1"),
        ("rded", [], "rded keeps each pixel in 0..1"),
        ("tesla", ["method.lossless=true"], "method.lossless keeps each pixel in 0..1"),
        ("herding", ["squeeze.weights=released", "squeeze.model=resnet18"], "trained on others"),
    ],
)
def test_what_does_not_go_with_whitened_images_is_told_at_once(method: str, more: list[str], message: str) -> None:
    given = {"run": {"source": "digits", "method": method, "ipc": 1}}
    resolve(given, more)
    with pytest.raises(ConfigError, match=message):
        resolve(given, ["source.zca=true", *more])


def test_without_it_no_whitening_is_stored(tmp_path: Path) -> None:
    settings = {**TOY, "source.zca": False}
    made = distill(tmp_path / "run", settings=settings)
    assert not list(made.path.rglob("whitening*"))
    described = json.loads((made.distilled / "attar.json").read_text())
    assert "whitening" not in described["sizes"]
    assert "whitening" not in described["task"]["normalization"]
    manifests = [path.read_text() for path in made.path.rglob("manifest.json")]
    assert len(manifests) == 3
    assert not [text for text in manifests if "whitening.safetensors" in text]
