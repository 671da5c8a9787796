"""One of several processes that share a study: `python -m attar.studies.worker`, started by `jobs.py`.

The first line of stdin is the study, each further one the number of a training; stdout answers each with a line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any, TextIO

from attar.errors import AttarError


def main() -> None:
    """Train what is asked for until stdin ends."""
    answers, sys.stdout = sys.stdout, sys.stderr  # whoever prints must not be heard as an answer
    asked = Queue[Any]()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    try:
        _work(asked, answers)
    except AttarError as error:
        _answer(answers, {"error": _told(error)})


def _work(asked: Queue[Any], answers: TextIO) -> None:
    import torch

    from attar.runtime.engine import Engine
    from attar.runtime.events import Events
    from attar.studies.settings import StudySettings
    from attar.studies.trainings import Study

    begin = asked.get()
    torch.set_num_threads(int(begin["threads"]))
    folder = Path(begin["folder"])
    events = Events(folder / "events.jsonl", quiet=True)
    study = Study(
        StudySettings.model_validate(begin["settings"]), Engine(begin["device"], begin["precision"]), events, folder
    )
    while True:
        number = asked.get()
        started_s = time.monotonic()
        reached = study.outcome(number)
        found = {"error": _told(reached)} if isinstance(reached, AttarError) else {"accuracy": reached}
        _answer(answers, {"number": number, "wall_s": time.monotonic() - started_s, **found})


def _listen(asked: Queue[Any]) -> None:
    for line in sys.stdin:
        asked.put(json.loads(line))
    os._exit(0)  # the parent is gone, or needs no more


def _told(error: AttarError) -> dict[str, str]:
    return {"kind": type(error).__name__, "found": error.found, "expected": error.expected, "fix": error.fix}


def _answer(answers: TextIO, what: Any) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
