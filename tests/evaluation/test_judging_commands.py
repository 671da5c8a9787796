"""Evaluate, continual and compare as a person calls them, on runs of random images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import attar
from attar import options
from attar.api.options import EvaluateOptions
from attar.cli import app
from attar.errors import ArtifactError, ConfigError

Distilled = Callable[[int], Path]
NARROW = {"train.epochs": 2, "full_epochs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    """A run folder with this many random digits a class, judged by one narrow network."""
    made: dict[int, Path] = {}

    def make(ipc: int) -> Path:
        if ipc not in made:
            made[ipc] = tmp_path_factory.mktemp("runs") / f"random-{ipc}"
            settings = {"source.train_per_class": 12}
            attar.distill("digits", "random", ipc, out=made[ipc], until="relabel", settings=settings)
            attar.evaluate(
                made[ipc],
                "digits",
                models=["convnet-d1-w4"],
                seeds=1,
                scores=True,
                baselines=["herding"],
                settings=NARROW,
            )
        return made[ipc]

    return make


def test_scores_are_on_the_page_and_in_the_file(run: Distilled) -> None:
    found = json.loads((run(1) / "evaluation.json").read_text("utf-8"))
    assert [record["subject"] for record in found["records"]] == [
        *("distilled", "herding", "random", "distilled, not augmented", "random, not augmented", "full")
    ]
    assert set(found["scores"][0]["found"]) == {
        *("hard_label_recovery", "improvement_over_random", "label_robust_score", "augmentation_robust_score")
    }
    assert found["judged"]["method"] == "random"
    text = (run(1) / "report.html").read_text("utf-8")
    assert "Images, labels or augmentation?" in text
    assert "--baselines herding,random,full --scores" in text.replace("</span> <span>", " ")


def test_continual_learning_draws_the_page_of_its_run_again(run: Distilled) -> None:
    assert "Classes arriving step by step" not in (run(2) / "report.html").read_text("utf-8")
    records = attar.continual(run(2), "digits", model="convnet-d1-w4", steps=2, settings={"train.epochs": 1})
    assert len(records) == 4
    assert "Classes arriving step by step" in (run(2) / "report.html").read_text("utf-8")
    with pytest.raises(ConfigError, match="labels"):
        attar.continual(run(2), "digits", model="convnet-d1-w4", labels=["soft"])


def test_another_source_is_told_and_leaves_page_and_card_alone(
    run: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "run"
    shutil.copytree(run(1), made)
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    narrow: dict[str, Any] = {"models": ["convnet-d1-w4"], "seeds": 1, "baselines": []}
    other = NARROW | {"source.train_per_class": 11}
    found = attar.evaluate(made, "digits", **narrow, settings=other, quiet=False)
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    assert found.report == tmp_path / "run-on-digits" / "report.html"
    told = " ".join(capsys.readouterr().err.split())
    assert "another source than the set was made from" in told
    assert "training images 120, now 110" in told
    assert "source.train_per_class 12, now 11" in told
    with pytest.raises(ArtifactError, match="is another source"):
        attar.evaluate(made, "digits", **narrow, settings=other, out=made)
    attar.evaluate(made, "digits", **narrow, settings=NARROW)
    assert (made / "report.html").read_bytes() != before[made / "report.html"]


def test_a_source_of_other_images_is_refused_before_anything_is_said_or_kept(
    run: Distilled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "run"
    shutil.copytree(run(1), made)
    with pytest.raises(ArtifactError, match="have shape"):
        attar.evaluate(made, "digits", settings={"source.resolution": 10}, quiet=False)
    assert "another source" not in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_damaged_stage_is_not_gone_on_from(run: Distilled, tmp_path: Path) -> None:
    made = tmp_path / "run"
    shutil.copytree(run(1), made)
    chunk = made / "recover/synthetic-00000.safetensors"
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"synthetic-00000\.safetensors is damaged") as told:
        attar.distill("digits", "random", 1, out=made, until="relabel", settings={"source.train_per_class": 12})
    assert "--redo recover" in told.value.fix


def test_runs_are_compared_and_a_page_is_written(run: Distilled, tmp_path: Path) -> None:
    (group,) = attar.compare([run(1), run(2) / "distilled"], tmp_path)
    assert [one.ipc for one in group.members] == [1, 2]
    text = (tmp_path / "comparison.html").read_text("utf-8")
    assert "2 runs compared" in text
    assert "Accuracy by images per class" in text


def test_a_page_is_no_folder_to_write_to(run: Distilled, tmp_path: Path) -> None:
    for call in (lambda out: attar.compare([run(1), run(2)], out), lambda out: attar.write_report(run(1), out)):
        with pytest.raises(ConfigError, match="--out names a folder"):
            call(tmp_path / "page.html")
    assert attar.write_report(run(1), tmp_path / "elsewhere") == tmp_path / "elsewhere" / "report.html"


@pytest.mark.parametrize(
    ("typed", "asked"),
    [("none", {"baselines": ()}), ("random,full", {"baselines": ("random", "full")}), (None, {})],
)
def test_baselines_are_named_or_none(
    monkeypatch: pytest.MonkeyPatch, typed: str | None, asked: dict[str, tuple[str, ...]]
) -> None:
    seen: list[dict[str, Any]] = []

    def judged(**given: Any) -> None:
        seen.append(options.given(EvaluateOptions.model_validate(given)).get("evaluate", {}))
        raise ConfigError("seen")

    monkeypatch.setattr("attar.api.evaluate", judged)
    flags = ["--baselines", typed] if typed else []
    CliRunner().invoke(app, ["evaluate", "runs/x", "--source", "digits", *flags])
    assert seen == [asked]
