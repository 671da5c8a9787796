"""A study from its file to its page: grown, renamed, interrupted, shared, and each time the same bytes."""

from __future__ import annotations

import csv
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import attar
from attar.artifacts.distilled import write_distilled
from attar.cli import app
from attar.errors import ArtifactError, ConfigError, DataError, DivergedError
from attar.evaluation import side_by_side
from attar.evaluation.side_by_side import SideBySide
from attar.methods.base import Distillate
from attar.models import factory
from attar.models.factory import NETWORKS
from attar.runtime import together
from attar.runtime.checkpoint import read_tensors
from attar.runtime.events import Events, read_events
from attar.runtime.seeding import generator
from attar.runtime.team import Team
from attar.runtime.together import Job, Make, make_all
from attar.studies.missing import Missing
from attar.studies.trainings import Clock, Training
from attar.task import Task
from attar.training import loop
from attar.training.section import TrainSection

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
RESULTS = ("study.json", "study.csv", "report.html")


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


def test_settings_of_a_strategy_that_no_training_uses_train_nothing_again(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    out, common = tmp_path / "out", {"epochs": 1, "batch_size": 16, "augment": "none"}
    attar.study(study_file(strategies=["ce"], seeds=1, train=common), out=out)
    before = trainings(out)
    attar.study(study_file(strategies=["ce"], seeds=1, train={**common, "mixskd": {"tau": 9.0}}), out=out)
    assert trainings(out) == before


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


def test_what_another_process_is_handed_trains_the_same(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, one, two = study_file(about="same?"), tmp_path / "one", tmp_path / "two"
    attar.study(path, out=one, processes=1)
    helped = list[str]()

    def half_by_another(
        job: Job, make: Make, made: Callable[[int], None], num: int, say: Callable[[str], None]
    ) -> None:
        assert num == 1
        other = pickle.loads(pickle.dumps(job)).opening()
        for k in reversed(range(2, 4)):
            other(k)
            helped.append(job.files[k].name)
        make_all(job, make, made, 0, say)

    monkeypatch.setattr(side_by_side, "make_all", half_by_another)
    attar.study(path, out=two, processes=2)
    assert len(helped) == 2
    assert results(one) == results(two)
    events = [event for event in read_events(two / "events.jsonl") if event["event"] == "trained"]
    assert len(events) == 4
    assert all(event["wall_s"] > 0 for event in events)
    assert {path.suffix for path in (two / "trainings").iterdir()} == {".json"}


@pytest.mark.slow
def test_a_process_that_helps_leaves_the_bytes_of_one(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, one, two = study_file(about="same?"), tmp_path / "one", tmp_path / "two"
    attar.study(path, out=one, processes=1)
    reached, until_s = Missing.reached, time.monotonic() + 600

    def let_it_begin(self: Missing, number: int, team: Team | None = None) -> float:
        while not list((two / "trainings").glob("*.ended")):
            assert time.monotonic() < until_s
            time.sleep(0.02)
        return reached(self, number, team)

    monkeypatch.setattr(together, "START_S", 0.0)
    monkeypatch.setattr(Missing, "reached", let_it_begin)
    attar.study(path, out=two, processes=2)
    assert results(one) == results(two)
    assert not list(two.glob(".lock-*"))


def test_what_this_program_gave_is_trained_by_it_alone(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def own(task: Task) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, task.num_classes))

    monkeypatch.setattr(factory, "_is_taken", lambda family, name: False)  # to ask timm takes seconds
    monkeypatch.setattr(NETWORKS, "_added", {})
    helpers = list[int]()

    def counting(job: Job, make: Make, made: Callable[[int], None], num: int, say: Callable[[str], None]) -> None:
        helpers.append(num)
        make_all(job, make, made, 0, say)

    monkeypatch.setattr(side_by_side, "make_all", counting)
    path = study_file(models=[NETWORKS.add(own)], seeds=1)
    attar.study(path, out=tmp_path / "out", processes=2, quiet=False)
    assert helpers == [0]
    assert "one process, though 2 may work at a time: no other finds by name" in capfd.readouterr().err
    assert len(trainings(tmp_path / "out")) == 2


def test_threads_of_a_training_do_not_follow_from_processes_or_the_grid(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    threads = list[int]()
    for name, asked in (("a", {}), ("b", {"processes": 2}), ("c", {"settings": {"seeds": 1}}), ("d", {"workers": 2})):
        attar.study(study_file(strategies=["ce"], train={"epochs": 1}), out=tmp_path / name, device="cpu", **asked)
        threads.append(json.loads((tmp_path / name / "study.json").read_text())["hardware"]["threads"])
    assert threads == [1, 1, 1, 2]


@pytest.mark.parametrize("helped", [False, True])
def test_one_that_diverges_leaves_the_others_alone(
    study_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    helped: bool,
) -> None:
    def by_another(job: Job, make: Make, made: Callable[[int], None], num: int, say: Callable[[str], None]) -> None:
        other = pickle.loads(pickle.dumps(job)).opening()
        for k in range(2):
            other(k)
        make_all(job, lambda k: pytest.fail("it has been trained"), made, 0, say)

    if helped:
        monkeypatch.setattr(side_by_side, "make_all", by_another)
    path = study_file(strategies={"wild": {"strategy": "ce", "learning_rate": 1e30}, "ce": None}, seeds=1)
    for _ in range(2):  # it is tried again
        with pytest.raises(DivergedError, match="1 of 2 trainings have diverged:\n  - wild, plain") as told:
            attar.study(path, out=tmp_path / "out", workers=1, processes=2, quiet=False)
        assert "The others are finished and kept" in told.value.fix
        assert len(trainings(tmp_path / "out")) == 1
        assert not list((tmp_path / "out" / "trainings").glob("*.ended"))
        assert "has diverged; the others go on" in capfd.readouterr().err
        monkeypatch.undo()


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
    (tmp_path / "mine" / ".lock").touch()
    with pytest.raises(ArtifactError, match="not empty and not a study"):
        attar.study(study_file(), out=tmp_path / "mine")


@pytest.mark.parametrize(
    ("mark", "what"),
    [("bench.json", "a bench"), ("random-ipc10", "a bench"), ("evaluation.json", "an evaluation")],
)
def test_a_folder_of_another_kind_is_refused(
    study_file: Callable[..., Path], tmp_path: Path, mark: str, what: str
) -> None:
    (tmp_path / "out").mkdir()
    for name in (mark, ".lock", "events.jsonl", "report.html"):
        (tmp_path / "out" / name).touch()
    with pytest.raises(ArtifactError, match=f"is {what}"):
        attar.study(study_file(), out=tmp_path / "out")


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
    clock = Clock(trainings, SideBySide(1, 1))
    assert clock.ended(trainings[0], 1.0) == pytest.approx(5.0)
    assert clock.ended(trainings[2], 5.0) == pytest.approx(200 * 6 / 400)
    shared = Clock(trainings, SideBySide(2, 1))
    assert shared.ended(trainings[0], None) == 0.0  # finished by a process that did not say in what time
    assert shared.ended(trainings[1], 2.0) == pytest.approx(3.0)


def cells_like() -> Any:
    from attar.studies.grid import Cell

    return Cell("net", "ce", "plain", 0.0, (0, 1, 2), TrainSection())


def test_typed_it_prints_a_table_and_json(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, out = study_file(), tmp_path / "out"

    def typed(*arguments: object) -> str:
        done = CliRunner().invoke(app, ["study", str(path), "--out", str(out), "--quiet", *map(str, arguments)])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert typed("--plan", "--processes", 2).startswith("4 trainings; 480 images to be seen")
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


@pytest.mark.slow
def test_a_script_without_a_guard_may_have_help(study_file: Callable[..., Path], tmp_path: Path) -> None:
    script, path = tmp_path / "mine.py", study_file(seeds=1)
    script.write_text(
        "import attar\nfrom attar.runtime import together\ntogether.START_S = 0.0\n"
        f"print(len(attar.study({str(path)!r}, out='out', processes=2, quiet=True).records))\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"
