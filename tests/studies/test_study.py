"""A study from its file to its page: grown, renamed, interrupted, shared, and each time the same bytes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import attar
from attar.artifacts.distilled import write_distilled
from attar.cli import app
from attar.errors import ArtifactError, ConfigError, DataError, DivergedError
from attar.methods.base import Distillate
from attar.runtime.checkpoint import read_tensors
from attar.runtime.events import Events, read_events
from attar.runtime.seeding import generator
from attar.studies.trainings import Clock, Training
from attar.training import loop
from attar.training.section import TrainSection

TOLD = "run the same command again"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
RESULTS = ("study.json", "study.csv", "report.html")


def command(*arguments: Any) -> list[str]:
    return [str(Path(sys.executable).with_name("attar")), "study", *map(str, arguments)]


def trainings(out: Path) -> dict[str, tuple[int, bytes]]:
    """When each finished training was written, and what it says."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (out / "trainings").glob("*.json")}


def results(out: Path) -> dict[str, bytes]:
    """What a study wrote, without the name of its folder."""
    found = {name: (out / name).read_bytes() for name in RESULTS}
    found["report.html"] = found["report.html"].replace(str(out).encode(), b"OUT")
    return found | {name: content for name, (_, content) in trainings(out).items()}


def test_records_are_of_the_trainings_and_beside_the_baseline(study_file: Callable[..., Path], tmp_path: Path) -> None:
    found = attar.study(study_file(noise=[0, 0.4]), out=tmp_path / "out", workers=1)
    assert [(r.cell.strategy, r.cell.label_noise, r.n) for r in found.records if r.cell] == [
        ("ce", 0, 2), ("dlb", 0, 2), ("ce", 0.4, 2), ("dlb", 0.4, 2),
    ]  # fmt: skip
    assert {record.cell.images_seen for record in found.records if record.cell} == {120}
    assert "Every training sees 120 images" in found.held_equal
    ce, dlb, *_ = found.records
    assert found.contrasts[0].points == dlb.mean - ce.mean
    for seed, value in zip(ce.seeds, ce.values, strict=True):
        alone = attar.train(
            "digits",
            "convnet-d1-w4-batch",
            seed=seed,
            settings={"source.train_per_class": 6, **{key: ce.protocol[key] for key in ("epochs", "batch_size")}}
            | {"learning_rate": 0.05, "augment": "none"},
            keep=False,
        )
        assert alone.accuracies["validation"] == value
    with (tmp_path / "out" / "study.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8
    assert [float(line["validation_accuracy"]) for line in lines[:2]] == list(ce.values)


def test_a_study_that_grows_or_changes_its_names_trains_only_what_is_new(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = attar.study(study_file(), out=out, workers=1)
    before = trainings(out)
    assert len(before) == 4
    grown = study_file(
        strategies={"plain": {"strategy": "ce"}, "last batch": {"strategy": "dlb"}, "tf-kd": None},
        variants={"as it is": None, "cutmix": {"cutmix": 0.5}},
        baseline="plain",
        seeds=3,
    )
    planned = attar.plan_study(grown, out=out)
    assert (planned.num_trainings, planned.num_finished) == (18, 4)
    second = attar.study(grown, out=out, workers=1)
    after = trainings(out)
    assert len(after) == 18
    assert {name: after[name] for name in before} == before
    assert second.records[0].values[:2] == first.records[0].values
    again = attar.study(study_file(), out=out, workers=1)
    assert again.records == first.records
    assert trainings(out) == after


def test_other_settings_are_other_trainings(study_file: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    attar.study(study_file(), out=out, settings={"seeds": 1}, workers=1)
    attar.study(study_file(), out=out, settings={"seeds": 1, "train.learning_rate": 0.02}, workers=1)
    attar.study(study_file(), out=out, settings={"seeds": 1, "data.train_per_class": 7}, workers=1)
    assert len(trainings(out)) == 6


def test_interrupted_within_a_training_and_continued_is_the_same_bytes(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, whole, broken = study_file(about="same?"), tmp_path / "whole", tmp_path / "broken"
    settings = {"train.epochs": 8, "strategies": ["ce", "dlb"]}
    attar.study(path, out=whole, settings=settings, workers=1)
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    emit = Events.emit

    def stop(self: Events, stage: str, event: str, **fields: Any) -> None:
        emit(self, stage, event, **fields)
        if fields.get("about", {}).get("strategy") == "dlb" and fields.get("step") == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Events, "emit", stop)
    with pytest.raises(KeyboardInterrupt):
        attar.study(path, out=broken, settings=settings, workers=1)
    monkeypatch.setattr(Events, "emit", emit)
    assert len(trainings(broken)) == 1
    assert read_tensors(next((broken / "trainings").glob("*.safetensors")))[1]["epoch"] == 2
    attar.study(path, out=broken, settings=settings, workers=1)
    assert results(whole) == results(broken)
    assert not list((broken / "trainings").glob("*.safetensors"))


@pytest.mark.slow
def test_jobs_and_a_kill_leave_the_same_bytes(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file(about="same?", train={"epochs": 40, "batch_size": 8})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    attar.study(path, out=whole, workers=1)
    running = subprocess.Popen(command(path, "--out", broken, "--jobs", 2, "--quiet"), env=ENVIRONMENT)
    while not list((broken / "trainings").glob("*.json")):
        assert running.poll() is None
        time.sleep(0.02)
    running.kill()
    running.wait()
    assert not (broken / "study.json").exists()
    done = subprocess.run(command(path, "--out", broken, "--jobs", 2), capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "of them finished" in done.stderr
    assert results(whole) == results(broken)


@pytest.mark.slow
def test_an_interruption_ends_the_jobs_and_says_how_to_go_on(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, out = study_file(train={"epochs": 100_000, "milestones": [0.5]}), tmp_path / "out"
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    words = command(path, "--out", out, "--jobs", 2)
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=heed)
    while not any(event["event"] == "epoch" for event in read_events(out / "events.jsonl")):
        assert running.poll() is None
        time.sleep(0.05)
    workers = _children(running.pid)
    assert len(workers) == 3  # the third is multiprocessing's own
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert TOLD in told
    assert "Traceback" not in told
    _require_gone(workers)


@pytest.mark.slow
def test_workers_leave_when_their_parent_is_killed(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, out = study_file(train={"epochs": 100_000, "milestones": [0.5]}), tmp_path / "out"
    running = subprocess.Popen(command(path, "--out", out, "--jobs", 2, "--quiet"), env=ENVIRONMENT)
    while not any(event["event"] == "epoch" for event in read_events(out / "events.jsonl")):
        assert running.poll() is None
        time.sleep(0.05)
    workers = _children(running.pid)
    running.kill()
    running.wait()
    _require_gone(workers)


def _require_gone(workers: list[int]) -> None:
    patience = time.monotonic() + 20
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < patience
        time.sleep(0.05)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_one_that_diverges_leaves_the_others_alone(study_file: Callable[..., Path], tmp_path: Path, jobs: int) -> None:
    path = study_file(strategies={"wild": {"strategy": "ce", "learning_rate": 1e30}, "ce": None}, seeds=1)
    with pytest.raises(DivergedError, match="1 of 2 trainings have diverged:\n  - wild, plain") as told:
        attar.study(path, out=tmp_path / "out", jobs=jobs, workers=1)
    assert "The others are finished and kept" in told.value.fix
    assert len(trainings(tmp_path / "out")) == 1


def test_what_cannot_be_trained_is_told_before_anything_is(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file(models=["vit-tiny-p4", "convnet-d1-w4-batch"], strategies=["ce", "byot"])
    with pytest.raises(ConfigError, match="no stages to leave at") as told:
        attar.study(path, out=tmp_path / "out")
    assert told.value.found.count("\n") == 2  # byot, on each of two networks
    assert not (tmp_path / "out" / "trainings").exists()
    with pytest.raises(DataError, match="no validation images"):
        attar.study(study_file(), out=tmp_path / "out", settings={"data.validation_fraction": 0})


def test_a_folder_of_something_else_is_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ArtifactError, match="not empty and not a study"):
        attar.study(study_file(), out=tmp_path / "mine")


def test_a_distilled_set_is_trained_on_and_its_source_judges(study_file: Callable[..., Path], tmp_path: Path) -> None:
    made = attar.distill("digits", "random", 2, out=tmp_path / "run", until="relabel")
    path = study_file(data={"source": "digits", "distilled": str(made.path)})
    found = attar.study(path, out=tmp_path / "out", workers=1)
    assert {record.num_images for record in found.records} == {20}
    assert {record.cell.images_seen for record in found.records if record.cell} == {40}


def test_of_distilled_images_that_hold_others_one_is_seen_at_a_time(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    task = attar.open("digits", quiet=True).task
    images = torch.randn(10, *task.shape, generator=generator(0))
    made = write_distilled(tmp_path / "set", Distillate(images, torch.arange(10), tiles=2), task)
    attar.study(study_file(data={"source": "digits", "distilled": str(made.path)}), out=tmp_path / "out", workers=1)
    finished = [json.loads(content)["made_by"]["train"] for _, content in trainings(tmp_path / "out").values()]
    assert {train["augment"] for train in finished} == {"tile"}


def test_time_is_estimated_from_images_seen() -> None:
    cell = cells_like()
    trainings = [Training(cell, seed, 100 * (seed + 1)) for seed in range(3)]
    clock = Clock(trainings)
    assert clock.ended(trainings[0], 1.0) == pytest.approx(5.0)
    assert clock.ended(trainings[2], 5.0) == pytest.approx(200 * 6 / 400)
    assert Clock(trainings, jobs=2).ended(trainings[0], 1.0) == pytest.approx(2.5)


def cells_like() -> Any:
    from attar.studies.grid import Cell

    return Cell("net", "ce", "plain", 0.0, (0, 1, 2), TrainSection())


def test_typed_it_prints_a_table_and_json(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, out = study_file(), tmp_path / "out"

    def typed(*arguments: object) -> str:
        done = CliRunner().invoke(app, ["study", str(path), "--out", str(out), "--quiet", *map(str, arguments)])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert typed("--plan").startswith("4 trainings; 480 images to be seen")
    assert not out.exists()
    shown = typed()
    assert [line.split()[0] for line in shown.splitlines()[:3]] == ["strategy", "ce", "dlb"]
    assert "Every training sees 120 images" in shown
    assert json.loads(typed("--json"))["records"] == json.loads((out / "study.json").read_text())["records"]
    assert json.loads(typed("--plan", "--json"))["num_finished"] == 4
    page = out / "again" / "report.html"
    done = CliRunner().invoke(app, ["report", str(out), "--out", str(page.parent)])
    assert done.exit_code == 0
    assert page.read_text() == (out / "report.html").read_text()


def test_a_wrong_setting_is_told_by_its_name(study_file: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"train\.epoch: no such field; did you mean epochs"):
        attar.study(study_file(), settings={"train.epoch": 3})


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_script_without_a_guard_may_ask_for_jobs(study_file: Callable[..., Path], tmp_path: Path) -> None:
    script, path = tmp_path / "mine.py", study_file(seeds=1)
    script.write_text(f"import attar\nprint(len(attar.study({str(path)!r}, out='out', jobs=2, quiet=True).records))\n")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
