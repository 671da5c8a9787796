"""What `precision: auto` means, and what is said of a precision that the machine is slow at."""

import shutil
from pathlib import Path

import pytest
import torch

import attar
from attar.artifacts.run import RunFolder
from attar.errors import ArtifactError
from attar.runtime import precision
from attar.runtime.engine import Engine, hardware

CPU = torch.device("cpu")
TINY = {
    "squeeze.model": "convnet-d2-w8",
    "squeeze.epochs": 3,
    "squeeze.num_experts": 1,
    "method.num_steps": 2,
    "recover.iterations": 1,
    "source.train_per_class": 10,
}
FEW = {"train.epochs": 1, "evaluate.seeds": 1, "evaluate.models": ["convnet-d1-w4"], "source.train_per_class": 10}


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "processor_flags", lambda: ("avx2", "avx512f"))


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "processor_flags", lambda: ("avx2", "avx512f", "avx512_bf16"))
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)


@pytest.mark.usefixtures("with_bf16")
def test_a_processor_with_the_instructions_uses_them_where_that_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.auto_precision(CPU, gains=True) == "bf16-mixed"
    assert precision.auto_precision(CPU, gains=False) == Engine("cpu").precision == "32-true"
    assert precision.advice(CPU, "bf16-mixed") == ""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert precision.auto_precision(CPU, gains=True) == "32-true", "oneDNN is held to older instructions"


@pytest.mark.usefixtures("without_bf16")
def test_without_the_instructions_it_is_float32_and_bfloat16_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "slowdown", lambda: 17.4)
    assert precision.auto_precision(CPU, gains=True) == "32-true"
    said: list[str] = []
    Engine("cpu", "32-true").warn(said.append)
    assert not said
    Engine("cpu", "bf16-mixed").warn(said.append)
    assert "17 times as long" in said[0]


def test_the_slowdown_is_measured_within_seconds() -> None:
    assert 0.01 < precision.slowdown() < 1000


def test_a_run_says_it_and_keeps_the_precision_that_it_began_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "slowdown", lambda: 17.4)
    monkeypatch.setattr(precision, "processor_flags", lambda: ())
    out, how = tmp_path / "run", {"recipe": "none", "out": tmp_path / "run", "settings": TINY}
    attar.distill("digits", "tesla", 1, precision="bf16-mixed", until="squeeze", quiet=False, **how)
    assert "17 times as long as 32-true" in capsys.readouterr().err
    attar.distill("digits", "tesla", 1, until="squeeze", **how)
    assert RunFolder(out).settings()["run"]["precision"] == "bf16-mixed"
    with pytest.raises(ArtifactError, match=r"run\.precision"):
        attar.distill("digits", "tesla", 1, precision="32-true", until="squeeze", **how)


def test_hardware_names_the_processor_and_its_flags() -> None:
    described = hardware(CPU)
    assert described["processor"]
    assert set(described["processor_flags"]) <= set(precision.SHOWN_FLAGS)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with images, begun in bfloat16."""
    out = tmp_path_factory.mktemp("precision") / "run"
    how = {"recipe": "none", "precision": "bf16-mixed", "until": "relabel", "settings": FEW}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "slowdown", lambda: 1.0)
        attar.distill("digits", "random", 1, out=out, **how)
    return out


@pytest.mark.parametrize("command", ["train", "evaluate", "continual", "resume"])
def test_every_command_that_trains_says_it(
    command: str, images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(precision, "slowdown", lambda: 17.4)
    monkeypatch.setattr(precision, "processor_flags", lambda: ())
    run = Path(shutil.copytree(images, tmp_path / "run"))
    slow = {"precision": "bf16-mixed", "quiet": False}
    if command == "train":
        attar.train(run / "distilled", "convnet-d1-w4", settings={"epochs": 1}, keep=False, **slow)
    elif command == "evaluate":
        attar.evaluate(run, "digits", baselines=[], **slow)
    elif command == "continual":
        attar.continual(run, "digits", model="convnet-d1-w4", steps=2, baseline=False, **slow)
    else:
        attar.resume(run, until="relabel", quiet=False)
    assert "17 times as long as 32-true" in capsys.readouterr().err
