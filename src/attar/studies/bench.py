"""Methods side by side under one protocol: each makes its sets, then all are judged alike.

Every set is trained on by the same network, schedule and augmentation; with hard labels and, where asked for, with soft
ones, which one and the same teacher makes in training, for real images too. Random real images are drawn anew for each
seed.

    METHOD-ipcN/    the run folder of a method; labels/ that of the teacher
    trials/         finished trainings
    bench.json      protocol, rows, records, hardware;  bench.csv: the rows;  report.html: the page
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from attar.artifacts.claims import claim
from attar.artifacts.run import MANIFEST, RunFolder
from attar.config import dump
from attar.data.sources import Source
from attar.errors import ArtifactError, ConfigError, DataError, DivergedError, ResourceError
from attar.evaluation.following import followed, network_of
from attar.evaluation.side_by_side import train
from attar.evaluation.students import Students, require_judges
from attar.evaluation.trials import Subject
from attar.methods import method as method_named
from attar.models.factory import build
from attar.options import Compared, Effort, Until
from attar.registry import found_here_alone
from attar.report.bench import RESULT, Row, write_bench_report
from attar.report.formats import roughly
from attar.results.records import ACCURACY, Followed, Labels, Record
from attar.results.significance import Contrast, contrasts
from attar.run.effort import narrow_model
from attar.run.pipeline import open_labeller, start
from attar.run.preparing import Prepared, prepare
from attar.run.settings import default_model, source_name
from attar.run.sharing import sharing_engine
from attar.runtime.engine import Engine, hardware
from attar.runtime.events import Events, is_followed
from attar.runtime.files import read_json, write_json, write_text
from attar.runtime.processes import launched
from attar.studies.bench_students import FULL, RANDOM, Key, Opening, keys, views_of
from attar.task import Task
from attar.training.section import TrainSection
from attar.training.soft import Teacher
from attar.training.strategies import require_suits

INTERRUPTED = 130
MEASURED, LABELLER = "measured.json", "labels"
ONE_RATE: Mapping[str, Any] = {"use_learned_rate": False, "test_resize_px": None}
"""All sets train at one rate, and are judged as they are, whatever the protocol says."""


@dataclass(frozen=True)
class BenchResult:
    """What a bench found: rows of the table, their records, the folder and the page.

    `protocol` is how all was judged: by which protocol and what was changed of it, network, split, settings of the
    trainings, views that soft labels are of.
    """

    path: Path
    rows: tuple[Row, ...]
    records: tuple[Record, ...]
    protocol: Mapping[str, Any]
    report: Path | None


@dataclass(frozen=True)
class _Run:
    """A set that is to be made."""

    name: str
    method: str
    ipc: int
    prepared: Prepared


@dataclass(frozen=True)
class _Judged:
    """Rows and records, and how many threads each student had."""

    rows: tuple[Row, ...]
    records: tuple[Record, ...]
    threads: int


def run_bench(
    asked: Compared,
    given: Mapping[str, Mapping[str, Any]],
    training: TrainSection,
    effort: Effort,
    folder: Path,
    *,
    processes: int | None = None,
    quiet: bool = False,
) -> BenchResult:
    """Make what is missing in `folder`, judge all alike, and write bench.json, bench.csv and report.html.

    Args:
        asked: what is compared.
        given: sections `run` (without method and ipc) and `source`, for every method.
        training: schedule and augmentation of every training that judges.
        effort: how long each method may take for a set.
        folder: of the bench; what is there is gone on with.
        processes: students at a time; None: what the machine bears, see `attar.evaluation.side_by_side`.
        quiet: show no progress.

    Raises ConfigError and DataError before any long work, ArtifactError where the folder holds something else.
    """
    claim(folder, "a bench")
    leads, events = launched().rank == 0, Events(folder / "events.jsonl", quiet=quiet or launched().rank > 0)
    runs = _prepared(asked, given, effort, folder)
    source = runs[0].prepared.source
    task = source.task
    require_judges(source.num_test, len(source.validation), asked.split, "--split validation")
    model = asked.model
    if model == "auto":
        model = network_of(asked.protocol, task) or _judge(task, runs[0].prepared, effort)
    require_suits(training, build(model, task), task.shape, task.num_classes * min(asked.ipc))
    with RunFolder(folder).locked() if leads else nullcontext():
        if leads:
            _tell(runs, asked, model, events)
        for one in runs:
            _make(one, folder / one.name, quiet=quiet)
        run = runs[0].prepared.settings.run
        with sharing_engine(run.device, "32-true", run.workers, run.peer_timeout, folder) as engine:
            teacher = _teacher(runs, task, folder, engine)
            judged = _judged(Opening(asked, model, training, source, teacher, folder), processes, engine, events)
            how = {
                "name": str(_followed(asked, training, model, task, "soft" if teacher else "hard")),
                "network": model,
                "split": asked.split,
                "train": dump(training),
                "views": dump(views_of(asked.protocol, task)) if teacher else None,
            }
            result = BenchResult(folder, judged.rows, judged.records, how, None)
            if engine.leads:
                _write(result, source, asked, {**hardware(engine.device), "threads": judged.threads})
            engine.barrier()
    page = write_bench_report(folder) if leads else None
    return BenchResult(folder, result.rows, result.records, how, page)


def _prepared(asked: Compared, given: Mapping[str, Mapping[str, Any]], effort: Effort, folder: Path) -> list[_Run]:
    """Every set, its settings checked; all share the real images that were read first."""
    wanted = [(method, ipc) for method, ipc in product(dict.fromkeys((RANDOM, *asked.methods)), asked.ipc)]
    named = [(f"{method}-ipc{ipc}", method, ipc) for method, ipc in wanted]
    if "soft" in asked.labels:
        named.append((LABELLER, "sre2l", 1))
    runs: list[_Run] = []
    for name, method, ipc in named:
        run = {**given.get("run", {}), "method": method, "ipc": ipc}
        until: Until = "squeeze" if name == LABELLER else "relabel"
        made = prepare({**given, "run": run}, asked=effort, out=folder / name, until=until, quiet=True)
        if runs and made.source.fingerprint == runs[0].prepared.source.fingerprint:
            made = replace(made, source=runs[0].prepared.source)
        runs.append(_Run(name, method, ipc, made))
    return runs


def _tell(runs: Sequence[_Run], asked: Compared, model: str, events: Events) -> None:
    """Say what will be done and what it will take, as far as that was rehearsed."""
    for one in runs:
        for line in one.prepared.why:
            events.say(f"{one.name}: {line}")
    expected = [one.prepared.expected.total_s for one in runs if one.prepared.expected]
    took = f"; making them will take about {roughly(sum(expected))}" if expected else ""
    sets = len(asked.ipc) * len(asked.labels) * len(dict.fromkeys((RANDOM, *asked.methods)))
    trainings = asked.seeds * (sets + (asked.full_epochs > 0))
    events.say(f"{len(runs)} sets{took}; then {trainings} trainings of {model} judge them")


def _make(one: _Run, folder: Path, *, quiet: bool) -> None:
    """Make a set, or the teacher, where it is not there; keep the most memory that this took."""
    until: Until = "squeeze" if one.name == LABELLER else "relabel"
    with start(one.prepared, folder, quiet=quiet) as run:
        if not run.left(until):
            return
        if one.name == LABELLER or not _starts_anew(one, run.engine):
            run.advance(until)
            return
    peak_bytes = _make_apart(one, folder, quiet=quiet)  # its memory is its own
    path = folder / MEASURED
    before = int(read_json(path)["memory_bytes"]) if path.exists() else 0
    write_json(path, {"memory_bytes": max(before, peak_bytes)})


def _starts_anew(one: _Run, engine: Engine) -> bool:
    """Whether another process can make the set: there is one only, and names that this program gave are not needed."""
    run = one.prepared.settings.run
    named = (("attar.sources", str(run.source)), ("attar.methods", run.method))
    handed = any(found_here_alone(*one) for one in named)
    return engine.processes.num == 1 and engine.device.type == "cpu" and not handed and not is_followed()


def _make_apart(one: _Run, folder: Path, *, quiet: bool) -> int:
    """Make the set in a process of its own; returns the most memory that it had in use, in bytes.

    Raises the error that it ended with, which it has told.
    """
    command = [sys.executable, "-m", "attar", "relabel", str(folder), *(["--quiet"] if quiet else [])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    if process.returncode:
        kinds = {kind.exit_code: kind for kind in (ConfigError, DataError, ArtifactError, DivergedError, ResourceError)}
        raise kinds.get(process.returncode, ResourceError)(
            f"{one.name} could not be made; what went wrong is told above",
            fix=f"mend it, or leave {one.method} out of --methods; all else is kept",
        )
    return int(used.ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _teacher(runs: Sequence[_Run], task: Task, folder: Path, engine: Engine) -> Teacher | None:
    """Who makes all soft labels, where there are any."""
    found = next((one for one in runs if one.name == LABELLER), None)
    return open_labeller(found.prepared.settings, task, folder / LABELLER, engine) if found else None


def _judge(task: Task, prepared: Prepared, effort: Effort) -> str:
    """The network that judges where none is named: as wide as those that the sets are made with."""
    narrow = effort.quick or (effort.time is not None and prepared.settings.run.device in ("auto", "cpu"))
    return narrow_model(task, batch_norm=False) if narrow else default_model(task)


def _judged(opening: Opening, processes: int | None, engine: Engine, events: Events) -> _Judged:
    """Train on every set alike, and compare each with random real images."""
    asked, folder = opening.asked, opening.folder
    students = opening.students(engine, events)
    how = train(students, opening.again, engine, events, folder, stage="bench", processes=processes)
    # from here on every trial is finished and only read
    records = {
        key: _record(opening, students, subject, engine)
        for key, subject in zip(keys(asked), students.subjects, strict=True)
    }
    others = [key for key in records if key[0] not in (RANDOM, FULL)]
    compared = contrasts((records[key], records[RANDOM, key[1], key[2]]) for key in others)
    found = dict(zip(others, compared, strict=True))
    if engine.leads:
        students.trials.tidy()
    rows = tuple(_row(key, record, found.get(key), folder) for key, record in records.items())
    return _Judged(rows, tuple(records.values()), how.threads)


def _record(opening: Opening, students: Students, subject: Subject, engine: Engine) -> Record:
    asked, model = opening.asked, opening.model
    return Record.of(
        ACCURACY,
        subject.name,
        model,
        [students.accuracy(model, subject, seed) for seed in students.seeds],
        seeds=students.seeds,
        num_images=subject.num_images,
        size_bytes=subject.size_bytes,
        group=subject.group,
        labels=subject.labels,
        split=asked.split,
        num_judges=len(students.judge),
        followed=_followed(asked, opening.training, model, opening.source.task, subject.labels),
        protocol={"precision": engine.precision, **dump(subject.settings)},
    )


def _followed(asked: Compared, training: TrainSection, model: str, task: Task, labels: Labels) -> Followed:
    """The protocol, and what was changed of it."""
    views = views_of(asked.protocol, task) if labels == "soft" else None
    return followed(asked.protocol, training, model, task, ONE_RATE, views)


def _row(key: Key, record: Record, contrast: Contrast | None, folder: Path) -> Row:
    method, ipc, labels = key
    made = None if method == FULL else folder / f"{method}-ipc{ipc}"
    return Row(
        method=method,
        ipc=ipc,
        labels=labels,
        mean=record.mean,
        std=record.std,
        n=record.n,
        bytes=record.size_bytes,
        seconds=_made_in_s(made) if made else None,
        memory_bytes=_memory(made) if made else None,
        points=contrast.points if contrast else None,
        low=contrast.low if contrast else None,
        high=contrast.high if contrast else None,
        beats_random=_words(contrast),
    )


def _words(contrast: Contrast | None) -> str:
    if contrast is None:
        return ""
    return {
        "better": "yes",
        "worse": "no, worse",
        "perhaps better": "perhaps",
        "perhaps worse": "perhaps worse",
        "no difference shown": "not shown",
    }.get(contrast.verdict, contrast.verdict)


def _made_in_s(run: Path) -> float:
    stages = ("squeeze", "recover", "relabel")
    return round(sum(float(read_json(run / stage / MANIFEST)["wall_s"]) for stage in stages), 2)


def _memory(run: Path) -> int | None:
    path = run / MEASURED
    return read_json(path).get("memory_bytes") if path.exists() else None


def _write(result: BenchResult, source: Source, asked: Compared, machine: Mapping[str, Any]) -> None:
    rows = [asdict(row) for row in result.rows]
    values = {
        "source": source_name(source.name),
        "description": source.description,
        "asked": {name: getattr(asked, name) for name in Compared.model_fields},
        "protocol": dict(result.protocol),
        "rows": rows,
        "records": [record.to_json() for record in result.records],
        "hardware": dict(machine),
    }
    write_json(result.path / RESULT, values)
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(result.path / "bench.csv", text.getvalue())


def require_methods(names: Sequence[str]) -> None:
    """Raise ConfigError, naming the nearest, where no method has one of these names."""
    for name in names:
        if name == "auto":
            raise ConfigError("a bench compares methods by name, not auto", fix="`attar list methods`")
        method_named(name)
