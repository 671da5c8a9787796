"""Disks that fill: does each run end in one error, leave nothing half-written, and go on once there is room?

    python benchmarks/torture.py disk --sizes 20 --json FILE

An unbroken run of tesla is made, and then one on each of so many small disks, from one that holds next to nothing to
one that nearly holds all: a tmpfs of its own, mounted where only this program and its children see it
(`unshare --mount --map-root-user`, Linux). Each must end with exit code 6 and "ENOSPC" in its one error, and leave no
temporary file. The disk is then made large, and the same command must end with the bytes of the unbroken run.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from table import Checks, finish
from torture_tries import content

import attar
from attar import cli

FAULTS = ("tracebacks", "other ends", "half-written", "differ")
SETTINGS = (
    *("squeeze.model=convnet-d1-w8", "squeeze.num_experts=2", "squeeze.epochs=3", "method.expert_epochs=1"),
    *("method.num_steps=2", "method.max_start_epoch=1", "recover.iterations=4", "source.train_per_class=6"),
    *("train.epochs=1", "evaluate.full_epochs=1", "evaluate.models=[convnet-d1-w4]", "evaluate.seeds=1"),
)
LARGE = "64m"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write {rows, checks} here")
    options = parser.parse_args()
    inside = "TORTURE_MOUNTS"
    if inside not in os.environ:
        program = str(Path(__file__).with_name("torture.py"))
        words = ["unshare", "--mount", "--map-root-user", sys.executable, program, "disk", *sys.argv[1:]]
        raise SystemExit(subprocess.run(words, env=os.environ | {inside: "1"}, check=False).returncode)
    with tempfile.TemporaryDirectory() as name:
        # imports what the forks would import each by itself; nothing is trained, or torch could not train in a fork
        importlib.import_module("torch._dynamo")
        attar.distill("digits", "random", 1, out=Path(name) / "first", until="relabel", quiet=True)
        with disk(Path(name) / "disk", LARGE) as whole:
            code, said = distil(whole / "run")
            assert code == 0, said
            right, room = content(whole / "run/distilled"), os.statvfs(whole)
            most = (room.f_blocks - room.f_bfree) * room.f_frsize
        sizes = [most * (2 * k + 1) // (2 * options.sizes) for k in range(options.sizes)]
        rows = [one_size(size, Path(name) / "disk", right) for size in sizes]
    checks: Checks = {fault: {"value": sum(row[fault] for row in rows), "target": 0.0} for fault in FAULTS}
    finish(rows, checks, options.json)


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of this size, as mount takes it, mounted at `folder`."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def one_size(size: int, folder: Path, right: dict[str, str]) -> dict[str, Any]:
    """What a run does on a disk of so many bytes, and when it is made larger."""
    with disk(folder, str(size)):
        out = folder / "run"
        code, said = distil(out)
        row: dict[str, Any] = {"disk, bytes": size, "stopped in": stopped_in(out), "code": code}
        row |= {"tracebacks": int("Traceback" in said or "error of attar itself" in said)}
        row |= {"other ends": int(code != 6 or said.count("error: ") != 1 or "ENOSPC" not in said)}
        row |= {"half-written": sum(path.name.endswith(".tmp") for path in folder.rglob("*"))}
        subprocess.run(["mount", "-o", f"remount,size={LARGE}", str(folder)], check=True)
        again, more = distil(out)
        row |= {"differ": int(again != 0 or content(out / "distilled") != right)}
        if row["other ends"] or row["half-written"] or row["differ"]:
            print(f"{size} bytes: {code}: {said[-1500:]}\nthen {again}: {more[-1500:]}", flush=True)
    return row


def distil(out: Path) -> tuple[int, str]:
    """Exit code and words of the command, in a fork of this process, which has imported attar."""
    said, child = out.parent.with_suffix(".said"), os.fork()
    if child == 0:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sets = [word for value in SETTINGS for word in ("--set", value)]
        words = ("--method", "tesla", "--recipe", "none", *sets, "--out", str(out), "--workers", "1", "--quiet")
        sys.argv = ["attar", "distill", "digits", *words]
        code = 1
        try:
            cli.run()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.read_text()


def stopped_in(out: Path) -> str:
    """The last stage that was begun."""
    stages = ("squeeze", "recover", "relabel", "distilled", "evaluation")
    return next((stage for stage in reversed(stages) if (out / stage).exists()), "the folder")
