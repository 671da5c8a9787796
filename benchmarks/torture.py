"""Wide seeded runs of what may go wrong, and how often attar answers with anything but a result or one clear error.

    python benchmarks/torture.py inputs --tries 3000 --seed 0 --json FILE
    python benchmarks/torture.py kills --tries 300 --seed 0 --json FILE
    python benchmarks/torture.py disk --sizes 20 --json FILE

What `inputs` tries is told in torture_inputs.py, torture_right.py and torture_sets.py, the others in torture_kills.py
and torture_disk.py. Each try is a function of the seed and its number, so that one that fails can be made again:
--first N --tries 1. The commands run one after the other in a process that is watched; a try that takes more than a
minute of processor time, or ten by the clock, hangs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torture_disk
import torture_inputs
import torture_kills
import torture_right
import torture_sets
from table import Checks, Rows, finish
from torture_tries import Try

MOST_S, MOST_WALL_S = 60, 600
"""Of processor time that a try may take; and by the clock, on a machine that has other things to do."""
MOST_BYTES = 16 << 30
"""Of memory that a try may ask for: one that asks for all there is must not take the machine along."""
FAULTS = ("traceback", "error of attar itself", "hang", "crash", "wrong result", "unclear error")
KINDS = (
    *(torture_inputs.setting, torture_inputs.recipe, torture_inputs.study, torture_inputs.run_file),
    *(torture_inputs.distilled, torture_inputs.foreign, torture_inputs.image, torture_inputs.width),
    *(torture_inputs.launcher, torture_right.swapped, torture_right.flipped, torture_right.linked),
    *(torture_right.shown, torture_right.refused_write, torture_sets.pickle, torture_sets.lie),
)


def main() -> None:
    parts = {"kills": torture_kills.main, "disk": torture_disk.main, "inputs": inputs}
    if sys.argv[1:2] and sys.argv[1] in parts:
        part = sys.argv.pop(1)
        sys.argv[0] += f" {part}"
        parts[part]()
    else:
        raise SystemExit(__doc__)


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--processes", type=int, default=1, help="how many tries are made at a time")
    parser.add_argument("--json", type=Path, help="write {rows, checks} here")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_try(number: int, seed: int, bases: Path, place: Path) -> Try:
    """Prepare the input of one try in an empty folder."""
    return KINDS[number % len(KINDS)](random.Random(f"{seed} {number}"), bases, place)


def inputs() -> None:
    """Damaged and hostile inputs."""
    options = asked()
    if options.worker:
        work(options.worker, options.first, options.tries, options.seed)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bases").mkdir()
        torture_inputs.make_bases(folder / "bases", command)
        each = -(-options.tries // options.processes)
        parts = range(options.first, options.first + options.tries, each)
        ends = [min(first + each, options.first + options.tries) for first in parts]
        with ThreadPoolExecutor(options.processes) as pool:
            found = list(chain(*pool.map(partial(watched, folder, options.seed), parts, ends)))
    tries, faults = Counter(one["kind"] for one in found), Counter((one["kind"], one["fault"]) for one in found)
    rows: Rows = [
        {"input": kind, "tries": num, "refused": faults[kind, "refused"]}
        | {name: faults[kind, name] for name in FAULTS}
        for kind, num in sorted(tries.items())
    ]
    for one in found:
        if one["fault"] in FAULTS:
            where = f"try {one['number']} of seed {options.seed}, {one['kind']}, {one['what']}"
            print(f"{where}: {one['fault']}: {one['said']}")
    checks: Checks = {
        f"{name.replace(' ', '_')}s": {"value": sum(faults[kind, name] for kind in tries), "target": 0}
        for name in FAULTS
    }
    finish(rows, checks, options.json)


def watched(folder: Path, seed: int, first: int, end: int) -> list[dict[str, Any]]:
    """Outcomes of tries from `first` to `end`, from processes that are begun again where one hangs or crashes."""
    found: list[dict[str, Any]] = []
    while first + len(found) < end:
        at = first + len(found)
        words = [sys.executable, __file__, "inputs", "--worker", str(folder), "--first", str(at)]
        words += ["--tries", str(end - at), "--seed", str(seed)]
        begun, fault, process = None, "crash", subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            while waiting.select(MOST_WALL_S):
                line = process.stdout.readline()
                if not line:
                    break
                begun = json.loads(line)
                if "fault" in begun:
                    found.append(begun)
                    if begun["fault"] in FAULTS:
                        print(begun, file=sys.stderr, flush=True)
            else:
                fault = "hang"
                process.kill()
        process.wait()
        if begun is None:
            raise SystemExit(f"try {at} could not be begun")
        if "fault" not in begun:
            found.append(begun | {"fault": fault, "said": f"exit code {process.returncode}"})
    return found


def work(folder: Path, first: int, tries: int, seed: int) -> None:
    """Make tries one after the other; a line before each and one after."""
    import torch

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    answers = os.fdopen(os.dup(1), "w")
    for number in range(first, first + tries):
        place = folder / f"try-{first}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        one = make_try(number, seed, folder / "bases", place)
        note = {"number": number, "kind": one.kind, "what": one.what}
        print(json.dumps(note), file=answers, flush=True)
        said, codes, before_s = io.StringIO(), list[int](), sum(os.times()[:4])
        try:
            with redirect_stderr(said), redirect_stdout(said), patch.dict(os.environ, one.environment):
                for num, words in enumerate(one.commands):
                    with one.around() if num == 0 else nullcontext():
                        codes.append(command(*words))
            fault, why = judged(codes, said.getvalue()), ""
            if fault in ("done", "refused") and (why := one.wrong(codes, said.getvalue())):
                fault = "wrong result"
        except BaseException:
            fault, why = "traceback", traceback.format_exc()
        if sum(os.times()[:4]) - before_s > MOST_S:
            fault = "hang"
        text = f"{why}: {' / '.join(said.getvalue().split(chr(10)))}"
        print(json.dumps(note | {"fault": fault, "said": text[:200] + text[200:][-500:]}), file=answers, flush=True)


def judged(codes: list[int], said: str) -> str:
    """What the end of commands is: done, refused, or one of the faults."""
    if "error of attar itself" in said:
        return "error of attar itself"
    if "Traceback (most recent" in said or 1 in codes:
        return "traceback"
    if not any(codes):
        return "done"
    return "refused" if 10 < len(said) < 20_000 else "unclear error"


def command(*words: str) -> int:
    """The exit code of a command, run in this process."""
    from attar.cli import run

    before, sys.argv = sys.argv, ["attar", *words]
    try:
        run()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    finally:
        sys.argv = before
    return 0


if __name__ == "__main__":
    main()
