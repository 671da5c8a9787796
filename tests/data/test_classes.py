from typing import Any

import pytest

from attar.data.classes import classify
from attar.errors import DataError


def test_numbers_and_words_are_sorted_each_their_way() -> None:
    assert classify({"train": [10, 9, 2]}, None, "x").class_names == ("2", "9", "10")
    assert classify({"train": ["b", "a"], "test": ["c"]}, None, "x").class_names == ("a", "b", "c")


def test_words_may_be_names_of_classes() -> None:
    found = classify({"train": ["bee", "ant", 1]}, ["ant", "bee"], "x")
    assert found.labels["train"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("blank", [None, -1, -7, "", "  ", float("nan")])
def test_what_says_that_there_is_no_label(blank: Any) -> None:
    with pytest.raises(DataError, match=r"1 of 3 train images have no class: train image 1 has label"):
        classify({"train": ["a", blank, "b"] if isinstance(blank, str) else [0, blank, 1]}, None, "x")
    found = classify({"train": [0, blank, 1], "test": [blank] * 2}, None, "x", skip_unlabelled=True)
    assert found.labels["train"].tolist() == [0, 1]
    kept = found.kept["train"]
    assert kept is not None
    assert kept.tolist() == [0, 2]
    assert "test" not in found.labels
    assert len(found.notes) == 2


@pytest.mark.parametrize(("value", "match"), [(0.5, "no class: 0.5"), ([0, 1], "several labels"), (b"x", "no class")])
def test_what_is_no_class_at_all(value: Any, match: str) -> None:
    with pytest.raises(DataError, match=rf"x: .*{match}(.|\n)*--label-column"):
        classify({"train": [value]}, None, "x", skip_unlabelled=True)
    assert classify({"train": [True, False]}, None, "x").class_names == ("false", "true")
