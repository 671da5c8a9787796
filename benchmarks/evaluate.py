"""How long a judgement takes: one student after another, and as many at a time as the cores bear.

    python benchmarks/evaluate.py --work WORK --json FILE
    ATTAR_DATA=FOLDER python benchmarks/evaluate.py --work WORK --json FILE
    python benchmarks/evaluate.py --work WORK --json FILE --only continual

Times `attar evaluate` on random images of digits (ten of 8 px, with half of the demo's epochs) and, where FOLDER holds
cifar10/, of CIFAR-10 (a hundred of 32 px), and `attar continual` on those of digits (five steps, two orders): by one
process with one thread, by default, and evaluations also by one process with all threads, as it was before there were
several at a time. Gains are over one process with all threads, and over one with one thread, which leaves the same
bytes as the default; starting and reading count in both. Needs a machine that has nothing else to do: its load, and the
seconds of processors that each way takes, are in the rows.
With --only, FILE keeps the rows of the other command.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from table import Checks, Rows, arguments, finish

import attar
from attar.runtime.engine import device_named, hardware
from attar.runtime.machine import available_cores

TARGET = 2.0
ONE, DEFAULT = "one at a time, 1 thread", "default"
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}


class Case(NamedTuple):
    """A judgement: the command, the source and its images per class, what the command is given, its result."""

    command: str
    source: str
    ipc: int
    words: Sequence[str]
    result: str = "evaluation.json"


def _sets(*sets: str) -> list[str]:
    return [word for one in sets for word in ("--set", one)]


CASES = {
    "digits, convnet-d2-w32": Case(
        "evaluate",
        "digits",
        1,
        ["--models", "convnet-d2-w32", *_sets("train.epochs=500", "evaluate.full_epochs=75")],
    ),
    "cifar10, convnet-d3-w32": Case(
        "evaluate", "cifar10", 10, ["--models", "convnet-d3-w32", "--baselines", "random", *_sets("train.epochs=60")]
    ),
    "digits in five steps, convnet-d2-w32": Case(
        "continual",
        "digits",
        1,
        ["--model", "convnet-d2-w32", "--steps", "5", "--seeds", "2", *_sets("train.epochs=120")],
        "continual.json",
    ),
}


def main() -> None:
    options = arguments(__doc__ or "", _add)
    cases = {name: case for name, case in CASES.items() if options.only in (None, case.command)}
    rows, checks = _kept(options.json, cases) if options.only else ([], {})
    for name, case in cases.items():
        data = os.environ.get("ATTAR_DATA")
        if case.source == "cifar10" and not data:
            print("without ATTAR_DATA no CIFAR-10 is measured")
            continue
        place = case.source if case.source == "digits" else str(Path(data or "") / case.source)
        made = options.work / case.source
        shutil.rmtree(made, ignore_errors=True)
        reading = {} if case.source == "digits" else {"source.train_per_class": 100}
        how = {"method": "random", "recipe": "none", "ipc": case.ipc, "until": "relabel", "workers": 1}
        attar.distill(place, out=made, settings=reading, **how)
        words = ["--source", place, *case.words, *_sets(*(f"{key}={value}" for key, value in reading.items()))]
        for way, gain in _measured(name, made, case._replace(words=words), options.rounds, rows).items():
            checks[f"gain over {way}: {name}"] = {"value": round(gain, 2), "target": TARGET}
    finish(rows, checks, options.json)


def _kept(path: Path | None, anew: Mapping[str, Case]) -> tuple[Rows, Checks]:
    """Rows and checks of a file but those that are measured anew, each with the processor that it was measured on."""
    if path is None or not path.exists():
        return [], {}
    found = json.loads(path.read_text("utf-8"))
    where = {"CPU s": "", "load": "", "processor": found["hardware"]["processor"]}
    rows = [
        {**row, **{key: row.get(key, where[key]) for key in where}} for row in found["rows"] if row["set"] not in anew
    ]
    return rows, {key: check for key, check in found["checks"].items() if key.split(": ", 1)[1] not in anew}


def _measured(name: str, made: Path, case: Case, rounds: int, rows: Rows) -> dict[str, float]:
    """Time the ways in turns, add their rows, and return what is gained over each."""
    cores = str(available_cores())
    ways = {ONE: ["--workers", "1", "--processes", "1"], DEFAULT: []}
    if case.command == "evaluate":
        ways[f"one at a time, {cores} threads"] = ["--workers", cores, "--processes", "1"]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    left: dict[str, dict[str, bytes]] = {}
    processor = hardware(device_named("cpu"))["processor"]
    for _ in range(rounds):
        for way, words in ways.items():
            folder = made.with_name(f"{made.name}-judged")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(made, folder)
            command = [sys.executable, "-m", "attar", case.command, str(folder), "--quiet", *case.words, *words]
            load, started_s, used_s = os.getloadavg()[0], time.perf_counter(), _used_s()
            subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
            seconds[way].append(time.perf_counter() - started_s)
            print(f"{name}, {way}: {seconds[way][-1]:.1f} s (load {load:.1f} before)", file=sys.stderr, flush=True)
            left[way] = {path.name: path.read_bytes() for path in (folder / "evaluation").iterdir()}
            left[way][case.result] = (folder / case.result).read_bytes()
            records = json.loads(left[way][case.result])["records"]
            reached = {record["subject"]: round(record["mean"], 2) for record in records}  # of steps, the last
            if len(seconds[way]) == rounds:
                row: dict[str, Any] = {"set": name, "students": len(left[way]) - 1, "way": way}
                row |= {"s": f"{min(seconds[way]):.1f}", "accuracy, %": reached, "CPU s": f"{_used_s() - used_s:.1f}"}
                rows.append(row | {"load": f"{load:.1f}", "processor": processor})
    if left[DEFAULT] != left[ONE]:
        raise SystemExit(f"{name}: other bytes by default than from one student after another")
    return {way: min(took) / min(seconds[DEFAULT]) for way, took in seconds.items() if way != DEFAULT}


def _used_s() -> float:
    """Seconds of processors that commands which have ended took, helpers too."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=Path, required=True, help="folder for the sets and their judgements")
    parser.add_argument("--only", choices=["evaluate", "continual"], help="measure this command alone")
    parser.add_argument("--rounds", type=int, default=1, help="times that each way is measured; the shortest counts")


if __name__ == "__main__":
    main()
