"""What the report reads of a run folder: all of a whole one, what is there of a broken one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from attar.errors import ArtifactError
from attar.items import Item
from attar.report.collect import collect

MakeRun = Callable[..., Path]


def test_a_whole_run_is_read(make_run: MakeRun) -> None:
    run = make_run()
    data = collect(run)
    assert data.run == str(run)
    assert data.class_names == ("rose", "jasmine", "iris")
    assert data.settings["run"]["source"] == "digits"
    assert "train" not in data.settings, "an empty section says nothing"
    assert [stage.name for stage in data.stages] == ["squeeze", "recover"]
    assert data.why.startswith("tesla, since")
    assert data.sizes_bytes["total"] == 3692
    assert [record.subject for record in data.records] == ["distilled", "random", "full"]
    assert data.verdict
    assert {(curve.stage, curve.metric, curve.unit) for curve in data.curves} == {
        ("squeeze", "loss", "epoch"),
        ("squeeze", "accuracy", "epoch"),
        ("recover", "loss", "step"),
        ("recover", "learning_rate", "step"),
    }
    assert data.curves[0].stage == "squeeze"


def test_a_run_that_has_only_started_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {source: digits}\n", "utf-8")
    data = collect(tmp_path)
    assert data.gallery is None
    assert data.film is None
    assert data.records == ()
    assert data.class_name(3) == "class 3"


def test_an_interrupted_run_shows_its_last_snapshot(make_run: MakeRun) -> None:
    data = collect(make_run(complete=False, evaluated=False))
    assert data.gallery is not None
    assert data.film is not None
    assert (data.gallery.pixels == data.film.pixels[-1]).all()
    assert [stage.complete for stage in data.stages] == [True, False]


@pytest.mark.parametrize("make_it", [True, False])
def test_a_stranger_is_refused(tmp_path: Path, make_it: bool) -> None:
    folder = tmp_path / "holiday"
    if make_it:
        folder.mkdir()
    with pytest.raises(ArtifactError, match="holiday"):
        collect(folder)


@pytest.mark.parametrize(
    "name",
    [
        "config.yaml",
        "evaluation.json",
        "squeeze/manifest.json",
        "distilled/attar.json",
        "distilled/data/train-00001-of-00002.parquet",
        "recover/snapshots/step-00000060.safetensors",
    ],
)
def test_a_damaged_file_is_named(make_run: MakeRun, name: str) -> None:
    run = make_run()
    (run / name).write_bytes(b"{[\xff\x00")
    with pytest.raises(ArtifactError, match=str(Path(name).parent.name) or name):
        collect(run)


def test_a_record_of_another_shape_is_refused(make_run: MakeRun) -> None:
    run = make_run()
    (run / "evaluation.json").write_text(json.dumps({"records": [{"metric": "accuracy"}]}), "utf-8")
    with pytest.raises(ArtifactError, match="record"):
        collect(run)


def test_curves_of_an_earlier_evaluation_are_left_out(make_run: MakeRun) -> None:
    run = make_run()
    epoch = {"stage": "evaluate", "event": "epoch", "time_s": 9.0, "loss": 0.5}
    kept = collect(run).records[0]
    with (run / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")
        for network in (kept.model, "another"):
            item = Item(f"on {network}", "student", "distilled", network=network, group=kept.group, seed=kept.seeds[0])
            file.write(json.dumps({**epoch, **item.fields(), "step": 1}) + "\n")
    evaluated = [curve for curve in collect(run).curves if curve.stage == "evaluate"]
    assert [series.item.network for curve in evaluated for series in curve.series] == [kept.model]


def test_a_page_is_drawn_without_torch(make_run: MakeRun) -> None:
    run = make_run()
    code = (
        "import sys, pathlib; from attar.report.page import write_report;"
        "write_report(pathlib.Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
    assert (run / "report.html").exists()
