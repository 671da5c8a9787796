"""A study's file: what is trained on what, how often, and what is compared. One YAML file, typed.

data: {source: digits}                     # or a distilled set, judged by its source
models: [convnet-d2-w32]
strategies: [ce, dlb]                      # or names of your own: {ce-long: {strategy: ce, epochs: 400}}
variants: {plain: {}, cutmix: {cutmix: 0.5}}
noise: [0, 0.4]                            # parts of the training labels that are made wrong
seeds: 3
train: {epochs: 40, learning_rate: 0.05}   # for all
grid:                                      # not all with all, but these parts of it
  - {noise: [0]}
  - {strategies: [ce, dlb], variants: [plain]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from attar.config import Config, not_valid, place, validated
from attar.data.sources import SourceSettings
from attar.errors import unknown
from attar.models.factory import require_known
from attar.recipes import is_file, settings_text, settings_values, study_names, study_text
from attar.results.records import Split
from attar.training.section import TrainSection

FIX = "`attar show study` lists every field with type, default and meaning"
Equal = Literal["images_seen", "epochs"]
Sets = dict[str, dict[str, Any]]


def _some(seeds: int | tuple[int, ...]) -> int | tuple[int, ...]:
    if seeds_of(seeds) == () or min(seeds_of(seeds)) < 0:
        raise ValueError("at least one seed, and none below 0")
    return seeds


Seeds = Annotated[int | tuple[int, ...], AfterValidator(_some)]


class DataSettings(SourceSettings):
    """What networks are trained on, and the real images that judge them."""

    source: str
    """Real images: a name from `attar list datasets`, a folder, parquet shards, hf:owner/name. Their test or validation
    split judges."""
    distilled: Path | None = None
    """Train on this distilled dataset (or run folder) instead of on the source's training split."""
    labels: Literal["stored", "hard"] = "stored"
    """Labels of the distilled images: those stored with them, or their classes."""


class PartSettings(Config):
    """A part of the grid: all that it names, in all combinations; what it leaves out is as the study has it."""

    models: tuple[str, ...] | None = None
    """Some of the study's networks."""
    strategies: tuple[str, ...] | None = None
    """Some of its strategies, by name."""
    variants: tuple[str, ...] | None = None
    """Some of its variants, by name."""
    noise: tuple[float, ...] | None = None
    """Some of its parts of wrong labels."""
    seeds: Seeds | None = None
    """How many seeds, or which."""


class JudgeSettings(Config):
    """What judges a trained network."""

    split: Split = "test"
    """Real images that judge; choose settings by the validation split and leave test to the end."""


class StudySettings(Config):
    """A study: strategies, networks, variants, wrong labels and seeds, and what they are compared with."""

    data: DataSettings
    """What networks are trained on, and the real images that judge them."""
    models: tuple[str, ...] = Field(min_length=1)
    """Networks, names from `attar list models`; auto: a ConvNet for the resolution."""
    strategies: Sets = Field(min_length=1)
    """Names from `attar list strategies`, in a list; or names of your own with train settings, such as
    {dlb-soft: {strategy: dlb, dlb: {tau: 5}}}. Here and in variants, `epochs: 2x` is twice the epochs of `train`."""
    variants: Sets = Field(default={"plain": {}}, min_length=1)
    """Names of your own with train settings, each combined with every strategy, such as {plain: {}, cutmix: {cutmix:
    0.5}}."""
    noise: tuple[float, ...] = Field(default=(0.0,), min_length=1)
    """Parts of the training labels that are made wrong, 0..1. What judges stays clean."""
    seeds: Seeds = 3
    """How many trainings of each, with seeds 0, 1, ...; or which seeds."""
    equal: Equal = "images_seen"
    """What is held equal. images_seen: `train.epochs` is for a strategy that shows each image once an epoch; one that
    shows it k times, such as dlb or ddgsd, has a k-th of the epochs, and so as many steps. epochs: as published, though
    dlb and ddgsd then see each image twice as often. A strategy that names its own epochs keeps them."""
    baseline: str = "ce"
    """The strategy that the others are compared with."""
    train: TrainSection = TrainSection()
    """Train settings of all trainings, see `attar show train`."""
    judge: JudgeSettings = JudgeSettings()
    """What judges a trained network."""
    grid: tuple[PartSettings, ...] = ()
    """Parts of the grid that are trained; none: all with all."""
    about: str = ""
    """What the study asks, in a line."""
    published: str = ""
    """What a paper reports."""
    reached: str = ""
    """What was found here."""
    cost: str = ""
    """What it takes."""

    @field_validator("strategies", "variants", mode="before")
    @classmethod
    def _named(cls, sets: Any) -> Any:
        """`[ce, dlb]` is `{ce: {}, dlb: {}}`, and an empty set may be left empty."""
        if isinstance(sets, list | tuple):
            sets = dict.fromkeys(sets)
        if isinstance(sets, Mapping):
            return {str(name): {} if values is None else values for name, values in sets.items()}
        return sets

    @field_validator("noise")
    @classmethod
    def _parts(cls, noise: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= part < 1 for part in noise):
            raise ValueError("parts of wrong labels lie from 0 to below 1")
        return tuple(dict.fromkeys(noise))

    @field_validator("models")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name != "auto":
                require_known(name)
        return tuple(dict.fromkeys(names))


def seeds_of(seeds: int | tuple[int, ...]) -> tuple[int, ...]:
    """Seeds 0, 1, ... where their number is given, or those that are named."""
    return tuple(range(seeds)) if isinstance(seeds, int) else tuple(dict.fromkeys(seeds))


def read_study(name: str, assignments: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> StudySettings:
    """Read a bundled study by its name, or a YAML file, under `--set` assignments.

    `given` are fields of `data` from flags of their own. Raises one ConfigError with all that is wrong.
    """
    values = _parsed(name)
    placed, problems = place({"study": StudySettings}, assignments)
    for key, value in placed.get("study", {}).items():
        values[key] = _over(values.get(key), value)
    if given:
        values["data"] = _over(values.get("data"), given)
    settings, found = validated(StudySettings, values, "")
    problems += found
    if settings is None or problems:
        raise not_valid(problems, FIX)
    return settings


def _parsed(name: str) -> dict[str, Any]:
    return settings_values(_text(name), f"study {name}")


def _text(name: str) -> str:
    if name in study_names():
        return study_text(name)
    path = Path(name)
    if is_file(path):
        return settings_text(path, "study")
    raise unknown("study", name, study_names(), fix="name one of them, or give the path of a YAML file")


def _over(below: Any, above: Any) -> Any:
    """Values of `above` over those of `below`, mapping by mapping."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}
