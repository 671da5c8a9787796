"""How much time a run may take: settings that fit it, from a rehearsal of what they cost.

    quick       what was measured to do well with narrow networks on few cores, within about ten minutes
    thorough    the method's own settings, whatever they take
    time        as quick or as the method has it, cut to a given time

What the user set by hand stays as it is. What is cut are numbers of which a stage's time is a multiple: experts or
epochs of the network that learns the real images, iterations, and epochs of the students. The time is shared out so
that a little less of one would cost as much accuracy as a little less of another, see `_shared`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attar.config import parse_duration
from attar.data.sources import Source
from attar.errors import ConfigError
from attar.evaluation.following import network_of
from attar.options import Effort, Until
from attar.protocols import layered
from attar.recipes import Recipe, recipes
from attar.report.formats import binary_size, roughly
from attar.run.planning import Plan, plan
from attar.run.settings import Settings, default_model
from attar.runtime.engine import Engine
from attar.runtime.processes import launched
from attar.squeeze.rehearsal import Estimate
from attar.task import Task

QUICK_S = 600.0
"""What quick means."""
MINUTES_S = 3600.0
"""Up to this time a CPU does best with methods that were measured in minutes."""
NARROW = 32
"""Width of the networks that quick takes."""
NETWORKS = (("squeeze", "model"), ("method", "network"))
"""Where a quick recipe may name a network that is made for the size of the images at hand."""
WIDE = 3
"""With a network that takes so many times what there is, a narrow one is taken."""
MOST_IMAGES = 20_000
"""Real images that quick learns from, at most."""
LEAST_PER_CLASS = 100
"""Of each class, where the recipe that it takes says how many images it was measured with."""


@dataclass(frozen=True)
class Lever:
    """A number that a stage's time is a multiple of, and the least that still makes sense."""

    section: str
    key: str
    least: int
    stages: tuple[str, ...]
    """How the names of the stages begin that become shorter with it."""
    worth: float = 1.0
    """Points of accuracy that halving it costs, beside the other levers."""


LEVERS = (
    Lever("squeeze", "num_experts", 2, ("squeeze",)),
    Lever("squeeze", "epochs", 5, ("squeeze",)),
    Lever("recover", "iterations", 20, ("recover",)),
    Lever("train", "epochs", 50, ("relabel", "evaluate"), worth=3.0),  # measured with dm, see docs/LOG.md
    Lever("evaluate", "full_epochs", 2, ("evaluate",)),
)
ON_ALL = " on all"
"""How the name of a stage ends that trains on all real images."""
_ROUNDING = 1e-6
"""What a number that stays may have lost to floating point, as (300 * time) / time has."""


@dataclass(frozen=True)
class Goal:
    """Seconds that a run may take, and whether it begins with narrow networks."""

    seconds: float
    narrow: bool
    why: str
    may_narrow: bool = False
    """Whether narrow networks may be taken where others would take far longer."""


def require_agreeing(asked: Effort) -> None:
    """Raise ConfigError where options contradict each other, or a time is none."""
    wanted = {"--quick": asked.quick, "--thorough": asked.thorough, "--time": asked.time is not None}
    if len(given := [name for name, is_given in wanted.items() if is_given]) > 1:
        raise ConfigError(f"{' and '.join(given)} were given together", expected="one of them")
    if asked.time is not None:
        parse_duration(asked.time)


def goal(asked: Effort, *, left_open: bool, on_cpu: bool) -> Goal | None:
    """What was asked for; where nothing was and all is left open, on a CPU, quick. None: as long as it takes.

    Raises ConfigError where several processes would each find another answer.
    """
    if asked.thorough:
        return None
    wanted = asked.quick or asked.time is not None
    if wanted and launched().num > 1:
        raise ConfigError(
            "several processes can't agree on settings that fit a time",
            fix="print them with one process, `attar plan ... --time 30m`, and give them with --set",
        )
    if asked.time is not None:
        return Goal(parse_duration(asked.time), False, f"--time {asked.time}", may_narrow=on_cpu)
    if asked.quick:
        return Goal(QUICK_S, True, "--quick")
    if left_open and on_cpu and launched().num == 1:
        return Goal(QUICK_S, True, "quick, as this runs on a CPU (--thorough for the method's own settings)")
    return None


def in_minutes(asked: Effort | None) -> bool:
    """Whether a run on a CPU whose method is left to `auto` is to end within `MINUTES_S`."""
    if asked is None or asked.thorough or launched().num > 1:
        return False
    return asked.time is None or parse_duration(asked.time) <= MINUTES_S


def quick_recipe(method: str, ipc: int, task: Task) -> Recipe | None:
    """The recipe of a method that was measured on few cores, with the images most like these.

    Grey or not comes first, then the size, then the number of images. What it says of a source and of the images' size
    is left out, and its networks are made for this size.
    """
    found = [recipe for recipe in recipes().values() if recipe.notes.get("quick") and _of(recipe, "method") == method]
    if not found:
        return None

    def unlike(recipe: Recipe) -> tuple[bool, float, float]:
        measured, size_px = recipe.notes["quick"], max(task.height_px, task.width_px)
        far = abs(math.log(measured["px"] / size_px)), abs(math.log(int(_of(recipe, "ipc")) / ipc))
        return measured["channels"] != task.channels, *far

    nearest = min(found, key=unlike)
    sections = layered({name: values for name, values in nearest.sections.items() if name not in ("run", "source")})
    for section, key in NETWORKS:
        if model := sections.get(section, {}).get(key):
            sections[section][key] = narrow_model(task, batch_norm=str(model).endswith("-batch"))
    if students := sections.get("evaluate", {}).get("models"):
        made = (narrow_model(task, batch_norm=str(model).endswith("-batch")) for model in students)
        sections["evaluate"]["models"] = list(dict.fromkeys(made))
    if task.channels == 1:  # grey images often are of signs, which are not to be mirrored
        for values in sections.values():
            values.update({"augment": "dsa-noflip"} if values.get("augment") == "dsa" else {})
    return Recipe(nearest.name, nearest.notes, sections)


def narrow(settings: Settings, task: Task) -> Settings:
    """The same with a narrow ConvNet for networks that are left to `auto`, where no quick recipe names one."""
    model = narrow_model(task, batch_norm=settings.method.default_model(task) is not None)
    sections = dict(settings.sections)
    if getattr(sections["squeeze"], "model", None) == "auto":
        sections["squeeze"] = sections["squeeze"].model_copy(update={"model": model})
    elif not hasattr(sections["squeeze"], "model") and not network_of(settings.evaluate.protocol, task):
        models = tuple(model if name == "auto" else name for name in settings.evaluate.models)
        sections["evaluate"] = settings.evaluate.model_copy(update={"models": models})
    return replace(settings, sections=sections)


def narrow_model(task: Task, *, batch_norm: bool) -> str:
    """The ConvNet for a size, of few channels."""
    base = default_model(task).rpartition("-w")[0]
    return f"{base}-w{NARROW}" + ("-batch" if batch_norm else "")


def capped(source: Source, quick: Recipe | None = None) -> int | None:
    """How many training images of each class quick takes, where there are more than it can learn from in its time.

    As many as its recipe was measured with, where that says so: experts that pass over more are too few in that time.
    """
    classes = source.task.num_classes
    measured = quick.notes["quick"].get("images", MOST_IMAGES) if quick else MOST_IMAGES
    most = min(MOST_IMAGES, max(measured, LEAST_PER_CLASS * classes))
    return None if len(source.train) <= most else max(1, most // classes)


def fitted(
    settings: Settings, source: Source, engine: Engine, seconds: float, fixed: Iterable[str], until: Until = "evaluate"
) -> Fitted:
    """Cut what may be cut until the stages up to `until` are expected to end in time.

    `fixed` are settings as section.key that stay.
    """
    whole = plan(settings, source, engine, until=until, brief=True)
    levers = [lever for lever in LEVERS if _applies(lever, settings) and f"{lever.section}.{lever.key}" not in fixed]
    values = {lever: int(getattr(settings.sections[lever.section], lever.key)) for lever in levers}
    costs_s = {lever: whole.total_s - _total(whole, {lever: 0.0}) for lever in levers if values[lever] > lever.least}
    spans_s = {lever: (cost * lever.least / values[lever], cost) for lever, cost in costs_s.items() if cost > 0}
    now = dict(values)
    for lever, own_s in _shared(seconds - whole.total_s + sum(costs_s.values()), spans_s).items():
        now[lever] = max(lever.least, math.floor(values[lever] * own_s / costs_s[lever] + _ROUNDING))
    factors = {lever: now[lever] / values[lever] for lever in spans_s}
    changed = {lever: value for lever, value in now.items() if value != values[lever]}
    sections = dict(settings.sections)
    for lever, value in changed.items():
        sections[lever.section] = sections[lever.section].model_copy(update={lever.key: value})
    estimates = tuple(replace(one, units=math.ceil(one.units * _factor(one, factors))) for one in whole.estimates)
    cuts = {f"{lever.section}.{lever.key}": (values[lever], value) for lever, value in changed.items()}
    return Fitted(replace(settings, sections=sections), replace(whole, estimates=estimates), cuts, whole.total_s)


def _shared(seconds: float, spans_s: Mapping[Lever, tuple[float, float]]) -> dict[Lever, float]:
    """Seconds for each lever, from the least to the most that it may take, that come to `seconds` or the nearest to it.

    Where each halving costs a lever's `worth`, whatever is left, accuracy is the sum of worth · log(time), which is
    greatest where times are as the worths.
    """

    def at(level: float) -> dict[Lever, float]:
        return {lever: min(max(level * lever.worth, least), most) for lever, (least, most) in spans_s.items()}

    low, high = 0.0, max((most / lever.worth for lever, (_, most) in spans_s.items()), default=0.0)
    if sum(at(high).values()) <= seconds:
        return at(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle).values()) <= seconds else (low, middle)
    return at(low)


@dataclass(frozen=True)
class Fitted:
    """Settings that fit a time, what they are expected to take, and what was cut: before and after, by its setting."""

    settings: Settings
    plan: Plan
    cuts: Mapping[str, tuple[int, int]]
    whole_s: float
    """What it would take uncut."""

    def sentence(self, seconds: float) -> str:
        """What was cut, or that it can't be cut far enough."""
        told = ", ".join(f"{name} {before:,} -> {now:,}" for name, (before, now) in self.cuts.items())
        if self.plan.total_s > 1.25 * seconds:
            least = f"at least {roughly(self.plan.total_s)} with these networks and images"
            return f"{least}; cut as far as it makes sense: {told}" if told else least
        return f"cut to fit {roughly(seconds)}: {told}" if told else f"fits {roughly(seconds)} as it is"


def restored(settings: Settings, kept: Mapping[str, Mapping[str, Any]], fixed: Collection[str] = ()) -> Settings:
    """The settings with what was cut when a run began, by the settings that its folder keeps; `fixed` is left alone."""
    sections = dict(settings.sections)
    for lever in LEVERS:
        value = kept.get(lever.section, {}).get(lever.key)
        given = f"{lever.section}.{lever.key}" in fixed
        if not given and _applies(lever, settings) and isinstance(value, int):
            sections[lever.section] = sections[lever.section].model_copy(update={lever.key: value})
    return replace(settings, sections=sections)


def cost_sentence(found: Plan, stages: Sequence[str], *, cut: bool = False) -> str:
    """What the stages that are left are expected to take; `cut`: they were made to fit a time as well as can be."""
    shares: dict[str, float] = {}
    for one in found.estimates:
        shares[one.part] = shares.get(one.part, 0.0) + one.total_s
    left = {stage: shares.get(stage, 0.0) for stage in stages}
    parts = ", ".join(f"{stage} {roughly(seconds)}" for stage, seconds in left.items() if seconds >= 1)
    memory, disk = binary_size(found.main_memory_bytes), binary_size(found.disk_bytes)
    total_s = sum(left.values())
    of = f" ({parts})" if ", " in parts else ""
    advice = "; --quick or --time 30m make it shorter" if total_s > 2 * QUICK_S and not cut else ""
    return f"this will take about {roughly(total_s)}{of}, {memory} of memory and {disk} of disk{advice}"


def _of(recipe: Recipe, key: str) -> Any:
    return recipe.sections.get("run", {}).get(key, 1)


def _applies(lever: Lever, settings: Settings) -> bool:
    fields = type(settings.sections[lever.section]).model_fields
    if lever.section == "squeeze" and lever.key == "epochs" and "num_experts" in fields:
        return False  # experts are fewer, not shorter: which of their epochs are matched is set
    if lever.section == "squeeze" and getattr(settings.sections["squeeze"], "weights", None):
        return False
    return lever.key in fields


def _factor(estimate: Estimate, factors: Mapping[Lever, float]) -> float:
    """By how much a stage is cut."""
    found, stage = 1.0, estimate.stage
    if estimate.fixed:
        return found
    for lever, factor in factors.items():
        on_all = lever.key == "full_epochs"
        if stage.startswith(lever.stages) and stage.endswith(ON_ALL) == on_all:
            found *= factor
    return found


def _total(whole: Plan, factors: Mapping[Lever, float]) -> float:
    return sum(one.total_s * _factor(one, factors) for one in whole.estimates)
