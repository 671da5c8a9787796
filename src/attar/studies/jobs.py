"""Several processes of this machine share the trainings of a study: each asks for the next when it has ended one.

Parent and worker talk in lines of JSON over the worker's stdin and stdout. A worker whose parent is gone reads the end
of its stdin and leaves; what it had trained is in a checkpoint that is at most about 20 s old.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from typing import Any

from attar import errors
from attar.errors import AttarError, DivergedError, ResourceError
from attar.studies.settings import StudySettings
from attar.studies.trainings import Ended, Outcome

Note = dict[str, Any]
PATIENCE_S = 5.0
"""How long a worker may take to leave before it is killed."""


def train_in_jobs(
    numbers: Sequence[int],
    jobs: int,
    settings: StudySettings,
    folder: Path,
    options: dict[str, Any],
    ended: Ended,
) -> None:
    """Train these in `jobs` processes; `ended` hears of each, in the order of their ends.

    Args:
        numbers: of the study's trainings.
        jobs: processes; no more are started than there are trainings.
        settings: the study.
        folder: of the study.
        options: device, precision and threads of each.
        ended: called in this process.

    Raises what a training raised, when no other runs any more, and ResourceError where a process ended by itself.
    """
    left, heard = list(numbers), Queue[tuple[int, Note | None]]()
    begin = {"settings": settings.model_dump(mode="json", exclude_unset=True), "folder": str(folder), **options}
    with _workers(min(jobs, len(left)), begin, int(options["threads"]), heard) as workers:
        busy = len(workers)
        for worker in workers:
            _say(worker, left.pop(0))
        while busy:
            which, note = heard.get()
            if note is None:
                raise _silent(workers[which], jobs)
            if "number" not in note:
                raise _error(note["error"])
            ended(note["number"], _outcome(note), note["wall_s"])
            if left:
                _say(workers[which], left.pop(0))
            else:
                busy -= 1


@contextmanager
def _workers(
    num: int, begin: Note, threads: int, heard: Queue[tuple[int, Note | None]]
) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that wait for numbers; they are gone when the block ends, however it does."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    workers: list[subprocess.Popen[str]] = []
    listeners: list[threading.Thread] = []
    try:
        for which in range(num):
            worker = subprocess.Popen(
                [sys.executable, "-m", "attar.studies.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent, which ends them
            )
            workers.append(worker)
            _say(worker, begin)
            listeners.append(threading.Thread(target=_listen, args=(which, worker, heard), daemon=True))
            listeners[-1].start()
        yield workers
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            _end(worker)
        for listener in listeners:
            listener.join()


def _end(worker: subprocess.Popen[str]) -> None:
    try:
        worker.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    assert worker.stdin is not None
    with suppress(BrokenPipeError):
        worker.stdin.close()


def _listen(which: int, worker: subprocess.Popen[str], heard: Queue[tuple[int, Note | None]]) -> None:
    assert worker.stdout is not None
    with worker.stdout:
        for line in worker.stdout:
            heard.put((which, json.loads(line)))
    heard.put((which, None))


def _say(worker: subprocess.Popen[str], what: Any) -> None:
    assert worker.stdin is not None
    with suppress(BrokenPipeError):  # its listener tells that it is gone
        worker.stdin.write(json.dumps(what) + "\n")
        worker.stdin.flush()


def _outcome(note: Note) -> Outcome:
    if "error" not in note:
        return float(note["accuracy"])
    error = _error(note["error"])
    assert isinstance(error, DivergedError)
    return error


def _error(note: Note) -> AttarError:
    kind: type[AttarError] = getattr(errors, note["kind"])
    return kind(note["found"], expected=note["expected"], fix=note["fix"])


def _silent(worker: subprocess.Popen[str], jobs: int) -> ResourceError:
    return ResourceError(
        f"one of {jobs} jobs ended by itself, with code {worker.wait()}",
        expected="enough memory for all of them",
        fix="run again, with fewer --jobs; what was trained is kept",
    )
