"""Counts by class add up over seeds, stay small for many classes, and are refused where they make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.errors import ArtifactError
from attar.results.by_class import MOST_PAIRS, MOST_SQUARE, ByClass, cells_of, read_by_class, rows_of, to_text
from attar.results.records import Best, Record

RECORD = Record.of(
    "accuracy", "in words", "net", [50.0, 52.0], seeds=[0, 1], num_images=3, size_bytes=9, group="random", labels="hard"
)
MATRICES = ([[3, 1, 0], [0, 4, 0], [2, 0, 2]], [[4, 0, 0], [1, 3, 0], [3, 1, 0]])


def of(*matrices: list[list[int]]) -> ByClass:
    return ByClass.of(RECORD, len(matrices[0]), [cells_of(rows_of(matrix)) for matrix in matrices])


def test_trainings_are_summed_and_what_is_confused_most_comes_first() -> None:
    found = of(*MATRICES)
    assert (found.num, found.right, found.seeds) == ((8, 8, 8), (7, 7, 2), 2)
    assert [found.percent(label) for label in range(3)] == [87.5, 87.5, 25.0]
    assert found.confused == ((2, 0, 5), (0, 1, 1), (1, 0, 1), (2, 1, 1))
    assert found.whole
    assert found.is_of(RECORD)
    assert sum(found.right) + sum(count for *_, count in found.confused) == sum(found.num)


def test_a_class_that_no_image_judges_has_no_accuracy() -> None:
    assert of([[0, 0], [1, 1]]).percent(0) is None


def test_a_best_over_the_run_is_not_what_was_counted() -> None:
    best = Record.of(
        "accuracy", "", "net", [1.0], seeds=[0], num_images=3, size_bytes=9, group="random", labels="hard",
        best=Best("steps", (), ()),
    )  # fmt: skip
    assert not of(*MATRICES).is_of(best)


def test_short_texts_are_read_back_as_they_were() -> None:
    rows = rows_of(MATRICES[0])
    assert rows == {"0": "0:3 1:1", "1": "1:4", "2": "0:2 2:2"}
    assert cells_of(json.loads(json.dumps(rows))) == [(0, 0, 3), (0, 1, 1), (1, 1, 4), (2, 0, 2), (2, 2, 2)]


@pytest.mark.parametrize(
    ("num", "kept", "whole"), [(MOST_SQUARE, MOST_SQUARE**2 - MOST_SQUARE, True), (1000, MOST_PAIRS, False)]
)
def test_of_many_classes_the_most_confused_pairs_are_kept(num: int, kept: int, whole: bool) -> None:
    cells = [(true, other, 1 + (true + other) % 7) for true in range(num) for other in range(min(num, MOST_SQUARE))]
    found = ByClass.of(RECORD, num, [cells])
    assert (len(found.confused), found.whole) == (kept, whole)
    counts = [count for *_, count in found.confused]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 7
    assert len(to_text([found])) < 40_000


def test_the_file_is_read_back(tmp_path: Path) -> None:
    found = of(*MATRICES)
    text = to_text([found, found])
    assert read_by_class(tmp_path, json.loads(text)) == (found, found)
    assert read_by_class(tmp_path, json.loads(to_text([]))) == ()


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"num": [1, 8, 8]}, "more images are recognised than were shown"),
        ({"num": [], "right": []}, "there are no classes"),
        ({"num": [8, 8]}, "more images are recognised than were shown"),
        ({"right": [1, 2, -1]}, r"right\.2: .*greater than or equal to 0"),
        ({"confused": [[0, 3, 1]]}, "a class that is confused is none of them"),
        ({"confused": [[3, 0, 1]]}, "a class that is confused is none of them"),
        ({"confused": [[1, 1, 1]]}, "a class that is confused is none of them"),
        ({"confused": [[1, 0]]}, r"confused\.0\.2: Field required"),
        ({"confused": "x"}, "confused: Input should be a valid tuple"),
        ({"labels": "both"}, "labels: Input should be 'hard' or 'soft'"),
        ({"seeds": True}, "seeds: Input should be a valid integer"),
        ({"more": 1}, "more: Unexpected keyword argument"),
    ],
)
def test_counts_that_make_no_sense_are_told_with_the_file(changes: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    values = {"by_class": [of(*MATRICES).to_json() | changes]}
    with pytest.raises(ArtifactError, match=wrong) as told:
        read_by_class(tmp_path / "by_class.json", values)
    assert "by_class.json" in str(told.value)


@pytest.mark.parametrize("values", [None, [], {}, {"by_class": {}}, {"by_class": [3]}])
def test_a_file_of_another_kind_is_refused(values: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        read_by_class(tmp_path, values)
