"""A stopped process is missed by the others, who say which it was and where; so is a folder that is not shared."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from torch.distributed import DistNetworkError

from attar.errors import AttarError, ConfigError
from attar.runtime import interfaces, peers
from attar.runtime.peers import Watch, now_at
from attar.runtime.processes import Processes, _Meeting, launched
from launching import launch

PATIENCE_S = 5
BEGIN = f"""
import os, signal, sys, time
from pathlib import Path
from attar.errors import AttarError
from attar.runtime.peers import now_at
from attar.runtime.processes import launched
me = launched()
def main():
    with me.joined({PATIENCE_S}):
        work()
def run():
    try:
        main()
    except AttarError as error:
        print(error, flush=True)
        sys.exit(error.exit_code)
"""
BARRIER = """
import platform
import attar.runtime.processes as its
its._LOOKING_S = 0.3
def work():
    os.chdir(sys.argv[1 + me.rank])
    platform.node = lambda: f"host{me.rank}"
    try:
        me.require_shared(Path("run"))
    except AttarError as error:
        print(error.exit_code, error, flush=True)
    now_at("recover" if me.rank == 1 else "relabel")
    time.sleep(2)  # the others hear of it
    if me.rank == 1:
        print("stopped", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    me.barrier()
run()
"""
TEAM = """
import torch
from attar.runtime.team import team
def work():
    us = team(me, me.num)
    now_at("train")
    for step in range(1000):
        if me.rank == 1 and step == 5:
            time.sleep(2)
            print("stopped", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        us.tell(step)
        us.total(torch.ones(3))
run()
"""
GRADIENTS = """
import torch
from torch import distributed
def work():
    now_at("train")
    if me.rank == 1:
        time.sleep(2)
        print("stopped", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    distributed.all_reduce(torch.ones(3))  # as DistributedDataParallel does, in a place where nobody can ask
run()
"""


class Store:
    """The store as a process sees it."""

    def __init__(self, said: dict[str, bytes]) -> None:
        self.said = said

    def set(self, key: str, text: str) -> None:
        self.said[key] = text.encode()

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.said.get(key, b"") for key in keys]


def until(true, longest_s: float = 20.0) -> bool:
    end_s = time.monotonic() + longest_s
    while not (found := true()) and time.monotonic() < end_s:
        time.sleep(0.02)
    return bool(found)


def test_who_is_silent_is_told_by_number_and_stage():
    store = Store({"1": b"1 recover"})
    ended = []
    watch = Watch(0, 2, 0.4, lambda: store, ended.append)
    now_at("relabel")
    assert until(watch.silence)
    watch.stop()
    problem = watch.silence()
    assert problem is not None
    assert "process 1 has said nothing for 0.4 s; it was last at: recover" in problem.found
    assert "this one, 0, is at: relabel" in problem.expected
    assert "--peer-timeout" in problem.fix


def test_who_lives_or_has_left_is_not_silent():
    store = Store({"1": b"1 recover"})
    watch = Watch(0, 2, 0.4, lambda: store, lambda problem: None)
    end_s, beat = time.monotonic() + 1.2, 0
    while time.monotonic() < end_s:
        beat += 1
        store.said["1"] = f"{beat} recover".encode()
        assert watch.silence() is None
        time.sleep(0.05)
    store.said["1"] = b"-"
    time.sleep(1.0)
    assert watch.silence() is None
    watch.stop()


def test_a_meeting_place_that_is_gone_while_words_are_awaited_is_told():
    class Gone(Store):
        def check(self, keys: list[str]) -> bool:
            raise DistNetworkError("Connection reset by peer")

    watch = Watch(1, 2, 60, lambda: Store({}), lambda problem: None)
    with pytest.raises(AttarError, match="another process is gone: Connection reset by peer"):
        _Meeting(Gone({}), "said", watch, 2).hear("token")
    watch.stop()


def test_a_store_that_answers_no_more_is_told():
    hangs = threading.Event()

    class Hanging(Store):
        def multi_get(self, keys: list[str]) -> list[bytes]:
            hangs.wait()
            return super().multi_get(keys)

    watch = Watch(1, 2, 0.4, lambda: Hanging({}), lambda problem: None)
    assert until(watch.silence)
    assert "at which all have met" in str(watch.silence())
    hangs.set()
    watch.stop()


def test_threads_have_ended_before_the_process_does(monkeypatch):
    """One that is in the store while Python goes away takes the process down with SIGABRT."""
    watch = Watch(1, 2, 0.4, lambda: Store({}), lambda problem: None)
    assert watch.stop()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("peers-")]

    hangs = threading.Event()

    class Hanging(Store):
        def multi_get(self, keys: list[str]) -> list[bytes]:
            hangs.wait()
            return super().multi_get(keys)

    monkeypatch.setattr(peers, "_LEAVING_S", 0.1)
    watch = Watch(1, 2, 0.4, lambda: Hanging({}), lambda problem: None)
    time.sleep(0.2)
    assert not watch.stop()
    hangs.set()


def test_who_does_not_meet_the_others_leaves_as_well(monkeypatch):
    def gone(self: Processes, peer_timeout_s: float) -> None:
        raise AttarError("another process is gone")

    left = []
    monkeypatch.setattr(Processes, "join", gone)
    monkeypatch.setattr(Processes, "leave", lambda self: left.append(self))
    with pytest.raises(AttarError, match="is gone"), Processes(1, 2).joined():
        pass
    assert left == [Processes(1, 2)]


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(BARRIER, id="barrier"),
        pytest.param(TEAM, id="team", marks=pytest.mark.slow),
        pytest.param(GRADIENTS, id="gradients", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_process_is_missed_and_a_folder_that_is_not_shared_is_told_by_all(work, tmp_path):
    """Two processes for both, as each takes seconds to import torch."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    processes = launch(["-c", BEGIN + work, *map(str, folders)], 2)
    try:
        begun_s = time.monotonic()
        said, _ = processes[0].communicate(timeout=120)
        assert time.monotonic() - begun_s < 100
        stage = "recover" if work is BARRIER else "train"
        assert "Traceback" not in said
        assert f"process 1 has said nothing for {PATIENCE_S} s; it was last at: {stage}" in said
        assert processes[0].returncode == 6
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
        other, _ = processes[1].communicate()
        processes[0].communicate()
    if work is BARRIER:
        for text in (said, other):
            assert "6 process 1 on host1 does not see run, which process 0 on host0 has made" in text
        assert not list((folders[0] / "run").iterdir())


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is '2'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK is ''"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"RANK": "0", "WORLD_SIZE": "9" * 5000}, "WORLD_SIZE is '999"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"SLURM_PROCID": "0,1", "SLURM_NTASKS": "2"}, "SLURM_PROCID is '0,1'"),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2(x3)"}, "SLURM_NTASKS is '2\\(x3\\)'"),
    ],
)
def test_variables_of_a_launcher_that_make_no_sense_are_told(variables, named):
    with pytest.raises(ConfigError, match=named) as caught:
        launched(variables)
    assert caught.value.fix
    assert len(str(caught.value)) < 600


def test_variables_of_a_job_of_one_task_are_no_wish_for_several():
    assert launched({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) == Processes()
    assert launched({"SLURM_NTASKS": "4"}) == Processes()
    assert launched({"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1"}) == Processes(1, 3, 1)


@pytest.mark.parametrize(
    ("address", "port", "said"),
    [
        ("node[01-04]", "29500", "MASTER_ADDR is 'node"),
        ("a,b", "29500", "MASTER_ADDR is 'a,b'"),
        ("", "29500", "MASTER_ADDR is ''"),
        ("127.0.0.1", "x", "MASTER_PORT is 'x'"),
        ("127.0.0.1", "70000", "MASTER_PORT is '70000'"),
    ],
)
def test_a_meeting_point_that_is_none_is_told_at_once(monkeypatch, address, port, said):
    monkeypatch.setenv("MASTER_ADDR", address)
    monkeypatch.setenv("MASTER_PORT", port)
    with pytest.raises(ConfigError, match=said):
        Processes(0, 2).join()


@pytest.mark.slow
def test_a_process_that_never_comes_is_told_with_the_networks_names():
    code = BEGIN + "def work(): pass\nrun()\n"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    kept = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept, capture_output=True, text=True, timeout=100, check=False
    )
    assert "the 2 processes do not find each other" in done.stdout
    assert "GLOO_SOCKET_IFNAME" in done.stdout


def test_the_interface_to_a_machine_is_found_or_asked_for(monkeypatch):
    monkeypatch.delenv(interfaces.VARIABLE, raising=False)
    assert interfaces.interface_to("127.0.0.1") == "lo"
    assert interfaces.interface_to("no such name.invalid") is None
    interfaces.choose_interface("127.0.0.1")
    assert os.environ[interfaces.VARIABLE] == "lo"
    monkeypatch.setenv(interfaces.VARIABLE, "nowhere0")
    with pytest.raises(ConfigError, match="nowhere0") as caught:
        interfaces.choose_interface("127.0.0.1")
    assert "lo" in caught.value.expected
