"""The page of a study is a pure function of study.json: every number is on it, and nothing of a file is markup."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from attar.report.study import forests, lines, noise_charts, render_study
from attar.results.records import Cell, Record
from attar.results.significance import to_baseline

EVIL = "<script>alert(1)</script>"


def record(
    name: str, *values: float, variant: str = "plain", noise: float = 0.0, model: str = "net", seen: int = 1200
) -> Record:
    of: dict[str, Any] = {"num_images": 100, "size_bytes": 1, "split": "test", "num_judges": 100}
    of |= {"cell": Cell(name, variant, noise, images_seen=seen, showings=1)}
    protocol = {"epochs": 12, "optimizer": "sgd"}
    return Record.of("accuracy", "in words", model, values, seeds=range(len(values)), protocol=protocol, **of)


@pytest.fixture
def records() -> list[Record]:
    return [
        record("ce", 50.0, 51.0, 52.0),
        record("dlb", 54.0, 55.5, 56.0),
        record("ce", 40.0, 41.5, 42.0, noise=0.4),
        record("dlb", 45.0, 45.5, 47.0, noise=0.4),
        record(EVIL, 49.0, variant=EVIL),
        record("ce", 50.0, 51.0, model="other"),
        record("dlb", 50.5, 51.5, model="other"),
    ]


def page(records: list[Record]) -> str:
    values = {
        "about": EVIL,
        "records": [one.to_json() for one in records],
        "baseline": "ce",
        "summary": {"sentences": ["Accuracy beside ce: 3 comparisons."], "points": ["dlb: +4.6 points."]},
        "held_equal": "Every training sees 1,200 images.",
        "hardware": {"device": "cpu"},
        "settings": {"data": {"source": "/somewhere/pictures"}, "variants": {EVIL: {"cutmix": 0.5}}},
    }
    return render_study(values, Path("runs/study"))


def test_every_number_is_there_and_markup_is_text(records: list[Record]) -> None:
    drawn = page(records)
    assert EVIL not in drawn
    assert drawn.count("&lt;script&gt;") >= 4
    text = re.sub(r"<[^>]+>", " ", drawn)
    for one in records:
        assert one.spread.replace(" ± ", "\u00a0±\u00a0") in text
    assert "40\u00a0%" in text
    assert "pictures" in text
    assert "somewhere" not in text.partition("Make it again")[0]
    assert drawn == page(records)


def test_differences_lie_on_one_axis_about_zero(records: list[Record]) -> None:
    first, second = forests(to_baseline(records, "ce"))
    assert (first.model, second.model) == ("net", "other")
    assert [group.title for group in first.groups] == ["plain", "plain, 40\u00a0% of the labels wrong"]
    row = first.groups[0].rows[0]
    assert row.low is not None
    assert row.high is not None
    assert 0 <= row.low < row.mean < row.high <= 100
    assert first.zero < row.mean
    assert (row.points, row.verdict) == ("+4.2", "better")


def test_a_row_that_has_seen_other_images_than_the_baseline_says_so_beside_its_name(records: list[Record]) -> None:
    longer = [record("dlb-long", 57.0, 58.0, seen=3000), record("dlb-half", 47.0, 48.0, seen=600)]
    (forest, _) = forests(to_baseline([*records, *longer], "ce"))
    told = {row.name: row.seen for group in forest.groups for row in group.rows}
    assert (told["dlb"], told["dlb-long"], told["dlb-half"]) == ("", "2.5× the images seen", "0.5× the images seen")
    assert "2.5× the images seen" in page([*records, *longer])


def test_wrong_labels_are_drawn_where_there_are_several_parts(records: list[Record]) -> None:
    (chart,) = noise_charts(records)
    assert [name for _, name in chart.legend] == ["ce", "dlb"]
    assert (chart.x.low, chart.x.high) == (0, 40)
    assert noise_charts(records[:2]) == []


def test_the_table_has_a_line_for_each_record(records: list[Record]) -> None:
    made = lines(records, to_baseline(records, "ce"), "ce")
    assert [line.baseline for line in made] == [True, False, True, False, False, True, False]
    assert [bool(line.points) for line in made] == [False, True, False, True, False, False, True]
    assert made[4].verdict == ""
