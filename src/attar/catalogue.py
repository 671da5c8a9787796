"""What can be named, and what every setting means: the content of `attar list` and `attar show`."""

from __future__ import annotations

import sys
from typing import Any, Literal, get_args

from attar.config import Config, Option, options
from attar.errors import ConfigError, unknown
from attar.interop.settings import ForeignSettings
from attar.methods import methods
from attar.settings import Recipe, recipes, sections_of
from attar.studies.settings import StudySettings, read_study, studies
from attar.task import Normalization, Task
from attar.training.settings import TrainSettings
from attar.training.strategies import Strategy, strategies

EXAMPLE, IMAGENET = (
    Task(tuple(map(str, range(num))), 3, size, size, Normalization((0.5,) * 3, (0.25,) * 3))
    for num, size in ((10, 32), (1000, 224))
)
"""What networks are shown for."""
Kind = Literal["methods", "recipes", "datasets", "models", "strategies", "studies"]


def names(kind: Kind) -> list[tuple[str, str]]:
    """Names of a kind, each with a line on what it is."""
    match kind:
        case "methods":
            return [(name, found.summary) for name, found in methods().items()]
        case "recipes":
            return [(name, _summary(recipe)) for name, recipe in recipes().items()]
        case "datasets":
            from attar.data.sources import sources

            return sources()
        case "models":
            from attar.models.catalog import Family
            from attar.models.catalog import names as models

            return [(name, family) for family in get_args(Family) for name in models(family)]
        case "strategies":
            return [(name, found.summary) for name, found in strategies().items()]
        case "studies":
            return [(name, read_study(name).about) for name in studies()]


def describe(name: str) -> dict[str, Any]:
    """Every field of a method with the sections it uses, of a strategy, of a recipe, or of one section."""
    found_methods, found_recipes = methods(), recipes()
    if name in found_methods:
        kind = found_methods[name]
        sections = {"method": kind.Settings, **_sections_besides(name)}
        return _described(name, kind.summary, {"source": kind.source}, sections, kind.defaults)
    if name in found_recipes:
        recipe = found_recipes[name]
        return {
            "name": name,
            "summary": _summary(recipe),
            "notes": dict(recipe.notes),
            "sections": {
                section: [{"name": key, "type": "", "default": value, "meaning": ""} for key, value in values.items()]
                for section, values in recipe.sections.items()
            },
        }
    known_sections: dict[str, type[Config]] = {**sections_of(found_methods["random"]), "foreign": ForeignSettings}
    if name in known_sections:
        kind_of = known_sections[name]
        return _described(name, (kind_of.__doc__ or "").split("\n")[0], {}, {name: kind_of}, {})
    if name == "study":
        summary = "the fields of a study's file (`attar study FILE`); `train` holds those of `attar show train`"
        fields = [vars(option) for option in study_options()]
        return {"name": name, "summary": summary, "notes": {}, "sections": {"study": fields}}
    found_strategies = strategies()
    if name in found_strategies:
        return _strategy(found_strategies[name])
    if (network := _network(name)) is not None:
        return network
    known = [*found_methods, *found_strategies, *known_sections, "study", *found_recipes]
    fix = "`attar list methods`, or strategies, recipes or models"
    raise unknown("method, strategy, section, recipe or model", name, known, fix=fix)


def study_options() -> list[Option]:
    """Fields of a study's file, without those of its section `train`, which are a section of their own."""
    return [option for option in options(StudySettings) if not option.name.startswith("train.")]


def _network(name: str) -> dict[str, Any] | None:
    """What is known of a network before it meets images: where it comes from, how large it is; None for no network."""
    from attar.models import catalog

    try:
        family, own_name = catalog.find(name)
    except ConfigError:
        return None
    shown = EXAMPLE if family == "attar" else IMAGENET
    model = catalog.build(name, shown)
    norms = sorted({_norm(module) for module in model.modules() if "Norm" in type(module).__name__})
    size = f"for {shown.num_classes:,} classes at {shown.width_px} px"
    notes = {
        "parameters": f"{catalog.num_parameters(model):,} {size}",
        "normalisation": ", ".join(norms) or "none",
        "use": f"--model {name}, or --models {name} where it judges",
    }
    return {"name": name, "summary": f"a network of {family}'s ({own_name})", "notes": notes, "sections": {}}


def _norm(module: Any) -> str:
    channels = getattr(module, "num_channels", None)
    alone = channels is not None and getattr(module, "num_groups", None) == channels
    return "InstanceNorm" if alone else type(module).__name__.removesuffix("2d")


def _strategy(kind: type[Strategy]) -> dict[str, Any]:
    """A strategy's objective, as its file states it, and the fields that are its own."""
    objective, _, _ = (sys.modules[kind.__module__].__doc__ or "").partition("\n\nSource")
    fields = options(TrainSettings)
    mine = [option for option in fields if kind.group and option.name.startswith(f"{kind.group}.")]
    return {
        "name": kind.name,
        "summary": kind.summary,
        "notes": {"source": kind.source},
        "objective": objective.partition("\n\n")[2],
        "sections": {"train": [vars(option) for option in mine]} if mine else {},
    }


def _sections_besides(method: str) -> dict[str, type[Config]]:
    every = sections_of(methods()[method])
    names = ("squeeze", "recover", "relabel", "train", "evaluate")
    return {name: every[name] for name in names if every[name].model_fields}


def _described(
    name: str, summary: str, notes: dict[str, Any], sections: dict[str, type[Config]], defaults: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "summary": summary,
        "notes": notes,
        "sections": {
            section: [vars(option) for option in options(kind, defaults.get(section))]
            for section, kind in sections.items()
        },
    }


def _summary(recipe: Recipe) -> str:
    return " ".join(str(recipe.notes.get("about", "")).split())
