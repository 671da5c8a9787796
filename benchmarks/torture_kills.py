"""Runs that are killed at random moments and begun again: do they end with the bytes of an unbroken run?

    python benchmarks/torture.py kills --tries 300 --seed 0 --parts 3 --json FILE

Each try distills digits at toy size and judges, by one of CASES, in one process or two, and kills it by SIGKILL at a
moment drawn from (seed, try), no later than an unbroken run takes; of two processes one is killed, drawn too.
Then the same call is made again, to the end. A try is a fault where a process prints a traceback, where one is
still there after MOST_S, or where a file of `distilled/` or the accuracies have other bytes than the unbroken
run's, or are not there. The other of two processes, which a launcher would end, may go on waiting for the one that
was killed: it is ended after ALONE_S and counted as left waiting, which is no fault here. Checkpoints are written
after every step, so that there is one to go on from.

Processes are forks of this one, which has imported attar, so that a kill falls into the work and not into imports.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from table import Checks, Rows, finish

import attar
from attar.errors import AttarError
from attar.squeeze import stacking
from attar.stages import recover
from attar.training import loop

MOST_S, ALONE_S = 300, 20
"""Seconds that a whole run may take, and that the other of two processes may be there once one was killed."""
MODEL = {"squeeze.model": "convnet-d1-w4"}
STEPS = {"recover.iterations": 6}
EXPERTS = {**MODEL, "squeeze.num_experts": 2, "squeeze.epochs": 3}
MATCHED = {**EXPERTS, **STEPS, "method.expert_epochs": 1, "method.num_steps": 2, "method.max_start_epoch": 1}
TEACHER = {"squeeze.model": "convnet-d1-w4-batch", "squeeze.epochs": 2}
CHUNKS = {**STEPS, "recover.chunk_size": 5, "relabel.labels": "epochs"}
CASES: dict[str, dict[str, Any]] = {
    "tesla": MATCHED,
    "sre2l": {**TEACHER, **CHUNKS},
    "rded": TEACHER,
    "herding": TEACHER,
    "teddy": {**TEACHER, **CHUNKS, "squeeze.epochs": 3, "squeeze.num_members": 2},
    "mtt": {**MATCHED, "method.labels": "learnt"},
    "dm": STEPS,
    "ncfm": {**EXPERTS, **STEPS, "method.num_real": 8, "method.num_frequencies": 16},
    "el2n": EXPERTS,
    "forgetting": EXPERTS,
    "easy": TEACHER,
    "kcenter": TEACHER,
    "kmeans": TEACHER,
    "pca": TEACHER,
    "fadrm": {**TEACHER, **CHUNKS},
    "cim": {**TEACHER, **CHUNKS},
    "random": {},
}
COMMON = {
    "source.train_per_class": 8,
    "train.epochs": 3,
    "evaluate.models": ["convnet-d1-w4"],
    "evaluate.seeds": 2,
    "evaluate.baselines": ["random"],
}
HOW: dict[str, Any] = {"recipe": "none", "device": "cpu", "workers": 1, "quiet": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--most-s", type=float, default=float("inf"), help="begin no try after so many seconds")
    parser.add_argument("--json", type=Path, help="write {rows, checks} here")
    parser.add_argument("--parts", type=int, default=1, help="how many tries are made at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = apart(Path(name), options) if options.parts > 1 else kills(Path(name), options)
    faults = ("other ends", "tracebacks", "hangs", "differ")
    checks: Checks = {fault: {"value": float(sum(row[fault] for row in rows)), "target": 0.0} for fault in faults}
    finish(rows, checks, options.json)


def apart(folder: Path, options: argparse.Namespace) -> Rows:
    """The rows of several programs like this one, each of which makes some of the tries."""
    each, started = -(-options.tries // options.parts), []
    for first in range(options.first, options.first + options.tries, each):
        num = min(each, options.first + options.tries - first)
        words = [sys.executable, __file__, "--tries", str(num), "--first", str(first), "--seed", str(options.seed)]
        words += ["--most-s", str(options.most_s), "--json", str(folder / f"{first}.json")]
        started.append(subprocess.Popen(words))
    if [process for process in started if process.wait()]:
        raise SystemExit("a part has failed")
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        for row in json.loads(file.read_text())["rows"]:
            case = (row["case"], row["processes"])
            before = rows.get(case, {})
            rows[case] = row | {name: before.get(name, 0) + row[name] for name in list(row)[2:]}
    return [rows[name, num] for name in CASES for num in (1, 2) if (name, num) in rows]


def kills(folder: Path, options: argparse.Namespace) -> Rows:
    """One row for each case and number of processes."""
    # imports what the forks would import each by itself; nothing is trained, or torch could not train in a fork
    importlib.import_module("torch._dynamo")
    attar.distill("digits", "random", 1, out=folder / "first", settings=COMMON, until="relabel", **HOW)
    begun = time.monotonic()
    cases = [(name, num) for name in CASES for num in (1, 2)]
    whole: dict[tuple[str, int], tuple[float, dict[str, str]]] = {}
    rows = {
        case: {"case": case[0], "processes": case[1], "tries": 0, "killed at work": 0, "other ends": 0}
        | {"left waiting": 0, "tracebacks": 0, "hangs": 0, "differ": 0}
        for case in cases
    }
    for number in range(options.first, options.first + options.tries):
        if time.monotonic() - begun > options.most_s:
            break
        case = cases[number % len(cases)]
        if case not in whole:
            out = folder / f"{case[0]}-{case[1]}"
            started = time.monotonic()
            told = wait(start(*case, out), out)
            whole[case] = time.monotonic() - started, content(out)
            assert not any(told.values()), f"{case} is not even made once: {log(out)}"
        one_try(case, number, options.seed, folder / f"try-{number}", whole[case], rows[case])
    return [row for row in rows.values() if row["tries"]]


def one_try(
    case: tuple[str, int], number: int, seed: int, out: Path, whole: tuple[float, dict[str, str]], row: dict[str, Any]
) -> None:
    """Kill a run once, end it, and count what went wrong."""
    rng = random.Random(f"{seed} {number}")
    seconds, right = whole
    children = start(*case, out)
    time.sleep(rng.uniform(0, seconds))
    victim = rng.choice(children)
    row["tries"] += 1
    row["killed at work"] += os.waitpid(victim, os.WNOHANG) == (0, 0) and _kill(victim)
    left = [child for child in children if child != victim]
    first = wait(left, out, ALONE_S)
    row["left waiting"] += first.pop("hangs")
    second = wait(start(*case, out), out)
    for told in (first, second):
        row["tracebacks"] += told["tracebacks"]
    row["hangs"] += second["hangs"]
    row["other ends"] += second["other ends"]
    print(f"try {number}: {case[0]} in {case[1]}", flush=True)
    if (found := content(out)) != right:
        row["differ"] += 1
        odd = [name for name in sorted({*found, *right}) if found.get(name) != right.get(name)]
        print(f"try {number} of {case}: {odd or 'nothing'} differ; {log(out)}", flush=True)
    elif first["tracebacks"] or second["tracebacks"] or second["other ends"]:
        print(f"try {number} of {case}: {log(out)}", flush=True)


def _kill(child: int) -> bool:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def start(name: str, num: int, out: Path) -> list[int]:
    """Begin a run or go on with it, in so many processes; returns their numbers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(num):
        child = os.fork()
        if child == 0:
            work(name, num, rank, port, out)
        children.append(child)
    return children


def work(name: str, num: int, rank: int, port: int, out: Path) -> None:
    """What a fork does; ends its process: 0 done, 1 a traceback, else the code of an error for people."""
    code = 1
    for module in (loop, recover, stacking):
        module.CHECKPOINT_EVERY_S = 0.0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log_path(out), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if num > 1:
            os.environ.update(RANK=str(rank), WORLD_SIZE=str(num), LOCAL_RANK=str(rank))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        attar.distill("digits", name, 1, out=out, settings={**COMMON, **CASES[name]}, **HOW)
        code = 0
    except AttarError as error:
        os.write(2, f"error: {error}\n".encode())
        code = error.exit_code if error.exit_code != 1 else 7
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def wait(children: list[int], out: Path, most_s: float = MOST_S) -> dict[str, int]:
    """Wait for processes, and kill those that stay; how many of them ended by a traceback, not at all, or otherwise."""
    told, end = {"tracebacks": 0, "hangs": 0, "other ends": 0}, time.monotonic() + most_s
    for child in children:
        while (found := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.02)
        if found == (0, 0):
            told["hangs"] += 1
            _kill(child)
        elif code := os.waitstatus_to_exitcode(found[1]):
            told["tracebacks" if code == 1 else "other ends"] += 1
    return told


def content(out: Path) -> dict[str, str]:
    """A hash of each file of the distilled dataset and of the judgement, by its name."""
    files = [*sorted((out / "distilled").rglob("*")), out / "evaluation.json", out / "by_class.json"]
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def log_path(out: Path) -> Path:
    """Where the processes of a run print."""
    return out.with_name(f"{out.name}.log")


def log(out: Path) -> str:
    """The end of it."""
    return log_path(out).read_text(errors="replace")[-2000:] if log_path(out).exists() else ""


if __name__ == "__main__":
    main()
