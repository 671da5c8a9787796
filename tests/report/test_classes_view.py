"""Accuracy class by class: the best set beside random images, few classes as a matrix, many as pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from attar.errors import ArtifactError
from attar.report.classes import ENDS, classes_view
from attar.report.collect import collect

MakeRun = Callable[..., Path]


def test_the_best_set_stands_beside_random_images(make_run: MakeRun) -> None:
    view = classes_view(collect(make_run(by_class=True)))
    assert view is not None
    assert [(one.name, one.ours) for one in view.sets] == [("Distilled", True), ("Random real images", False)]
    assert [line.percents for line in view.lines] == [(90.0, 70.0)] * 3
    assert [line.ahead for line in view.lines] == ["+20.0"] * 3
    names, cells = zip(*view.sets[0].matrix, strict=True)
    assert names == ("rose", "jasmine", "iris")
    assert [[cell.text for cell in row] for row in cells] == [["90", "10", ""], ["10", "90", ""], ["10", "", "90"]]
    assert [cell.heat for cell in cells[0]] == [9, 1, 0] or cells[0][0].heat > cells[0][1].heat > 0
    assert cells[0][1].told == "rose taken for jasmine: 3 of 30"
    assert all(cell.right == (i == j) for i, row in enumerate(cells) for j, cell in enumerate(row))


def test_of_two_kinds_of_labels_the_better_one_is_shown(make_run: MakeRun) -> None:
    view = classes_view(collect(make_run(networks=("net-a", "net-b"), by_class=True)))
    assert view is not None
    assert view.model == "net-a"
    assert [counted.labels for counted in view.counted] == ["soft", "soft"], "25 % beats 13 %"


def test_a_coreset_that_is_ahead_is_shown_too(make_run: MakeRun) -> None:
    run = make_run()
    evaluation = json.loads((run / "evaluation.json").read_text("utf-8"))
    herding = evaluation["records"][1] | {"subject": "herding", "group": "herding", "mean": 99.0}
    evaluation["records"].insert(1, herding)
    (run / "evaluation.json").write_text(json.dumps(evaluation), "utf-8")
    counted = {"model": "convnet-d3-w128", "labels": None, "augmented": True, "seeds": 3, "num": [30] * 3}
    found = [
        counted | {"group": group, "right": [right] * 3, "confused": [], "whole": True}
        for group, right in (("distilled", 9), ("herding", 10), ("random", 7))
    ]
    (run / "by_class.json").write_text(json.dumps({"by_class": found}), "utf-8")
    view = classes_view(collect(run))
    assert view is not None
    assert [one.name for one in view.sets] == ["Herding", "Distilled", "Random real images"]
    assert view.note.endswith("Herding does best here.")


def test_of_many_classes_the_best_and_the_worst_and_the_most_confused_are_shown(make_run: MakeRun) -> None:
    names = tuple(f"class number {i}" for i in range(100))
    pixels = np.zeros((100, 2, 2, 1), np.uint8)
    view = classes_view(collect(make_run(class_names=names, pixels=pixels, num_frames=2, by_class=True)))
    assert view is not None
    assert len(view.lines) == 2 * ENDS + 1
    assert view.lines[ENDS].gap
    assert view.lines[ENDS].name == "80 more classes"
    assert all(one.matrix == () and len(one.confused) == 10 for one in view.sets)
    first = view.sets[1].confused[0]
    assert (first.true, first.taken_for, first.percent) == ("class number 0", "class number 1", "30 %")


def test_nothing_is_shown_of_what_was_not_counted(make_run: MakeRun) -> None:
    assert classes_view(collect(make_run())) is None
    assert classes_view(collect(make_run(evaluated=False))) is None


def test_counts_of_another_number_of_classes_have_numbers_for_names(make_run: MakeRun) -> None:
    run = make_run(by_class=True, complete=False)
    view = classes_view(collect(run))
    assert view is not None
    assert view.names == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize("text", ["[", "{}", '{"by_class": [1]}'])
def test_damaged_counts_are_told(make_run: MakeRun, text: str) -> None:
    run = make_run()
    (run / "by_class.json").write_text(text, "utf-8")
    with pytest.raises(ArtifactError, match=r"by_class\.json"):
        collect(run)
