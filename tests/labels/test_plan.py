from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.config import parse_bytes
from attar.errors import ArtifactError, ConfigError
from attar.labels.plan import SHARD_BYTES, SHARD_LABELS, LabelPlan, choose_plan, rungs


@pytest.mark.parametrize(
    ("text", "num"),
    [
        ("20000", 20_000),
        ("300KB", 300_000),
        ("50MB", 50_000_000),
        (" 1.5 gb ", 1_500_000_000),
        ("2KiB", 2048),
        ("1B", 1),
    ],
)
def test_sizes_are_parsed(text: str, num: int) -> None:
    assert parse_bytes(text) == num


@pytest.mark.parametrize(
    "text", ["", "MB", "-1MB", "1.2.3MB", "50 parsecs", "0", "0.0001KB", "nan", "1e9", "٣٠٠ parsecs"]
)
def test_what_is_no_size_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_bytes(text)


@given(
    codec=st.sampled_from(["fp16", "q8", "q4"]),
    num_images=st.integers(1, 10**6),
    num_classes=st.integers(2, 2000),
    num_epochs=st.integers(1, 500),
)
def test_shards_cover_all_epochs_once_and_are_bounded(
    codec: str, num_images: int, num_classes: int, num_epochs: int
) -> None:
    plan = LabelPlan(codec, num_classes, num_images, num_epochs)
    assert [epoch for s in plan.shards for epoch in range(s.first, s.first + s.num)] == list(range(num_epochs))
    assert len({shard.name for shard in plan.shards}) == len(plan.shards)
    for shard in plan.shards:
        num = shard.num * num_images
        assert shard.num == 1 or (num <= SHARD_LABELS and num * plan.bytes_per_label <= SHARD_BYTES)
    assert plan.total_bytes == plan.bytes_per_label * num_images * num_epochs


def test_a_plan_comes_back_and_keeps_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = LabelPlan("topk", 100, 5000, 300, keep=5)
    monkeypatch.setattr("attar.labels.plan.SHARD_LABELS", 5000)
    assert len(LabelPlan("topk", 100, 5000, 300, keep=5).shards) == 300
    assert LabelPlan.from_json(plan.to_json()).shards == plan.shards


def test_a_plan_that_makes_no_sense_is_refused() -> None:
    for values in ({"num_images": 0}, {"num_classes": 1}, {"num_epochs": 0}, {"codec": "zip"}, {"keep": 100}):
        with pytest.raises(ConfigError):
            LabelPlan(**{"codec": "topk", "num_classes": 100, "num_images": 5, "num_epochs": 2, "keep": 3, **values})  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="could not be read"):
        LabelPlan.from_json({"codec": "q8", "colour": "red"})


CASES = [(100, 10, 30), (500, 100, 300), (10_000, 1000, 300), (10, 2, 1), (1, 3, 50), (20, 7, 19)]


@pytest.mark.parametrize(("num_images", "num_classes", "num_epochs"), CASES)
def test_the_first_rung_that_fits_is_taken_and_filled(num_images: int, num_classes: int, num_epochs: int) -> None:
    order = list(rungs(num_classes, num_epochs))

    def plan_of(codec: str, keep: int, stored: int) -> LabelPlan:
        return LabelPlan(codec, num_classes, num_images, stored, keep)

    budget = 2 * plan_of("fp16", 0, num_epochs).total_bytes
    while budget >= plan_of("pca", 1, 1).total_bytes:
        plan = choose_plan(budget, num_images, num_classes, num_epochs)
        place = [plan_of(*rung).total_bytes <= budget for rung in order].index(True)
        codec, keep, fewest = order[place]
        assert (plan.codec, plan.keep) == (codec, keep)
        assert fewest <= plan.num_epochs <= num_epochs
        assert plan.total_bytes <= budget
        if plan.num_epochs < num_epochs:
            assert plan_of(codec, keep, plan.num_epochs + 1).total_bytes > budget
        budget = budget * 2 // 3
    assert choose_plan(10**15, num_images, num_classes, num_epochs).codec == "fp16"


def test_a_budget_that_nothing_fits_names_the_smallest() -> None:
    with pytest.raises(ConfigError, match="do not fit into 10 bytes") as told:
        choose_plan(10, 500, 100, 300)
    least = int(told.value.expected.split()[2].replace(",", ""))
    assert choose_plan(least, 500, 100, 300).total_bytes == least
    with pytest.raises(ConfigError):
        choose_plan(least - 1, 500, 100, 300)
