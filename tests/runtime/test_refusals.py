"""What the machine refuses is an error for people, with its code and what to do."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import torch
from pyarrow import ArrowException

from attar.errors import ConfigError, ResourceError
from attar.runtime import files
from attar.runtime.events import Events
from attar.runtime.machine import require_startable, require_threads
from attar.runtime.memory import enough_memory
from attar.runtime.refusals import resource_error

CODES = {
    "ENOSPC": "free some disk",
    "EDQUOT": "quota",
    "EIO": "dmesg",
    "ESTALE": "mount it again",
    "EBUSY": "close what uses it",
    "EXDEV": "another disk",
    "EMFILE": "ulimit -n",
    "ENFILE": "ulimit -n",
    "EFBIG": "ulimit -f",
    "ENAMETOOLONG": "shorter",
    "EROFS": "may write to",
    "EACCES": "may write to",
    "EPERM": "may write to",
    "ENOMEM": "memory",
    "EREMOTEIO": "sound",
}
WRITING = {
    "bytes": lambda folder: files.write_bytes(folder / "value", b"x"),
    "json": lambda folder: files.write_json(folder / "value.json", {"a": 1}),
    "event": lambda folder: Events(folder / "events.jsonl").emit("recover", "step", step=1),
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("writing", WRITING.values(), ids=list(WRITING))
def test_each_refusal_of_a_write_is_told_with_its_code_and_advice(tmp_path, monkeypatch, code, writing):
    number = getattr(errno, code)

    def refuse(self, *_, **__):
        raise OSError(number, os.strerror(number), str(self))

    with monkeypatch.context() as refusing:
        refusing.setattr(Path, "open", refuse)
        refusing.setattr("builtins.open", refuse)
        with pytest.raises(ResourceError) as caught:
            writing(tmp_path)
    assert code in caught.value.found
    assert str(tmp_path) in caught.value.found
    assert CODES[code] in str(caught.value)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("made", ["replace", "mkdir", "rename"])
def test_a_refusal_while_a_folder_takes_its_place_is_told(tmp_path, monkeypatch, made):
    def refuse(self, *_, **__):
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(self))

    monkeypatch.setattr(Path, made, refuse)
    with pytest.raises(ResourceError, match="EXDEV"), files.new_folder(tmp_path / "new") as building:
        files.write_text(building / "a", "x")


def test_a_name_that_is_too_long_is_told_by_the_system_itself(tmp_path):
    with pytest.raises(ResourceError, match="ENAMETOOLONG") as caught:
        files.write_text(tmp_path / ("x" * 3_000), "x")
    assert len(str(caught.value)) < 1_000


def test_what_could_not_be_read_meanwhile_is_named_beside_what_was_written(tmp_path):
    with (
        pytest.raises(ResourceError, match=r"cannot write .*new: .*ENOENT.*at .*/missing"),
        files.new_file(tmp_path / "new"),
    ):
        (tmp_path / "else/missing").read_bytes()


def too_large_for_torch():
    torch.empty(1 << 60)


def too_large_to_count():
    torch.empty(1 << 40, 1 << 40)


def too_large_for_python():
    bytearray(1 << 62)


@pytest.mark.parametrize("allocate", [too_large_for_torch, too_large_to_count, too_large_for_python])
def test_an_allocation_that_fails_is_told(allocate):
    with pytest.raises(ResourceError, match="not enough memory for it") as caught, enough_memory("it", "a smaller one"):
        allocate()
    assert caught.value.fix == "a smaller one"
    try:
        allocate()
    except Exception as error:
        found = resource_error(error)
    assert found is not None
    assert "not enough memory" in found.found


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        ArrowException("Unknown error: Failed to launch worker thread: Resource temporarily unavailable"),
    ],
)
def test_a_thread_that_cannot_be_started_is_told(error):
    found = resource_error(error)
    assert found is not None
    assert "--workers" in found.fix


def test_threads_are_tried_before_openmp_starts_them(monkeypatch):
    require_startable(3)
    whole, before = threading.Thread.start, threading.active_count()

    def start(thread):
        if threading.active_count() >= before + 2:
            raise RuntimeError("can't start new thread")
        whole(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(ResourceError, match=r"2 of 3 threads: can't start new thread") as caught:
        require_startable(3)
    assert "--workers" in caught.value.fix
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shapes do not fit"), KeyError("x")])
def test_errors_of_attar_itself_are_not_blamed_on_the_machine(error):
    assert resource_error(error) is None


@pytest.mark.parametrize("flag", ["--workers", "--processes"])
def test_more_threads_than_are_of_use_are_told(flag):
    require_threads(os.cpu_count() or 1, flag)
    with pytest.raises(ConfigError, match=rf"{flag} is 1,000,000, and this machine has \d+ CPU core") as caught:
        require_threads(1_000_000, flag)
    assert caught.value.fix
