"""Does memory grow with the number of images, from recover's chunks to a distilled dataset that is trained on?

    python benchmarks/scale.py --json benchmarks/results/scale.json

Chunks of made-up images of 64 px lie on disk as recover leaves them, n of them and 4n. Each stage that follows runs in
a process of its own: relabel (labels for every epoch, by a tiny network), write (the distilled dataset, and read it
back), verify, and train (an epoch of a tiny network on what was written). The peak of each process's resident memory
is taken; its growth from n to 4n images, for one image more, is what counts, beside the image's size in float32. Two
kinds of images: `floats`, which 8 bits do not hold, and `pixels`, which they do.

What is read at once because it is little (`attar.data.loading.KEPT_BYTES`) is turned off, so that these images stand
for many or large ones. Training on `pixels` keeps one 8-bit copy of them, a quarter of float32; nothing else does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from table import Checks, Rows, arguments, finish
from torch import Tensor

from attar.artifacts.distilled import load_distilled, write_distilled
from attar.artifacts.labelling import Labelling
from attar.artifacts.recovered import chunk_name, read_chunks, write_chunk
from attar.artifacts.verify import verify
from attar.data import loading
from attar.evaluation.trials import distilled_subject
from attar.methods.base import Distillate
from attar.models.factory import build
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import read_json, write_json
from attar.runtime.seeding import generator
from attar.stages.relabel import RelabelSettings, label_plan, relabel
from attar.task import Normalization, Task
from attar.training.loop import fit
from attar.training.section import TrainSection

KEEPS_NOTHING, KEEPS_PIXELS = 0.05, 0.3
CHUNK, EPOCHS, NETWORK = 128, 2, "convnet-d1-w8"
KINDS = ("floats", "pixels")
TASK = Task(tuple(f"class {k}" for k in range(10)), 3, 64, 64, Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
IMAGE_BYTES = 4 * math.prod(TASK.shape)
VIEWS = "views.json"


class Labeller:
    """A tiny network with random weights, in the place of a teacher."""

    def __init__(self) -> None:
        self._model = build(NETWORK, TASK, seed=0).eval()

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self._model(images)
        return logits


def make_chunks(folder: Path, kind: str, num: int) -> None:
    """What recover would leave: chunks of noise, here the same one under as many names."""
    pixels = torch.randint(256, (CHUNK, *TASK.shape), generator=generator(0, kind), dtype=torch.uint8)
    images, exact = TASK.normalization.normalize(pixels), kind == "pixels"
    labels = torch.arange(CHUNK) % TASK.num_classes
    write_chunk(folder / chunk_name(0), Distillate(images if exact else 1.1 * images, labels, exact_8bit=exact))
    for k in range(1, num // CHUNK):
        (folder / chunk_name(k)).hardlink_to(folder / chunk_name(0))


def stage_relabel(folder: Path) -> None:
    _, labelling = relabel(
        read_chunks(folder / "recover"),
        Labeller(),
        RelabelSettings(labels="epochs", epochs=EPOCHS),
        task=TASK,
        train_epochs=EPOCHS,
        seed=0,
        folder=folder / "relabel",
        engine=Engine("cpu"),
        events=Events(quiet=True),
    )
    assert labelling is not None
    write_json(folder / VIEWS, labelling.views)


def stage_write(folder: Path) -> None:
    distillate = read_chunks(folder / "recover")
    plan = label_plan(RelabelSettings(epochs=EPOCHS), len(distillate.labels), TASK.num_classes, EPOCHS)
    labelling = Labelling("epochs", plan, folder / "relabel", read_json(folder / VIEWS))
    write_distilled(folder / "distilled", distillate, TASK, {"method": "noise"}, labelling)


def stage_verify(folder: Path) -> None:
    assert verify(folder / "distilled").ok


def stage_train(folder: Path) -> None:
    distilled, engine = load_distilled(folder / "distilled"), Engine("cpu")
    settings = TrainSection(epochs=1, warmup_epochs=0, batch_size=64)
    subject = distilled_subject(distilled, settings, "soft", engine)
    fit(build(NETWORK, TASK, seed=0), subject.make(0), settings, seed=0, engine=engine)


STAGES: dict[str, Callable[[Path], None]] = {
    "relabel": stage_relabel,
    "write": stage_write,
    "verify": stage_verify,
    "train": stage_train,
}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num", type=int, default=2048, help="images; four times as many are compared with them")
    parser.add_argument("--stage", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)


def peak_bytes(stage: str, folder: Path) -> int:
    """The most resident memory of a process that runs one stage."""
    command = [sys.executable, __file__, "--stage", stage, str(folder)]
    quiet = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}  # less chance in what an allocator keeps
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=quiet)
    return int(json.loads(done.stdout))


def measure(kind: str, num: int) -> dict[str, int]:
    """Peaks of the stages, one after the other over one folder."""
    with tempfile.TemporaryDirectory(prefix="attar-scale-") as name:
        folder = Path(name)
        make_chunks(folder / "recover", kind, num)
        return {stage: peak_bytes(stage, folder) for stage in STAGES}


def row(kind: str, stage: str, peaks: dict[int, int]) -> dict[str, Any]:
    (few, low), (many, high) = sorted(peaks.items())
    growth = (high - low) / (many - few)
    sizes = {f"peak at {num} images, MB": round(peak / 1e6) for num, peak in sorted(peaks.items())}
    return {
        "images": kind,
        "stage": stage,
        **sizes,
        "growth an image, kB": round(growth / 1e3, 2),
        "of its float32": round(growth / IMAGE_BYTES, 4),
    }


def main() -> None:
    given = arguments(__doc__ or "", add)
    torch.set_num_threads(1)
    if given.stage:
        loading.KEPT_BYTES = 0
        STAGES[given.stage[0]](Path(given.stage[1]))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        return
    rows: Rows = []
    checks: Checks = {}
    for kind in KINDS:
        peaks = {num: measure(kind, num) for num in (given.num, 4 * given.num)}
        for stage in STAGES:
            rows.append(row(kind, stage, {num: found[stage] for num, found in peaks.items()}))
            target = KEEPS_PIXELS if (kind, stage) == ("pixels", "train") else KEEPS_NOTHING
            checks[f"{kind}, {stage}: growth of its float32"] = {"value": rows[-1]["of its float32"], "target": target}
    finish(rows, checks, given.json)


if __name__ == "__main__":
    main()
