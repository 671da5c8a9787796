"""Inputs whose answer is known: what was changed must be told or must count, and nothing outside may be touched."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torture_damage import EVIL
from torture_inputs import RUNS, distilling
from torture_tries import Try, content

JUDGING = ("--models", "convnet-d1-w4", "--seeds", "1", "--baselines", "random", "-q", "--set", "train.epochs=1",
           "--set", "evaluate.full_epochs=1")  # fmt: skip
CODES = ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "ESTALE", "EBUSY", "EXDEV", "EMFILE", "ENFILE", "ENAMETOOLONG", "EROFS",
         "EACCES", "ENOMEM", "EAGAIN")  # fmt: skip
CALLS = ("fsync", "replace", "rename", "mkdir", "open")


def swapped(rng: random.Random, bases: Path, folder: Path) -> Try:
    """Other images or labels, of the same names, sizes and times: no finished judgement may be of the old ones."""
    import numpy as np

    run, source = Path(shutil.copytree(bases / "random", folder / "run")), folder / "npz.npz"
    arrays = dict(np.load(bases / "npz.npz"))
    part = rng.choice(("x_test", "y_test", "x_train"))
    before, other = arrays[part], np.random.default_rng(rng.randrange(10**6))
    if rng.random() < 0.3 and part != "x_train":  # of which the run may have left out that image
        before.flat[rng.randrange(before.size)] ^= 1
    else:
        arrays[part] = 1 - before if part == "y_test" else other.integers(0, 256, before.shape, np.uint8)
    np.savez(source, **arrays)
    times = (bases / "npz.npz").stat()
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = Path(shutil.copytree(run, folder / "again"))
    for name in ("evaluation", "evaluation.json", "by_class.json"):
        shutil.rmtree(again / name, ignore_errors=True)
        (again / name).unlink(missing_ok=True)
    pages = {name: (run / name).read_bytes() for name in ("report.html", "distilled/README.md")}

    def wrong(codes: list[int], said: str) -> str:
        if any((run / name).read_bytes() != page for name, page in pages.items()):
            return "the page or card of the run was written for another source"
        if codes[-1]:
            return ""
        return "" if accuracies(run) == accuracies(again) else f"kept {accuracies(run)}, should be {accuracies(again)}"

    def judge(what: Path) -> tuple[str, ...]:
        return ("evaluate", str(what), "--source", str(source), *JUDGING)

    return Try("swapped images", part, (judge(again), judge(run)), wrong)


def accuracies(run: Path) -> list[Any]:
    """Every value of a judgement, of the run or beside it."""
    beside = sorted(run.parent.glob(f"{run.name}-*/evaluation.json"))
    found = json.loads((beside or [run / "evaluation.json"])[0].read_text())
    return [record["values"] for record in found["records"]]


def flipped(rng: random.Random, bases: Path, folder: Path) -> Try:
    """One bit of a finished stage: what stands on it is refused, or has the bytes that it had."""
    name = rng.choice(tuple(RUNS))
    run = Path(shutil.copytree(bases / name, folder / name))
    shutil.copy(bases / "npz.npz", folder)
    stages = ("squeeze", "recover", "relabel", "distilled")
    files = [
        file for stage in stages for file in (run / stage).rglob("*") if file.suffix in (".safetensors", ".parquet")
    ]
    file = rng.choice(sorted(files))
    data = bytearray(file.read_bytes())
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    stage = file.relative_to(run).parts[0]
    redo = {"squeeze": "recover", "recover": "relabel"}.get(stage)
    words = distilling(name, run) + (("--redo", redo) if redo else ())
    if stage in ("relabel", "distilled") and rng.random() < 0.5:
        words = ("evaluate", str(run), "--source", str(folder / "npz.npz") if name == "random" else "digits", *JUDGING)
    right = data_of(bases / name)

    def wrong(codes: list[int], said: str) -> str:
        return "" if codes[-1] or data_of(run) == right else "other data were made, or are blessed, without a word"

    return Try("flipped bit", f"{words[0]}: {file.relative_to(run)}: bit {bit}", (words,), wrong)


def data_of(run: Path) -> dict[str, str]:
    """The content of a distilled set but its card, which tells what it was judged by."""
    return {
        name: found for name, found in content(run / "distilled").items() if name not in ("README.md", "SHA256SUMS")
    }


def linked(rng: random.Random, bases: Path, folder: Path) -> Try:
    """A link out of a run folder in the place of a file, a folder or a temporary name: nothing outside is written."""
    name = rng.choice(tuple(RUNS))
    run, outside = Path(shutil.copytree(bases / name, folder / name)), folder / "outside"
    shutil.copy(bases / "npz.npz", folder)
    places = [*sorted(run.rglob("*")), run / ".lock", run / f".report.html.{os.getpid()}.tmp"]
    places += [run / f"{stage}/.manifest.json.{os.getpid()}.tmp" for stage in ("squeeze", "recover")]
    place = rng.choice([*places, run / ".distilled.new.tmp", run / ".distilled.old.tmp", run / "new"])
    what = place.relative_to(run).as_posix()
    if rng.random() < 0.3:  # a path in a file of JSON instead
        file = rng.choice(sorted(run.rglob("*.json")))
        text = file.read_text()
        names = sorted(path.name for path in run.rglob("*") if path.is_file() and f'"{path.name}"' in text)
        if names:
            what = f"{rng.choice(names)} in {file.relative_to(run)}"
            goal = rng.choice((f"../../outside/{what.split()[0]}", str(outside / what.split()[0]), "../outside"))
            file.write_text(text.replace(f'"{what.split()[0]}"', json.dumps(goal)))
    else:
        outside.mkdir()
        goal = outside / place.name
        if place.is_dir() or place.exists():
            shutil.move(place, goal)
        elif rng.random() < 0.5:
            goal.write_text("mine")
        place.parent.mkdir(exist_ok=True, parents=True)
        place.symlink_to(goal)
    outside.mkdir(exist_ok=True)
    (outside / "canary").write_text("mine")
    before = content(outside)
    redo = ("--redo", rng.choice(("recover", "relabel"))) if rng.random() < 0.6 else ()
    source = str(folder / "npz.npz") if name == "random" else "digits"
    words = rng.choice((distilling(name, run) + redo, ("report", str(run)), (*distilling(name, run), "--fresh"),
                        ("evaluate", str(run), "--source", source, *JUDGING)))  # fmt: skip

    def wrong(codes: list[int], said: str) -> str:
        return "" if content(outside) == before else "files outside of the run folder were written or deleted"

    return Try("link out", f"{words[0]} {' '.join(words[-2:])}: {what}", (words,), wrong)


def shown(rng: random.Random, bases: Path, folder: Path) -> Try:
    """Marks that would act on a page or a terminal, in texts of a run folder: they are shown escaped."""
    from attar.artifacts.checksums import write_sums

    run = Path(shutil.copytree(bases / rng.choice(tuple(RUNS)), folder / "run"))
    file = rng.choice(sorted([*run.rglob("*.json"), *run.rglob("*.jsonl"), run / "config.yaml"]))
    lines = file.read_text().split("\n")
    texts = sorted({part for line in lines for part in line.split('"')[1::2] if part.strip()} or {"digits"})
    old, new = rng.choice(texts), json.dumps(EVIL)[1:-1]
    quoted = f'"{old}"' if file.suffix != ".yaml" else old
    text = "\n".join(lines).replace(quoted, f'"{new}"')
    file.write_text(text)
    if "distilled" in file.parts:
        write_sums(run / "distilled")
    words = rng.choice((("report", str(run)), ("compare", str(run), str(run), "--out", str(folder / "page")),
                        ("verify", str(run)), ("squeeze", str(run), "--list")))  # fmt: skip
    (run / "report.html").unlink()

    def wrong(codes: list[int], said: str) -> str:
        pages = [path.read_text() for path in folder.rglob("*.html")]
        bad = [mark for mark in ("\u202e", "\x1b") if any(mark in page for page in [*pages, said])]
        bad += ["<script>alert"] * any("<script>alert" in page for page in pages)
        return f"{bad} shown as it is" if bad else ""

    return Try("shown", f"{words[0]}: {old[:30]!r} in {file.relative_to(run)}", (words,), wrong)


@contextmanager
def refusing(call: str, at: int, code: str, below: Path) -> Iterator[None]:
    """Let the operating system refuse the `at`-th of these calls."""
    whole, left = getattr(os, call), [at]

    def refuses(*args: Any, **kwargs: Any) -> Any:
        name = str(args[0]) if args else ""
        counted = call == "fsync" or name.startswith(str(below))
        if call == "open" and counted:
            counted = bool(args[1] & (os.O_WRONLY | os.O_RDWR))
        left[0] -= counted
        if counted and left[0] == -1:
            number = getattr(errno, code)
            raise OSError(number, os.strerror(number), *args[:1] * (call != "fsync"))
        return whole(*args, **kwargs)

    with patch.object(os, call, refuses):
        yield


def refused_write(rng: random.Random, bases: Path, folder: Path) -> Try:
    """A write that the system refuses: one error with its code, nothing half-written, and then the same bytes."""
    name = rng.choice(tuple(RUNS))
    out, code, call = folder / name, rng.choice(CODES), rng.choice(CALLS)
    shutil.copy(bases / "npz.npz", folder)
    at, right = rng.randrange(12), data_of(bases / name)
    words = distilling(name, out)

    def wrong(codes: list[int], said: str) -> str:
        if codes[0] and (codes[0] != 6 or code not in said):
            return f"exit code {codes[0]} without {code}"
        if codes[1] or data_of(out) != right:
            return f"exit code {codes[1]} and other bytes when typed again"
        halves = [path.name for path in folder.rglob("*.tmp")]
        return f"half-written files are left: {halves}" if halves else ""

    return Try("refused write", f"{name}: {call} {at}: {code}", (words, words), wrong,
               around=lambda: refusing(call, at, code, folder))  # fmt: skip
