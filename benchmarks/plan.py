"""Does the plan come true? Runs of several kinds: what `attar plan` says, and what they then take.

    python benchmarks/plan.py --work WORK --json benchmarks/results/plan.json
    python benchmarks/plan.py --work WORK --cases sre2l-digits rded-imagenette

Each case is planned and then made, each in a process of its own with one thread: seconds from the start of the process
to its end, stage by stage by the files that end each; the most resident memory of the process; bytes of the run folder.
A ratio is taken over planned: time within 15 %, memory and disk within 10 %. Wants a quiet machine; ten minutes.

--clock processor takes seconds of the processor for those of the clock, in the plan too, for a machine that others use:
their work then moves the ratios less, and stages are left out.

Finished cases are kept in --work and not measured again. CIFAR-10 and Imagenette are read from $ATTAR_DATA.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from table import Checks, Rows, arguments, finish

TIME, SPACE = 0.15, 0.10
"""How far from 1 a ratio may be."""
PROCESSOR = """
import resource, time
def seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
time.perf_counter = seconds
from attar.__main__ import main
main()
"""
"""attar, to which the seconds of its processes are those of a clock."""
ATTAR = {"wall": (sys.executable, "-m", "attar"), "processor": (sys.executable, "-c", PROCESSOR)}
MILESTONES = {
    "start": "config.yaml",
    "squeeze": "squeeze/manifest.json",
    "recover": "recover/manifest.json",
    "relabel": "relabel/manifest.json",
    "evaluate": "evaluation.json",
    "report": "report.html",
}
"""The file that is written last in each part of a run; config.yaml when the work begins."""


@dataclass(frozen=True)
class Case:
    """A run: what is typed after `attar plan` and `attar distill`."""

    source: str
    options: str
    settings: tuple[str, ...]

    @property
    def words(self) -> list[str]:
        """The command's arguments."""
        common = [
            "--recipe",
            "none",
            "--thorough",
            "--workers",
            "1",
            "--device",
            "cpu",
            "--set",
            "evaluate.processes=1",
        ]
        root = os.environ.get("ATTAR_DATA")
        source = self.source if self.source == "digits" or not root else str(Path(root) / self.source)
        return [source, *self.options.split(), *common, *(word for one in self.settings for word in ("--set", one))]


CASES = {
    "sre2l-digits": Case(
        "digits",
        "--method sre2l --ipc 10 --model convnet-d3-w64-batch",
        ("squeeze.epochs=6", "recover.iterations=120", "train.epochs=60", "evaluate.full_epochs=6", "evaluate.seeds=2"),
    ),
    "tesla-cifar10": Case(
        "cifar10",
        "--method tesla --ipc 1 --model convnet-d3-w32",
        (
            *("source.train_per_class=100", "squeeze.num_experts=2", "squeeze.epochs=4", "method.max_start_epoch=1"),
            *("method.num_steps=8", "recover.iterations=25", "train.epochs=100"),
            *("evaluate.full_epochs=4", "evaluate.seeds=2"),
        ),
    ),
    "dm-cifar10": Case(
        "cifar10",
        "--method dm --ipc 10",
        (
            *("source.train_per_class=200", "recover.iterations=25", "evaluate.models=[convnet-d3-w32]"),
            *("train.epochs=30", "evaluate.full_epochs=2", "evaluate.seeds=1"),
        ),
    ),
    "kmeans-cifar10": Case(
        "cifar10",
        "--method kmeans --ipc 10 --model convnet-d3-w32",
        (
            *("source.train_per_class=500", "squeeze.epochs=2", "train.epochs=50"),
            *("evaluate.full_epochs=2", "evaluate.seeds=1"),
        ),
    ),
    "teddy-cifar10": Case(
        "cifar10",
        "--method teddy --ipc 5 --model convnet-d3-w32-batch",
        (
            *("source.train_per_class=100", "squeeze.epochs=3", "squeeze.num_members=3", "recover.iterations=60"),
            *("recover.chunk_size=25", "train.epochs=30", "evaluate.full_epochs=3", "evaluate.seeds=1"),
        ),
    ),
    "rded-imagenette": Case(
        "imagenette",
        "--method rded --ipc 5 --resolution 64 --model convnet-d4-w32-batch",
        (
            *("source.train_per_class=50", "squeeze.epochs=3", "train.epochs=30"),
            *("evaluate.full_epochs=3", "evaluate.seeds=1"),
        ),
    ),
    "sre2l-imagenette": Case(
        "imagenette",
        "--method sre2l --ipc 2 --resolution 64 --model convnet-d4-w48-batch",
        (
            *("source.train_per_class=50", "squeeze.epochs=3", "recover.iterations=40", "recover.chunk_size=10"),
            *("relabel.labels=online", "train.epochs=40", "evaluate.baselines=[random]", "evaluate.seeds=1"),
        ),
    ),
}


@dataclass(frozen=True)
class Ended:
    """A process that has ended: what it said, when it began, its seconds, most resident bytes."""

    stdout: str
    began_s: float
    wall_s: float
    processor_s: float
    peak_bytes: int


def run(words: Sequence[str], log: Path) -> Ended:
    """Run one process to its end, which must be well; Python keeps what it has compiled, as it does elsewhere."""
    compiled = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(log.parent.parent / "pyc")}
    kept = {"OMP_NUM_THREADS": "1", **compiled}
    began_s, clock_s = time.time(), time.perf_counter()
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(list(words), stdout=out, env={**os.environ, **kept})
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Ended(log.read_text("utf-8"), began_s, time.perf_counter() - clock_s, used.ru_utime + used.ru_stime, peak)


def stages_taken(folder: Path, ended: Ended) -> dict[str, float]:
    """Seconds of each part of a run, by when the last file of each was written; `end` is what came after."""
    marks = {name: (folder / file).stat().st_mtime for name, file in MILESTONES.items() if (folder / file).exists()}
    found, before_s = {}, ended.began_s
    for name, at_s in marks.items():
        found[name], before_s = at_s - before_s, at_s
    return {**found, "end": ended.began_s + ended.wall_s - before_s}


def stages_planned(plan: dict[str, Any]) -> dict[str, float]:
    """The same of a plan, of which several estimates make a stage."""
    found: dict[str, float] = {}
    for stage in plan["stages"]:
        found[stage["part"]] = found.get(stage["part"], 0.0) + stage["total_s"]
    return found


def folder_bytes(folder: Path) -> int:
    """Bytes of all files of a folder, of one with two names once."""
    return sum({(s := path.stat()).st_ino: s.st_size for path in folder.rglob("*") if path.is_file()}.values())


def measured(case: Case, work: Path, clock: str) -> dict[str, Any]:
    """Plan a run and make it."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    planned = run([*ATTAR[clock], "plan", *case.words, "--json"], work / "plan.txt")
    plan, folder = json.loads(planned.stdout), work / "run"
    took = run([*ATTAR["wall"], "distill", *case.words, "--quiet", "--out", str(folder)], work / "distill.txt")
    disk = folder_bytes(folder)
    taken = stages_taken(folder, took) if clock == "wall" else {}
    stages = {"planned": stages_planned(plan), "taken": taken}
    took_s = took.wall_s if clock == "wall" else took.processor_s
    return {
        "clock": clock,
        "planning_s": planned.wall_s,
        "time": (plan["total_s"], took_s),
        "memory": (plan["main_memory_bytes"], took.peak_bytes),
        "disk": (plan["disk_bytes"], disk),
        "stages": stages,
        "plan": plan,
        "load": os.getloadavg()[0],
    }


def rows_of(name: str, found: dict[str, Any]) -> Rows:
    """A row for each quantity, and for the seconds of each stage."""
    rows: Rows = []

    def add(what: str, planned: float, taken: float, digits: int) -> None:
        ratio = round(taken / planned, 3) if planned else None
        values = {"planned": round(planned, digits), "taken": round(taken, digits), "ratio": ratio}
        rows.append({"run": name, "clock": found["clock"], "of": what, **values})

    add("time, s", *found["time"], 1)
    add("memory, MB", *(value / 1e6 for value in found["memory"]), 1)
    add("disk, MB", *(value / 1e6 for value in found["disk"]), 3)
    planned, taken = (found["stages"][key] for key in ("planned", "taken"))
    for stage in dict.fromkeys((*taken, *planned)) if taken else ():
        add(f"{stage}, s", planned.get(stage, 0.0), taken.get(stage, 0.0), 1)
    planning = {"planned": None, "taken": round(found["planning_s"], 1), "ratio": None}
    rows.append({"run": name, "clock": "wall", "of": "planning itself, s", **planning})
    return rows


def add(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    parser.add_argument("--work", type=Path, required=True, help="where plans and runs are kept")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--clock", choices=list(ATTAR), default="wall")
    parser.add_argument("--again", action="store_true", help="measure finished cases once more")


def main() -> None:
    """Measure what is missing, and print all that is asked for."""
    asked = arguments(__doc__ or "", add)
    rows: Rows = []
    checks: Checks = {}
    for name in asked.cases:
        kept = asked.work / f"{name}.json"
        if asked.again or not kept.exists():
            found = measured(CASES[name], asked.work / name, asked.clock)
            kept.write_text(json.dumps(found, indent=1))
        found = json.loads(kept.read_text("utf-8"))
        rows += rows_of(name, found)
        for what, target in (("time", TIME), ("memory", SPACE), ("disk", SPACE)):
            planned, taken = found[what]
            checks[f"{name}, {what}: ratio off 1"] = {"value": round(abs(taken / planned - 1), 4), "target": target}
    finish(rows, checks, asked.json)


if __name__ == "__main__":
    main()
