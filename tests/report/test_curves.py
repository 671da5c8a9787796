"""Which numbers of the events become lines, and under which names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attar.items import NO_ITEM, Item, chunk_item, item_of
from attar.report.curves import Curve, Series, by_network, curves, of_these_records, with_items
from attar.results.records import Record


def event(stage: str, item: Item = NO_ITEM, **fields: Any) -> tuple[Item, dict[str, Any]]:
    return item, {"stage": stage, "event": "step", "time_s": 9.0, "step": 1, "loss": 0.5, **item.fields(), **fields}


def student(network: str = "net", seed: int = 0, **fields: Any) -> Item:
    known = {"family": "distilled", "group": "distilled", "labels": "hard", **fields}
    return Item(f"a student on {network}/seed {seed}, {fields}", "student", network=network, seed=seed, **known)


def test_only_finite_numbers_become_curves() -> None:
    step = {"stage": "recover", "event": "step", "time_s": 9.0}
    found = [
        {**step, "step": 2, "loss": 0.5, "best": True, "note": "x", "about": {"number": 7}},
        {**step, "step": 1, "loss": 0.7, "about": {"number": 7}},
        {**step, "step": 3, "loss": float("nan")},
        {**step, "step": None, "loss": 1.0},
        {**step, "event": "said", "step": 4, "loss": 1.0},
    ]
    (loss,) = curves(with_items(found))
    assert loss.metric == "loss"
    assert loss.series[0].steps == (1, 2)
    assert loss.series[0].values == (0.7, 0.5)


def test_every_item_has_a_line_of_its_own_and_stages_come_in_the_order_of_the_work() -> None:
    made = curves(
        [
            event("recover", chunk_item(0)),
            event("recover", chunk_item(1)),
            event("squeeze", Item("teacher")),
            event("train"),
        ]
    )
    assert [curve.metric for curve in made] == ["loss"] * 3
    assert [[series.item.name for series in curve.series] for curve in made] == [
        ["teacher"],
        ["chunk 0", "chunk 1"],
        [""],
    ]


def test_an_item_is_read_back_from_its_event_by_its_fields() -> None:
    for item in (chunk_item(3), student(augmented=False, state=4), Item("net"), NO_ITEM):
        assert item_of(event("recover", item)[1]) == item
    assert item_of({"stage": "recover"}) == NO_ITEM


@pytest.mark.parametrize(
    "fields",
    [
        {"item": 3},
        {"item": "x", "about": []},
        {"item": "x", "about": {"seed": "0"}},
        {"item": "x", "about": {"seed": True}},
        {"item": "x", "about": {"kind": "teapot"}},
        {"item": "x", "about": {"colour": "red"}},
        {"item": "x", "about": {"number": -1}},
        {"item": "x", "about": {"label_noise": 2.0}},
    ],
)
def test_an_event_whose_item_makes_no_sense_is_left_out(fields: dict[str, Any]) -> None:
    sound = event("recover", chunk_item(0))
    assert with_items([{**sound[1], **fields}, sound[1]]) == [sound]


def test_trainings_of_several_networks_are_told_apart_where_they_are_named() -> None:
    items = (student("a"), student("a", 1, labels="soft"), student("b-c"))
    whole = Curve("evaluate", "loss", "epoch", tuple(Series(item, (1,), (2,)) for item in items))
    first, second = by_network(whole)
    assert (first.of, [series.item for series in first.series]) == ("a", [*items[:2]])
    assert (second.of, [series.item for series in second.series]) == ("b-c", [items[2]])
    assert by_network(whole, named=False) == [whole]
    assert items[0].short_name == "distilled/seed 0"


def test_items_of_other_stages_stay_together() -> None:
    items = Item("expert 1", "expert", "expert", 1, network="net"), NO_ITEM
    whole = Curve("squeeze", "loss", "epoch", tuple(Series(item, (1,), (2,)) for item in items))
    assert by_network(whole) == [whole]


def test_trainings_that_are_behind_no_record_are_left_out_and_so_are_later_epochs() -> None:
    record = Record.of(
        "accuracy", "in words", "net", [1.0], seeds=[0], num_images=1, size_bytes=1, group="distilled", labels="hard",
        split="test", protocol={"epochs": 3},
    )  # fmt: skip
    kept = [event("evaluate", student()), event("evaluate", student(), step=3), event("squeeze", Item("teacher"))]
    others = [
        event("evaluate", student("other")),
        event("evaluate", student(seed=1)),
        event("evaluate", student(labels="soft")),
        event("evaluate", student(group="random")),
        event("evaluate", student(augmented=False)),
        event("evaluate", student(), step=4),
        event("evaluate", Item("distilled on net/seed 0")),
    ]
    assert of_these_records([*kept, *others], [record]) == kept
    assert of_these_records([*kept, *others], ()) == [*kept, *others]
    two = of_these_records([*kept, *others], [record, replace(record, model="other")])
    assert two == [*kept, others[0]]


def test_the_many_trainings_of_continual_learning_and_of_images_on_the_way_are_left_out() -> None:
    events = [
        event("continual", student(arrival=2)),
        event("evaluate", student(state=20)),
        event("evaluate", student()),
    ]
    assert of_these_records(events, ()) == events[2:]
