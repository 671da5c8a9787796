"""Differences with their uncertainty, and words that claim no more than they show."""

from __future__ import annotations

import random
from typing import get_args

import pytest
from scipy import stats

from attar.results.records import Cell, Record
from attar.results.significance import Contrast, Verdict, contrasts, holm, signed, summary, to_baseline


def record(name: str, *values: float, variant: str = "plain", noise: float = 0.0) -> Record:
    cell, seeds = Cell(name, variant, noise, images_seen=1, showings=1), range(len(values))
    return Record.of("accuracy", "in words", "net", values, seeds=seeds, num_images=1, size_bytes=1, cell=cell)


def one(first: Record, second: Record) -> Contrast:
    return contrasts([(first, second)])[0]


@pytest.mark.parametrize("seed", range(5))
def test_interval_and_p_are_welch_s(seed: int) -> None:
    rng = random.Random(seed)
    ours = [rng.gauss(70, 1) for _ in range(3 + seed)]
    theirs = [rng.gauss(69, 2) for _ in range(4)]
    found, expected = one(record("dlb", *ours), record("ce", *theirs)), stats.ttest_ind(ours, theirs, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.points == pytest.approx(sum(ours) / len(ours) - sum(theirs) / len(theirs))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_one_training_proves_nothing() -> None:
    found = one(record("dlb", 90), record("ce", 10, 11))
    assert (found.verdict, found.low, found.interval) == ("one training: no proof", None, "")
    assert found.points == 79.5


def test_a_clear_difference_alone_and_among_many() -> None:
    better = (record("dlb", 70.0, 70.2, 70.4), record("ce", 69.3, 69.4, 69.6))
    alike = (record("tf-kd", 69.0, 70.0, 69.8), record("ce", 69.4, 69.6, 69.9))
    alone = one(*better)
    assert alone.p is not None
    assert 0.001 < alone.p < 0.05
    assert alone.verdict == "better"
    assert one(better[1], better[0]).verdict == "worse"
    among = contrasts([better, *[alike] * 30])
    assert among[0].verdict == "perhaps better"
    assert {found.verdict for found in among[1:]} == {"no difference shown"}
    assert {alone.verdict, *(found.verdict for found in among)} <= set(get_args(Verdict))


def test_without_any_spread_equal_means_show_nothing() -> None:
    assert one(record("dlb", 70.0, 70.0), record("ce", 70.0, 70.0)).verdict == "no difference shown"
    assert one(record("dlb", 71.0, 71.0), record("ce", 70.0, 70.0)).verdict == "better"


def test_a_baseline_is_of_the_same_variant_and_wrong_labels() -> None:
    records = [
        record("ce", 50.0, 51.0),
        record("ce", 40.0, 41.0, noise=0.4),
        record("dlb", 52.0, 53.0),
        record("dlb", 45.0, 46.0, noise=0.4),
        record("dlb", 60.0, 61.0, variant="cutmix"),
    ]
    assert [(found.record.mean, found.points) for found in to_baseline(records, "ce")] == [(52.5, 2.0), (45.5, 5.0)]
    words = summary(
        to_baseline([*records, record("ce", 9.0, 9.5, noise=0.2), record("dlb", 9.0, 9.5, noise=0.2)], "ce")
    )
    (head,), (right, wrong) = words.sentences, words.points
    assert head == "Accuracy beside ce: 3 comparisons, corrected together."
    assert right.startswith("dlb: +2.0 points (95 %:")
    assert "dlb, wrong labels: +2.5 points on average over 2 comparisons (from 0.0 to +5.0)" in wrong


def test_zero_has_no_sign() -> None:
    assert [signed(value) for value in (0.04, -0.04, 0.06, -1.25)] == ["0.0", "0.0", "+0.1", "−1.2"]
