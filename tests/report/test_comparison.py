"""Several runs side by side: who may be compared with whom, and what the page and the terminal say."""

from __future__ import annotations

import ast
import contextlib
import csv
import html
import io
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

import attar
from attar import cli
from attar.cli.comparisons import comparison_json, print_comparison
from attar.errors import ArtifactError, ConfigError
from attar.report.alike import Judging, judged_alike
from attar.report.charts import TONES
from attar.report.compare import group_view, render_comparison, write_comparison
from attar.report.headline import how_measured
from attar.report.lineup import Shown, pictures, read_shown
from attar.report.outside import Outside, keep_judged
from attar.report.pictures import Gallery
from attar.report.scaling import LEVEL, STRIDE, scaling_charts, series_names
from attar.report.several import Condition, Group, Judged, grouped, read_judged, rows
from attar.results.records import Arrival, Followed, Record

EVIL = "<script>alert(1)</script>"
DEFAULTS = {"epochs": 9, "ema": 0.0, "augment": "dsa"}
MakeRuns = Callable[..., list[Path]]


def write_run(
    folder: Path,
    *,
    method: str = "tesla",
    ipc: int = 10,
    mean: float = 50.0,
    labels: tuple[str, ...] = ("hard",),
    models: tuple[str, ...] = ("net",),
    judged: dict[str, Any] | None = None,
    split: str = "test",
    **protocol: Any,
) -> Path:
    """An evaluation as `attar evaluate` leaves it, random images 10 points behind, the whole set at 90 %."""

    def record(group: str, kind: str, model: str, at: float, images: int) -> dict[str, Any]:
        of: dict[str, Any] = {"group": group, "labels": kind, "split": split, "num_judges": 100}
        return Record.of(
            "accuracy",
            f"{group} with {kind} labels",
            model,
            [at - 1, at + 1],
            seeds=[0, 1],
            num_images=images,
            size_bytes=100 * images,
            protocol=protocol,
            **of,
        ).to_json()

    records = []
    for model in models:
        for i, kind in enumerate(labels):
            records.append(record("distilled", kind, model, mean - i, 10 * ipc))
            records.append(record("random", kind, model, mean - 10 - i, 10 * ipc))
        records.append(record("full", "hard", model, 90.0, 5000))
    about = {
        "method": method,
        "ipc": ipc,
        "classes": 10,
        "task": "t",
        "shape": [3, 32, 32],
        "source": "f",
        "num_train_images": 5000,
        "sizes": {"images": 1000, "labels": 200, "teacher": 0, "total": 1200},
    }
    folder.mkdir(parents=True)
    values = {"records": records, "judged": about | (judged or {}), "hardware": {"device": "some GPU"}}
    (folder / "evaluation.json").write_text(json.dumps(values), "utf-8")
    for stage in ("squeeze", "recover"):
        (folder / stage).mkdir()
        manifest = {"complete": True, "wall_s": 30.0, "hardware": {"device": "cpu", "processor": "Some CPU"}}
        (folder / stage / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def read(*folders: Path) -> tuple[Judged, ...]:
    return read_judged(folders, DEFAULTS)


@pytest.mark.parametrize("here", ["run", "run/distilled", "set"])
def test_the_current_folder_may_be_named(tmp_path: Path, here: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_run(tmp_path / "other")
    for name in ("run", "set-evaluation"):
        write_run(tmp_path / name)
    (tmp_path / here).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / here)
    expected = "set-evaluation" if here == "set" else "run"
    assert [judged.name for judged in read(Path(), other)] == [expected, "other"]


def test_runs_of_one_task_and_training_stand_in_one_group_few_images_first(tmp_path: Path) -> None:
    many = write_run(tmp_path / "many", ipc=50, mean=60)
    few = write_run(tmp_path / "few", ipc=1, mean=40)
    (group,) = grouped(read(many, few))
    assert group.because == ()
    found = rows(group)
    assert [(row.judged.name, row.ours.mean, row.gain) for row in found] == [("few", 40, 10), ("many", 60, 10)]
    assert all(row.full is not None and row.full.mean == 90 for row in found)
    assert {one.wall_s for one in group.members} == {60.0}
    assert {one.hardware for one in group.members} == {"Some CPU"}


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"judged": {"shape": [3, 64, 64], "task": "u"}, "epochs": 3}, ["classes and size: 10 classes, 32 × 32 px"]),
        ({"judged": {"source": "g"}}, ["real images: 5,000 images [f] there, 5,000 images [g] here"]),
        ({"judged": {"source": "g", "num_train_images": 9}}, ["real images: 5,000 images there, 9 images here"]),
        ({"split": "validation"}, ["judged by: the test split there, the validation split here"]),
        ({"epochs": 3, "augment": "none"}, ["epochs: 9 there, 3 here", "augment: dsa there, none here"]),
        ({"precision": "bf16-mixed"}, ["precision: none there, bf16-mixed here"]),
    ],
)
def test_what_was_measured_otherwise_stands_apart_with_the_reason(
    changes: dict[str, Any], reasons: list[str], tmp_path: Path
) -> None:
    first, other = grouped(read(write_run(tmp_path / "a"), write_run(tmp_path / "b", **changes)))
    assert first.because == ()
    assert [told.startswith(reason) for told, reason in zip(other.because, reasons, strict=True)] == [True] * len(
        reasons
    )


def test_a_setting_that_came_later_is_taken_to_have_its_default_before(tmp_path: Path) -> None:
    older, newer = write_run(tmp_path / "older"), write_run(tmp_path / "newer", ema=0.0, epochs=9)
    assert len(grouped(read(older, newer))) == 1
    assert len(grouped(read(older, write_run(tmp_path / "other", ema=0.5)))) == 2


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="one run can't be compared"):
        read(run, run / "distilled", run)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ArtifactError, match=r"bare has not been evaluated"):
        read(run, tmp_path / "bare")
    with pytest.raises(ArtifactError, match=r"there is no .*nowhere"):
        read(run, tmp_path / "nowhere")
    empty = write_run(tmp_path / "empty")
    (empty / "evaluation.json").write_text('{"records": []}', "utf-8")
    with pytest.raises(ArtifactError, match="holds no accuracy of distilled images"):
        read(run, empty)
    (empty / "evaluation.json").write_text("{[", "utf-8")
    with pytest.raises(ArtifactError, match=r"evaluation\.json"):
        read(run, empty)


def test_folders_of_the_same_name_are_told_apart_and_sets_in_no_run_are_found(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run")
    foreign = write_run(tmp_path / "images-evaluation")
    assert [j.name for j in read(one, other, tmp_path / "images")] == ["a/run", "b/run", foreign.name]


def test_figures_over_images_and_bytes_for_each_network_and_kind_of_labels(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"{method}-{ipc}", method=method, ipc=ipc, mean=ipc + 20, labels=("soft", "hard"))
        for method in ("tesla", "rded")
        for ipc in (1, 10, 50)
    ]
    (group,) = grouped(read(*folders))
    charts = scaling_charts(rows(group))
    assert [(chart.title, chart.of) for chart in charts] == [
        (f"Accuracy by {what}", f"net, {kind} labels")
        for kind in ("soft", "hard")
        for what in ("images per class", "bytes")
    ]
    soft, by_bytes, hard, _ = charts
    assert [tick.text for tick in soft.x.ticks] == ["1", "10", "50"]
    assert soft.x.ticks[1].place == pytest.approx(soft.x.place(10), abs=1e-3)
    assert all(tick.text.endswith(("kB", "MB")) for tick in by_bytes.x.ticks)
    assert [name for _, name in soft.legend] == [
        "tesla",
        "rded",
        "random real images, labelled as tesla",
        "random real images, labelled as rded",
        "whole training set, 90.0\xa0±\xa01.4\xa0%",
    ]
    tones = {name: tone for tone, name in soft.legend}
    assert tones["random real images, labelled as rded"] == tones["rded"] + TONES
    assert [name for _, name in hard.legend][2:3] == ["random real images"], "hard labels are the same for all"
    for method, side in (("tesla", -1), ("rded", 1)):  # which reach the same, and would hide each other
        dots = [line for line in soft.lines if line.kind == "dot" and line.tone == tones[method]]
        places = re.findall(r"M([\d.]+) ([\d.]+)h0", dots[0].path)
        moved = [10 * soft.x.place(ipc) + side * 10 * STRIDE / 2 for ipc in (1, 10, 50)]
        assert [float(at) for at, _ in places] == pytest.approx(moved, abs=0.1)
        assert [float(y) for _, y in places] == pytest.approx(
            [1000 - 10 * soft.y.place(m) for m in (21, 30, 70)], abs=0.1
        )
    assert soft.note == "points that coincide stand side by side"
    assert {line.tone for line in soft.lines} == set(tones.values())
    assert LEVEL in tones.values()


def test_sets_of_one_method_and_count_are_lines_of_their_own(tmp_path: Path) -> None:
    (group,) = grouped(read(*(write_run(tmp_path / name) for name in ("a", "b"))))
    made = rows(group)
    assert series_names(made) == {"a": "a", "b": "b"}
    assert [chart.title for chart in scaling_charts(made)] == ["Accuracy by bytes"], "images per class do not differ"
    assert scaling_charts(made[:1]) == ()


def test_what_differs_at_one_place_is_not_averaged_away(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / method, method=method, mean=mean) for method, mean in (("a", 50), ("b", 70))]
    charts = scaling_charts(rows(grouped(read(*folders))[0]))
    by_bytes = next(chart for chart in charts if chart.title == "Accuracy by bytes")
    (tone,) = [tone for tone, name in by_bytes.legend if name == "random real images"]
    (dots,) = [line.path for line in by_bytes.lines if line.kind == "dot" and line.tone == tone]
    assert dots.count("M") == 2, "40 and 60 % are two measurements, of as many images and bytes"
    assert by_bytes.note == ""


def test_images_stand_side_by_side_class_by_class(tmp_path: Path, make_run: Callable[..., Path]) -> None:
    folders = []
    for number, strips in enumerate((0, 2)):
        folders.append(make_run(class_names=(EVIL, "b", "c"), strips=strips))
        write_run(tmp_path / f"{number}", judged={"shape": [1, 8, 8], "classes": 3})
        shutil.copy(tmp_path / f"{number}" / "evaluation.json", folders[-1])
    judged = read(*folders)
    shown = read_shown(judged)
    (group,) = grouped(judged)
    found = pictures(group, shown)
    assert found is not None
    assert found.classes == (EVIL, "b", "c")
    assert [(line.name, line.real, len(line.images)) for line in found.lines] == [
        (judged[0].name, False, 3), (judged[1].name, False, 3), ("Real images", True, 3),
    ]  # fmt: skip
    assert all(str(image).startswith("data:image/webp") for line in found.lines for image in line.images)
    text = write_comparison(judged, tmp_path / "page.html").read_text("utf-8")
    assert "An image of each class" in text
    assert text.count("<img") == 9
    assert EVIL not in text
    assert pictures(group, {}) is None
    assert "An image of each class" not in render_comparison(judged)


def test_of_many_classes_ten_are_shown() -> None:
    pixels = np.zeros((30, 4, 4, 1), np.uint8)
    gallery = Gallery(pixels, tuple(range(0, 60, 2)), 30, 30)
    one = Judged("one", Path(), "m", 1, "", {}, None, "", "", ())
    found = pictures(Group((one,), ()), {"one": Shown(gallery, None)})
    assert found is not None
    assert found.classes == tuple(f"class {label}" for label in range(0, 60, 6))


def test_the_table_is_a_file_with_numbers_in_full(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"{mean}", mean=mean) for mean in (51.25, 60)]
    text = render_comparison(read(*folders))
    name, uri = re.findall(r'href="(data:text/csv[^"]*)" download="(comparison-accuracies-1.csv)"', text)[0][::-1]
    first, *_ = csv.DictReader(io.StringIO(unquote(uri.split(",", 1)[1]), newline=""))
    assert name == "comparison-accuracies-1.csv"
    assert (first["run"], first["distilled mean"], first["random mean"], first["ahead"]) == (
        "51.25",
        "51.25",
        "41.25",
        "10.0",
    )
    assert (first["bytes"], first["seconds"], first["whole set n"]) == ("10000", "60.0", "2")


def test_what_was_judged_twice_is_told_apart_by_where(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "run"), write_run(tmp_path / "else")
    pixels = np.zeros((1, 4, 4, 1), np.uint8)
    outside = Outside(str(run / "distilled"), "digits", out=str(other))
    keep_judged(other, outside, Gallery(pixels, (0,), 1, 1))
    first, second = read(run, other)
    assert first.name != second.name
    assert "run" in first.name
    assert second.name.endswith("judged in else")


def test_the_best_of_the_same_count_is_marked(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / str(mean), mean=mean) for mean in (50, 55)]
    (group,) = grouped(read(*folders, write_run(tmp_path / "more", ipc=50, mean=70)))
    assert [(row.name, row.best) for row in group_view(group).rows] == [("50", False), ("55", True), ("more", False)]


def test_random_images_with_other_labels_are_no_comparison(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", labels=("soft",))
    text = (folder / "evaluation.json").read_text()
    values = json.loads(text)
    values["records"][1]["labels"] = "hard"
    (folder / "evaluation.json").write_text(json.dumps(values), "utf-8")
    (group,) = grouped(read(folder, write_run(tmp_path / "b", labels=("soft",))))
    assert [(row.gain, row_view.random) for row, row_view in zip(rows(group), group_view(group).rows, strict=True)] == [
        (None, ""),
        (10, "40.0\xa0±\xa01.4"),
    ]


def test_the_page_is_pure_escaped_and_says_what_is_apart(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", method=EVIL, models=(EVIL,), judged={"source": EVIL})
    other = write_run(tmp_path / "other", augment=EVIL)
    judged = read(one, other)
    text = render_comparison(judged)
    assert text == render_comparison(read(one, other))
    assert EVIL not in text
    assert text.count("<script>") == 1
    assert "alert(1)" in text
    assert "they stand in 2 groups" in text
    assert "style=" not in text.replace("<style", ""), "the policy forbids style attributes"
    out = write_comparison(judged, tmp_path / "deep" / "page.html")
    assert out.read_text("utf-8").startswith("<!doctype html>")


def test_the_terminal_has_a_table_for_each_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [write_run(tmp_path / "a"), write_run(tmp_path / "b", mean=52), write_run(tmp_path / "c", epochs=3)]
    groups = grouped(read(*folders))
    print_comparison(groups)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[1].split() == ["run", "method", "ipc", "distilled", "random", "real", "ahead", "bytes", "made", "in"]
    assert " ".join(lines[3].split()) == "b tesla 10 52.0 ± 1.4 (n=2) * 42.0 ± 1.4 +10.0 10.0 kB 1 min 0 s"
    assert "not comparable with the first: epochs: 9 there, 3 here" in lines
    assert lines.count("whole training set, net: 90.0\xa0±\xa01.4") == 2
    plain = json.loads(json.dumps(comparison_json(groups)))
    assert [len(group["rows"]) for group in plain] == [2, 1]
    assert plain[1]["because"] == ["epochs: 9 there, 3 here"]
    assert (plain[0]["rows"][0]["gain"], plain[0]["rows"][0]["made_in_s"]) == (10, 60.0)


@pytest.mark.parametrize(
    "text", ["", "[", "null", '{"records": [3]}', '{"records": [{"metric": 1}]}', '{"records": {}}']
)
def test_records_that_make_no_sense_are_told(tmp_path: Path, text: str) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
        (folder / "evaluation.json").write_text(text)
    with pytest.raises(ArtifactError):
        read(*folders)


@pytest.fixture(scope="module")
def two_ways(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of random digits that were judged after one epoch and after two, at another rate."""
    folder = tmp_path_factory.mktemp("two ways")
    judged = {
        "evaluate.models": ["convnet-d1-w4"],
        "evaluate.seeds": 1,
        "evaluate.baselines": [],
        "train_per_class": 12,
    }
    for name, training in (("one", {"epochs": 1}), ("two", {"epochs": 2, "learning_rate": 0.1, "kd.tau": 2.5})):
        settings = {**judged, **{f"train.{key}": value for key, value in training.items()}}
        attar.distill("digits", "random", 1, out=folder / name, settings=settings, quiet=True)
    return [folder / "one", folder / "two"]


def test_the_offered_commands_judge_both_alike(
    two_ways: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = attar.compare([str(run) for run in two_ways])
    assert first.alike == ()
    assert [reason.split(":")[0] for reason in other.because] == ["epochs", "learning rate", "kd"]
    evaluate, compare = other.alike
    assert "--set train.epochs=1 --set train.learning_rate=0.01" in evaluate
    assert "--set train.kd.tau=4.0" in evaluate
    before = (two_ways[1] / "evaluation.json").read_bytes()
    for line in (evaluate, f"{compare} --json"):
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with contextlib.suppress(SystemExit):
            cli.run()
        said = capsys.readouterr().out
    (group,) = json.loads(said)["groups"]
    assert [row["run"] for row in group["rows"]] == ["one", "two"]
    assert group["alike"] == []
    assert (two_ways[1] / "evaluation.json").read_bytes() == before
    text = html.unescape(render_comparison([*first.members, *other.members]))
    assert "To judge it as the first, and compare" in text
    assert "--set train.kd.tau=4.0" in re.sub(r"<[^>]*>|\\\n", "", text)


def test_other_real_images_cannot_be_judged_alike(tmp_path: Path) -> None:
    _, other = grouped(read(write_run(tmp_path / "a"), write_run(tmp_path / "b", judged={"source": "g"}, epochs=3)))
    assert other.alike == ()


def test_images_of_a_program_are_judged_again_by_a_call(two_ways: list[Path]) -> None:
    first, other = read_judged(two_ways, {})
    again = Judging("runs/x", "memory-0123456789", train={"epochs": 2})
    line = judged_alike(again, other.measured, first.measured, ["net"], Path("out"))
    assert line.startswith("attar.evaluate('runs/x', (images, labels), models=['net'], seeds=1, out='out', settings=[")
    assert "'train.epochs=1'" in line
    assert ast.parse(line)
    assert judged_alike(Judging("runs/x", ""), other.measured, first.measured, ["net"], Path("out")) == ""


def test_what_was_judged_by_another_protocol_stands_apart_and_is_judged_again_by_it(two_ways: list[Path]) -> None:
    first, other = read_judged(two_ways, {})
    changed = ("train.epochs=1", "relabel.mix=none", "network=net")
    like = replace(first.measured, followed=Followed("rd3", 1, changed))
    again = Judging("runs/x", "digits", train={"epochs": 2})
    line = judged_alike(again, other.measured, like, ["net"], Path("out"))
    assert "--protocol rd3 --set train.epochs=1" in line
    assert "relabel.mix" not in line
    assert line.count("train.epochs=1") == 1
    measured = how_measured(like)
    assert (measured["protocol"], measured["changed"]) == ("rd3 v1", ", ".join(changed))
    judged = replace(first, conditions={**first.conditions, "protocol": Condition("rd3 v1")})
    (_, apart) = grouped([first, judged])
    assert apart.because == ("protocol: mtt v1 there, rd3 v1 here",)


def write_steps(run: Path, mean: float, *, random: float | None = 20.0, **changes: Any) -> None:
    """What `attar continual` leaves beside an evaluation: three steps of ten classes, with a falling accuracy."""
    records = [
        Record.of(
            "accuracy",
            group,
            "net",
            [at - step - 1, at - step + 1],
            seeds=(0, 1),
            num_images=10,
            size_bytes=10,
            group=group,
            labels="hard",
            split="test",
            arrival=Arrival(step, 3, 3 * step + 1),
            **changes,
        ).to_json()
        for step in (1, 2, 3)
        for group, at in (("distilled", mean), ("random", random))
        if at is not None
    ]
    (run / "continual.json").write_text(json.dumps({"records": records}), "utf-8")


def test_runs_whose_classes_arrived_step_by_step_stand_in_one_figure(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b", "other", "none")]
    write_steps(runs[0], 60.0)
    write_steps(runs[1], 50.0)
    write_steps(runs[2], 40.0, protocol={"epochs": 1})
    judged = read(*runs)
    (view,) = group_view(grouped(judged)[0]).arriving
    assert view.subjects == ("a", "b", "random real images"), "alike, so one line"
    assert view.lead == "net is trained from scratch at each of 3 steps, with hard labels; 2 orders of the classes."
    assert [row.num_classes for row in view.rows] == [4, 7, 10]
    assert view.rows[0].scores == ("59.0 ± 1.4 %", "49.0 ± 1.4 %", "19.0 ± 1.4 %")
    assert view.means == ("58.0 %", "48.0 %", "18.0 %")
    page = render_comparison(judged)
    assert page.count("Classes arriving step by step") == 1

    write_steps(runs[1], 50.0, random=21.0)
    (view,) = group_view(grouped(read(*runs))[0]).arriving
    assert view.subjects == ("a", "b", "random real images, as for a", "random real images, as for b")
    write_steps(runs[1], 50.0, random=None)
    (view,) = group_view(grouped(read(*runs))[0]).arriving
    assert view.subjects == ("a", "b", "random real images")
    (runs[1] / "continual.json").unlink()
    assert group_view(grouped(read(*runs))[0]).arriving == ()
