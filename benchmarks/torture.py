"""Wide seeded runs of what may go wrong, and how often attar answers with anything but a result or one clear error.

    python benchmarks/torture.py inputs --tries 3000 --seed 0 --json FILE
    python benchmarks/torture.py kills ...        where torture_kills.py is there

Each try is a function of the seed and its number, so that one that fails can be made again: --first N --tries 1. The
commands run one after the other in a process that is watched, and killed where one takes more than 60 s.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import selectors
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from table import Checks, Rows, finish
from torture_inputs import make_bases, make_try

MOST_S = 60
FAULTS = ("traceback", "error of attar itself", "hang", "crash", "wrong result", "unclear error")


def main() -> None:
    if sys.argv[1:2] == ["kills"] and importlib.util.find_spec("torture_kills"):
        import torture_kills

        del sys.argv[1]
        torture_kills.main()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["inputs"])
    parser.add_argument("--tries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first try")
    parser.add_argument("--json", type=Path, help="write {rows, checks} here")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.first, options.tries, options.seed)
    else:
        inputs(options)


def inputs(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bases").mkdir()
        make_bases(folder / "bases", command)
        found = watched(folder, options)
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


def watched(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Outcomes of all tries, from processes that are begun again where one hangs or crashes."""
    found: list[dict[str, Any]] = []
    while len(found) < options.tries:
        first, left = options.first + len(found), options.tries - len(found)
        words = [
            sys.executable,
            __file__,
            "inputs",
            "--worker",
            str(folder),
            "--first",
            str(first),
            "--tries",
            str(left),
        ]
        process = subprocess.Popen([*words, "--seed", str(options.seed)], stdout=subprocess.PIPE, text=True)
        assert process.stdout
        with selectors.DefaultSelector() as waiting:
            waiting.register(process.stdout, selectors.EVENT_READ)
            begun: dict[str, Any] | None = None
            while True:
                if not waiting.select(MOST_S + 30 * (begun is None)):
                    process.kill()
                    fault = "hang"
                    break
                line = process.stdout.readline()
                if not line:
                    fault = "crash"
                    break
                note = json.loads(line)
                begun = note
                if "fault" in note:
                    found.append(note)
        process.wait()
        if len(found) < options.tries and begun and "fault" not in begun:
            found.append(begun | {"fault": fault, "said": f"exit code {process.returncode}"})
        elif begun is None:
            raise SystemExit("no try could be begun")
    return found


def work(folder: Path, first: int, tries: int, seed: int) -> None:
    """Make tries one after the other; a line before each and one after."""
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    for number in range(first, first + tries):
        place = folder / "try"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        one = make_try(number, seed, folder / "bases", place)
        note = {"number": number, "kind": one.kind, "what": one.what}
        print(json.dumps(note), file=answers, flush=True)
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                code = command(*one.words)
            fault = judged(code, said.getvalue(), one.must_refuse)
        except BaseException:
            fault = "traceback"
            said.write(traceback.format_exc())
        text = " / ".join(said.getvalue().split("\n"))
        print(json.dumps(note | {"fault": fault, "said": text[-700:]}), file=answers, flush=True)


def judged(code: int, said: str, must_refuse: bool) -> str:
    """What a command's end is: done, refused, or one of the faults."""
    if "error of attar itself" in said:
        return "error of attar itself"
    if "Traceback (most recent" in said or code == 1:
        return "traceback"
    if code == 0:
        return "wrong result" if must_refuse else "done"
    whole = re.search(r"error: .", said, re.IGNORECASE) or "Error" in said
    return "refused" if whole and len(said) < 6000 else "unclear error"


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
