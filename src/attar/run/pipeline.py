"""The whole path over one run folder: squeeze, recover, relabel, evaluate, report.

Stages meet only through the folder. Each is skipped where it is complete and resumed where it is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from attar.artifacts.description import WHITENING, LeftOut
from attar.artifacts.distilled import Distilled, load_distilled, write_distilled
from attar.artifacts.labelling import Labelling
from attar.artifacts.recovered import read_chunks
from attar.artifacts.run import CONFIG, MANIFEST, RunFolder, Stage, require_intact, versions
from attar.artifacts.whitening import open_whitening, write_whitening
from attar.config import dump, merge, parse_duration, place
from attar.data.loading import RealSet
from attar.data.sources import Source, open_source, whitened
from attar.data.whitening import measure_whitening
from attar.errors import ConfigError, DataError
from attar.evaluation.evaluate import RESULT, Evaluation, require_judges, require_resize
from attar.methods import methods
from attar.methods.base import Distillate
from attar.models.factory import build as build_model
from attar.models.weights import without_place
from attar.options import Effort, Redo, Until
from attar.recipes import Recipe, fitting_recipe, load_recipe
from attar.run.choice import RULES, choose_method
from attar.run.effort import WIDE, Goal, capped, fitted, goal, quick_recipe, restored
from attar.run.origin import about_source
from attar.run.planning import Plan
from attar.run.settings import (
    Settings,
    command,
    resolve,
    restore,
    sections_of,
    source_name,
    with_models,
)
from attar.run.strips import keep_strips
from attar.run.without_images import last_stage, require_no_need
from attar.runtime.engine import Engine, device_named, hardware
from attar.runtime.events import Events
from attar.runtime.machine import require_threads
from attar.runtime.memory import enough_memory
from attar.runtime.peers import now_at
from attar.runtime.precision import AUTO_LEAST_PX, auto_precision
from attar.runtime.processes import launched
from attar.runtime.shards import Shard
from attar.squeeze.knowledge import decisive, kinds
from attar.squeeze.teacher_files import TrainedTeacher
from attar.stages.recover import recover
from attar.stages.relabel import label_plan, relabel
from attar.task import Task
from attar.training.soft import Teacher

ORDER: tuple[Until, ...] = ("squeeze", "recover", "relabel", "evaluate")
MEMORY_ADVICE = {
    "recover": "lower recover.chunk_size (sre2l) or method.batch_size (tesla, mtt), or take a narrower squeeze.model",
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


@dataclass(frozen=True)
class Prepared:
    """Settings that have been checked against the source.

    `why` says what was chosen for the user; `expected` is what was rehearsed to fit a time, None where nothing was.
    """

    settings: Settings
    source: Source
    why: tuple[str, ...]
    expected: Plan | None = None


def prepare(
    given: Mapping[str, Mapping[str, Any]],
    *,
    recipe: str = "auto",
    assignments: Sequence[str] = (),
    asked: Effort | None = None,
    out: Path | None = None,
    fresh: bool = False,
    until: Until = "evaluate",
    quiet: bool = False,
) -> Prepared:
    """Resolve the settings, open the source, and check all that can be checked before any long work.

    Args:
        given: sections from flags, above the recipe; `run.source` is among them.
        recipe: auto (a bundled one made for this source, method and ipc, if any), none, a name, or a file.
        assignments: `section.key=value` texts, above everything else.
        asked: how long the run may take; None: as long as its settings say.
        out: run folder that will be gone on with, by what was cut there to fit a time; None: the one under `runs/`.
        fresh: go on with none.
        until: the last stage that has to fit the time.
        quiet: show no progress.
    """
    run = given["run"]
    method = run.get("method", "auto")
    meant = _meant_by_squeeze(given, assignments) if method == "auto" and recipe in ("auto", "none") else None
    method = meant[0] if meant else method
    chosen = _choose_recipe(recipe, run["source"], method, run.get("ipc"))
    named = {"method": method} if method != "auto" else {}
    sections = {**given, "run": {key: value for key, value in run.items() if key != "method"} | named}
    settings, opened, why = _resolve(sections, assignments, chosen, Events(quiet=quiet))
    if chosen and recipe == "auto":
        why = [f"recipe {chosen.name}: made for this source, method and number of images", *why]
    if meant:
        why = [": ".join(meant), *why]
    until = last_stage(opened, until)
    aim = None
    if asked is not None:
        left_open = method == "auto" and chosen is None
        aim = goal(asked, left_open=left_open, on_cpu=device_named(settings.run.device).type == "cpu")
    if aim is None:
        return Prepared(_check_models(with_models(settings, opened.task), opened), opened, tuple(why))
    ready = Prepared(settings, opened, tuple(why))
    fitting = _Fitting(aim, sections, assignments, out, fresh, until, quiet)
    keeps = chosen is not None and (recipe != "auto" or bool(chosen.notes.get("quick")))
    if keeps or not aim.narrow:
        made, far_from = fitting.fit(ready)
        if keeps or not aim.may_narrow or not far_from:
            return made
    return fitting.fit(fitting.narrowed(ready))[0]


@dataclass(frozen=True)
class _Fitting:
    """Fits a run into its time: what was asked for, and in which folder."""

    aim: Goal
    sections: Mapping[str, Mapping[str, Any]]
    assignments: Sequence[str]
    out: Path | None
    fresh: bool
    until: Until
    quiet: bool

    def fit(self, ready: Prepared) -> tuple[Prepared, bool]:
        """Cut what may be cut; and whether it takes so much more that a narrow network would do better."""
        source = ready.source
        settings = _check_models(with_models(ready.settings, source.task), source)
        folder = self.out or _default_folder(settings)
        if not self.fresh and (folder / CONFIG).is_file():
            kept = RunFolder(folder).settings()
            other = kept.get("squeeze", {}).get("model") != settings.plain()["squeeze"].get("model")
            why = (*ready.why, f"{self.aim.why}: as it was begun")
            return Prepared(restored(settings, kept), source, why), other
        placed, _ = place(sections_of(settings.method), self.assignments)
        layers = (self.sections, placed)
        fixed = {f"{name}.{key}" for layer in layers for name, values in layer.items() for key in values}
        with sharing_engine(settings.run.device, settings.run.precision, settings.run.workers) as engine:
            found = fitted(with_precision(settings, source.task), source, engine, self.aim.seconds, fixed, self.until)
        settings = replace(found.settings, sections={**found.settings.sections, "run": settings.run})
        why = (*ready.why, f"{self.aim.why}: {found.sentence(self.aim.seconds)}")
        return Prepared(settings, source, why, found.plan), found.whole_s > WIDE * self.aim.seconds

    def narrowed(self, ready: Prepared) -> Prepared:
        """With a narrow network, by what was measured on few cores, and from no more images than it can learn from."""
        settings, source = ready.settings, ready.source
        why = [line for line in ready.why if not line.startswith("recipe ")]
        quick = quick_recipe(settings.run.method, settings.run.ipc, source.task)
        settings = resolve(
            merge(self.sections, {"run": {"method": settings.run.method}}), self.assignments, recipe=quick
        )
        if quick:
            why.append(f"settings of {quick.name}, which was measured on few cores, with a narrow network")
        if (few := capped(source)) and settings.source.train_per_class is None:
            why.append(f"learns from {few:,} images of each class")
            how = settings.source.model_copy(update={"train_per_class": few})
            events = Events(quiet=self.quiet)
            source = open_source(str(settings.run.source), how, events=events)
            settings = replace(settings, sections={**settings.sections, "source": how})
        return Prepared(settings, source, tuple(why))


def require_judged(prepared: Prepared) -> None:
    """Fail before the first stage, not after the last, where there will be no images to judge by as they are to be."""
    source, split = prepared.source, prepared.settings.evaluate.split
    require_judges(source.num_test if split == "test" else len(source.validation), split)
    require_resize(prepared.settings.evaluate.test_resize_px, source.task)


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
    folder = RunFolder(out or _default_folder(settings), settings.rules)
    settings = with_precision(settings, prepared.source.task, None if fresh else folder)
    with _engine(settings, shard=shard) as engine, _locked(folder, engine):
        if engine.leads:
            with engine.turn():
                folder.open(settings.plain(), fresh=fresh, redo=redo)
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
            _check_models(settings, source)
            if engine.leads:
                folder.open(settings.plain(), redo=redo)
        engine.barrier()
        yield Run(folder, settings, _whitened(source, settings, folder, engine, events), engine, events)


def with_precision(settings: Settings, task: Task, folder: RunFolder | None = None) -> Settings:
    """What `precision: auto` means: that of the run in the folder, where it has begun, else what suits the machine.

    On a processor with bfloat16 that is bf16-mixed for methods that gain from it, from images of 64 px on.
    """
    if settings.run.precision != "auto":
        return settings
    begun = folder.settings()["run"].get("precision") if folder and (folder.path / CONFIG).exists() else None
    gains = settings.method.gains_from_bf16 and min(task.height_px, task.width_px) >= AUTO_LEAST_PX
    chosen = begun or auto_precision(device_named(settings.run.device), gains)
    run = settings.run.model_copy(update={"precision": chosen})
    return replace(settings, sections={**settings.sections, "run": run})


def _resolve(
    sections: Mapping[str, Mapping[str, Any]],
    assignments: Sequence[str],
    recipe: Recipe | None,
    events: Events,
) -> tuple[Settings, Source, list[str]]:
    """Settings and source; where the method is left to auto, the source is looked at to choose it."""
    named = {**(recipe.sections.get("run", {}) if recipe else {}), **sections["run"]}.get("method", "auto")
    candidates = [named] if named != "auto" else dict.fromkeys(rule.method for rule in RULES)
    resolved: dict[str, Settings] = {}
    errors: list[ConfigError] = []
    for candidate in candidates:
        try:
            trial = {**sections, "run": {**sections["run"], "method": candidate}}
            resolved[candidate] = resolve(trial, assignments, recipe=recipe)
        except ConfigError as error:
            errors.append(error)
    if not resolved:
        raise errors[0]
    some = next(iter(resolved.values()))
    source = open_source(str(some.run.source), some.source, events=events, without_images=True)
    why: list[str] = []
    if named == "auto":
        on_cpu = device_named(some.run.device).type == "cpu"
        named, reason = choose_method(source.task, some.run.ipc, on_cpu=on_cpu)
        why.append(reason)
        if named not in resolved:
            raise errors[0]
    return resolved[named], source, why


def _meant_by_squeeze(sections: Mapping[str, Mapping[str, Any]], assignments: Sequence[str]) -> tuple[str, str] | None:
    """The method that what the user gave for squeeze can only be meant for, and why, if there is one.

    It is the typical method of the kind of knowledge which says that the values are its own.
    """
    for kind in kinds().values():
        fitting = [name for name, method in methods().items() if method.knowledge == kind.name]
        for name in sorted(fitting, key=lambda name: not methods()[name].typical)[:1]:
            placed, _ = place(sections_of(methods()[name]), assignments)
            if why := kind.meant_by(merge(sections, placed).get("squeeze", {})):
                return name, why
    return None


def _choose_recipe(name: str, source: str, method: str, ipc: int | None) -> Recipe | None:
    if name == "none":
        return None
    if name != "auto":
        return load_recipe(name)
    return fitting_recipe(source, method, ipc)


def _check_models(settings: Settings, source: Source) -> Settings:
    """Fail now, not after hours: every network can be built, every class has enough images."""
    kind, section = settings.knowledge, settings.sections["squeeze"]
    squeezed, guides = kind.networks(section), kind.guides(section)
    for name in dict.fromkeys([*squeezed, *settings.evaluate.models]):
        model = build_model(name, source.task)
        if name in squeezed:
            kind.require_network(model)
        if name in guides:
            settings.method.require_teacher(model, name)
    relabelled = settings.relabel
    if relabelled.labels == "epochs":
        label_plan(
            relabelled, source.task.num_classes * settings.run.ipc, source.task.num_classes, settings.train.soft_epochs
        )
    if not source.has_images:
        require_no_need(settings, source)
        return settings
    counts = source.train.labels.bincount(minlength=source.task.num_classes)
    least = int(counts.argmin())
    needs_real = settings.method.starts_from_real(settings.sections["method"])
    compared = [name for name in settings.evaluate.complete().baselines if name != "full"]
    if (needs_real or compared) and int(counts[least]) < settings.run.ipc:
        who = settings.run.method if needs_real else f"the baseline `{compared[0]}`"
        raise DataError(
            f"class {source.task.class_names[least]!r} has {int(counts[least])} training "
            f"image{'s' * (int(counts[least]) != 1)}, fewer than ipc={settings.run.ipc}",
            expected=f"at least ipc real images of every class, as {who} needs them",
            fix=f"--ipc {int(counts[least])} or less" + ("" if needs_real else ", or --set evaluate.baselines=[full]"),
        )
    return settings


def _whitened(source: Source, settings: Settings, folder: RunFolder, engine: Engine, events: Events) -> Source:
    """The source as the run sees it: whitened where that is set, by the matrix that the run keeps once it has begun."""
    if not settings.source.zca:
        return source
    kept, epsilon, shape = folder.path / "squeeze", settings.source.zca_epsilon, source.task.shape
    begun = (kept / MANIFEST).exists() and (kept / WHITENING).exists()
    if engine.leads and not begun:
        with engine.turn():
            write_whitening(kept, measure_whitening(source.train, shape, epsilon, events))
    engine.barrier()
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


def slug(source: str) -> str:
    """A source as a part of a folder's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in source_name(source))


def _default_folder(settings: Settings) -> Path:
    run = settings.run
    seed = f"-seed{run.seed}" if run.seed else ""
    return Path("runs") / f"{slug(str(run.source))}-{run.method}-ipc{run.ipc}{seed}"


@contextmanager
def sharing_engine(
    device: str,
    precision: str,
    workers: int | None,
    peer_timeout: str = "10m",
    folder: Path | None = None,
    shard: Shard | None = None,
) -> Iterator[Engine]:
    """The engine of all processes; while it is in use, torch has this number of threads in each, or what it had.

    Raises ResourceError where several processes do not see one `folder`.
    """
    require_threads(workers or 1, "--workers")
    before, processes = torch.get_num_threads(), shard or launched()
    torch.set_num_threads(workers or before)
    try:
        with processes.joined(parse_duration(peer_timeout)):
            if folder is not None:
                processes.require_shared(folder)
            yield Engine(device, precision, processes)
    finally:
        torch.set_num_threads(before)


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


@contextmanager
def held_by_one(folder: Path, engine: Engine) -> Iterator[None]:
    """One process holds a folder for all, which go on once it does; see `RunFolder.locked`."""
    with RunFolder(folder).locked() if engine.leads else nullcontext():
        engine.barrier()
        yield


def _data_files(folder: Path) -> list[str]:
    """Files of the distilled dataset that evaluation leaves as they are, relative to the stage's folder."""
    return [
        f"../{folder.name}/{path.relative_to(folder)}"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("README.md", "SHA256SUMS")
    ]
