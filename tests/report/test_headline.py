"""The few numbers at the head of the page, and numbers as words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attar.report.formats import duration, setting, size
from attar.report.headline import (
    Comparison,
    Protocol,
    accuracies,
    comparisons,
    facts,
    protocol,
    trained_on,
    unbroken_words,
    unlabelled,
)
from attar.results.records import Record
from attar.results.verdict import Words


def record(group: str, mean: float, images: int, size_bytes: int, **changes: Any) -> Record:
    made = {
        "subject": "in words",
        "model": "net",
        "protocol": {"epochs": 3},
        "group": group,
        "split": "test",
        **changes,
    }
    return Record.of("accuracy", values=[mean], seeds=[0], num_images=images, size_bytes=size_bytes, **made)


DISTILLED = record("distilled", 93.2, 10, 5000)
RANDOM = record("random", 70.7, 10, 2000)
FULL = record("full", 98.5, 1438, 230_000)
BOTH_KINDS = [
    record(group, mean, 10, 2000, labels=labels)
    for group, mean, labels in (
        ("distilled", 25.0, "soft"),
        ("distilled", 13.0, "hard"),
        ("random", 15.0, "soft"),
        ("random", 58.0, "hard"),
    )
]


def test_facts_tell_gain_and_saving() -> None:
    values = [(fact.value, fact.meaning) for fact in facts([RANDOM, FULL, DISTILLED])]
    assert values == [
        ("22.5", "points ahead of random real images"),
        ("94.6 %", "of the whole set’s accuracy"),
        ("144×", "fewer images"),
        ("46×", "fewer bytes"),
    ]


@pytest.mark.parametrize(
    ("epochs", "detail"),
    [
        (3, "93.2 of 98.5 %"),
        (2, "93.2 of 98.5 %, which is trained on for 2 epochs"),
        (1, "93.2 of 98.5 %, which is trained on for 1 epoch"),
        (None, "93.2 of 98.5 %"),
    ],
)
def test_the_share_says_how_long_the_whole_set_was_trained_on(epochs: int | None, detail: str) -> None:
    share = facts([RANDOM, replace(FULL, protocol={"epochs": epochs}), DISTILLED])[1]
    assert share.detail == detail


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
    assert titled(first) == [("", ["Distilled", "Random real images", "Herding", "Whole training set"])]
    assert (second.model, titled(second)) == ("resnet", [("", ["Distilled"])])
    assert first.axis == second.axis, "networks are compared on one axis"


def test_subjects_with_the_same_labels_stand_together() -> None:
    (made,) = comparisons([*BOTH_KINDS, FULL])
    assert titled(made) == [
        ("soft labels", ["Distilled", "Random real images"]),
        ("hard labels", ["Distilled", "Random real images"]),
        ("", ["Whole training set"]),
    ]


def test_images_that_were_not_augmented_stand_apart() -> None:
    plain = [record(group, 9.0, 10, 2000, augmented=False) for group in ("random", "distilled")]
    (made,) = comparisons([DISTILLED, RANDOM, *plain, FULL])
    assert titled(made) == [
        ("", ["Distilled", "Random real images"]),
        ("not augmented", ["Distilled", "Random real images"]),
        ("", ["Whole training set"]),
    ]
    soft = [record("random", 9.0, 10, 2000, labels="soft", augmented=False)]
    assert titled(comparisons([*BOTH_KINDS, *soft])[0])[-1][0] == "soft labels, not augmented"


def test_each_kind_of_labels_has_its_fact() -> None:
    values = [(fact.value, fact.meaning) for fact in facts(BOTH_KINDS)]
    assert values == [
        ("10.0", "points ahead of random real images, soft labels"),
        ("45.0", "points behind random real images, hard labels"),
    ]


def test_without_a_test_the_validation_split_judges() -> None:
    def on(split: str) -> Record:
        return record("distilled", 50.0, 1, 1, split=split)

    loss = replace(on("test"), metric="loss")
    assert accuracies([loss, on("validation")]) == [on("validation")]
    assert accuracies([on("validation"), on("test")]) == [on("test")]


def test_a_verdict_keeps_scores_together() -> None:
    made = unbroken_words(Words(("One 93.0 ± 0.6 %.", "Two."), ("a: 1 %", "b: 2 %")))
    assert made == Words(("One 93.0\xa0±\xa00.6\xa0%.", "Two."), ("a: 1\xa0%", "b: 2\xa0%"))


def titled(made: Comparison) -> list[tuple[str, list[str]]]:
    return [(group.title, [bar.name for bar in group.bars]) for group in made.groups]


def test_losses_are_no_accuracies() -> None:
    loss = Record.of("loss", "distilled", "net", [0.1], seeds=[0], num_images=1, size_bytes=1, protocol={})
    assert comparisons([loss]) == []


def test_the_protocol_says_what_differs_and_for_whom() -> None:
    assert protocol([DISTILLED, RANDOM]) == Protocol({"epochs": "3"}, {})
    longer = record("full", 98.5, 1438, 230_000, protocol={"epochs": 9, "ema": 0.5})
    assert protocol([DISTILLED, RANDOM, longer]).differing == {
        "epochs": "3 (Distilled, Random real images); 9 (Whole training set)",
        "ema": "none (Distilled, Random real images); 0.5 (Whole training set)",
    }
    assert protocol([]) == Protocol({}, {})


def test_of_a_protocol_the_longest_list_of_names_is_all_others() -> None:
    longer = record("full", 98.5, 1438, 230_000, labels="hard", protocol={"epochs": 9})
    assert protocol([*BOTH_KINDS, longer]).differing == {
        "labels": "soft (Distilled, Random real images); hard (all others)",
        "epochs": "3 (all others); 9 (Whole training set)",
    }


def test_what_was_trained_on_names_labels_where_the_same_images_come_with_others() -> None:
    plain = record("herding", 9.0, 10, 2000, labels="hard", augmented=False)
    among = [*BOTH_KINDS, FULL, plain]
    assert [trained_on(one, among) for one in among] == [
        "Distilled",
        "Distilled, hard labels",
        "Random real images",
        "Random real images, hard labels",
        "Whole training set",
        "Herding, not augmented",
    ]
    assert [unlabelled(one) for one in among[1:2]] == ["Distilled"]
    assert trained_on(record("teapots", 1.0, 1, 1), ()) == "teapots"


def test_where_and_how_a_network_was_judged_is_told_with_the_settings() -> None:
    told = record(
        "full", 9.0, 1, 1, labels="hard", num_judges=12, resize_px=72, protocol={"precision": "x", "epochs": 2}
    )
    assert list(protocol([told]).common.items()) == [
        ("tested_on", "test split, 12 images enlarged to 72 px, after the last epoch"),
        ("precision", "x"),
        ("labels", "hard"),
        ("epochs", "2"),
    ]


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
