"""The scores on the page, and what is missing for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from attar.report.collect import ReportData, collect
from attar.report.page import render
from attar.report.scores import scores_view
from attar.results.records import Labels, Record

MakeRun = Callable[..., Path]


def record(group: str, labels: Labels, *values: float) -> Record:
    return Record.of(
        "accuracy",
        group,
        "net",
        values,
        seeds=range(len(values)),
        num_images=10,
        size_bytes=100,
        group=group,
        labels=labels,
        split="test",
    )


HARD = (record("distilled", "hard", 40.0), record("random", "hard", 30.0), record("full", "hard", 60.0))


def test_what_can_be_computed_is_and_the_rest_is_named() -> None:
    view = scores_view(ReportData("run", records=HARD))
    assert view is not None
    assert view.columns == ("HLR", "IOR", "LRS", "ARS")
    assert view.rows == (("net", ("20.0 points", "10.0 points", "24.8 %", "")),)
    assert view.lacking == ("distilled images without augmentation", "random real images without augmentation")


def test_a_soft_labelled_set_that_was_judged_by_classes_only_has_no_lead_over_random() -> None:
    view = scores_view(ReportData("run", records=HARD, description={"labels": {"kind": "epochs"}}))
    assert view is not None
    assert view.rows[0][1] == ("20.0 points", "", "", "")


def test_nothing_to_compute_is_no_section(make_run: MakeRun) -> None:
    assert scores_view(ReportData("run", records=(record("distilled", "hard", 40.0),))) is None
    assert scores_view(ReportData("run")) is None
    assert "DD-Ranking" not in render(collect(make_run(evaluated=False)))


def test_the_page_has_the_scores(make_run: MakeRun) -> None:
    run = make_run()
    (run / "evaluation.json").write_text(json.dumps({"records": [one.to_json() for one in HARD]}), "utf-8")
    text = render(collect(run))
    assert "Images, labels or augmentation?" in text
    assert "24.8 %" in text
    assert "attar evaluate --scores" in text
