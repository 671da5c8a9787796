"""The last terms of each chunk: all of a few, in sum of many, and the weight between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from attar.items import chunk_item
from attar.report.collect import ReportData, collect
from attar.report.curves import curves, with_items
from attar.report.page import render
from attar.report.recovery import MOST_CHUNKS, terms

MakeRun = Callable[..., Path]


def made_of(*chunks: tuple[float, float, float], step: int = 9, **method: float) -> ReportData:
    """Chunks by their last classification, statistics and loss."""
    events = [
        {"stage": "recover", "event": "step", **chunk_item(k).fields(), "step": at, "confidence": 0.5}
        | {"classification": ce, "statistics": bn, "loss": loss}
        for k, (ce, bn, loss) in enumerate(chunks)
        for at in (1, step)
    ]
    return ReportData("run", settings={"method": method}, curves=curves(with_items(events)))


def test_a_few_chunks_are_listed_with_their_mean(make_run: MakeRun) -> None:
    made = terms(collect(make_run(chunks=3)))
    assert made is not None
    assert made.columns == ("classification", "statistics", "confidence", "loss")
    assert [row.name for row in made.rows] == ["chunk 0", "chunk 1", "chunk 2", "mean"]
    assert [row.values for row in made.rows[:2]] == [("1", "2", "1", "2"), ("1.01", "2.1", "1", "2.06")]
    assert made.rows[-1].values == ("1.01", "2.1", "1", "2.06")
    assert made.note == (
        "At the last step of each of 3 chunks of images. The loss is classification + 0.5 × statistics."
    )


def test_many_chunks_are_summed_up_with_the_worst_named() -> None:
    last = [(1.0, 2.0, 2.0)] * MOST_CHUNKS + [(0.5, 9.0, 5.0)] + [(3.0, 2.0, 4.0)]
    made = terms(made_of(*last))
    assert made is not None
    assert [row.name for row in made.rows] == ["mean", "least", "greatest", "chunk 12, of the greatest loss"]
    assert made.rows[1].values == ("0.5", "2", "0.5", "2")
    assert made.rows[2].values == ("3", "9", "0.5", "5")
    assert made.rows[3].values == ("0.5", "9", "0.5", "5")
    assert made.note.startswith("At the last step of each of 14 chunks")


def test_one_chunk_has_no_mean() -> None:
    made = terms(made_of((1, 2, 2)))
    assert made is not None
    assert [row.name for row in made.rows] == ["chunk 0"]


def test_chunks_come_in_the_order_of_their_numbers_and_unfinished_ones_are_told() -> None:
    short, long = made_of(*[(1, 2, 2)] * 11, step=5).curves, made_of((1, 2, 2), step=9).curves
    longer = [replace(b, series=(replace(b.series[0], item=chunk_item(2)),)) for b in long]
    joined = [
        replace(a, series=(*(s for s in a.series if s.item != chunk_item(2)), *b.series))
        for a, b in zip(short, longer, strict=True)
    ]
    made = terms(ReportData("run", curves=tuple(joined)))
    assert made is not None
    assert [row.name for row in made.rows][:-1] == [f"chunk {k}" for k in range(11)]
    assert "11 chunks of images, 10 of which had not come to step 9." in made.note


@pytest.mark.parametrize(
    "data",
    [
        made_of((1, 2, 2), (1, 2, 2.5)),
        made_of((1, 2, 2), alpha_tv=0.1),
        made_of((1, 0, 1)),
    ],
)
def test_a_weight_that_cannot_be_told_is_not(data: ReportData) -> None:
    made = terms(data)
    assert made is not None
    assert "The loss is" not in made.note


def test_methods_of_other_terms_have_no_table(make_run: MakeRun) -> None:
    assert terms(collect(make_run())) is None
    assert terms(ReportData("run")) is None


def test_the_page_shows_curves_and_table_and_whose_images_move(make_run: MakeRun) -> None:
    text = render(collect(make_run(chunks=MOST_CHUNKS + 3)))
    for part in ("BatchNorm statistics loss", "classification loss", "teacher’s confidence", "of the greatest loss"):
        assert part in text
    assert "chunk: mean of 15 and their range" in text
    assert "chunk: mean of 3<" in render(collect(make_run(chunks=3)))
