"""The scores of DD-Ranking: by hand, from records, and as the authors' package computes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from attar.results.ddranking import ARS, HLR, IOR, LRS, Scores, normalised, score_text, scores
from attar.results.records import Labels, Record

MODEL = "net"
HOW = (
    "the authors' package is not installed; its ranges are older than ours, so: "
    "pip install --no-deps ddranking && pip install kornia pandas requests"
)


def record(
    group: str, labels: Labels, values: Sequence[float], model: str = MODEL, first: int = 0, augmented: bool = True
) -> Record:
    return Record.of(
        "accuracy",
        group,
        model,
        values,
        seeds=range(first, first + len(values)),
        num_images=10,
        size_bytes=100,
        group=group,
        labels=labels,
        augmented=augmented,
        split="test",
    )


SOFT = [
    record("distilled", "soft", [52.0, 50.0]),
    record("distilled", "hard", [40.0, 44.0]),
    record("random", "soft", [42.0, 46.0]),
    record("random", "hard", [30.0, 30.0]),
    record("distilled", "soft", [35.0, 39.0], augmented=False),
    record("random", "soft", [31.0, 33.0], augmented=False),
    record("full", "hard", [60.0, 62.0]),
]


def test_the_scores_of_a_soft_labelled_set_by_hand() -> None:
    (made,) = scores(SOFT)
    assert made.missing == {}
    assert made.found[HLR].values == (20.0, 18.0)
    assert made.found[IOR].values == (10.0, 4.0)
    # alpha = (0.10 - 0.20) / 2 and (0.04 - 0.18) / 2; (e^-0.05 - e^-1) / (e - e^-1) and of -0.07
    assert made.found[LRS].values == pytest.approx((24.819154, 24.017776), abs=1e-5)
    # beta = (0.10 + 0.04) / 2 and (0.04 + 0.06) / 2; of 0.07 and 0.05
    assert made.found[ARS].values == pytest.approx((29.979068, 29.075517), abs=1e-5)
    assert made.found[HLR].std == pytest.approx(math.sqrt(2))
    assert made.found[LRS].protocol == {"of": ["full", "hard", "own", "random"], "weight": 0.5}


def test_hard_labelled_sets_have_one_accuracy_for_both_kinds() -> None:
    records = [record("distilled", "hard", [40.0]), record("random", "hard", [30.0]), record("full", "hard", [60.0])]
    (made,) = scores(records)
    assert (made.found[HLR].mean, made.found[IOR].mean) == (20.0, 10.0)
    assert made.missing == {ARS: ("own plain", "random plain")}
    assert made.lacking == ("distilled images without augmentation", "random real images without augmentation")


def test_the_range_of_the_normalisation_is_0_to_100() -> None:
    assert [normalised(d) for d in (-100, 100)] == pytest.approx([0, 100])
    assert normalised(0) == pytest.approx(26.894142)


def test_what_is_missing_is_said_and_nothing_is_made_up() -> None:
    (made,) = scores([record("distilled", "soft", [50.0]), record("random", "hard", [40.0])])
    assert made.found == {}
    assert made.missing[HLR] == ("full", "hard")
    assert made.missing[IOR] == ("random",), "random images with other labels are no measure of the images"
    (asked,) = scores([record("distilled", "hard", [50.0]), record("random", "hard", [40.0])], own="soft")
    assert asked.missing[IOR] == ("own", "random"), "a soft-labelled set judged by hard labels only"
    assert Scores.to_json(asked)["missing"][IOR] == [
        "distilled images with their own labels",
        "random real images with such labels",
    ]


def test_networks_are_scored_apart_and_seeds_are_paired() -> None:
    records = [
        record("distilled", "hard", [50.0, 60.0, 70.0], "a"),
        record("random", "hard", [1.0, 2.0], "a", first=1),
        record("distilled", "hard", [50.0], "b"),
        record("random", "hard", [10.0], "b", first=7),
    ]
    first, second = scores(records)
    assert (first.found[IOR].values, first.found[IOR].seeds) == ((59.0, 68.0), (1, 2))
    assert second.model == "b"
    assert IOR not in second.found
    assert scores([]) == ()


def test_scores_are_told_with_their_unit() -> None:
    (made,) = scores(SOFT)
    assert score_text(HLR, made.found[HLR]) == "19.0 ± 1.4 points"
    assert score_text(ARS, made.found[ARS]) == "29.5 ± 0.6 %"


def test_the_authors_package_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own `compute_metrics`, with trainings replaced by given accuracies, as parts of 1 as the paper has them."""
    metrics = pytest.importorskip("ddranking.metrics", reason=HOW)
    given = {(one.group, one.labels, one.augmented): [value / 100 for value in one.values] for one in SOFT}
    own = [given[group, "soft", True] for group in ("distilled", "random")]
    label_robust = _bare(metrics.LabelRobustScoreSoft, tmp_path, rank=0)
    runs = {"syn": iter(given["distilled", "hard", True]), "real": iter(given["full", "hard", True])}
    both = iter([value for pair in zip(*own, strict=True) for value in pair])
    monkeypatch.setattr(
        label_robust, "_compute_hard_label_metrics_helper", lambda *, mode, **_: (next(runs[mode]), 0), raising=False
    )
    monkeypatch.setattr(label_robust, "_compute_soft_label_metrics_helper", lambda **_: (next(both), 0), raising=False)
    monkeypatch.setattr(label_robust, "_get_random_data_helper", lambda eval_iter: (None, None, None), raising=False)
    theirs = label_robust.compute_metrics(image_path="somewhere")
    (ours,) = scores(SOFT)
    for name, key, unit in ((HLR, "hard_label_recovery", 1), (IOR, "improvement_over_random", 1), (LRS, LRS, 1)):
        assert 100 * theirs[f"{key}_mean"] == pytest.approx(ours.found[name].mean * unit, abs=1e-9)

    augmentation_robust = _bare(metrics.AugmentationRobustScore, tmp_path, rank=0)
    augmentation_robust.label_type = "soft"
    augmented = iter([value for pair in zip(*own, strict=True) for value in pair])
    plain = [given[group, "soft", False] for group in ("distilled", "random")]
    bare = iter([value for pair in zip(*plain, strict=True) for value in pair])
    for helper, values in (
        ("_compute_with_aug_metrics_helper", augmented),
        ("_compute_without_aug_metrics_helper", bare),
    ):
        monkeypatch.setattr(augmentation_robust, helper, lambda values=values, **_: (next(values), 0), raising=False)
    monkeypatch.setattr(
        augmentation_robust, "_get_random_data_helper", lambda eval_iter: (None, None, None, None), raising=False
    )
    assert 100 * augmentation_robust.compute_metrics(image_path="somewhere")[f"{ARS}_mean"] == pytest.approx(
        ours.found[ARS].mean, abs=1e-9
    )


def _bare(kind: Any, folder: Path, **attributes: Any) -> Any:
    """An evaluator of the package without its data, networks and devices."""
    made = object.__new__(kind)
    settings = {"num_eval": 2, "ipc": 1, "num_classes": 2, "use_dist": False, "eval_full_data": True}
    for name, value in {
        **settings,
        "soft_label_mode": "M",
        "save_path": str(folder / "scores.csv"),
        **attributes,
    }.items():
        setattr(made, name, value)
    return made
