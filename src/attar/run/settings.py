"""From what a user typed to the resolved settings of a run: sections, recipes, and what `auto` means."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import field_validator

from attar.config import Config, build, dump, merge, place
from attar.data.sources import SourceSettings
from attar.errors import ConfigError
from attar.evaluation.following import network_of
from attar.evaluation.settings import EvaluateSettings
from attar.marks import Rules
from attar.methods import method as method_named
from attar.methods.base import Method
from attar.models.convnet import convnet_for
from attar.models.factory import require_known
from attar.models.weights import without_place
from attar.options import Machine, Seeded, Wanted
from attar.protocols import layered
from attar.recipes import Recipe, fitting_recipe, recipes
from attar.squeeze.knowledge import Kind
from attar.squeeze.knowledge import knowledge as knowledge_named
from attar.stages.recover import RecoverSettings
from attar.stages.relabel import RelabelSettings
from attar.task import Task
from attar.training.loop import TrainSettings
from attar.training.section import TrainSection
from attar.training.soft import Teacher

ConfigT = TypeVar("ConfigT", bound=Config)


class RunSettings(Machine, Seeded, Wanted):
    """The run as a whole."""

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        if name != "auto":
            method_named(name)
        return name


@dataclass(frozen=True)
class Settings:
    """Every section of a run, typed; `why` are sentences on what was chosen for the user."""

    sections: Mapping[str, Config]
    method: type[Method]
    why: tuple[str, ...] = field(default=())

    @property
    def run(self) -> RunSettings:
        """The run as a whole."""
        return self._of("run", RunSettings)

    @property
    def source(self) -> SourceSettings:
        """How the source is read."""
        return self._of("source", SourceSettings)

    @property
    def recover(self) -> RecoverSettings:
        """The optimisation."""
        return self._of("recover", RecoverSettings)

    @property
    def relabel(self) -> RelabelSettings:
        """The labels."""
        return self._of("relabel", RelabelSettings)

    @property
    def train(self) -> TrainSettings:
        """How students are trained."""
        return self._of("train", TrainSettings)

    @property
    def evaluate(self) -> EvaluateSettings:
        """How the result is judged."""
        return self._of("evaluate", EvaluateSettings)

    @property
    def knowledge(self) -> Kind:
        """The kind of knowledge that the method needs by these settings."""
        return knowledge_named(self.method.needs(self.sections["method"]))

    def labeller(self, opened: Any) -> Teacher | None:
        """Who labels images by the opened knowledge: whom the method names, else all of it or `relabel.members`."""
        named = self.method.labeller(self.sections["method"], opened)
        return named or self.knowledge.labeller(opened, self.relabel.members)

    @property
    def rules(self) -> Rules:
        """Which of the settings may change in a run folder."""
        return Rules.of({name: type(section) for name, section in self.sections.items()})

    def plain(self) -> dict[str, dict[str, Any]]:
        """JSON-able values of every section."""
        return {name: dump(section) for name, section in self.sections.items()}

    def _of(self, name: str, kind: type[ConfigT]) -> ConfigT:
        section = self.sections[name]
        assert isinstance(section, kind)
        return section


def resolve(
    given: Mapping[str, Mapping[str, Any]],
    assignments: Sequence[str] = (),
    *,
    recipe: Recipe | None = None,
) -> Settings:
    """Resolve all sections: the method's defaults, under the recipe's, under what was given.

    Each stands above the protocol that it names; see `attar.protocols`.

    `run.method` must be a method's name here (see `choose_method`). Raises one ConfigError with all
    that is wrong.
    """
    values = merge(recipe.sections if recipe else {}, given)
    kind = method_named(str(values["run"]["method"]))
    placed, problems = place(sections_of(kind), assignments)
    values = layered(kind.defaults, recipe.sections if recipe else {}, given, placed)
    sections = _sections(kind, values)
    problems += _unknown_models(values)
    return Settings(_checked(kind, build(sections, values, problems)), kind)


def restore(values: Mapping[str, Mapping[str, Any]], assignments: Sequence[str] = ()) -> Settings:
    """The settings that a run folder's `config.yaml` holds, under `--set` assignments."""
    kind = method_named(str(values.get("run", {}).get("method", "")))
    placed, problems = place(_sections(kind, values), assignments)
    values = layered(values, placed)
    return Settings(_checked(kind, build(_sections(kind, values), values, problems)), kind)


def sections_of(kind: type[Method]) -> dict[str, type[Config]]:
    """Every section that a run of this method has."""
    return _sections(kind, {})


def source_name(source: str) -> str:
    """A source without the place where it lies on this machine."""
    if source.startswith("wds:"):
        return f"wds:{source.removeprefix('wds:').rstrip('/').rpartition('/')[2]}"
    if source.startswith("classes:") and (file := Path(source.removeprefix("classes:"))).is_file():
        return f"classes:{file.name}"
    return Path(source).resolve().name if Path(source).exists() else source


def command(settings: Settings, task: Task) -> str:
    """The command that makes this run again, by the bundled recipe that leaves the fewest settings to give as --set.

    A recipe that was not made for this source is named only where it saves more than half of them.
    """
    run = settings.run
    fitting = fitting_recipe(str(run.source), run.method, run.ipc)
    start = ["attar", "distill", source_name(str(run.source))]
    best, flags = ["--method", run.method, "--ipc", str(run.ipc)], _differing(settings, fitting, task)
    most = len(flags) // 2
    for recipe in recipes().values():
        made_for = recipe.sections.get("run", {})
        suits = (made_for.get("method"), made_for.get("ipc", 1)) == (run.method, run.ipc)
        if recipe != fitting and suits and 2 * _num_other(settings, recipe) < most:
            others = _differing(settings, recipe, task)
            if len(others) < most:
                best, flags, most = ["--recipe", recipe.name], others, len(others)
    return shlex.join([*start, *best, *flags])


def _num_other(settings: Settings, recipe: Recipe) -> int:
    """How many of a recipe's own values the settings do not have; much quicker than resolving it."""
    plain = settings.plain()
    return sum(
        plain.get(section, {}).get(key) != value
        for section, values in recipe.sections.items()
        for key, value in values.items()
    )


def _differing(settings: Settings, recipe: Recipe | None, task: Task) -> list[str]:
    """Flags of the settings that differ from a recipe, or from the defaults."""
    run = settings.run
    given: dict[str, dict[str, Any]] = {"run": {"source": run.source, "method": run.method, "ipc": run.ipc}}
    plain = with_models(resolve(given, recipe=recipe), task).plain()
    words = []
    if (name := settings.evaluate.protocol) != plain["evaluate"]["protocol"]:
        words = ["--protocol", name]
        plain = with_models(resolve({**given, "evaluate": {"protocol": name}}, recipe=recipe), task).plain()
    for section, values in settings.plain().items():
        for key, value in values.items():
            if key not in plain[section] or value != plain[section][key]:
                words += _flag(section, key, value)
    return words


def with_models(settings: Settings, task: Task) -> Settings:
    """Fill in the networks left to `auto`: the method's, or a ConvNet with its depth by the resolution.

    Students are the network that was squeezed, or that the method itself names (`method.network`).
    """
    default = settings.method.default_model(task) or default_model(task)
    sections = dict(settings.sections)
    squeezed = getattr(sections["squeeze"], "model", None)
    if squeezed == "auto":
        sections["squeeze"] = sections["squeeze"].model_copy(update={"model": default})
        squeezed = default
    named = {getattr(sections["method"], "network", "auto")} - {"auto"}
    student = network_of(settings.evaluate.protocol, task) or squeezed or next(iter(named), default)
    models = tuple(student if name == "auto" else name for name in settings.evaluate.models)
    sections["evaluate"] = settings.evaluate.model_copy(update={"models": models})
    return Settings(sections, settings.method, settings.why)


def default_model(task: Task) -> str:
    """The published ConvNet for the task's size."""
    return convnet_for(task.height_px, task.width_px)


def _flag(section: str, key: str, value: Any) -> list[str]:
    if key == "data_dir":
        return ["--data-dir", "DIR"]
    if key in ("device",):
        return []
    if f"{section}.{key}" in ("source.skip_corrupt", "source.download"):
        return [f"--{key.replace('_', '-')}"]
    if f"{section}.{key}" in ("run.seed", "run.precision", "run.workers", "source.resolution") and value is not None:
        return [f"--{key}", str(value)]
    if f"{section}.{key}" == "squeeze.weights" and value is not None:
        value = without_place(value)
    return ["--set", f"{section}.{key}={json.dumps(value)}"]


def _unknown_models(values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Problems of the networks' names; of the wrong type they are told by `build`."""
    problems = []
    judged = values.get("evaluate", {}).get("models") or ()
    named = [("squeeze.model", values.get("squeeze", {}).get("model"))]
    named += [("evaluate.models", name) for name in (judged if isinstance(judged, list | tuple) else ())]
    for where, name in named:
        if isinstance(name, str) and name != "auto":
            try:
                require_known(name)
            except ConfigError as error:
                problems.append(f"{where}: {error.found}; {error.expected}")
    return problems


def _sections(kind: type[Method], values: Mapping[str, Mapping[str, Any]]) -> dict[str, type[Config]]:
    try:
        needs = kind.needs(kind.Settings(**values.get("method", {})))
    except ValueError:
        needs = kind.knowledge  # what is wrong with the method's settings is told by `build`
    return {
        "run": RunSettings,
        "source": SourceSettings,
        "squeeze": knowledge_named(needs).Settings,
        "method": kind.Settings,
        "recover": RecoverSettings,
        "relabel": RelabelSettings,
        "train": TrainSection,
        "evaluate": EvaluateSettings,
    }


def _checked(kind: type[Method], sections: dict[str, Config]) -> dict[str, Config]:
    problems = kind.problems(sections["method"], sections)
    labels = getattr(sections["relabel"], "labels", "method")
    if getattr(sections["relabel"], "label_budget", None) and labels != "epochs":
        problems.append(
            f"relabel.label_budget is for relabel.labels=epochs; here it is {labels}, which has no such labels"
        )
    knowledge = knowledge_named(kind.needs(sections["method"]))
    num_labellers = knowledge.num_labellers(sections["squeeze"])
    if labels != "method" and not knowledge.gives_labels:
        problems.append(f"relabel.labels={labels}, but {kind.name} squeezes no network here; use relabel.labels=method")
    elif labels == "online" and not num_labellers:
        problems.append(
            f"relabel.labels=online needs a teacher that goes with the dataset, and {kind.name} squeezes none; "
            "use relabel.labels=epochs"
        )
    problems += _member_problems(kind, sections, num_labellers)
    problems += _whitening_problems(kind, sections)
    if problems:
        raise ConfigError("settings do not go together:\n" + "\n".join(f"  - {problem}" for problem in problems))
    return sections


def _member_problems(kind: type[Method], sections: Mapping[str, Config], num: int) -> list[str]:
    """What is wrong with the choice among `num` networks."""
    wanted: Any = getattr(sections["relabel"], "members", "all")
    if wanted == "all":
        return []
    if not num:
        return [f"relabel.members chooses among networks that label each by itself, and {kind.name} squeezes none"]
    unknown = [k for k in wanted if not -num <= k < num] if wanted != "strongest" else []
    return [f"relabel.members names {unknown[0]}, and there will be {num} networks: 0 to {num - 1}"] if unknown else []


def _whitening_problems(kind: type[Method], sections: Mapping[str, Config]) -> list[str]:
    if not getattr(sections["source"], "zca", False):
        return []
    problems = []
    if kind.keeps_pixels_valid(sections["method"]):
        how = "method.lossless keeps" if "lossless" in kind.Settings.model_fields else f"{kind.name} keeps"
        problems.append(f"source.zca whitens images, and {how} each pixel in 0..1, which whitened images cannot be")
    if getattr(sections["squeeze"], "weights", None):
        problems.append("source.zca whitens images, and squeeze.weights are of a network that was trained on others")
    return problems
