"""ImageNet-1K's shape for a few steps: does memory keep to what the plan says?

    python benchmarks/fullshape.py --work WORK --weights FILE --json benchmarks/results/fullshape.json

1,000 classes at 224 px, ten images of each, by the recipe sre2l-imagenet-1k-lite0; FILE are its teacher's weights.
Each stage runs in a process of its own, of which the most resident memory is taken: squeeze (the weights), recover (one
iteration of a chunk; the other chunks are that one under other names), relabel (two epochs of all images, the
teacher asked for the first two batches and a number in its place for the rest), write (the distilled dataset, read
back). The checks are of the memory that a plan up to relabel predicts, made in a process too: without real images a
run judges nothing. Takes 10 GB of memory, which the teacher's 100 images at 224 px need.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from table import Checks, Rows, arguments, finish
from torch import Tensor

from attar.artifacts.distilled import write_distilled
from attar.artifacts.labelling import Labelling
from attar.artifacts.recovered import chunk_name, read_chunks
from attar.data.loading import RealSet
from attar.run.planning import plan
from attar.run.preparing import Prepared, prepare
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import read_json, write_json
from attar.stages.recover import RecoverSettings, chunks, recover
from attar.stages.relabel import label_plan, relabel

EPOCHS, NOTE = 2, "note.json"


def prepared(folder: Path) -> Prepared:
    """The run's settings, as `attar distill` would have them, for a few epochs."""
    note = read_json(folder / NOTE)
    run = {"run": {"source": "classes:imagenet-1k", "ipc": note["ipc"], "device": "cpu", "precision": "32-true"}}
    given = {**run, "squeeze": {"weights": note["weights"]}}
    few = [f"train.epochs={EPOCHS}", "train.warmup_epochs=0", "recover.num_snapshots=0"]
    return prepare(given, recipe="sre2l-imagenet-1k-lite0", assignments=few, quiet=True)


def stage_squeeze(folder: Path, run: Prepared, engine: Engine) -> None:
    settings = run.settings
    making: dict[str, Any] = {"seed": 0, "folder": folder / "squeeze", "engine": engine, "events": Events(quiet=True)}
    settings.knowledge.make(run.source, settings.sections["squeeze"], **making)


def opened(folder: Path, run: Prepared, engine: Engine) -> Any:
    settings = run.settings
    return settings.knowledge.open(settings.sections["squeeze"], run.source.task, folder / "squeeze", engine)


def stage_recover(folder: Path, run: Prepared, engine: Engine) -> None:
    settings, out = run.settings, folder / "recover"
    method = settings.method(settings.sections["method"], run.source.task, settings.run.ipc)
    out.mkdir(exist_ok=True)
    num = len(chunks(method, settings.recover))
    for k in range(1, num):
        (out / chunk_name(k)).touch()  # what is there is not made
    recover(
        method,
        RealSet(run.source.train, run.source.task.normalization),
        opened(folder, run, engine),
        RecoverSettings(**{**settings.recover.model_dump(), "iterations": 1}),
        seed=0,
        folder=out,
        engine=engine,
        events=Events(quiet=True),
    )
    for k in range(1, num):
        (out / chunk_name(k)).unlink()
        (out / chunk_name(k)).hardlink_to(out / chunk_name(0))


class FirstAsked:
    """A teacher that is asked for two batches; what it said of the last stands for the rest."""

    def __init__(self, teacher: Any) -> None:
        self._teacher, self._num, self._last = teacher, 0, torch.empty(0)

    def logits(self, images: Tensor) -> Tensor:
        self._num += 1
        if self._num <= 2:
            self._last = self._teacher.logits(images)
        return self._last[: len(images)]


def stage_relabel(folder: Path, run: Prepared, engine: Engine) -> None:
    settings = run.settings.relabel
    _, labelling = relabel(
        read_chunks(folder / "recover"),
        FirstAsked(opened(folder, run, engine)),  # type: ignore[arg-type]
        settings,
        task=run.source.task,
        train_epochs=EPOCHS,
        seed=0,
        folder=folder / "relabel",
        engine=engine,
        events=Events(quiet=True),
    )
    assert labelling is not None
    write_json(folder / "views.json", labelling.views)


def stage_write(folder: Path, run: Prepared, engine: Engine) -> None:
    distillate, task = read_chunks(folder / "recover"), run.source.task
    stored = label_plan(run.settings.relabel, len(distillate.labels), task.num_classes, EPOCHS)
    labelling = Labelling("epochs", stored, folder / "relabel", read_json(folder / "views.json"))
    write_distilled(folder / "distilled", distillate, task, {"method": "sre2l"}, labelling)


STAGES: dict[str, Callable[[Path, Prepared, Engine], None]] = {
    "squeeze": stage_squeeze,
    "recover": stage_recover,
    "relabel": stage_relabel,
    "write": stage_write,
}


def add(parser: argparse.ArgumentParser) -> None:
    """What may be asked for."""
    parser.add_argument("--work", type=Path, help="where all is written, and deleted at the end")
    parser.add_argument("--weights", help="the teacher's file")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--stage", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)


def of_process(stage: str, folder: Path) -> dict[str, float]:
    """What a process that runs one stage says of itself, and its seconds."""
    began_s = time.perf_counter()
    words = [sys.executable, __file__, "--stage", stage, str(folder)]
    done = subprocess.run(
        words, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return {"seconds": time.perf_counter() - began_s, **json.loads(done.stdout.splitlines()[-1])}


def run_stage(stage: str, folder: Path) -> dict[str, float]:
    """Run one stage, or plan the whole run; bytes of memory."""
    run, engine = prepared(folder), Engine("cpu")
    if stage == "plan":
        return {"bytes": plan(run.settings, run.source, engine, until="relabel").main_memory_bytes}
    STAGES[stage](folder, run, engine)
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main() -> None:
    """Run all stages, one after the other over one folder."""
    asked = arguments(__doc__ or "", add)
    torch.set_num_threads(1)
    if asked.stage:
        print(json.dumps(run_stage(asked.stage[0], Path(asked.stage[1]))))
        return
    folder = asked.work / "fullshape"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / NOTE, {"ipc": asked.ipc, "weights": str(Path(asked.weights).resolve())})
    rows: Rows = []
    checks: Checks = {}
    try:
        bound = of_process("plan", folder)["bytes"]
        for stage in STAGES:
            found = of_process(stage, folder)
            peak_mb, seconds = round(found["bytes"] / 1e6), round(found["seconds"], 1)
            rows.append({"stage": stage, "images": 1000 * asked.ipc, "peak, MB": peak_mb, "seconds": seconds})
            print(rows[-1], flush=True)
            checks[f"{stage}: peak of what is planned"] = {"value": round(found["bytes"] / bound, 3), "target": 1.1}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish(rows, checks, asked.json)


if __name__ == "__main__":
    main()
