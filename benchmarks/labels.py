"""Bytes of stored labels against the accuracy that they cost, for each codec and with pruned epochs.

    ATTAR_DATA=FOLDER python benchmarks/labels.py --json benchmarks/results/labels.json

FOLDER holds cifar10/ as parquet shards. Logits of 100 classes are made of real images: within each of the 10 classes of
CIFAR-10, at 16 px, k-means on the pixels finds 10 finer ones. A small network learns the 100; students learn from
its stored logits on replayed views (crop, flip, CutMix) of five real images a class, at T = 20, and are judged by how
many of 10,000 test images they put in the right one of the 100. For each seed all students share images, views,
logits, first weights and order: nothing differs but what the codec did to the labels. About a quarter of an hour of
one core.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from table import Checks, arguments, finish, spread
from torch import Tensor, nn
from torch.nn import functional as F

from attar.augment.replayed import ReplayedSet
from attar.augment.views import Views, ViewSettings
from attar.data.loading import MemorySplit, RealSet
from attar.data.sources import SourceSettings, open_source
from attar.labels.plan import LabelPlan, choose_plan
from attar.labels.store import LabelStore
from attar.labels.writing import write_labels
from attar.models.factory import build
from attar.runtime.engine import Engine
from attar.runtime.seeding import generator
from attar.task import Task
from attar.training.loop import accuracy, fit
from attar.training.section import TrainSection

SIZE_PX, FINER, IPC, EPOCHS, BATCH = 16, 10, 5, 80, 50
TEACHER, STUDENT = "convnet-d3-w64-batch", "convnet-d3-w32-batch"
TEACHING = TrainSection(
    epochs=8,
    batch_size=128,
    learning_rate=0.1,
    schedule="cosine",
    warmup_epochs=1,
    augment="flip_crop",
    augment_per="image",
)
LEARNING = TrainSection(
    epochs=EPOCHS,
    batch_size=BATCH,
    optimizer="adamw",
    learning_rate=0.003,
    weight_decay=0.01,
    schedule="cosine",
    warmup_epochs=2,
    temperature=20,
)
VIEWS = ViewSettings(min_scale=0.25, mix="cutmix")
SMALLER = 40
"""What published work on pruning and quantising such labels reaches at little loss."""
HEADER_BYTES = 1000
"""Of a file; not part of a budget, but counted here."""
Case = tuple[str, int, int]
"""Codec, what it keeps, stored epochs."""
FULL: Case = ("fp16", 0, EPOCHS)
CASES: list[Case] = [
    FULL,
    ("q8", 0, EPOCHS),
    ("q4", 0, EPOCHS),
    ("topk", 10, EPOCHS),
    ("topk", 3, EPOCHS),
    ("pca", 25, EPOCHS),
    ("pca", 17, EPOCHS),
    ("pca", 8, EPOCHS),
    ("pca", 4, EPOCHS),
    ("fp16", 0, 20),
    ("fp16", 0, 2),
    ("pca", 17, 10),
    ("pca", 17, 5),
    ("pca", 8, 20),
]


@dataclass(frozen=True)
class World:
    """The task of 100 classes, its real images, and the network that knows it."""

    task: Task
    train: RealSet
    test: RealSet
    teacher: nn.Module


def main() -> None:
    options = arguments(__doc__ or "", lambda p: p.add_argument("--seeds", type=int, default=3))
    if "ATTAR_DATA" not in os.environ:
        sys.exit("set ATTAR_DATA to a folder with cifar10/ as parquet shards")
    world = make_world()
    print(f"teacher: {accuracy(world.teacher, world.test, ENGINE):.1f} %", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        benches = [Bench(world, seed, Path(folder) / str(seed)) for seed in range(options.seeds)]
        budgeted = benches[0].within(1 / SMALLER)
        cases = list(dict.fromkeys([*CASES, budgeted]))
        scores = {case: [bench.accuracy(case) for bench in benches] for case in cases}
        rows = [row(benches[0], case, scores) for case in cases]
        checks = speed(benches[0])
        stored = {case: benches[0].stored(case).size_bytes for case in cases}
    lost = {case: statistics.fmean(scores[FULL]) - statistics.fmean(scores[case]) for case in cases}
    free = [stored[FULL] / stored[case] for case in cases if lost[case] <= 0.5]
    checks["times_smaller_within_the_budget"] = {"value": stored[FULL] / stored[budgeted], "target": float(SMALLER)}
    checks["points_lost_within_the_budget"] = {"value": lost[budgeted], "target": 0.5}
    checks["times_smaller_at_half_a_point"] = {"value": max(free), "target": float(SMALLER)}
    finish(rows, checks, options.json)


def row(bench: Bench, case: Case, scores: dict[Case, list[float]]) -> dict[str, object]:
    store, full = bench.stored(case), bench.stored(FULL).size_bytes
    return {
        "codec": f"{case[0]} {case[1] or ''}".strip() + (", as a budget chooses" if case not in CASES else ""),
        "stored epochs": case[2],
        "bytes per image and epoch": f"{store.size_bytes / (bench.num * EPOCHS):.2f}",
        "times smaller": f"{full / store.size_bytes:.1f}",
        "KL at T=1": f"{store.error.kl_1:.2g}",
        "KL at T=20": f"{store.error.kl_20:.2g}",
        "test accuracy, %": spread(scores[case]),
        "points lost": f"{statistics.fmean(scores[FULL]) - statistics.fmean(scores[case]):.2f}",
    }


class Bench:
    """One seed: images, their views and logits, and students of each case."""

    def __init__(self, world: World, seed: int, folder: Path) -> None:
        self.world, self.seed, self.folder = world, seed, folder
        chosen = torch.cat([self._draw(label) for label in range(world.task.num_classes)])
        self.images, self.labels = world.train.images(chosen), world.train.labels[chosen]
        self.num = len(chosen)
        self.views = Views(VIEWS, seed, self.num, world.task.shape)
        self.logits = torch.stack([self._logits(epoch) for epoch in range(EPOCHS)])

    def _draw(self, label: int) -> Tensor:
        members = self.world.train.indices_of(label)
        return members[torch.randperm(len(members), generator=generator(self.seed, "benchmark", label))[:IPC]]

    @torch.inference_mode()
    def _logits(self, epoch: int) -> Tensor:
        epochs, indices = torch.full((self.num,), epoch), torch.arange(self.num)
        return self.world.teacher(self.views.apply(self.pick, epochs, indices))

    def pick(self, indices: Tensor) -> Tensor:
        return self.images[indices]

    def within(self, share: float) -> Case:
        """What a budget of this share of the full labels chooses."""
        budget = int(self.stored(FULL).size_bytes * share) - HEADER_BYTES
        plan = choose_plan(budget, self.num, self.world.task.num_classes, EPOCHS)
        return plan.codec, plan.keep, plan.num_epochs

    def stored(self, case: Case) -> LabelStore:
        codec, keep, num_epochs = case
        plan = LabelPlan(codec, self.world.task.num_classes, self.num, num_epochs, keep)
        folder = self.folder / "-".join(map(str, case))
        write_labels(folder, plan, lambda epoch: [(torch.arange(self.num), self.logits[epoch])])
        return LabelStore(folder, plan)

    def data(self, case: Case) -> ReplayedSet:
        return ReplayedSet(self.pick, self.labels, self.views, self.stored(case))

    def accuracy(self, case: Case) -> float:
        student = build(STUDENT, self.world.task, seed=self.seed)
        fit(student, self.data(case), LEARNING, seed=self.seed, engine=ENGINE)
        reached = accuracy(student, self.world.test, ENGINE)
        print(f"seed {self.seed} {case}: {reached:.2f}", file=sys.stderr, flush=True)
        return reached


def make_world() -> World:
    settings = SourceSettings(resolution=SIZE_PX, train_per_class=2500, validation_fraction=0)
    source = open_source(str(Path(os.environ["ATTAR_DATA"]) / "cifar10"), settings)
    train, test = (split.pixels(torch.arange(len(split))) for split in (source.train, source.test))
    fine = refine(train, source.train.labels, test, source.test.labels)
    names = tuple(f"{name} {part}" for name in source.task.class_names for part in range(FINER))
    task = replace(source.task, class_names=names)
    known = RealSet(MemorySplit(train, fine[0]), task.normalization)
    teacher = build(TEACHER, task, seed=0)
    fit(teacher, known, TEACHING, seed=0, engine=ENGINE)
    return World(task, known, RealSet(MemorySplit(test, fine[1]), task.normalization), teacher)


def refine(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Finer classes of both splits: in each class, the nearest of the centres found in its training images."""
    small, small_test = (F.avg_pool2d(pixels / 255, 4).flatten(1).numpy() for pixels in (train, test))
    fine, fine_test = train_labels * FINER, test_labels * FINER
    for label in train_labels.unique().tolist():
        mine, theirs = train_labels == label, test_labels == label
        centres = KMeans(FINER, n_init=1, max_iter=50, random_state=0).fit(small[mine.numpy()])
        fine[mine] += torch.from_numpy(centres.labels_).long()
        fine_test[theirs] += torch.from_numpy(centres.predict(small_test[theirs.numpy()])).long()
    return fine, fine_test


def speed(bench: Bench) -> Checks:
    """Images a second: labels read, views and labels made, and eaten by a training step of the student."""
    case: Case = ("pca", 17, EPOCHS // 4)
    data, store = bench.data(case), bench.stored(case)
    student = build(STUDENT, bench.world.task, seed=0).train()
    images, targets = data.batch(0, torch.arange(BATCH))

    def step() -> None:
        student.zero_grad()
        F.cross_entropy(student(images), targets.softmax(1)).backward()

    picked = torch.randint(bench.num, (BATCH,), generator=generator(0, "benchmark", "picked"))
    eaten = rate(step)
    made = rate(lambda: data.batch(EPOCHS // 2, picked))
    read = rate(lambda: store.read(picked % store.num_epochs, picked))
    return {
        "views_and_labels_made_over_eaten": {"value": made / eaten, "target": 1.0},
        "labels_read_over_eaten": {"value": read / eaten, "target": 1.0},
    }


def rate(work: Callable[[], object], repeats: int = 60) -> float:
    """Images a second by the median time of a batch."""
    seconds = []
    for _ in range(repeats):
        started_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started_s)
    return BATCH / statistics.median(seconds)


ENGINE = Engine("cpu")

if __name__ == "__main__":
    main()
