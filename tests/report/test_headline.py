"""The few numbers at the head of the page, and numbers as words."""

from __future__ import annotations

from typing import Any

import pytest

from attar.records import Record
from attar.report.formats import duration, setting, size
from attar.report.headline import Protocol, comparisons, facts, protocol


def record(subject: str, mean: float, images: int, size_bytes: int, **changes: Any) -> Record:
    made = {"model": "net", "protocol": {"epochs": 3}, **changes}
    return Record.of(
        "test_accuracy", subject, values=[mean], seeds=[0], num_images=images, size_bytes=size_bytes, **made
    )


DISTILLED = record("distilled", 93.2, 10, 5000)
RANDOM = record("random", 70.7, 10, 2000)
FULL = record("full", 98.5, 1438, 230_000)


def test_facts_tell_gain_and_saving() -> None:
    values = [(fact.value, fact.meaning) for fact in facts([RANDOM, FULL, DISTILLED])]
    assert values == [
        ("22.5", "points ahead of random real images"),
        ("94.6 %", "of the whole set’s accuracy"),
        ("144×", "fewer images"),
        ("46×", "fewer bytes"),
    ]


def test_facts_hide_no_loss() -> None:
    heavy = record("distilled", 60.0, 10, 2_300_000)
    values = [(fact.value, fact.meaning) for fact in facts([heavy, RANDOM, FULL])]
    assert values[0] == ("10.7", "points behind random real images")
    assert values[-1] == ("10×", "more bytes")


def test_facts_come_from_what_there_is() -> None:
    assert facts([]) == ()
    assert facts([DISTILLED]) == ()
    assert len(facts([DISTILLED, RANDOM])) == 1


def test_each_model_is_compared_for_itself() -> None:
    other = record("distilled", 80.0, 10, 5000, model="resnet")
    first, second = comparisons([FULL, other, RANDOM, record("herding", 75, 10, 2000), DISTILLED])
    assert [bar.record.subject for bar in first.bars] == ["distilled", "random", "herding", "full"]
    assert (second.model, len(second.bars)) == ("resnet", 1)


def test_losses_are_no_accuracies() -> None:
    loss = Record.of("loss", "distilled", "net", [0.1], seeds=[0], num_images=1, size_bytes=1, protocol={})
    assert comparisons([loss]) == []


def test_the_protocol_says_what_differs_and_for_whom() -> None:
    assert protocol([DISTILLED, RANDOM]) == Protocol({"epochs": "3"}, {})
    longer = record("full", 98.5, 1438, 230_000, protocol={"epochs": 9, "split": "test"})
    assert protocol([DISTILLED, RANDOM, longer]).differing == {
        "epochs": "3 (Distilled, Random real images); 9 (Whole training set)",
        "split": "none (Distilled, Random real images); test (Whole training set)",
    }
    assert protocol([]) == Protocol({}, {})


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (4912, "4.9 kB"), (230_200, "230 kB"), (28.3e9, "28.3 GB")],
)
def test_size(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text


@pytest.mark.parametrize(
    ("wall_s", "text"), [(0.25, "0.2 s"), (41.3, "41.3 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_duration(wall_s: float, text: str) -> None:
    assert duration(wall_s) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (0.01, "0.01"),
        ([1, "a"], "1, a"),
        ([], "none"),
        ({"a": 1, "b": None}, "a: 1, b: none"),
    ],
)
def test_setting(value: Any, text: str) -> None:
    assert setting(value) == text
