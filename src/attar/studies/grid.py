"""The cells of a study: which network is trained how, on what seeds; and what is held equal among strategies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from attar.config import Config, merge, not_valid, validated
from attar.studies.settings import FIX, PartSettings, StudySettings, seeds_of
from attar.training.section import TrainSection
from attar.training.settings import TrainSettings
from attar.training.strategies import make_strategy

OWN = {"strategy": "strategies", "label_noise": "noise"}
"""Train settings that are axes of the grid, and the fields that they are there."""

_TIMES = re.compile(r"(\d+(?:\.\d+)?)x")


@dataclass(frozen=True)
class Cell:
    """One network, strategy, variant and part of wrong labels: a training for each of `seeds`."""

    model: str
    strategy: str
    """As the study names it."""
    variant: str
    noise: float
    seeds: tuple[int, ...]
    settings: TrainSettings

    @property
    def name(self) -> str:
        """For progress, events and errors."""
        wrong = [f"{100 * self.noise:g} % wrong labels"] if self.noise else []
        return ", ".join([self.strategy, self.variant, *wrong, self.model])


def cells_of(study: StudySettings) -> list[Cell]:
    """Every cell once, in the order of the file; raises one ConfigError with all settings that cannot be."""
    problems = _problems_of_sets(study) + _problems_of_parts(study)
    made: dict[tuple[str, str, str, float], Cell] = {}
    if not problems:
        for part in study.grid or (PartSettings(),):
            for cell in _cells(study, part, problems):
                key = (cell.model, cell.strategy, cell.variant, cell.noise)
                before = made.get(key, cell)
                made[key] = replace(cell, seeds=tuple(dict.fromkeys(before.seeds + cell.seeds)))
    if problems:
        raise not_valid(list(dict.fromkeys(problems)), FIX)
    return sorted(made.values(), key=lambda cell: _place(study, cell))


def showings(settings: TrainSettings) -> int:
    """How often a strategy shows each image in an epoch."""
    return make_strategy(settings, 2).showings


def images_seen(settings: TrainSettings, num_images: int) -> int:
    """Images that go through the network in a training on so many, each view counted; of dlb half a batch fewer."""
    return num_images * showings(settings) * settings.epochs


def at_equal_images(settings: TrainSettings) -> TrainSettings:
    """The same schedule over as many images seen as a strategy sees that shows each image once an epoch.

    Raises ValueError where the epochs cannot be divided so.
    """
    times = showings(settings)
    if times == 1:
        return settings
    for name in ("epochs", "warmup_epochs"):
        if getattr(settings, name) % times:
            raise ValueError(
                f"train.{name} {getattr(settings, name)} is for an image shown once an epoch, and {settings.strategy} "
                f"shows it {times} times: it must divide by {times}, or equal: epochs"
            )
    parts = _as_parts(settings.milestones, settings.epochs)
    fewer = {"epochs": settings.epochs // times, "warmup_epochs": settings.warmup_epochs // times, "milestones": parts}
    return type(settings).model_validate({**settings.model_dump(), **fewer})


def _cells(study: StudySettings, part: PartSettings, problems: list[str]) -> Iterable[Cell]:
    axes = (
        part.models or study.models,
        part.strategies or tuple(study.strategies),
        part.variants or tuple(study.variants),
        part.noise or study.noise,
    )
    seeds = seeds_of(study.seeds if part.seeds is None else part.seeds)
    for model, strategy, variant, noise in product(*axes):
        settings, found = _settings(study, strategy, variant, noise)
        where = f"{strategy} with {variant}"
        problems += [f"{where}: {problem}" for problem in found]
        if settings is not None:
            yield Cell(model, strategy, variant, noise, seeds, settings)


def _settings(
    study: StudySettings, strategy: str, variant: str, noise: float
) -> tuple[TrainSettings | None, list[str]]:
    own = _merged({"strategy": strategy}, study.strategies[strategy])
    values = _over(_over(_given(study.train), study.variants[variant]), own) | {"label_noise": noise}
    settings, problems = validated(TrainSection, values, "")
    if settings is None or study.equal == "epochs" or "epochs" in own:
        return settings, problems
    try:
        return at_equal_images(settings), problems
    except ValueError as error:
        return None, [str(error)]


def _problems_of_sets(study: StudySettings) -> list[str]:
    """What is wrong with each set of train settings by itself."""
    common = _given(study.train)
    problems = _axes("train", common)
    for where, sets in (("strategies", study.strategies), ("variants", study.variants)):
        for name, values in sets.items():
            own = _merged({"strategy": name} if where == "strategies" else {}, values)
            _, found = validated(TrainSection, _over(common, own), f"{where}.{name}")
            problems += found
            problems += _axes(f"{where}.{name}", values, () if where == "strategies" else ("strategy",))
    if study.baseline not in study.strategies:
        problems.append(f"baseline: {study.baseline} is none of the strategies {', '.join(study.strategies)}")
    return problems


def _axes(where: str, values: Mapping[str, Any], axes: Sequence[str] = tuple(OWN)) -> list[str]:
    axes = (*axes, "label_noise")
    return [f"{where}.{key}: give it under `{OWN[key]}`" for key in dict.fromkeys(axes) if key in values]


def _problems_of_parts(study: StudySettings) -> list[str]:
    """What parts of the grid name that the study does not have."""
    known: dict[str, tuple[Any, ...]] = {
        "models": study.models,
        "strategies": tuple(study.strategies),
        "variants": tuple(study.variants),
        "noise": study.noise,
    }
    return [
        f"grid.{number}.{field}: no {name!r} among the study's: {', '.join(map(str, names))}"
        for number, part in enumerate(study.grid)
        for field, names in known.items()
        for name in getattr(part, field) or ()
        if name not in names
    ]


def _place(study: StudySettings, cell: Cell) -> tuple[int, float, int, int]:
    """Rows of one network together, then of one part of wrong labels, then of one variant."""
    variant = list(study.variants).index(cell.variant)
    return study.models.index(cell.model), cell.noise, variant, list(study.strategies).index(cell.strategy)


def _given(config: Config) -> dict[str, Any]:
    return config.model_dump(exclude_unset=True)


def _over(below: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A set's own train settings over those below; `epochs: 2x` is the same schedule over twice the epochs there."""
    values, times = _merged(below, own), _TIMES.fullmatch(str(own.get("epochs")))
    if times:
        epochs = below.get("epochs", TrainSection().epochs)
        values["epochs"] = float(times[1]) * epochs
        if "milestones" in below and "milestones" not in own:
            values["milestones"] = _as_parts(below["milestones"], epochs)
    return values


def _as_parts(milestones: Iterable[float], epochs: int) -> tuple[float, ...]:
    """Places in a training of so many epochs, as parts of it."""
    return tuple(place if place < 1 else place / epochs for place in milestones)


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    return merge(*({"train": layer} for layer in layers))["train"]
