"""ImageNet-1K's shape for a few steps: does memory keep to what the plan says?

    python benchmarks/fullshape.py --work WORK --weights FILE --json benchmarks/results/fullshape.json

1,000 classes at 224 px, ten images of each, by the recipe sre2l-imagenet-1k-lite0; FILE are its teacher's weights.
Each stage runs in a process of its own, of which the most resident memory is taken: squeeze (the weights), recover (one
iteration of a chunk; the other chunks are that one under other names), relabel (two epochs of all images, the
teacher asked for the first two batches and a number in its place for the rest), write (the distilled dataset), train (a
ResNet-18 on what was written: two steps of 1,024 images, as the protocol has them, gathered 32 at a time). The checks
are of the memory that `attar plan` predicts for the whole run, in a process too. A run without real images judges
nothing, so it is planned over a folder of three images of noise in each class. Takes 16 GB of memory, most of it the
plan's, and half an hour of a core.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from table import Checks, Rows, arguments, finish
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from attar.artifacts.distilled import load_distilled, write_distilled
from attar.artifacts.labelling import Labelling
from attar.artifacts.recovered import chunk_name, read_chunks
from attar.data.loading import RealSet
from attar.evaluation.trials import distilled_subject
from attar.models.factory import build
from attar.run.planning import plan
from attar.run.preparing import Prepared, prepare
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import read_json, write_json
from attar.stages.recover import RecoverSettings, chunks, recover
from attar.stages.relabel import label_plan, relabel
from attar.training.loop import fit

EPOCHS, STEPS, NOTE = 2, 2, "note.json"
STUDENT = "resnet18"


def prepared(folder: Path, source: str = "classes:imagenet-1k") -> Prepared:
    """The run's settings, as `attar distill` would have them, for a few epochs of one student."""
    note = read_json(folder / NOTE)
    run = {"run": {"source": source, "ipc": note["ipc"], "device": "cpu", "precision": "32-true"}}
    given = {**run, "squeeze": {"weights": note["weights"]}}
    few = [f"train.epochs={EPOCHS}", "train.warmup_epochs=0", "recover.num_snapshots=0"]
    gathered = ["train.batch_size=32", "train.accumulate=32"]
    judged = [f"evaluate.models={STUDENT}", "evaluate.labels=stored", "evaluate.seeds=1", "evaluate.baselines=none"]
    assignments = few + gathered + judged
    return prepare(given, recipe="sre2l-imagenet-1k-lite0", assignments=assignments, quiet=True)


def noise(folder: Path, names: Sequence[str]) -> Path:
    """A folder of three images of noise in each class, two to train on and one to judge with."""
    draw = random.Random(0)
    for name, (split, number) in product(names, (("train", 2), ("test", 1))):
        (folder / split / name).mkdir(parents=True)
        for k in range(number):
            image = Image.frombytes("RGB", (28, 28), draw.randbytes(28 * 28 * 3)).resize((224, 224))
            image.save(folder / split / name / f"{k}.jpg")
    return folder


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


class EnoughSteps(Exception):  # noqa: N818 - nothing is wrong
    """As many steps as were asked for are taken."""


def stage_train(folder: Path, run: Prepared, engine: Engine) -> None:
    distilled = load_distilled(folder / "distilled")
    subject = distilled_subject(distilled, run.settings.train, "soft", engine)
    num = 0

    def count(*_: Any) -> None:
        nonlocal num
        num += 1
        if num == STEPS:
            raise EnoughSteps

    counting = register_optimizer_step_post_hook(count)
    try:
        fit(build(STUDENT, distilled.task), subject.make(0), subject.training, seed=0, engine=engine)
    except EnoughSteps:
        return
    finally:
        counting.remove()
    raise AssertionError(f"{num} steps of {STEPS}")


STAGES: dict[str, Callable[[Path, Prepared, Engine], None]] = {
    "squeeze": stage_squeeze,
    "recover": stage_recover,
    "relabel": stage_relabel,
    "write": stage_write,
    "train": stage_train,
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
        run = prepared(folder, str(noise(folder / "noise", run.source.task.class_names)))
        return {"bytes": plan(run.settings, run.source, engine).main_memory_bytes}
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
        bound = 0.0
        for stage in ("plan", *STAGES):
            found = of_process(stage, folder)
            peak_mb, seconds = round(found["bytes"] / 1e6), round(found["seconds"], 1)
            named = f"{stage}: what it predicts" if stage == "plan" else stage
            rows.append({"stage": named, "images": 1000 * asked.ipc, "peak, MB": peak_mb, "seconds": seconds})
            print(rows[-1], flush=True)
            bound = bound or found["bytes"]
            if stage != "plan":
                checks[f"{stage}: peak of what is planned"] = {"value": round(found["bytes"] / bound, 3), "target": 1.1}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish(rows, checks, asked.json)


if __name__ == "__main__":
    main()
