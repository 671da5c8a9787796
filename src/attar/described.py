"""What methods, strategies and sections of settings say of themselves, read off their classes; this imports torch.

`python tools/docs.py` writes it into `catalogue.json`, from which `attar list` and `attar show` answer at once.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from attar.catalogue import network_about
from attar.config import Config, Option, options
from attar.data.named import NAMED
from attar.data.sources import PLACES
from attar.errors import ConfigError
from attar.interop.settings import ForeignSettings
from attar.methods import METHODS
from attar.methods.base import Method
from attar.models import factory
from attar.protocols import layered
from attar.run.settings import sections_of
from attar.studies.settings import StudySettings
from attar.task import Normalization, Task
from attar.training.section import TrainSection
from attar.training.strategies import STRATEGIES

EXAMPLE, IMAGENET = (
    Task(tuple(map(str, range(num))), 3, size, size, Normalization((0.5,) * 3, (0.25,) * 3))
    for num, size in ((10, 32), (1000, 224))
)
"""What networks are shown for."""
_LARGER_PX = (64, 128, 256)
"""Sizes that a network of attar's is shown for where it takes none as small as `EXAMPLE`."""


def contents() -> dict[str, Any]:
    """All that `catalogue.json` holds: plain values, each class of settings once."""
    kinds: dict[str, type[Config]] = {}
    found = {name: _method(kind, kinds) for name, kind in METHODS.own.items()}
    sections: dict[str, type[Config]] = {**sections_of(METHODS["random"]), "foreign": ForeignSettings}
    return {
        "methods": found,
        "sections": {
            name: {"summary": _summary(kind), "settings": _key(kind, kinds)} for name, kind in sections.items()
        },
        "strategies": {name: strategy(name) for name in STRATEGIES.own},
        "study": [vars(option) for option in study_options()],
        "datasets": [[source.name, source.summary] for source in NAMED.own.values()] + [list(row) for row in PLACES],
        "models": factory.names("attar"),
        "settings": {key: [vars(option) for option in options(kind)] for key, kind in sorted(kinds.items())},
    }


def study_options() -> list[Option]:
    """Fields of a study's file, without those of its section `train`, which are a section of their own."""
    return [option for option in options(StudySettings) if not option.name.startswith("train.")]


def method(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A method as the file has it, and the fields of the classes of settings that it names."""
    kinds: dict[str, type[Config]] = {}
    found = _method(METHODS.find(name), kinds)
    return found, {key: [vars(option) for option in options(kind)] for key, kind in kinds.items()}


def strategy(name: str) -> dict[str, Any]:
    """A strategy's objective, as its file states it, and the fields that are its own."""
    kind = STRATEGIES.find(name)
    told = sys.modules[kind.__module__].__doc__ if name in STRATEGIES.own else inspect.getdoc(kind)
    objective, _, _ = (told or "").partition("\n\nSource")
    fields = options(TrainSection)
    mine = [option for option in fields if option.name.startswith(f"{kind.group()}.")]
    return {
        "name": kind.name,
        "summary": kind.summary,
        "notes": {"source": kind.source},
        "objective": objective.partition("\n\n")[2],
        "sections": {"train": [vars(option) for option in mine]} if mine else {},
    }


def network(name: str) -> dict[str, Any]:
    """What is known of a network before it meets images: where it comes from, how large it is."""
    family, own_name = factory.find(name)
    model, shown = _built(name) if family == "attar" else (factory.build(name, IMAGENET), "")
    return network_about(name, family, own_name, factory.num_parameters(model), norms_of(model), shown)


def _built(name: str) -> tuple[torch.nn.Module, str]:
    """One of attar's networks for the smallest images that it takes, and which these are, where not those of others."""
    with suppress(ConfigError):
        return factory.build(name, EXAMPLE), ""
    for size_px in _LARGER_PX:
        with suppress(ConfigError), torch.device("meta"):  # however wide, it takes no memory
            model = factory.build(name, replace(EXAMPLE, height_px=size_px, width_px=size_px))
            return model, f"for {EXAMPLE.num_classes} classes at {size_px} px"
    return factory.build(name, EXAMPLE), ""


_NORM = re.compile("(Batch|Layer|Group|Instance|Rms|RMS|Evo|FilterResponse|GlobalResponse)Norm")


def norms_of(model: torch.nn.Module) -> str:
    """The kinds of normalisation layers of a network, in words."""
    norms = {norm for module in model.modules() if (norm := _norm(module))}
    return ", ".join(sorted(norms)) or "none"


def _norm(module: Any) -> str:
    """The kind of a normalisation layer, whatever a library adds to its name; empty for other layers."""
    channels = getattr(module, "num_channels", None)
    alone = channels is not None and getattr(module, "num_groups", None) == channels
    found = _NORM.search(type(module).__name__)
    return "" if not found else "InstanceNorm" if alone else found[0]


def _method(kind: type[Method], kinds: dict[str, type[Config]]) -> dict[str, Any]:
    """What a method says of itself, and which defaults of the sections' fields it changes."""
    sections = {"method": kind.Settings, **_sections_besides(kind.name)}
    defaults = layered(kind.defaults)
    changed = {name: _changed(section, defaults.get(name, {})) for name, section in sections.items()}
    return {
        "summary": kind.summary,
        "source": kind.source,
        "knowledge": kind.knowledge,
        "sections": {name: _key(section, kinds) for name, section in sections.items()},
        "changed": {name: values for name, values in changed.items() if values},
    }


def _changed(section: type[Config], defaults: Mapping[str, Any]) -> dict[str, str]:
    """Defaults that are not the section's own, by field, as they are typed."""
    return {
        new.name: new.default
        for old, new in zip(options(section), options(section, defaults), strict=True)
        if old != new
    }


def _key(kind: type[Config], kinds: dict[str, type[Config]]) -> str:
    key = f"{kind.__module__.removeprefix('attar.')}.{kind.__qualname__}"
    kinds[key] = kind
    return key


def _summary(kind: type[Config]) -> str:
    return (kind.__doc__ or "").split("\n")[0]


def _sections_besides(method: str) -> dict[str, type[Config]]:
    every = sections_of(METHODS[method])
    names = ("squeeze", "recover", "relabel", "train", "evaluate")
    return {name: every[name] for name in names if every[name].model_fields}
