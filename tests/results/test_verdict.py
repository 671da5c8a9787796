"""What is said of accuracies: plain, for each kind of labels, and honest where random images do better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from attar.errors import ArtifactError
from attar.results.records import Labels, Record
from attar.results.verdict import Words, group_words, pairs, verdict

MODEL = "convnet-d1-w4"


def make_record(
    group: str, values: Sequence[float], labels: Labels = "hard", model: str = MODEL, **fields: Any
) -> Record:
    return Record.of(
        "accuracy",
        "in words that nobody reads back",
        model,
        values,
        seeds=range(len(values)),
        num_images=6,
        size_bytes=1,
        group=group,
        labels=labels,
        split="test",
        **fields,
    )


def both_kinds(soft: tuple[float, float], hard: tuple[float, float], model: str = MODEL) -> list[Record]:
    """Distilled and random accuracies, about which two seeds differ by 2."""
    found: tuple[tuple[str, float, Labels], ...] = (
        ("distilled", soft[0], "soft"),
        ("distilled", hard[0], "hard"),
        ("random", soft[1], "soft"),
        ("random", hard[1], "hard"),
        ("full", 95.0, "hard"),
    )
    return [make_record(group, [mean - 1, mean + 1], labels, model) for group, mean, labels in found]


@pytest.mark.parametrize(
    ("distilled", "random", "says"),
    [
        ([93, 94, 92], [70, 71, 69], "beat random ones by 23.0 points, 23 times the spread."),
        ([72, 76, 68], [70, 74, 66], "2.0 points ahead, which is within the spread and no clear win."),
        ([60, 61, 62], [70, 71, 72], "do not beat random ones (10.0 points behind)."),
        ([70, 71], [70, 71], "do not beat random ones (no difference)."),
        ([80], [70], "10.0 points ahead, but one training of each is no proof."),
        ([80, 80], [70, 70], "beat random ones by 10.0 points."),
    ],
)
def test_one_comparison_is_one_sentence(distilled: list[float], random: list[float], says: str) -> None:
    (sentence,) = verdict([make_record("distilled", distilled), make_record("random", random)]).sentences
    assert sentence.endswith(says)
    assert sentence.startswith(f"With {MODEL}, distilled images reach")


def test_what_labels_do_is_told_apart() -> None:
    (sentence,) = verdict([make_record("distilled", [80, 81], "soft"), make_record("random", [70, 71])]).sentences
    assert sentence.endswith("had soft labels, the random ones hard: part of the difference is the labels'.")


def test_each_kind_of_labels_is_compared_with_its_own() -> None:
    soft, hard = verdict(both_kinds(soft=(50, 30), hard=(20, 28))).sentences
    assert soft.startswith(f"With {MODEL} and soft labels, distilled images reach 50.0 ± 1.4 %")
    assert "random real images at the same count 30.0" in soft
    assert soft.endswith("beat random ones by 20.0 points, 14 times the spread.")
    assert hard.startswith(f"With {MODEL} and hard labels, distilled images reach 20.0")
    assert hard.endswith("do not beat random ones (8.0 points behind).")


def test_random_images_with_other_labels_that_do_best_are_not_hidden() -> None:
    sentences = verdict(both_kinds(soft=(25, 15), hard=(12, 58))).sentences
    assert sentences[2:] == (
        "With the better labels for each, random real images are ahead: 58.0 ± 1.4 % (hard labels) against "
        "25.0 ± 1.4 % (soft).",
    )


def test_nothing_is_added_where_random_images_are_ahead_anyway() -> None:
    assert len(verdict(both_kinds(soft=(25, 26), hard=(12, 58))).sentences) == 2


def test_labels_that_the_random_images_lack_are_said_of_the_line_they_concern() -> None:
    records = [
        record for record in both_kinds((50, 0), (20, 28)) if (record.group, record.labels) != ("random", "soft")
    ]
    soft, hard, *rest = verdict(records).sentences
    assert "the random ones hard: part of the difference is the labels'" in soft
    assert "part of the difference" not in hard
    assert rest == []


def test_several_networks_are_counted_and_then_listed() -> None:
    records = [
        *both_kinds(soft=(50, 30), hard=(20, 28), model="a"),
        *both_kinds(soft=(50, 49), hard=(20, 60), model="b"),
        *both_kinds(soft=(50, 55), hard=(20, 20), model="c"),
    ]
    words = verdict(records)
    assert words.sentences == (
        "With soft labels, distilled images clearly beat random real images at the same count on 1 of 3 networks, "
        "and are ahead but not clearly on 1 more.",
        "With hard labels, distilled images clearly beat random real images at the same count on none of 3 networks.",
        "With the better labels for each, random real images are ahead on 1 of 3 networks.",
    )
    assert words.points == (
        "a: +20.0 points with soft labels, clear; −8.0 points with hard labels",
        "b: +1.0 points with soft labels, not clear; −40.0 points with hard labels",
        "c: −5.0 points with soft labels; 0.0 points with hard labels",
    )


def test_labels_that_differ_are_named_in_a_network_s_line() -> None:
    records = [
        record
        for model in ("a", "b")
        for record in (make_record("distilled", [50], "soft", model), make_record("random", [30], "hard", model))
    ]
    assert verdict(records).points[0] == "a: +20.0 points with soft against hard labels, not clear"


def test_chosen_images_that_do_better_are_told_and_others_are_not() -> None:
    records = [
        make_record("distilled", [50], "soft"),
        make_record("random", [40], "soft"),
        make_record("herding", [55], "soft"),
        make_record("kcenter", [45], "soft"),
        make_record("kmeans", [60], "hard"),
        make_record("herding", [70], "soft", augmented=False),
    ]
    assert verdict(records).sentences[1:] == (
        "Real images that were chosen are ahead of distilled ones: herding (55.0 %, soft labels).",
    )


def test_trainings_without_augmentation_are_no_part_of_the_verdict() -> None:
    plain = [make_record("distilled", [10], augmented=False), make_record("random", [90], augmented=False)]
    both = [make_record("distilled", [80]), make_record("random", [70])]
    assert verdict([*plain, *both]) == verdict(both)
    assert len(pairs([*plain, *both])) == 1


def test_nothing_to_compare_with_is_said() -> None:
    one = verdict([make_record("distilled", [80])])
    assert str(one) == f"With {MODEL}, distilled images reach 80.0 %; they were not compared with random real images."
    two = verdict([make_record("distilled", [80], model=model) for model in ("a", "b")]).points
    assert len(two) == 2
    assert all(line.endswith("they were not compared with random real images.") for line in two)
    assert not verdict([])


def test_pairs_stay_within_a_network() -> None:
    found = pairs([make_record("distilled", [80], model="a"), make_record("random", [70], model="b")])
    assert [(pair.random, pair.outcome) for pair in found] == [(None, None)]


def test_words_are_sentences_and_points_and_are_read_back_as_such() -> None:
    words = Words(("One.", "- Two."), ("a: 1", "b: 2"))
    assert str(words) == "One.\n- Two.\n- a: 1\n- b: 2"
    assert Words.from_json(words.to_json()) == words
    assert (bool(words), bool(Words())) == (True, False)


@pytest.mark.parametrize("values", [None, "One.", {}, {"sentences": ["One."]}, {"sentences": "One.", "points": [1]}])
def test_words_of_another_shape_are_refused(values: Any) -> None:
    with pytest.raises(ArtifactError, match="what measurements say could not be read"):
        Words.from_json(values)


def test_a_group_says_where_it_was_not_augmented() -> None:
    found = [make_record("random", [1], augmented=augmented) for augmented in (True, False)]
    assert [group_words(record) for record in found] == ["random", "random, not augmented"]


def test_a_coreset_is_not_called_distilled() -> None:
    found = [make_record("distilled", [50.0, 51.0]), make_record("random", [40.0, 41.0])]
    told = str(verdict(found, "chosen real images"))
    assert told.count("chosen real images") == 2
    assert "distilled" not in told
    several = verdict([*found, *[make_record(r.group, r.values, model="other") for r in found]], "chosen real images")
    assert several.sentences[0].startswith("With hard labels, chosen real images clearly beat")
