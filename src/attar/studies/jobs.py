"""Several processes of this machine share the trainings of a study: each takes the next when it has ended one.

A process whose parent is gone leaves; what it had trained is in a checkpoint that is at most about 20 s old.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from attar.errors import ResourceError
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.studies.settings import StudySettings
from attar.studies.trainings import Ended, Outcome, Study


def train_in_jobs(
    numbers: Sequence[int],
    jobs: int,
    settings: StudySettings,
    folder: Path,
    engine: tuple[str, str],
    threads: int,
    ended: Ended,
) -> None:
    """Train these in `jobs` processes; `ended` hears of each, in the order of their ends.

    Args:
        numbers: of the study's trainings.
        jobs: processes; no more are started than there are trainings.
        settings: the study.
        folder: of the study.
        engine: device and precision of each.
        threads: of each.
        ended: called in this process.

    Raises what a training raised and ResourceError where a process ended by itself; in both cases the others are ended.
    """
    study = settings.model_dump_json(exclude_unset=True), folder, *engine
    pool = ProcessPoolExecutor(min(jobs, len(numbers)), multiprocessing.get_context("spawn"), _begin, (threads,))
    try:
        with _apart():
            left = [pool.submit(_train, study, number) for number in numbers]
        for one in as_completed(left):
            ended(*one.result())
    except BrokenProcessPool as error:
        raise ResourceError(
            f"one of {jobs} jobs ended by itself",
            expected="enough memory for all of them",
            fix="run again, with fewer --jobs; what was trained is kept",
        ) from error
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _apart() -> Iterator[None]:
    """Start processes that Ctrl-C spares and that import no script, which then needs no `if __name__ ...`."""
    script = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: script[name] for name in ("__file__", "__spec__") if name in script}
    here = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if here else None
    script.update(dict.fromkeys(kept))
    try:
        yield
    finally:
        script.update(kept)
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    threading.Thread(target=_leave, daemon=True).start()


def _leave() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    wait([parent.sentinel])
    os._exit(0)


def _train(study: tuple[str, Path, str, str], number: int) -> tuple[int, Outcome, float]:
    """The number of a training, what it comes to, and the seconds that it took."""
    opened = _opened(*study)
    started_s = time.monotonic()
    return number, opened.outcome(number), time.monotonic() - started_s


@cache
def _opened(settings: str, folder: Path, device: str, precision: str) -> Study:
    events = Events(folder / "events.jsonl", quiet=True)
    return Study(StudySettings.model_validate_json(settings), Engine(device, precision), events, folder)
