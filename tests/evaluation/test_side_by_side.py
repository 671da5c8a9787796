"""How students share a machine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.evaluation import side_by_side as sharing
from attar.evaluation.side_by_side import SideBySide, side_by_side
from attar.runtime.engine import Engine, computing_with
from attar.runtime.events import followed_by
from attar.runtime.processes import Processes


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "available_cores", lambda: 8)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("costs", "threads", "expected"),
    [
        ([1, 1, 1, 1], None, SideBySide(4, 2)),
        ([1] * 20, None, SideBySide(8, 1)),
        ([1, 1, 1, 9, 9, 9], None, SideBySide(4, 2)),  # eight threads for three long ones
        ([1, 1, 9], None, SideBySide(1, 8)),
        ([1, 1, 1, 1], 1, SideBySide(4, 1)),
        ([1] * 20, 3, SideBySide(2, 3)),
    ],
)
def test_cores_go_to_students_and_then_to_threads(costs: list[int], threads: int | None, expected: SideBySide) -> None:
    with computing_with(threads or 8):
        assert side_by_side(costs, Engine("cpu", threads=threads), None) == expected
        # another number of processes leaves the threads, and so the bits, as they are
        assert side_by_side(costs, Engine("cpu", threads=threads), 1) == SideBySide(1, expected.threads)
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("eight_cores")
def test_processes_that_a_launcher_started_and_followers_start_no_others() -> None:
    assert side_by_side([1, 1], Engine("cpu", processes=Processes(0, 2)), None).processes == 1
    with followed_by([lambda _: None]):
        assert side_by_side([1, 1], Engine("cpu"), None).processes == 1


def test_time_is_that_of_the_process_that_ends_last() -> None:
    assert SideBySide(2, 1).seconds([1.0, 1.0, 1.0, 4.0, 4.0, 4.0]) == 8.0
    assert SideBySide(1, 1).seconds([1.0, 4.0]) == 5.0


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders in which a command has all but students: a run, and a bench whose sets are made."""
    run, bench = (tmp_path_factory.mktemp("students") / name for name in ("run", "bench"))
    attar.distill("digits", method="random", recipe="none", ipc=1, out=run, until="relabel", workers=1)
    few: dict[str, Any] = {"methods": ["random"], "labels": ["hard"], "seeds": 1, "full_epochs": 0, "workers": 1}
    attar.bench("digits", out=bench, model="convnet-d2-w8", settings={"train.epochs": 1}, **few)
    shutil.rmtree(bench / "trials")
    (bench / "bench.json").unlink()
    return {"evaluate": run, "continual": run, "bench": bench, "study": tmp_path_factory.mktemp("empty")}


JUDGEMENTS = {
    "evaluate": "FOLDER --source digits --models convnet-d2-w8 --set evaluate.full_epochs=8",
    "continual": "FOLDER --source digits --model convnet-d2-w8 --steps 3",
    "bench": "digits --out FOLDER --methods random --labels hard --seeds 6 --model convnet-d2-w8 --full-epochs 8",
    "study": "FILE --out FOLDER",
}
"""Commands that judge, each with six long trainings or more."""
STUDY = """
data: {source: digits, train_per_class: 10}
models: [convnet-d2-w8]
strategies: [ce, dlb]
train: {augment: none, learning_rate: 0.05}
"""


def command(name: str, folder: Path, processes: int) -> list[str]:
    words = [word.replace("FOLDER", str(folder)) for word in JUDGEMENTS[name].split()]
    if name == "study":
        words[0] = str(folder.with_name("study.yaml"))
        Path(words[0]).write_text(STUDY)
    how = ["--workers", "1", "--processes", str(processes), "--set", "train.epochs=150", "--set", "train.batch_size=10"]
    return [sys.executable, "-m", "attar", name, *words, *how]


def finished(folder: Path) -> dict[str, bytes]:
    """Trainings and results; the folder of trainings is not there before the first has ended."""
    kinds = ("evaluation/**/*", "trials/*", "trainings/*", "*.json", "*.csv")
    paths = [path for kind in kinds for path in folder.glob(kind) if path.is_file()]
    return {path.name: path.read_bytes() for path in paths}


def helper_of(process: subprocess.Popen[str]) -> int:
    """The process that helps another, once it has begun with a student."""
    until_s = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until_s:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                pid, parent = stat.parent.name, int(stat.read_text().rpartition(")")[2].split()[1])
                if parent == process.pid and b"attar.runtime.together" in (stat.parent / "cmdline").read_bytes():
                    return int(pid)
        time.sleep(0.02)
    raise AssertionError(f"nobody helps: {process.stdout and process.stdout.read()}")


@pytest.mark.slow
@pytest.mark.parametrize("name", JUDGEMENTS)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_two_processes_leave_the_bytes_of_one_whatever_happens_to_them(
    name: str, begun: dict[str, Path], tmp_path: Path
) -> None:
    one, killed, stopped, left = (Path(shutil.copytree(begun[name], tmp_path / part)) for part in ("1", "2", "3", "4"))
    subprocess.run(command(name, one, 1), check=True, capture_output=True)
    assert len(finished(one)) > 6
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it

    two = subprocess.Popen(command(name, killed, 2), **options)
    os.kill(helper_of(two), signal.SIGKILL)
    said, _ = two.communicate(timeout=600)
    assert two.returncode == 0, said
    assert said.count("a process that helped has ended") == 1
    assert finished(killed) == finished(one)
    assert not list(killed.glob(".lock-*"))

    ends = [(stopped, signal.SIGINT), (left, signal.SIGKILL)]
    for folder, sign in ends if name in ("evaluate", "study") else ends[1:]:  # they heed a signal in one place
        broken = subprocess.Popen(command(name, folder, 2), preexec_fn=heed, **options)
        helper = helper_of(broken)
        broken.send_signal(sign)
        broken.communicate(timeout=600)
        assert broken.returncode == (130 if sign == signal.SIGINT else -sign)
        until_s = time.monotonic() + 60
        while Path(f"/proc/{helper}").exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        assert not Path(f"/proc/{helper}").exists()
        subprocess.run(command(name, folder, 2), check=True, capture_output=True)
        assert finished(folder) == finished(one)
