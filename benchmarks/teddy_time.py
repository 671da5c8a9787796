"""Squeeze and recover of teddy and of sre2l by the processor's time: whole stages, nothing shared, no student trained.

    ATTAR_DATA=FOLDER python benchmarks/teddy_time.py --data imagenette --work WORK --json FILE

Settings are those of benchmarks/teddy.py, whose seconds are on the clock and part of whose trainings are shared. Here
each case of a seed is a run of its own with one thread, and the processor's seconds of its two stages are told: other
work on the machine disturbs little. Opening the source is in no stage, and what a process loads once is loaded before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from table import Checks, Rows, arguments, finish, spread
from teddy import MAIN, MEMBERS, Case, Job, add_options, distill, settings_of, slug

STAGES = ("squeeze", "recover")


@contextmanager
def processors_time() -> Iterator[None]:
    """Let manifests tell the processor's seconds in place of those on the clock."""
    from attar.artifacts import run

    before = run.time
    run.time = SimpleNamespace(monotonic=time.process_time)  # type: ignore[assignment]
    try:
        yield
    finally:
        run.time = before


def seconds(job: Job, case: Case) -> dict[str, float]:
    """Seconds of each stage; a run that is there is not made again."""
    out = job.folder.with_name(f"{job.folder.name}-timed") / slug(case.name)
    distill(job, case.method, settings_of(job), out, ipc=job.options.ipc, until="recover")
    return {stage: json.loads((out / stage / "manifest.json").read_text())["wall_s"] for stage in STAGES}


def warm_up(options: argparse.Namespace) -> None:
    """Do all of it once at toy size."""
    toy = {"data": "digits", "ipc": 1, "iterations": 1, "epochs": 2, "pool_epochs": MEMBERS, "set": []}
    with tempfile.TemporaryDirectory() as folder:
        small = argparse.Namespace(**{**vars(options), **toy, "work": Path(folder)})
        for case in MAIN:
            seconds(Job(small, 0, case.squeezed, case), case)


def main() -> None:
    options = arguments(__doc__ or "", add_options)
    options.work = options.work.resolve()
    torch.set_num_threads(1)
    warm_up(options)
    found: dict[str, list[dict[str, float]]] = {case.name: [] for case in MAIN}
    with processors_time():
        for seed in range(options.seeds):
            for case in MAIN:
                found[case.name].append(seconds(Job(options, seed, case.squeezed, case), case))
    rows: Rows = []
    checks: Checks = {}
    for name, each in found.items():
        shown = {f"{stage}, s": spread([one[stage] for one in each]) for stage in STAGES}
        totals = [sum(one.values()) / sum(base.values()) for one, base in zip(each, found["sre2l"], strict=True)]
        rows.append({"case": name, **shown, "of sre2l": f"{statistics.fmean(totals):.2f}"})
        if name != "sre2l":
            checks[f"{slug(name)}_time_over_sre2l"] = {"value": statistics.fmean(totals), "target": 1.0}
    finish(rows, checks, options.json)


if __name__ == "__main__":
    main()
