"""Methods side by side: one protocol, resumed, counted alike, told in a table and on a page."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attar
from attar.errors import ArtifactError, ConfigError, DataError
from attar.evaluation.side_by_side import Open, SideBySide, Trainings, train
from attar.evaluation.trials import Trials
from attar.methods.coreset import Random
from attar.report.bench import read_bench, render_bench
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.processes import Processes
from attar.studies import bench as benches
from attar.studies.bench import BenchResult

SETTINGS = {"source.train_per_class": 10, "train.epochs": 2, "train.batch_size": 20}


class First(Random):
    """Random images by a method of a program's own."""

    name = "first"
    source = "this test"


def run(out: Path, **options: Any) -> BenchResult:
    given: dict[str, Any] = {
        "methods": [First],
        "labels": ["hard"],
        "seeds": 2,
        "model": "convnet-d1-w4",
        "full_epochs": 1,
        "workers": 1,
        "quick": True,
        "settings": SETTINGS,
    }
    return attar.bench("digits", out=out, **{**given, **options})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    with pytest.MonkeyPatch.context() as patched:  # one process beside this one tells what several would
        patched.setattr(benches, "_starts_anew", lambda one, engine: one.name == "random-ipc1")
        return run(tmp_path_factory.mktemp("bench") / "b", ipc=[1, 2])


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What each bench hands to processes that help."""
    found = list[bytes]()

    def share(trainings: Trainings, again: Open, *rest: Any, **more: Any) -> SideBySide:
        found.append(pickle.dumps(again))
        return train(trainings, again, *rest, **more)

    monkeypatch.setattr(benches, "train", share)
    return found


def trained_again(folder: Path, handed: bytes) -> dict[str, bytes]:
    """The files of all trainings, done by what another process is handed."""
    shutil.rmtree(folder / "trials")
    students = pickle.loads(handed)(Engine("cpu", "32-true"), Events(quiet=True))
    for number in reversed(range(len(students.files))):
        students.reached(number)
    return trained(folder)


def trained(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "trials").iterdir()}


def test_the_result_is_the_same_bytes_by_whomever_students_are_trained(
    made: BenchResult, tmp_path: Path, handed: list[bytes]
) -> None:
    folder = shutil.copytree(made.path, tmp_path / "b")
    shutil.rmtree(folder / "trials")
    run(folder, ipc=[1, 2], processes=2)
    assert trained(folder) == trained(made.path)
    assert (folder / "bench.json").read_bytes() == (made.path / "bench.json").read_bytes()
    assert trained_again(folder, handed[0]) == trained(made.path)


def test_every_method_stands_beside_random_images(made: BenchResult) -> None:
    assert [(row.method, row.ipc, row.labels) for row in made.rows] == [
        ("random", 1, "hard"),
        ("first", 1, "hard"),
        ("random", 2, "hard"),
        ("first", 2, "hard"),
        ("full", 0, "hard"),
    ]
    assert all(row.n == 2 for row in made.rows)
    first = made.rows[1]
    assert first.points == pytest.approx(first.mean - made.rows[0].mean)
    assert first.low is not None
    assert first.high is not None
    assert first.low <= first.points <= first.high
    assert first.beats_random in ("yes", "no, worse", "perhaps", "perhaps worse", "not shown")


def test_bytes_are_counted_alike(made: BenchResult) -> None:
    found = {(row.method, row.ipc): row.bytes for row in made.rows}
    assert found["random", 1] == found["first", 1] == 10 * (64 + 1)
    assert found["random", 2] == found["first", 2] == 20 * (64 + 1)
    assert found["full", 0] == 100 * (64 + 1)


def test_the_files_hold_what_was_found(made: BenchResult) -> None:
    kept = json.loads((made.path / "bench.json").read_text("utf-8"))
    assert [row["mean"] for row in kept["rows"]] == [row.mean for row in made.rows]
    assert kept["protocol"]["train"]["epochs"] == 2
    with (made.path / "bench.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["method"] for row in table] == [row.method for row in made.rows]
    assert kept["records"][0]["protocol"]["epochs"] == 2


def test_the_same_call_trains_nothing_again_and_more_seeds_only_what_is_new(
    made: BenchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(made.path, tmp_path / "b")
    trained = []
    real = Trials.accuracy

    def counting(self: Any, model: str, subject: Any, seed: int, *rest: Any, **more: Any) -> float:
        if self.finished(model, subject, seed, rest[0], rest[1]) is None:
            trained.append((subject.name, seed))
        return real(self, model, subject, seed, *rest, **more)

    monkeypatch.setattr(Trials, "accuracy", counting)
    shared: list[Path] = []
    monkeypatch.setattr(Processes, "require_shared", lambda self, folder: shared.append(folder))
    again = run(folder, ipc=[1, 2])
    assert folder in shared
    assert trained == []
    assert again.records == made.records
    grown = run(folder, ipc=[1], seeds=3)
    assert {seed for _, seed in trained} == {2}
    assert grown.rows[0].n == 3


def test_soft_labels_are_those_of_one_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, handed: list[bytes]
) -> None:
    monkeypatch.setattr(benches, "_starts_anew", lambda *_: False)
    found = run(tmp_path / "b", labels=["hard", "soft"])
    hard, soft = found.rows[0], found.rows[2]
    assert (hard.labels, soft.labels, hard.method, soft.method) == ("hard", "soft", "random", "random")
    teacher = tmp_path / "b" / "labels" / "squeeze" / "teacher.safetensors"
    assert soft.bytes == hard.bytes + teacher.stat().st_size
    assert {key: found.protocol["views"][key] for key in ("min_scale", "mix", "flip")} == {
        "min_scale": 0.5,
        "mix": "none",
        "flip": False,
    }
    before = trained(tmp_path / "b")
    assert trained_again(tmp_path / "b", handed[0]) == before


def test_a_method_of_ours_is_made_apart_so_that_its_memory_is_its_own(made: BenchResult) -> None:
    random, first = made.rows[:2]
    assert random.memory_bytes is not None
    assert random.memory_bytes > 50 << 20
    assert random.seconds is not None
    assert first.memory_bytes is None  # this process has made it, and holds much else


def test_images_that_a_program_named_itself_are_made_into_sets_here(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mine = attar.open((rng.integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 2), name="mine-in-a-bench")
    options: dict[str, Any] = {"labels": ["hard"], "seeds": 1, "model": "convnet-d1-w4", "full_epochs": 0}
    found = attar.bench(mine, methods=["random"], out=tmp_path / "b", quick=True, settings=SETTINGS, **options)
    assert [row.method for row in found.rows] == ["random"]


def test_what_is_wrong_is_told_before_anything_is_made(tmp_path: Path, made: BenchResult) -> None:
    with pytest.raises(ConfigError, match="did you mean tesla"):
        run(tmp_path / "b", methods=["telsa"])
    with pytest.raises(ConfigError, match="not auto"):
        run(tmp_path / "b", methods=["auto"])
    with pytest.raises(ConfigError, match="convnt"):
        run(tmp_path / "b", model="convnt-d1-w4")
    with pytest.raises(ConfigError, match="no stages"):
        run(tmp_path / "b", settings={**SETTINGS, "train.strategy": "byot"})
    with pytest.raises(DataError, match="fewer than ipc=11"):
        run(tmp_path / "b", ipc=[1, 11])
    assert not (tmp_path / "b").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine", "utf-8")
    with pytest.raises(ArtifactError, match="not empty and not a bench"):
        run(tmp_path / "other")
    with pytest.raises(ArtifactError, match="is a run folder"):
        run(made.path / "random-ipc1")


@pytest.mark.parametrize(("mark", "what"), [("study.yaml", "a study"), ("judged.json", "an evaluation")])
def test_a_folder_of_another_kind_is_refused(tmp_path: Path, mark: str, what: str) -> None:
    for name in (mark, ".lock", "events.jsonl", "report.html"):
        (tmp_path / name).touch()
    with pytest.raises(ArtifactError, match=f"is {what}"):
        run(tmp_path)


def test_the_page_tells_the_table_and_escapes_names(made: BenchResult) -> None:
    assert made.report == made.path / "report.html"
    page = made.report.read_text("utf-8")
    assert "2 methods on digits" in page
    assert '<a href="#ipc-2-hard">' in page
    assert "text/csv" in page
    assert page.count("data:image/png;base64,") == 4
    found = read_bench(made.path)
    found["rows"][1]["method"] = found["source"] = "<script>alert(1)</script>"
    hostile = render_bench(found, made.path)
    assert "<script>alert(1)" not in hostile
    assert attar.write_report(made.path, made.path / "again").read_text("utf-8") == page


@pytest.mark.parametrize("text", ["{}", "[]", '{"rows": [{"method": 1}], "protocol": {}, "asked": {}}'])
def test_a_damaged_result_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(text, "utf-8")
    with pytest.raises(ArtifactError, match="no result of a bench"):
        read_bench(tmp_path)
