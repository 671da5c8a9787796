"""The whole path over one run folder: squeeze, recover, relabel, evaluate, report.

Stages meet only through the folder. Each is skipped where it is complete and resumed where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attar.artifacts.description import WHITENING, LeftOut
from attar.artifacts.distilled import Distilled, load_distilled, write_distilled
from attar.artifacts.labelling import Labelling
from attar.artifacts.recovered import read_chunks
from attar.artifacts.run import CONFIG, MANIFEST, RunFolder, Stage, require_intact, versions
from attar.artifacts.whitening import open_whitening, write_whitening
from attar.config import dump
from attar.data.loading import RealSet
from attar.data.sources import Source, open_source, whitened
from attar.data.whitening import measure_whitening
from attar.evaluation.evaluate import RESULT, Evaluation
from attar.methods.base import Distillate
from attar.models.weights import without_place
from attar.options import Redo, Until
from attar.run.origin import about_source
from attar.run.preparing import Prepared, check_models, default_folder, with_precision
from attar.run.settings import (
    Settings,
    command,
    restore,
    source_name,
    with_models,
)
from attar.run.sharing import sharing_engine
from attar.run.strips import keep_strips
from attar.runtime.engine import Engine, hardware
from attar.runtime.events import Events
from attar.runtime.memory import enough_memory
from attar.runtime.peers import now_at
from attar.runtime.shards import Shard
from attar.squeeze.knowledge import decisive
from attar.squeeze.teacher_files import TrainedTeacher
from attar.stages.recover import recover
from attar.stages.relabel import relabel
from attar.task import Task
from attar.training.soft import Teacher

ORDER: tuple[Until, ...] = ("squeeze", "recover", "relabel", "evaluate")
MEMORY_ADVICE = {
    "recover": "set method.images_at_once=10 (sre2l, teddy, fadrm), lower recover.chunk_size, or "
    "method.batch_size (tesla, mtt), or take a narrower squeeze.model",
    "relabel": "lower --ipc or --resolution",
}


@dataclass(frozen=True)
class Run:
    """An open run: its folder, settings and source, and where the work is done."""

    folder: RunFolder
    settings: Settings
    source: Source
    engine: Engine
    events: Events

    def left(self, until: Until = "evaluate") -> tuple[Until, ...]:
        """Stages up to `until` of which the folder holds no complete one."""
        done = {"squeeze", "recover", "relabel"}
        done = {stage for stage in done if (self.folder.path / stage / MANIFEST).exists()}
        done |= {"evaluate"} if (self.folder.path / RESULT).exists() else set()
        return tuple(stage for stage in ORDER[: ORDER.index(until) + 1] if stage not in done)

    def advance(self, until: Until = "evaluate") -> Evaluation | None:
        """Do every stage up to `until` that is not complete."""
        wanted = ORDER[: ORDER.index(until) + 1]
        if self.engine.leads:
            with self.engine.turn():
                keep_strips(self.folder.path, self.source, self.settings.source.strip)
        squeezed = self._squeeze()
        if "recover" not in wanted:
            return None
        recovered = self._recover(squeezed)
        if "relabel" not in wanted:
            return None
        self._relabel(squeezed, recovered)
        return self._evaluate() if "evaluate" in wanted else None

    def _squeeze(self) -> Stage:
        section = self.settings.sections["squeeze"]
        stage = self.folder.stage(
            "squeeze",
            {
                "source": self.source.fingerprint,
                "squeeze": decisive(section),
                "seed": self.settings.run.seed,
                "precision": self.settings.run.precision,
            },
        )
        with self._making(stage) as files:
            if files is not None:
                files += [WHITENING] if self.source.task.normalization.whitening else []
                files += self.settings.knowledge.make(
                    self.source,
                    section,
                    seed=self.settings.run.seed,
                    folder=stage.folder,
                    engine=self.engine,
                    events=self.events,
                )
        return stage

    def _recover(self, squeezed: Stage) -> Stage:
        run = self.settings.run
        stage = self.folder.stage(
            "recover",
            {
                "method": {"name": run.method, **dump(self.settings.sections["method"])},
                "recover": dump(self.settings.recover),
                "ipc": run.ipc,
                "seed": run.seed,
                **self._network_precision(),
            },
            [squeezed],
        )
        with self._making(stage) as files:
            if files is not None:
                method = self.settings.method(self.settings.sections["method"], self.source.task, run.ipc)
                files += recover(
                    method,
                    RealSet(self.source.train, self.source.task.normalization),
                    self._knowledge(squeezed),
                    self.settings.recover,
                    seed=run.seed,
                    folder=stage.folder,
                    engine=self.engine,
                    events=self.events,
                )
        return stage

    def _network_precision(self) -> dict[str, str]:
        """Precision that recovered images depend on."""
        return {"precision": self.settings.run.precision} if self.settings.method.mixed_precision else {}

    def _relabel(self, squeezed: Stage, recovered: Stage) -> Stage:
        settings = self.settings.relabel
        made_for = {"train_epochs": self.settings.train.soft_epochs} if settings.labels == "epochs" else {}
        stage = self.folder.stage("relabel", {"relabel": dump(settings), **made_for}, [squeezed, recovered])
        with self._making(stage) as files:
            if files is not None:
                distillate, labelling = relabel(
                    read_chunks(recovered.folder),
                    None if settings.labels == "method" else self._labeller(),
                    settings,
                    task=self.source.task,
                    train_epochs=self.settings.train.soft_epochs,
                    seed=self.settings.run.seed,
                    folder=stage.folder,
                    engine=self.engine,
                    events=self.events,
                )
                if self.engine.leads:
                    with self.engine.turn():
                        if not stage.complete:  # another shard has not been here before
                            self._write_distilled(distillate, squeezed, labelling)
                            stage.finish(_data_files(self.folder.distilled))
        return stage

    def _write_distilled(self, distillate: Distillate, squeezed: Stage, labelling: Labelling | None) -> None:
        provenance = self._provenance(squeezed)
        write_distilled(self.folder.distilled, distillate, self.source.task, provenance, labelling=labelling)

    def _evaluate(self) -> Evaluation:
        from attar.artifacts.card import update_card
        from attar.evaluation.evaluate import evaluate

        distilled = self.distilled()
        evaluation = evaluate(
            distilled,
            self.source,
            self.settings.evaluate,
            self.settings.train,
            seed=self.settings.run.seed * self.settings.evaluate.seeds,  # runs with other seeds share no training
            engine=self.engine,
            events=self.events,
            folder=self.folder.path,
            teacher=self._teacher(distilled),
        )
        if self.engine.leads:
            with self.engine.turn():
                update_card(distilled.path, evaluation.records, evaluation.verdict)
        return evaluation

    def _teacher(self, distilled: Distilled) -> Teacher | None:
        """Who gives random real images soft labels too, where the distilled ones have some."""
        return None if distilled.label_kind == "hard" else self._labeller()

    def _labeller(self) -> Teacher | None:
        return open_labeller(self.settings, self.source.task, self.folder.path, self.engine)

    def distilled(self) -> Distilled:
        """The result of the run."""
        return load_distilled(self.folder.distilled)

    def _knowledge(self, squeezed: Stage) -> Any:
        section = self.settings.sections["squeeze"]
        return self.settings.knowledge.open(section, self.source.task, squeezed.folder, self.engine)

    @contextmanager
    def _making(self, stage: Stage) -> Iterator[list[str] | None]:
        """Yield the list of files to fill, or None where the stage is complete; one process writes the manifest."""
        now_at(stage.name)
        complete = stage.complete
        if complete and self.engine.leads:
            require_intact(stage.folder, self.events)
        self.engine.barrier()  # all have looked before any goes on
        if complete:
            yield None
            return
        files: list[str] = []
        if not self.engine.leads:
            yield files
            self.engine.barrier()
            return
        notes = {
            "seed": self.settings.run.seed,
            "hardware": hardware(self.engine.device),
            "versions": versions(),
            "source": {"name": self.source.name, **about_source(self.source)},
        }
        advice = {"squeeze": self.settings.knowledge.memory_advice, **MEMORY_ADVICE}[stage.name]
        with stage.making(files, self.engine.turn, **notes), enough_memory(stage.name, advice):
            yield files
            if self.engine.processes.apart:
                self.engine.barrier(stage.folder / name for name in files)
        self.engine.barrier()

    def _provenance(self, squeezed: Stage) -> dict[str, Any]:
        settings = {name: values for name, values in self.settings.plain().items() if name != "run"}
        settings["source"].pop("data_dir", None)  # where the images lay is not part of what was made
        if weights := settings["squeeze"].get("weights"):
            settings["squeeze"]["weights"] = without_place(weights)
        run, source = self.settings.run, self.source
        roots = str(run.source), str(self.settings.source.data_dir or "")
        left_out = LeftOut.of(source.skipped_training, *roots)
        return {
            "method": run.method,
            "summary": self.settings.method.summary,
            "paper": self.settings.method.source,
            "source": {
                "name": source_name(str(run.source)),
                "fingerprint": source.fingerprint,
                "licence": source.licence,
                "num_train_images": len(source.train),
                **({"left_out": left_out.model_dump(mode="json")} if left_out else {}),
            },
            "ipc": run.ipc,
            "seed": run.seed,
            "precision": run.precision,
            "settings": settings,
            "knowledge": {name: note["sha256"] for name, note in squeezed.manifest()["files"].items()},
            "command": command(self.settings, source.task),
        }


@contextmanager
def start(
    prepared: Prepared,
    out: Path | None = None,
    *,
    fresh: bool = False,
    redo: Redo | None = None,
    quiet: bool = False,
    shard: Shard | None = None,
) -> Iterator[Run]:
    """Open the run folder `out` (None: one under `runs/`) for these settings and hold its lock.

    `fresh` deletes what an earlier run left there; `redo` what its stages from that one on left. A `shard` that is at
    work there holds the folder already.
    """
    settings = prepared.settings
    folder = RunFolder(out or default_folder(settings), settings.rules)
    settings = with_precision(settings, prepared.source.task, None if fresh else folder)
    with _engine(settings, shard=shard) as engine, _locked(folder, engine):
        if engine.leads:
            with engine.turn():
                folder.open(settings.plain(), fresh=fresh, redo=redo, alone=shard is None)
        engine.barrier()
        events = Events(shard.folder / shard.log if shard else folder.events_path, quiet=quiet or not engine.leads)
        if engine.leads:
            for line in prepared.why:
                events.say(line)
                events.emit("distill", "why", message=line)
            if prepared.source.skipped:
                events.emit("distill", "skipped", images=prepared.source.skipped)
        engine.warn(events.say)
        yield Run(folder, settings, _whitened(prepared.source, settings, folder, engine, events), engine, events)


@contextmanager
def resume(
    path: Path,
    *,
    assignments: Sequence[str] = (),
    redo: Redo | None = None,
    workers: int | None = None,
    quiet: bool = False,
    shard: Shard | None = None,
) -> Iterator[Run]:
    """Open an existing run folder with the settings that made it.

    Other settings may be assigned to a stage that is done again, `redo`, and to those after it. `workers` threads are
    used where the settings name no number.
    """
    settings = restore(RunFolder(path).settings(), assignments)
    folder = RunFolder(path, settings.rules)
    with _engine(settings, workers, shard) as engine, _locked(folder, engine):
        events = Events(shard.folder / shard.log if shard else folder.events_path, quiet=quiet or not engine.leads)
        engine.warn(events.say)
        source = open_source(str(settings.run.source), settings.source, events=events, without_images=True)
        settings = with_models(settings, source.task)  # another protocol may have left its network to auto
        if redo or assignments:
            check_models(settings, source)
            if engine.leads:
                folder.open(settings.plain(), redo=redo)
        engine.barrier()
        yield Run(folder, settings, _whitened(source, settings, folder, engine, events), engine, events)


def _whitened(source: Source, settings: Settings, folder: RunFolder, engine: Engine, events: Events) -> Source:
    """The source as the run sees it: whitened where that is set, by the matrix that the run keeps once it has begun."""
    if not settings.source.zca:
        return source
    kept, epsilon, shape = folder.path / "squeeze", settings.source.zca_epsilon, source.task.shape
    begun = (kept / MANIFEST).exists() and (kept / WHITENING).exists()
    if engine.leads and not begun:
        with engine.turn():
            # another shard, which may be at work by its own, was first
            if not (engine.processes.apart and (kept / WHITENING).exists()):
                write_whitening(kept, measure_whitening(source.train, shape, epsilon, events))
    engine.barrier([kept / WHITENING])
    return whitened(source, open_whitening(kept, math.prod(shape), epsilon))


def teacher_of(distilled: Distilled, engine: Engine) -> Teacher | None:
    """Who makes soft labels for this dataset: the teacher that came with it, or what its run squeezed.

    Raises ArtifactError where that is damaged.
    """
    if distilled.label_kind == "hard":
        return None
    if distilled.teacher_files:
        return TrainedTeacher(distilled.teacher_files, distilled.task, engine)
    run = distilled.path.resolve().parent
    if not (run / CONFIG).is_file():
        return None
    if engine.leads and (run / "squeeze" / MANIFEST).exists():
        require_intact(run / "squeeze")
    return open_labeller(restore(RunFolder(run).settings()), distilled.task, run, engine)


def open_labeller(settings: Settings, task: Task, run: Path, engine: Engine) -> Teacher | None:
    """Who labels by what was squeezed in the run folder `run`; None where nobody can."""
    opened = settings.knowledge.open(settings.sections["squeeze"], task, run / "squeeze", engine)
    return settings.labeller(opened)


def _engine(
    settings: Settings, workers: int | None = None, shard: Shard | None = None
) -> AbstractContextManager[Engine]:
    run = settings.run
    return sharing_engine(run.device, run.precision, run.workers or workers, run.peer_timeout, shard=shard)


@contextmanager
def _locked(folder: RunFolder, engine: Engine) -> Iterator[None]:
    """One process holds the folder for all; one that holds other things is refused before anything is written there."""
    if engine.processes.apart:  # see `sharding.at_work`
        yield
        return
    if engine.leads:
        folder.require_free()
    with folder.locked() if engine.leads else nullcontext():
        engine.processes.require_shared(folder.path)
        yield


def _data_files(folder: Path) -> list[str]:
    """Files of the distilled dataset that evaluation leaves as they are, relative to the stage's folder."""
    return [
        f"../{folder.name}/{path.relative_to(folder)}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("README.md", "SHA256SUMS")
    ]
