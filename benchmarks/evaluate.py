"""How long an evaluation takes: one student after another, and as many at a time as the cores bear.

    python benchmarks/evaluate.py --work WORK --json FILE
    ATTAR_DATA=FOLDER python benchmarks/evaluate.py --work WORK --json FILE

Times `attar evaluate` on random images of digits (ten of 8 px, with half of the demo's epochs) and, where FOLDER holds
cifar10/, of CIFAR-10 (a hundred of 32 px): by one process with one thread, by default, and by one process with all
threads, as it was before there were several at a time. Two gains are told: over one process with all threads, and over
one with one thread, which leaves the same bytes as the default; starting and reading count in both. Needs a machine
that has nothing else to do: its load is printed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from table import Checks, Rows, arguments, finish

import attar
from attar.runtime.machine import available_cores

TARGET = 2.0
ONE, DEFAULT = "one at a time, 1 thread", "default"
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
CASES = {
    "digits, convnet-d2-w32": (
        "digits",
        1,
        ["evaluate.models=[convnet-d2-w32]", "train.epochs=500", "evaluate.full_epochs=75"],
    ),
    "cifar10, convnet-d3-w32": (
        "cifar10",
        10,
        ["evaluate.models=[convnet-d3-w32]", "train.epochs=60", "evaluate.baselines=[random]"],
    ),
}


def main() -> None:
    options = arguments(__doc__ or "", _add)
    rows: Rows = []
    checks: Checks = {}
    for name, (source, ipc, sets) in CASES.items():
        data = os.environ.get("ATTAR_DATA")
        if source == "cifar10" and not data:
            print("without ATTAR_DATA no CIFAR-10 is measured")
            continue
        place = source if source == "digits" else str(Path(data or "") / source)
        made = options.work / source
        shutil.rmtree(made, ignore_errors=True)
        reading = {} if source == "digits" else {"source.train_per_class": 100}
        how = {"method": "random", "recipe": "none", "ipc": ipc, "until": "relabel", "workers": 1}
        attar.distill(place, out=made, settings=reading, **how)
        sets = [*sets, *(f"{key}={value}" for key, value in reading.items())]
        for way, gain in _measured(name, made, place, sets, options.rounds, rows).items():
            checks[f"gain over {way}: {name}"] = {"value": round(gain, 2), "target": TARGET}
    finish(rows, checks, options.json)


def _measured(name: str, made: Path, source: str, sets: Sequence[str], rounds: int, rows: Rows) -> dict[str, float]:
    """Time the ways in turns, add their rows, and return what is gained over each."""
    cores = str(available_cores())
    ways = {
        ONE: ["--workers", "1", "--set", "evaluate.processes=1"],
        DEFAULT: [],
        f"one at a time, {cores} threads": ["--workers", cores, "--set", "evaluate.processes=1"],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    left: dict[str, dict[str, bytes]] = {}
    for _ in range(rounds):
        for way, words in ways.items():
            folder = made.with_name(f"{made.name}-judged")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(made, folder)
            command = [sys.executable, "-m", "attar", "evaluate", str(folder), "--source", source, "--quiet", *words]
            command += [word for one in sets for word in ("--set", one)]
            load, started_s = os.getloadavg()[0], time.perf_counter()
            subprocess.run(command, check=True, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
            seconds[way].append(time.perf_counter() - started_s)
            print(f"{name}, {way}: {seconds[way][-1]:.1f} s (load {load:.1f} before)", file=sys.stderr, flush=True)
            left[way] = {path.name: path.read_bytes() for path in (folder / "evaluation").iterdir()}
            records = json.loads((folder / "evaluation.json").read_text())["records"]
            reached = {record["subject"]: round(record["mean"], 2) for record in records}
            if len(seconds[way]) == rounds:
                shown = f"{min(seconds[way]):.1f}"
                rows.append({"set": name, "students": len(left[way]), "way": way, "s": shown, "accuracy, %": reached})
    if left[DEFAULT] != left[ONE]:
        raise SystemExit(f"{name}: other bytes by default than from one student after another")
    return {way: min(took) / min(seconds[DEFAULT]) for way, took in seconds.items() if way != DEFAULT}


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work", type=Path, required=True, help="folder for the sets and their judgements")
    parser.add_argument("--rounds", type=int, default=1, help="times that each way is measured; the shortest counts")


if __name__ == "__main__":
    main()
