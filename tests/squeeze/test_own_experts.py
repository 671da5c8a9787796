"""Experts of another run are taken as they are, and only if they are what would have been trained here."""

import os
from pathlib import Path
from typing import Any

import pytest

import attar
from attar.errors import ArtifactError, AttarError
from attar.run.planning import plan
from attar.run.preparing import prepare
from attar.runtime.engine import Engine
from attar.squeeze.own_experts import is_own

TOY: dict[str, Any] = {
    "source.train_per_class": 5,
    "squeeze.model": "convnet-d2-w4",
    "squeeze.num_experts": 2,
    "squeeze.epochs": 3,
    "method.num_steps": 2,
    "method.expert_epochs": 1,
    "method.max_start_epoch": 2,
    "recover.iterations": 2,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    attar.distill("digits", method="tesla", ipc=1, recipe="none", out=out, settings=TOY, until="squeeze", quiet=True)
    return out


def taken(weights: Path, out: Path, **changed: Any) -> Path:
    settings = TOY | {"squeeze.weights": str(weights)} | {key.replace("__", "."): to for key, to in changed.items()}
    attar.distill(
        "digits", method="tesla", ipc=1, recipe="none", out=out, settings=settings, until="recover", quiet=True
    )
    return out


def bytes_of(run: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((run / "squeeze").glob("expert-*"))]


@pytest.mark.parametrize("inner", ["", "squeeze"])
def test_another_run_begins_with_the_same_bytes(trained: Path, tmp_path: Path, inner: str) -> None:
    out = taken(trained / inner, tmp_path / "run")
    assert bytes_of(out) == bytes_of(trained)
    assert (out / "recover" / "manifest.json").is_file()


def test_where_files_have_one_name_alone_they_are_copied(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no second names here")

    monkeypatch.setattr(os, "link", refuse)
    assert bytes_of(taken(trained, tmp_path / "run")) == bytes_of(trained)


def test_the_first_experts_suffice_and_more_than_there_are_is_refused(trained: Path, tmp_path: Path) -> None:
    assert bytes_of(taken(trained, tmp_path / "one", squeeze__num_experts=1)) == bytes_of(trained)[:1]
    with pytest.raises(ArtifactError, match="holds 2 experts") as found:
        taken(trained, tmp_path / "three", squeeze__num_experts=3)
    assert "squeeze.num_experts=2" in found.value.fix


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"squeeze__learning_rate": 0.5}, "learning_rate"),
        ({"squeeze__model": "convnet-d2-w6"}, "convnet-d2-w4"),
        ({"source__normalization": "mnist"}, "another normalisation"),
    ],
)
def test_experts_of_other_settings_are_refused_before_anything_is_written(
    trained: Path, tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    with pytest.raises(AttarError, match=says):
        taken(trained, tmp_path / "run", **changed)
    assert not list((tmp_path / "run").rglob("expert-*"))


def test_they_decide_the_method_and_are_not_planned_as_trainings(trained: Path) -> None:
    assert is_own(trained)
    assert not is_own(trained.parent)
    assigned = [f"{key}={value}" for key, value in (TOY | {"squeeze.weights": trained, "evaluate.seeds": 1}).items()]
    prepared = prepare({"run": {"source": "digits", "ipc": 1}}, recipe="none", assignments=assigned, quiet=True)
    assert prepared.settings.run.method == "tesla"
    stages = {
        one.stage: one for one in plan(prepared.settings, prepared.source, Engine("cpu"), until="squeeze").estimates
    }
    assert (stages["squeeze"].unit, stages["squeeze"].units) == ("experts read", 2)
