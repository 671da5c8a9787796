"""What several hosts bring is a function of the items that they share."""

import pytest

import attar
from attar.run.hosts import with_hosts
from attar.squeeze.rehearsal import EVERYWHERE, Estimate


def estimate(stage, seconds, items="", num=1, first=0):
    return Estimate(stage, "unit", 1, seconds, 0, items, range(first, first + num))


def test_the_busiest_host_decides_and_what_is_no_item_stays():
    found = with_hosts(
        [
            estimate("start", 5.0, EVERYWHERE),
            estimate("squeeze", 60.0, "network"),
            estimate("begin", 10.0, "chunk", 10),
            estimate("recover", 90.0, "chunk", 10),
            estimate("relabel: writing", 3.0),
        ],
        8,
    )
    assert [one.shared_by for one in found.shared] == [EVERYWHERE, "1 network", "10 chunks", "one of them does it"]
    seconds = {one.part: one.shared_s for one in found.shared}
    assert seconds == {"start": 5.0, "squeeze": 60.0, "recover": pytest.approx(20.0), "relabel": 3.0}
    assert found.stops_at == 10, "ten chunks: as long by eight hosts as by five"
    assert found.total_s == pytest.approx(88.0)
    assert found.host_hours == pytest.approx(8 * 88 / 3600)
    assert found.gain == pytest.approx(168 / 88)


def test_students_that_take_longer_than_others_are_dealt_out_in_their_order():
    students = [estimate("evaluate a", 4.0, "student", 4), estimate("evaluate a on all", 20.0, "student", 2, 4)]
    (two,) = with_hosts(students, 2).shared
    assert two.shared_s == 12.0, "two short ones and a long one each"
    (six,) = with_hosts(students, 6).shared
    assert (six.shared_s, six.num_items) == (10.0, 6)
    (one,) = with_hosts(students, 1).shared
    assert one.shared_s == one.one_s == 24.0


def test_a_plan_says_what_hosts_bring_where_they_are_asked_for():
    settings = {"source.train_per_class": 5, "train.epochs": 1, "evaluate.baselines": ["random"], "evaluate.seeds": 2}
    found = attar.plan(
        "digits", "random", 2, recipe="none", settings={**settings, "evaluate.models": ["convnet-d1-w4"]}, hosts=3
    )
    assert found.hosts is not None
    items = {one.items: one.num_items for one in found.hosts.shared if one.items not in ("", EVERYWHERE)}
    assert items["student"] == 4
    assert {one.shared_by for one in found.hosts.shared} >= {"4 students", "one of them does it"}
    assert found.hosts.total_s < found.total_s
