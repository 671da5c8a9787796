"""Plan: hours, memory and disk before they are spent, from a rehearsal of the real stages.

Each stage is run on this machine at the real image size, batch size and network, first for one unit of its work and
then for some more; the difference gives the time of a unit, free of start-up, and the settings say how many there
will be. Of a teacher that is asked, rehearsals have one that has hardly been trained: it answers as fast.
"""

from __future__ import annotations

import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attar.artifacts.parquet import writing_bytes
from attar.artifacts.recovered import chunk_name
from attar.config import Config
from attar.data.loading import RealSet, SubsetSplit, TensorSet, TrainingSet
from attar.data.replayed import ReplayedSet
from attar.data.sources import Source
from attar.data.views import Views
from attar.errors import ArtifactError
from attar.evaluation import held_bytes
from attar.labels.plan import LabelPlan
from attar.methods.base import Distillate, Method
from attar.models.catalog import build
from attar.models.weights import is_path
from attar.recover import SNAPSHOT_IMAGES, RecoverSettings, chunks, recover, snapshot_steps, state_steps
from attar.relabel import BATCH, RelabelSettings, label_plan, relabel
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.seeding import generator
from attar.settings import Settings
from attar.squeeze import open_knowledge, squeeze
from attar.squeeze.pool import PoolSettings
from attar.squeeze.real_statistics import BATCH as MEASURED_BATCH
from attar.squeeze.real_statistics import Measuring
from attar.squeeze.replay_buffers import buffer_files
from attar.squeeze.teachers import TeacherSettings, file_name
from attar.squeeze.trajectories import ExpertSettings
from attar.training.loop import TrainSettings, fit
from attar.training.strategies import num_batches

MEASURE_S, MOST = 0.5, 200
LONG_S = 2.0
"""A unit that takes longer is measured over one more, not three."""
TEACHER_IMAGES = 32
"""Real images that the rehearsals' teacher is trained on."""
HARD, STORED, ONLINE = "", ", stored labels", ", labels made in training"
"""What a student's labels are, as it is said behind its name."""


@dataclass(frozen=True)
class Estimate:
    """What a stage will cost: `units` of work (named by `unit`) at `unit_s` seconds each, and bytes on disk."""

    stage: str
    unit: str
    units: int
    unit_s: float
    disk_bytes: int

    @property
    def total_s(self) -> float:
        """Seconds for the whole stage."""
        return self.units * self.unit_s


@dataclass(frozen=True)
class Plan:
    """Estimates of all stages, and the most memory that they will take."""

    estimates: tuple[Estimate, ...]
    memory_bytes: int
    """Of a GPU what the rehearsal took; without one, main memory."""
    main_memory_bytes: int
    """What the rehearsal took, and what takes more with more images: sets to train on, files that are being written."""

    @property
    def total_s(self) -> float:
        """Seconds for the whole run."""
        return sum(estimate.total_s for estimate in self.estimates)

    @property
    def disk_bytes(self) -> int:
        """Bytes that the run folder will take."""
        return sum(estimate.disk_bytes for estimate in self.estimates)


def plan(settings: Settings, source: Source, engine: Engine) -> Plan:
    """Rehearse every stage of these settings (networks resolved) in a temporary folder."""
    _require_weights(settings)
    with tempfile.TemporaryDirectory(prefix="attar-plan-") as folder:
        rehearsal = _Rehearsal(settings, source, engine, Path(folder))
        squeezed = rehearsal.squeeze()
        estimates = [*squeezed, *rehearsal.recover(), rehearsal.relabel(), *rehearsal.evaluate()]
        main_bytes = _peak_main_bytes() + rehearsal.more_bytes()
    cuda = engine.device.type == "cuda"
    return Plan(tuple(estimates), torch.cuda.max_memory_allocated(engine.device) if cuda else main_bytes, main_bytes)


def _require_weights(settings: Settings) -> None:
    """A rehearsal does without the weights that are given, and so would not notice that they are not there."""
    section = settings.sections["squeeze"]
    weights = getattr(section, "weights", None)
    if weights and isinstance(section, ExpertSettings):
        buffer_files(Path(weights))
    elif weights and is_path(weights) and not Path(weights).is_file():
        raise ArtifactError(f"there is no file {weights}", expected="a checkpoint", fix="correct --weights")


@dataclass(frozen=True)
class _Rehearsal:
    settings: Settings
    source: Source
    engine: Engine
    folder: Path

    def squeeze(self) -> list[Estimate]:
        """Trainings on a few batches; what one on a few images leaves serves the stages that follow."""
        section = self.settings.sections["squeeze"]
        if isinstance(section, PoolSettings):
            self._stand_in(section)
            return self._pool(section)
        if isinstance(section, TeacherSettings):
            self._stand_in(section)
            return [self._network(section, k) for k in range(1 + len(section.more_models))]
        if isinstance(section, ExpertSettings):
            self._stand_in(section)
            num, num_bytes = section.num_experts, section.num_experts * _size(self._squeezed)
            if section.weights:
                return [Estimate("squeeze", "experts read", num, 0.0, num_bytes)]
            steps, unit_s = self._real_steps(section, section.epochs), self._real_step_s(section, section.model)
            return [Estimate("squeeze", "training steps", num * steps, unit_s, num_bytes)]
        return []

    def recover(self) -> list[Estimate]:
        """The first images of some classes, and one iteration of the first chunk, then a few more."""
        settings, method = self.settings.recover, self._method()
        parts = chunks(method, settings)
        estimates = [self._beginning()] if method.separable else []
        first, frames = parts[0], len(snapshot_steps(settings))
        snapshots = frames * min(len(first), SNAPSHOT_IMAGES) * self._image_bytes
        copies = 1 + (0 if method.separable else len(state_steps(settings)))
        disk = 4 * copies * self._num_images * self._image_bytes + snapshots
        units = len(parts) * settings.iterations

        def iterate(num: int) -> None:
            folder = self._new_folder()
            for k in range(1, len(parts)):
                (folder / chunk_name(k)).touch()  # what is there is not made
            recover(
                method,
                self._real,
                self._knowledge,
                RecoverSettings(**{**settings.model_dump(), "iterations": num, "num_snapshots": 0, "num_states": 0}),
                seed=self.settings.run.seed,
                folder=folder,
                engine=self.engine,
                events=Events(quiet=True),
            )

        unit = "iterations" if len(parts) == 1 else "iterations of a chunk"
        return [*estimates, Estimate("recover", unit, units, _unit_s(iterate) if units else 0.0, disk)]

    def relabel(self) -> Estimate:
        """Soft labels of a batch for an epoch, then for some more, written as they will be; and the images."""
        each = (1 if self._method().hands_over_8bit() else 1 + 4) * self._image_bytes
        settings, disk = self.settings.relabel, self._num_images * each
        if settings.labels == "online":
            return Estimate("relabel", "images", 0, 0.0, disk + _size(self._squeezed))
        if settings.labels != "epochs":
            return Estimate("relabel", "images", 0, 0.0, disk)
        task, whole = self.source.task, self._label_plan()
        num = min(BATCH, self._num_images)
        some = Distillate(torch.zeros(num, *task.shape), torch.arange(num) % task.num_classes)
        same = {"codec": whole.codec, "keep": whole.keep, "label_budget": None}

        def label(num_epochs: int) -> None:
            relabel(
                some,
                self._knowledge,
                RelabelSettings(**{**settings.model_dump(), **same, "epochs": num_epochs}),
                task=task,
                train_epochs=num_epochs,
                seed=0,
                folder=self._new_folder(),
                engine=self.engine,
                events=Events(quiet=True),
            )

        batches = whole.num_epochs * math.ceil(self._num_images / num)
        return Estimate("relabel", f"batches of {num}", batches, _unit_s(label), disk + whole.total_bytes)

    def evaluate(self) -> list[Estimate]:
        """Students on as many images as the distilled set has, by what labels them, and on all real ones."""
        judging, training = self.settings.evaluate.complete(), self.settings.train
        steps = training.epochs * num_batches(training, self._num_images)
        estimates = []
        for model in judging.models:
            for how, num in self._trainings().items():
                unit_s = self._small_step_s(model, how)
                stage = f"evaluate {model}{how}"
                estimates.append(Estimate(stage, "training steps", judging.seeds * num * steps, unit_s, 0))
            if "full" in judging.baselines:
                units = judging.seeds * self._real_steps(training, judging.full_epochs)
                full_s = self._real_step_s(training, model)
                estimates.append(Estimate(f"evaluate {model} on all", "training steps", units, full_s, 0))
        return estimates

    def more_bytes(self) -> int:
        """Main memory that a run on all images takes above this rehearsal on few."""
        settings, task, num = self.settings, self.source.task, self._num_images
        plan = self._label_plan() if settings.relabel.labels == "epochs" else None
        soft = settings.relabel.labels == "teacher"
        return max(
            plan.writing_bytes if plan else 0,
            writing_bytes(num, task.shape),
            held_bytes(settings.evaluate, num, task, soft=soft),
        )

    def _label_plan(self) -> LabelPlan:
        task, epochs = self.source.task, self.settings.train.epochs
        return label_plan(self.settings.relabel, self._num_images, task.num_classes, epochs)

    def _pool(self, section: PoolSettings) -> list[Estimate]:
        """Trainings, copies that are trained again, and a look at all real images under each member."""
        estimates = []
        size = _size(self._squeezed) // max(1, section.num_networks)
        for k, model in enumerate(section.models):
            stage = f"squeeze {model}" if section.more_models else "squeeze"
            given = section.weights if k == 0 else None
            epochs = (0 if given else section.epochs) + self._copies(section) * section.tune_epochs
            units, num = self._real_steps(section, epochs), section.num_networks // len(section.models)
            estimates.append(
                Estimate(stage, "training steps", units, self._real_step_s(section, model), num * size if units else 0)
            )
            batches = num * math.ceil(len(self.source.train) / MEASURED_BATCH)
            estimates.append(Estimate(f"{stage}: statistics", "batches", batches, self._measured_s(model), 0))
        return estimates

    @staticmethod
    def _as_many(section: PoolSettings) -> dict[str, Any]:
        """Settings of a pool with as many members, each trained for one epoch more."""
        num = section.num_networks // len(section.models)
        return {"pool": "prior", "epochs": num, "num_members": num, "member_epochs": ()}

    def _copies(self, section: PoolSettings) -> int:
        return len(section.ratios) if section.pool == "post" else 0

    def _measured_s(self, model: str) -> float:
        """Seconds to measure the statistics of a batch of real images under a network."""
        network, device = build(model, self.source.task).to(self.engine.device), self.engine.device
        some = self.source.train.labels.argsort(stable=True)[:MEASURED_BATCH]
        labels = self.source.train.labels[some].to(device)

        def measure(batches: int) -> None:
            measuring = Measuring(network, self.source.task.num_classes)
            for _ in range(batches):
                measuring.add(self._real.images(some).to(device), labels)

        return _unit_s(measure)

    def _network(self, section: TeacherSettings, k: int) -> Estimate:
        """Network `k` of a teacher; weights that are given are not trained."""
        model = (section.model, *section.more_models)[k]
        stage = f"squeeze {model}" if section.more_models else "squeeze"
        size = (self._squeezed / file_name(k)).stat().st_size
        if k == 0 and section.weights:
            return Estimate(stage, "training steps", 0, 0.0, size)
        units = self._real_steps(section, section.epochs)
        return Estimate(stage, "training steps", units, self._real_step_s(section, model), size)

    def _beginning(self) -> Estimate:
        """What a method does before its first iteration: for rded it is all that there is."""
        labels, num_classes = self._method().labels(), self.source.task.num_classes

        def begin(num: int) -> None:
            method = self._method()  # one that has not seen a class yet
            for label in range(num):
                picked = (labels == label).nonzero().squeeze(1)
                rngs = partial(generator, self.settings.run.seed, "recover", "init")
                method.init(picked, self._real, self._knowledge, rngs)

        return Estimate("begin", "classes", num_classes, _unit_s(begin, num_classes), 0)

    def _trainings(self) -> dict[str, int]:
        """How many trainings of a seed there are, by what makes their labels (and the name of that)."""
        judging, labels = self.settings.evaluate.complete(), self.settings.relabel.labels
        num_real = len([name for name in judging.baselines if name != "full"])
        replayed = labels in ("epochs", "online")
        kinds = dict.fromkeys("soft" if kind == "stored" and replayed else "hard" for kind in judging.labels)
        found: dict[str, int] = dict.fromkeys((HARD, STORED, ONLINE), 0)
        for kind in kinds:
            found[HARD if kind == "hard" else STORED if labels == "epochs" else ONLINE] += 1
            found[HARD if kind == "hard" else ONLINE] += num_real
        if judging.best_over_run and not self.settings.method.separable:
            found[HARD] += len(state_steps(self.settings.recover))
        if judging.scores:  # distilled and random images that are not augmented
            found[ONLINE if replayed else HARD] += 2
        return {how: num for how, num in found.items() if num}

    def _small_step_s(self, model: str, how: str) -> float:
        """Seconds of a step on black images, as many as a student sees, labelled in one of these ways."""
        task, training = self.source.task, self.settings.train
        batch = min(training.batch_size, self._num_images)

        def black(indices: Tensor) -> Tensor:
            return torch.zeros(len(indices), *task.shape)

        def make(num: int) -> TrainingSet:
            labels = torch.arange(num) % task.num_classes
            if how == HARD:
                return _First(TensorSet(black(labels[:batch]), labels[:batch]), num)
            views = Views(self.settings.relabel, 0, num, task.shape)
            logits = self._knowledge.logits if how == ONLINE else partial(_no_logits, num_classes=task.num_classes)
            return ReplayedSet(black, labels, views, logits, self.engine.device)

        return self._step_s(training, model, make, batch)

    def _real_step_s(self, settings: TrainSettings, model: str) -> float:
        """Seconds of a step on real images."""
        batch = min(settings.batch_size, len(self.source.train))
        return self._step_s(settings, model, partial(_First, self._real), batch)

    def _step_s(self, settings: TrainSettings, model: str, make: Callable[[int], TrainingSet], batch: int) -> float:
        kept = settings.model_dump(include=set(TrainSettings.model_fields))
        once = TrainSettings(**{**kept, "epochs": 1, "warmup_epochs": 0, "batch_size": batch})
        network = build(model, self.source.task)
        each_s = _unit_s(lambda num: fit(network, make(batch * num), once, seed=0, engine=self.engine))
        return each_s / num_batches(once, batch)

    def _real_steps(self, settings: TrainSettings, epochs: int) -> int:
        return epochs * num_batches(settings, len(self.source.train))

    def _stand_in(self, section: TrainSettings) -> None:
        """Squeeze one expert of an image a class, or a teacher that knows nothing."""
        labels, classes = self.source.train.labels, range(self.source.task.num_classes)
        few = torch.cat([(labels == c).nonzero()[:1, 0] for c in classes])
        short: dict[str, Any] = {"num_experts": 1, "experts_at_once": 1, "weights": None}
        if isinstance(section, TeacherSettings):
            few = torch.arange(min(TEACHER_IMAGES, len(labels)))
            short = {"epochs": 1, "warmup_epochs": 0, "weights": None, "weights_mean": None, "weights_std": None}
            short["weights_normalization"] = "auto"
        if isinstance(section, PoolSettings):
            short |= self._as_many(section)
        nothing = SubsetSplit(self.source.validation, torch.arange(0))
        tiny = replace(self.source, train=SubsetSplit(self.source.train, few), validation=nothing)
        made = section.model_copy(update=short)
        squeeze(tiny, made, seed=0, folder=self._squeezed, engine=self.engine, events=Events(quiet=True))

    @cached_property
    def _knowledge(self) -> Any:
        section: Config = self.settings.sections["squeeze"]
        if isinstance(section, ExpertSettings):
            section = section.model_copy(update={"num_experts": 1})
        if isinstance(section, PoolSettings):
            section = section.model_copy(update=self._as_many(section))
        return open_knowledge(section, self.source.task, self._squeezed, self.engine)

    @property
    def _real(self) -> RealSet:
        return RealSet(self.source.train, self.source.task.normalization)

    def _method(self) -> Method:
        return self.settings.method(self.settings.sections["method"], self.source.task, self.settings.run.ipc)

    @property
    def _num_images(self) -> int:
        return self.source.task.num_classes * self.settings.run.ipc

    @property
    def _image_bytes(self) -> int:
        """Bytes of an image's 8-bit pixels."""
        return math.prod(self.source.task.shape)

    @property
    def _squeezed(self) -> Path:
        return self.folder / "squeeze"

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))


class _First:
    """The first `num` images of a training set, repeated where it has fewer."""

    def __init__(self, data: TrainingSet, num: int) -> None:
        self._data, self._indices = data, torch.arange(num) % len(data)
        self.labels = data.labels[self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def images(self, indices: Tensor) -> Tensor:
        return self._data.images(self._indices[indices])

    def targets(self, indices: Tensor) -> Tensor:
        return self._data.targets(self._indices[indices])


def _no_logits(images: Tensor, *, num_classes: int) -> Tensor:
    return images.new_zeros(len(images), num_classes)


def _unit_s(work: Callable[[int], Any], most: int = MOST) -> float:
    """Seconds of one unit: a warm-up, one unit, then as many more as fill half a second; fixed costs cancel."""
    work(1)
    one_s = _timed(work, 1)
    fewest = 3 if one_s < LONG_S else 1
    more = min(most - 1, MOST, max(fewest, math.ceil(MEASURE_S / one_s)))
    all_s = _timed(work, 1 + more)
    return max((all_s - one_s) / more, all_s / (10 * (1 + more)))


def _timed(work: Callable[[int], Any], num: int) -> float:
    started_s = time.perf_counter()
    work(num)
    return time.perf_counter() - started_s


def _size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _peak_main_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
