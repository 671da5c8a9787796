"""Processes that help: each file is made once, by whomever, and nothing is left of who helped."""

import os
import pickle
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Queue

import pytest

from attar.runtime import together
from attar.runtime.together import Job, claimed, make_all, room_for

WAIT_S = 60.0


def write(folder: Path, number: int, wait: bool) -> None:
    """Write who makes a file; this process lets others make one before."""
    until_s = time.monotonic() + WAIT_S
    while wait and not any(folder.glob("*.json")) and time.monotonic() < until_s:
        time.sleep(0.02)
    (folder / f"{number}.json").write_text(str(os.getpid()))


def opened(folder: Path) -> Callable[[int], None]:
    return lambda number: write(folder, number, False)


def failing(folder: Path) -> Callable[[int], None]:
    def fail(number: int) -> None:
        (folder / "tried").touch()
        raise ValueError(f"no {number}")

    return fail


def sleeping(folder: Path) -> Callable[[int], None]:
    def sleep(number: int) -> None:
        (folder / "tried").touch()
        time.sleep(WAIT_S)

    return sleep


def job(folder: Path, num: int, opening: Callable[[], Callable[[int], None]]) -> Job:
    return Job([folder / f"{k}.json" for k in range(num)], folder, opening)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "START_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_each_file_is_made_once_from_both_ends(tmp_path: Path) -> None:
    made: list[int] = []
    make_all(job(tmp_path, 5, partial(opened, tmp_path)), lambda k: write(tmp_path, k, True), made.append, helpers=1)
    makers = [int((tmp_path / f"{k}.json").read_text()) for k in range(5)]
    assert sorted(made) == list(range(5))
    assert makers[0] == os.getpid() != makers[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{k}.json" for k in range(5)]


def test_what_others_have_made_counts_before_the_next_is_made(tmp_path: Path) -> None:
    def make(number: int) -> None:
        assert not (tmp_path / f"{number}.json").exists()
        for k in {0: (0, 3)}.get(number, (number,)):
            write(tmp_path, k, False)

    made: list[int] = []
    make_all(job(tmp_path, 4, partial(opened, tmp_path)), make, made.append)
    assert made == [0, 3, 1, 2]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Queue[subprocess.Popen[bytes]]:
    """Helpers, as they are started."""
    found: Queue[subprocess.Popen[bytes]] = Queue()
    begin = together._helper

    def helper(threads: int) -> subprocess.Popen[bytes]:
        found.put(process := begin(threads))
        return process

    monkeypatch.setattr(together, "_helper", helper)
    return found


@pytest.mark.usefixtures("at_once")
def test_what_a_helper_cannot_make_is_made_here(tmp_path: Path, begun: Queue[subprocess.Popen[bytes]]) -> None:
    said: list[str] = []

    def make(number: int) -> None:
        if number == 0:
            begun.get(timeout=WAIT_S).wait(WAIT_S)
        else:
            assert len(said) == 1  # told once, and before the next file
        write(tmp_path, number, False)

    make_all(job(tmp_path, 3, partial(failing, tmp_path)), make, lambda _: None, 1, said.append)
    assert {(tmp_path / f"{k}.json").read_text() for k in range(3)} == {str(os.getpid())}
    assert [line.split(": ", 1)[1] for line in said] == ["ValueError: no 2"]


@pytest.mark.usefixtures("at_once")
def test_a_helper_with_nothing_left_to_make_leaves_in_silence(
    tmp_path: Path, begun: Queue[subprocess.Popen[bytes]]
) -> None:
    said: list[str] = []

    def make(number: int) -> None:
        assert begun.get(timeout=WAIT_S).wait(WAIT_S) == 0
        write(tmp_path, number, False)

    make_all(job(tmp_path, 2, partial(opened, tmp_path)), make, lambda _: None, 1, said.append)
    assert said == []


@pytest.mark.usefixtures("at_once")
def test_helpers_end_with_an_error_here(tmp_path: Path) -> None:
    def make(number: int) -> None:
        until_s = time.monotonic() + WAIT_S
        while not (tmp_path / "tried").exists() and time.monotonic() < until_s:
            time.sleep(0.02)
        raise KeyboardInterrupt

    started_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        make_all(job(tmp_path, 2, partial(sleeping, tmp_path)), make, lambda _: None, 1)
    assert time.monotonic() - started_s < WAIT_S
    with claimed(tmp_path, "1") as free:
        assert free


def test_a_helper_leaves_when_its_input_ends(tmp_path: Path) -> None:
    helpers = together._Helpers(pickle.dumps(job(tmp_path, 1, partial(sleeping, tmp_path))), 1, 1)
    helpers.start()
    [(process, handing)] = helpers._started
    until_s = time.monotonic() + WAIT_S
    while not (tmp_path / "tried").exists() and time.monotonic() < until_s:
        time.sleep(0.02)
    handing.join()
    assert process.stdin is not None
    process.stdin.close()  # as the system does when this process is killed
    assert process.wait(WAIT_S / 2) == 0
    assert helpers.end() == []


def test_what_cannot_be_handed_over_is_made_here(tmp_path: Path) -> None:
    said: list[str] = []
    lock = threading.Lock()
    make_all(
        Job([tmp_path / f"{k}.json" for k in range(2)], tmp_path, partial(opened, lock)),  # type: ignore[arg-type]
        lambda k: write(tmp_path, k, False),
        lambda _: None,
        1,
        said.append,
    )
    assert len(said) == 1
    assert "cannot be handed" in said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "1.json"]


def test_helpers_fit_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "_free_bytes", lambda: 0)
    assert room_for(3) == 0
    monkeypatch.setattr(together, "_free_bytes", lambda: 1 << 60)
    assert room_for(3) == 3
    monkeypatch.setattr(together, "_free_bytes", lambda: None)
    assert room_for(3) == 3


def test_free_memory_is_that_of_the_container_where_it_has_less(tmp_path: Path) -> None:
    assert together._free_bytes(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  900 kB\nMemAvailable:   800 kB\nHugePages_Total:  0\n")
    assert together._free_bytes(tmp_path) == 800 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for name, text in (("memory.max", "max\n"), ("memory.current", "3000\n"), ("memory.stat", "inactive_file 100\n")):
        (group / name).write_text(text)
    assert together._free_bytes(tmp_path) == 800 * 1024
    (group / "memory.max").write_text("5000\n")
    assert together._free_bytes(tmp_path) == 2100
