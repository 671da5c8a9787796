"""What shards of one run folder know of each other: locks, turns, items, and the numbers of schedulers."""

import threading
from pathlib import Path

import pytest

from attar.errors import ArtifactError, ConfigError
from attar.runtime.events import Events, read_events
from attar.runtime.files import locked_file
from attar.runtime.holding import held
from attar.runtime.shards import OthersMissingError, Shard, make_shard, parse_shard


def shard(number: int, num: int, folder: Path, wait_s: float = 0.0) -> Shard:
    return Shard(number - 1, num, folder=folder, wait_s=wait_s)


@pytest.mark.parametrize(("text", "expected"), [("1/1", (0, 1)), ("3/64", (2, 64)), (" 64 / 64 ", (63, 64))])
def test_a_shard_is_typed_from_one_on(text: str, expected: tuple[int, int]) -> None:
    assert parse_shard(text) == expected


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "-1/3", "a/b", "1/2/3", "1/100001", "٣/٤", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no shard"):
        parse_shard(text)


def slurm(task: int, count: int, lowest: int, highest: int) -> dict[str, str]:
    values = {"ID": task, "COUNT": count, "MIN": lowest, "MAX": highest}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (slurm(0, 64, 0, 63), (0, 64)),
        (slurm(64, 64, 1, 64), (63, 64)),
        ({"SKYPILOT_NODE_RANK": "3", "SKYPILOT_NUM_NODES": "4"}, (3, 4)),
    ],
)
def test_auto_takes_the_numbers_of_a_scheduler(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert parse_shard("auto", environment) == expected


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, "no scheduler says"),
        (slurm(7, 3, 3, 21), "SLURM_ARRAY_TASK_ID is 7 of 3 tasks from 3 to 21"),
        ({"SLURM_ARRAY_TASK_ID": "x"}, "SLURM_ARRAY_TASK_ID is 'x'"),
        ({"SKYPILOT_NODE_RANK": "4", "SKYPILOT_NUM_NODES": "4"}, "is 4 of 4 tasks from 0 to 3"),
    ],
)
def test_auto_refuses_numbers_that_do_not_say_which_shard_it_is(environment: dict[str, str], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        parse_shard("auto", environment)


def test_a_shard_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match="--shard 1/2 without --out"):
        make_shard("1/2", None, 0.0)


def test_shards_work_side_by_side_and_keep_a_run_without_shards_out(tmp_path: Path) -> None:
    with shard(1, 2, tmp_path).at_work(), shard(2, 2, tmp_path).at_work():
        with pytest.raises(ArtifactError, match="another attar is at work"), held(tmp_path):
            pass
        with pytest.raises(ArtifactError, match=r"at work in shard 2/2 of"), shard(2, 2, tmp_path).at_work():
            pass
        with pytest.raises(ArtifactError, match=r"shard 1/2 is at work in .*, and this is shard 1/3"):
            shard(1, 3, tmp_path).at_work().__enter__()
    with held(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
        with pytest.raises(ArtifactError, match="another attar is at work"), shard(1, 2, tmp_path).at_work():
            pass
    with shard(1, 3, tmp_path).at_work():
        pass


def test_turns_follow_each_other_and_may_hold_one_another(tmp_path: Path) -> None:
    mine, other, heard = shard(1, 2, tmp_path), shard(2, 2, tmp_path), list[str]()

    def take() -> None:
        with other.turn():
            heard.append("other")

    with mine.turn():
        waiting = threading.Thread(target=take)
        waiting.start()
        with mine.turn():
            waiting.join(0.05)
            heard.append("mine")
    waiting.join()
    assert heard == ["mine", "other"]


def test_an_item_that_cannot_be_shared_has_one_maker(tmp_path: Path) -> None:
    with shard(1, 2, tmp_path).claim("images") as first, shard(2, 2, tmp_path).claim("images") as second:
        assert (first, second) == (True, False)
    with shard(2, 2, tmp_path).claim("images") as second:
        assert second


def test_what_is_missing_is_told_with_who_is_at_work(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    paths[1].touch()
    with shard(1, 3, tmp_path).at_work(), shard(3, 3, tmp_path).at_work(), pytest.raises(OthersMissingError) as raised:
        shard(1, 3, tmp_path).barrier(paths)
    assert (raised.value.missing, raised.value.at_work) == ((paths[0], paths[2]), (3,))
    shard(1, 3, tmp_path).barrier(paths[1:2])
    shard(1, 3, tmp_path).barrier()


def test_a_shard_may_wait_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late, naps = [tmp_path / name for name in "ab"], list[float]()

    def sleep(seconds: float) -> None:
        late[len(naps)].touch()
        naps.append(seconds)

    monkeypatch.setattr("attar.runtime.shards.time.sleep", sleep)
    shard(1, 2, tmp_path, wait_s=60).barrier(late)
    assert naps == [2.0, 2.0]


def test_locks_may_be_shared_or_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    first, second, alone = (locked_file(lock, "x", "", shared=shared) for shared in (True, True, False))
    with first, second, pytest.raises(ArtifactError, match="another attar is at work in x"), alone:
        pass
    with locked_file(lock, "x", "", wait=True):
        pass


def test_logs_of_shards_are_read_as_one_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter(range(10))
    monkeypatch.setattr("attar.runtime.events.time.time", lambda: float(next(now_s)))
    for name, loss in (("events-1-of-2.jsonl", 3.0), ("events-2-of-2.jsonl", 2.0), ("events.jsonl", 1.0)):
        Events(tmp_path / name, quiet=True).emit("recover", "step", step=5, loss=loss)
    Events(tmp_path / "events-1-of-2.jsonl", quiet=True).emit("recover", "step", step=6, loss=0.5)
    found = read_events(tmp_path / "events.jsonl")
    assert [(event["step"], event["loss"]) for event in found] == [(5, 1.0), (6, 0.5)]
