"""What a run will do, settled and checked before any long work: settings, source, networks, and what fits its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attar.artifacts.run import CONFIG, RunFolder
from attar.config import merge, place
from attar.data.sources import Source, open_source
from attar.errors import ConfigError, DataError
from attar.evaluation.students import require_judges, require_resize
from attar.evaluation.subjects import chosen_by_teacher
from attar.methods import methods
from attar.models.factory import build as build_model
from attar.options import Effort, Until
from attar.recipes import Recipe, fitting_recipe, load_recipe
from attar.run.choice import RULES, choose_method
from attar.run.effort import (
    WIDE,
    Goal,
    capped,
    fitted,
    goal,
    in_minutes,
    narrow,
    quick_recipe,
    require_agreeing,
    restored,
)
from attar.run.planning import Plan
from attar.run.settings import (
    Settings,
    resolve,
    sections_of,
    source_name,
    with_models,
)
from attar.run.sharing import sharing_engine
from attar.run.without_images import last_stage, require_no_need
from attar.runtime.engine import device_named
from attar.runtime.events import Events
from attar.runtime.precision import AUTO_LEAST_PX, auto_precision
from attar.squeeze.knowledge import kinds
from attar.stages.relabel import label_plan
from attar.task import Task
from attar.training.strategies import require_suits


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
    if asked is not None:
        require_agreeing(asked)
    run = given["run"]
    method = run.get("method", "auto")
    meant = _meant_by_squeeze(given, assignments) if method == "auto" and recipe in ("auto", "none") else None
    method = meant[0] if meant else method
    chosen = _choose_recipe(recipe, run["source"], method, run.get("ipc"))
    named = {"method": method} if method != "auto" else {}
    sections = {**given, "run": {key: value for key, value in run.items() if key != "method"} | named}
    settings, opened, why = _resolve(sections, assignments, chosen, in_minutes(asked), Events(quiet=quiet))
    if chosen and recipe == "auto":
        why = [f"recipe {chosen.name}: made for this source, method and number of images", *why]
    if meant:
        why = [": ".join(meant), *why]
    until = last_stage(opened, until)
    if until == "evaluate":
        _require_judged(settings, opened)
    aim = None
    if asked is not None:
        left_open = method == "auto" and chosen is None
        aim = goal(asked, left_open=left_open, on_cpu=device_named(settings.run.device).type == "cpu")
    if aim is None:
        return Prepared(check_models(with_models(settings, opened.task), opened), opened, tuple(why))
    ready = Prepared(settings, opened, tuple(why))
    fitting = _Fitting(aim, sections, assignments, out, fresh, until, quiet)
    keeps = chosen is not None and (recipe != "auto" or bool(chosen.notes.get("quick")))
    if aim.narrow and not keeps:
        return fitting.fit(fitting.narrowed(ready)).prepared
    return fitting.fit(ready).prepared if keeps or not aim.may_narrow else fitting.wide_or_narrow(ready)


@dataclass(frozen=True)
class _Fit:
    """A run made to fit its time; `misfit` says how badly it does, `cut` that it had to be cut."""

    prepared: Prepared
    misfit: int
    cut: bool = False


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

    def wide_or_narrow(self, ready: Prepared) -> Prepared:
        """As it is, or with a narrow network where that does not fit.

        The narrow one is rehearsed first: an iteration with a wide network may take longer than there is time for all.
        """
        narrow = self.fit(self.narrowed(ready))
        if narrow.cut:
            return narrow.prepared
        wide = self.fit(ready)
        return wide.prepared if wide.misfit == 0 or wide.misfit < narrow.misfit else narrow.prepared

    def fit(self, ready: Prepared) -> _Fit:
        """Cut what may be cut; the misfit is 0 where it fits.

        Of a run that has begun that is how many settings differ from its own; of another it is 1 where the whole takes
        so much more than its time that a narrow network would do better.
        """
        source = ready.source
        settings = check_models(with_models(ready.settings, source.task), source)
        folder = self.out or default_folder(settings)
        placed, _ = place(sections_of(settings.method), self.assignments)
        layers = (self.sections, placed)
        fixed = {f"{name}.{key}" for layer in layers for name, values in layer.items() for key in values}
        if not self.fresh and (folder / CONFIG).is_file():
            begun = RunFolder(folder, settings.rules)
            made = with_precision(restored(settings, begun.settings(), fixed), source.task, begun)
            why = (*ready.why, f"{self.aim.why}: as it was begun")
            return _Fit(Prepared(made, source, why), len(begun.changes(made.plain())))
        with sharing_engine(settings.run.device, settings.run.precision, settings.run.workers) as engine:
            found = fitted(with_precision(settings, source.task), source, engine, self.aim.seconds, fixed, self.until)
        settings = replace(found.settings, sections={**found.settings.sections, "run": settings.run})
        why = (*ready.why, f"{self.aim.why}: {found.sentence(self.aim.seconds)}")
        misfit = int(found.whole_s > WIDE * self.aim.seconds)
        return _Fit(Prepared(settings, source, why, found.plan), misfit, bool(found.cuts))

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
        else:
            settings = narrow(settings, source.task)
        if (few := capped(source, quick)) and settings.source.train_per_class is None:
            why.append(f"learns from {few:,} images of each class")
            how = settings.source.model_copy(update={"train_per_class": few})
            events = Events(quiet=self.quiet)
            source = open_source(str(settings.run.source), how, events=events)
            settings = replace(settings, sections={**settings.sections, "source": how})
        return Prepared(settings, source, tuple(why))


def _require_judged(settings: Settings, source: Source) -> None:
    """Fail before anything is rehearsed, not after the last stage, where there are no images to judge by as asked."""
    require_judges(source.num_test, len(source.validation), settings.evaluate.split)
    require_resize(settings.evaluate.test_resize_px, source.task)


def with_precision(settings: Settings, task: Task, folder: RunFolder | None = None) -> Settings:
    """What `precision: auto` means: that of the run in the folder, where it has begun, else what suits the machine.

    On a CPU with bfloat16 that is bf16-mixed for methods that gain from it, from images of 64 px on.
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
    minutes: bool,
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
        soft = any(_asks_for_soft_labels(settings) for settings in resolved.values())
        named, reason = choose_method(source.task, some.run.ipc, on_cpu=on_cpu, soft=soft, minutes=minutes)
        why.append(reason)
        if named not in resolved:
            raise errors[0]
    return resolved[named], source, why


def _asks_for_soft_labels(settings: Settings) -> bool:
    """Whether a method whose images have plain labels is to have soft ones."""
    own = settings.method.defaults.get("relabel", {}).get("labels", "method")
    return bool(own == "method" != settings.relabel.labels)


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


def check_models(settings: Settings, source: Source) -> Settings:
    """Fail now, not after hours: every network can be built, every class has enough images, the machine has it all."""
    settings.method.require_machine(settings.sections["method"])
    settings.method(settings.sections["method"], source.task, settings.run.ipc)  # refuses images that are too small
    kind, section = settings.knowledge, settings.sections["squeeze"]
    squeezed, guides = kind.networks(section), kind.guides(section)
    for name in dict.fromkeys([*squeezed, *settings.evaluate.models]):
        model = build_model(name, source.task)
        if name in squeezed:
            kind.require_network(model)
        if name in guides:
            settings.method.require_teacher(model, name)
        if name in settings.evaluate.models:
            require_suits(settings.train, model, source.task.shape, source.task.num_classes * settings.run.ipc)
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
    soft = settings.relabel.labels != "method" or settings.method.gives_soft_labels(settings.sections["method"])
    if not soft and (by_teacher := [name for name in compared if name != "random" and chosen_by_teacher(name)]):
        raise ConfigError(
            f"the baseline {by_teacher[0]} is chosen by a teacher, and there is none: the labels of "
            f"{settings.run.method} are classes",
            expected="baselines that are chosen by pixels: random, herding, kcenter, kmeans",
            fix=f"leave {by_teacher[0]} out of evaluate.baselines; `attar bench` compares with it under every label",
        )
    if (needs_real or compared) and int(counts[least]) < settings.run.ipc:
        who = settings.run.method if needs_real else f"the baseline `{compared[0]}`"
        most, others = "1" if counts[least] == 1 else f"{int(counts[least])} or less", ""
        if num := sum(int((split.labels == least).sum()) for split in (source.validation, source.test)):
            others = f" ({num} of its images {'are' if num > 1 else 'is'} held back to validate and to judge)"
        raise DataError(
            f"class {source.task.class_names[least]!r} has {int(counts[least])} training "
            f"image{'s' * (int(counts[least]) != 1)}, fewer than ipc={settings.run.ipc}{others}",
            expected=f"at least ipc real images of every class, as {who} needs them",
            fix=f"--ipc {most}, or more images" + ("" if needs_real else ", or --set evaluate.baselines=[full]"),
        )
    return settings


def slug(source: str) -> str:
    """A source as a part of a folder's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in source_name(source))


def default_folder(settings: Settings) -> Path:
    """Where a run goes if no folder is named."""
    run = settings.run
    seed = f"-seed{run.seed}" if run.seed else ""
    return Path("runs") / f"{slug(str(run.source))}-{run.method}-ipc{run.ipc}{seed}"
