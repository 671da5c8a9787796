"""Where lines and dots lie: inside the plot, at the values that they stand for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attar.items import NO_ITEM, Item, chunk_item
from attar.report.axes import accuracy_axis, log_axis
from attar.report.charts import MOST_MEMBERS, MOST_POINTS, TONES, Chart, Spread, bars, chart, spread_chart
from attar.report.curves import Curve, Series
from attar.results.records import Labels, Record


def draw(*series: Series) -> Chart:
    return chart(Curve("recover", "learning_rate", "step", series))


def places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def record(group: str, *values: float) -> Record:
    return Record.of(
        "accuracy", group, "net", values, seeds=range(len(values)), num_images=1, size_bytes=1, group=group
    )


def alone(steps: Sequence[float], values: Sequence[float]) -> Series:
    return Series(NO_ITEM, tuple(map(float, steps)), tuple(values))


@given(
    st.dictionaries(
        st.integers(0, 10**6), st.floats(-1e12, 1e12, allow_subnormal=False), min_size=1, max_size=2 * MOST_POINTS
    )
)
def test_every_line_lies_inside_the_plot(points: dict[int, float]) -> None:
    steps = sorted(points)
    made = draw(alone(steps, [points[step] for step in steps]))
    for line in made.lines:
        assert all(-1 <= x <= 1001 and -1 <= y <= 1001 for x, y in places(line.path))
    assert all(0 <= tick.place <= 100 for tick in (*made.x.ticks, *made.y.ticks))


def test_a_line_goes_through_its_values() -> None:
    made = draw(alone((0, 5, 10), (4, 6, 8)))
    (line,) = made.lines
    (x0, y0), (x1, y1), (x2, y2) = places(line.path)
    assert (x0, x1, x2) == (0, 500, 1000)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert y0 == pytest.approx(1000 - 10 * made.y.place(4), abs=0.1)
    assert "from 4 at step 0 to 8 at step 10" in made.summary


def test_a_long_series_is_thinned_with_its_range_behind() -> None:
    values = tuple(float(step % 2) for step in range(10 * MOST_POINTS))
    made = draw(alone(range(10 * MOST_POINTS), values))
    band, main = made.lines
    assert (band.kind, main.kind) == ("band", "main")
    assert len(places(main.path)) == MOST_POINTS
    assert min(y for _, y in places(band.path)) == pytest.approx(1000 - 10 * made.y.place(1), abs=0.1)
    readout = json.loads(made.readout)["series"][0]["points"]
    assert {value for _, value in readout} == {0.5}


def test_numbered_items_share_a_tone_under_their_mean() -> None:
    experts = [
        Series(Item(f"expert-{i:04d}", "expert", "expert", i), (0, 1), (float(i), float(i + 2))) for i in range(3)
    ]
    made = draw(*experts, Series(Item("convnet-d3-w128"), (0, 1), (9, 9)))
    assert [(line.kind, line.tone) for line in made.lines] == [("member", 0)] * 3 + [("main", 0), ("main", 1)]
    assert made.legend == ((0, "expert: mean of 3"), (1, "convnet-d3-w128"))
    assert json.loads(made.readout)["series"][0]["points"] == [[0, 1], [1, 3]]


def test_of_many_members_the_range_is_drawn() -> None:
    made = draw(*(Series(chunk_item(i), (0, 1, 2), (float(i), 3.0, 100.0 - i)) for i in range(MOST_MEMBERS + 1)))
    assert [line.kind for line in made.lines] == ["band", "main"]
    ends = places(made.lines[0].path)
    assert [y for _, y in ends[:3]] == pytest.approx([1000 - 10 * made.y.place(v) for v in (12, 3, 100)], abs=0.1)
    assert [y for _, y in ends[:2:-1]] == pytest.approx([1000 - 10 * made.y.place(v) for v in (0, 3, 88)], abs=0.1)
    assert made.legend == ((0, "chunk: mean of 13 and their range"),)


def test_the_range_of_many_long_members_takes_in_every_value() -> None:
    steps = tuple(map(float, range(3 * MOST_POINTS)))
    made = draw(*(Series(chunk_item(i), steps, tuple(float(i + step % 2) for step in steps)) for i in range(20)))
    heights = [y for _, y in places(made.lines[0].path)]
    assert min(heights) == pytest.approx(1000 - 10 * made.y.place(20), abs=0.1)
    assert max(heights) == pytest.approx(1000 - 10 * made.y.place(0), abs=0.1)
    assert len(heights) == 2 * MOST_POINTS


def test_a_spread_is_a_band_about_its_mean() -> None:
    groups = {"distilled": [Spread(2, 60, 5), Spread(4, 40, 0)], "random": [Spread(2, 30, 0), Spread(4, 20, 0)]}
    made = spread_chart("continual", "Accuracy", "classes seen", groups)
    assert [(line.kind, line.tone) for line in made.lines] == [("band", 0), ("main", 0), ("main", 1)]
    heights = [y for _, y in places(made.lines[0].path)]
    assert heights == pytest.approx([1000 - 10 * made.y.place(v) for v in (65, 40, 40, 55)], abs=0.1)
    assert made.legend == ((0, "distilled"), (1, "random"))


def test_values_over_decades_get_a_log_scale() -> None:
    assert draw(alone((0, 1, 2), (1e-5, 1e-3, 1.0))).y.log
    assert not draw(alone((0, 1, 2), (0.0, 1e-3, 1.0))).y.log


def test_one_point_and_a_constant_are_drawn() -> None:
    assert places(draw(alone((3,), (7,))).lines[0].path)[0] == (500, 500)
    assert draw(alone((0, 9), (0, 0))).y.ticks


def test_a_comparison_places_means_on_one_axis_from_zero() -> None:
    records = [record("distilled", 90, 94), record("full", 99.5, 99.9), record("random", 50)]
    axis = accuracy_axis(records)
    assert (axis.low, axis.high) == (0, 100)
    ours, full, random = bars(records, axis, [one.group for one in records])
    assert [bar.mean for bar in (ours, full, random)] == pytest.approx([92, 99.7, 50])
    assert ours.values == (90, 94)
    assert full.high <= 100
    assert random.low == random.high == 50


def test_a_comparison_of_low_numbers_zooms_in() -> None:
    records = [record("distilled", 1.8), record("random", 0.6)]
    axis = accuracy_axis(records)
    assert axis.high == 2
    assert bars(records, axis, [one.group for one in records])[0].mean == pytest.approx(90)


def test_a_comparison_of_nothing_but_zeros_is_drawn() -> None:
    records = [record("random", 0.0, 0.0)]
    axis = accuracy_axis(records)
    assert axis.high > 0
    assert bars(records, axis, [one.group for one in records])[0].mean == 0


def test_in_an_evaluation_a_colour_means_the_same_images_in_every_chart() -> None:
    Trained = tuple[str, Labels, bool]

    def tones(*trained: Trained) -> dict[Trained, int]:
        series = [Series(student(*one, seed), (1.0, 2.0), (2.0, 1.0)) for one in trained for seed in (0, 1)]
        made = chart(Curve("evaluate", "loss", "epoch", tuple(series)))
        assert (made.note, {line.tone for line in made.lines}) == ("means of 2", {tone for tone, _ in made.legend})
        return {one: tone for one, (tone, _) in zip(trained, made.legend, strict=True)}

    def student(group: str, labels: Labels, augmented: bool, seed: int) -> Item:
        of = {"group": group, "labels": labels, "augmented": augmented, "seed": seed}
        return Item(f"{of}", "student", f"{group} {labels} {augmented}", **of)

    ours, hard, plain = ("distilled", "soft", True), ("distilled", "hard", True), ("distilled", "soft", False)
    random, full = ("random", "soft", True), ("full", "hard", True)
    found = tones(ours, hard, random, ("herding", "soft", True), plain, full)
    assert len(set(found.values())) == 6
    assert tones(random, ours) == {one: found[one] for one in (random, ours)}
    assert found[hard] % TONES == found[plain] % TONES == found[ours]


def test_groups_of_several_sizes_say_theirs() -> None:
    made = draw(
        *(Series(item, (1.0,), (1.0,)) for item in (Item("a 0", family="a"), Item("a 1", family="a"), Item("b")))
    )
    assert (made.note, [name for _, name in made.legend]) == ("", ["a: mean of 2", "b"])


@pytest.mark.parametrize("values", [[3.0], [1.0, 1.01], [1e3, 9e3], [1.0, 10.0, 50.0], [2e4, 9e9]])
def test_a_logarithmic_axis_has_room_and_ticks_whose_text_fits(values: list[float]) -> None:
    axis = log_axis(values, "{:g}".format)
    assert all(0 < axis.place(value) < 100 for value in values)
    assert 1 <= len(axis.ticks) <= 12
    assert all(
        4 <= tick.place <= 96 and axis.place(float(tick.text)) == pytest.approx(tick.place, abs=1e-2)
        for tick in axis.ticks
    )
    marked = log_axis(values, "{:g}".format, values)
    assert [float(tick.text) for tick in marked.ticks] == values
