"""Bundled recipes and studies, and recipes of a user's own: a set of settings with a name. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attar.errors import ConfigError, unknown
from attar.text import MOST_YAML_CHARACTERS, parse_yaml

NOTES = ("about", "published", "reached", "cost", "when", "quick")
"""Keys of a recipe file beside the sections of settings."""
_EXPECTED = "YAML of plain values: texts, numbers, lists, and mappings by names"
_SEE = "see a bundled one: `attar list` names them and `attar show NAME` prints it"


@dataclass(frozen=True)
class Recipe:
    """A set of settings with a name, and what is known of it."""

    name: str
    notes: Mapping[str, Any]
    sections: Mapping[str, Mapping[str, Any]]

    def suits(self, source: str, method: str, ipc: int | None) -> bool:
        """Whether the recipe was made for this source, number of images and method, or auto where `when` names none."""
        when = self.notes.get("when") or {}
        made_for = self.sections.get("run", {})
        return (
            bool(when)
            and when.get("source") == source
            and method in (when.get("method", "auto"), made_for.get("method"))
            and (ipc or 1) == made_for.get("ipc")
        )


def fitting_recipe(source: str, method: str, ipc: int | None) -> Recipe | None:
    """The bundled recipe that was made for this source, method (or auto) and number of images."""
    return next((recipe for recipe in recipes().values() if recipe.suits(source, method, ipc)), None)


def recipes() -> Mapping[str, Recipe]:
    """The bundled recipes by name, read once."""
    return MappingProxyType(_bundled())


@cache
def _bundled() -> dict[str, Recipe]:
    files = sorted(resources.files("attar.recipes").iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".yaml"): _parse_recipe(file.name.removesuffix(".yaml"), file.read_text("utf-8"))
        for file in files
        if file.name.endswith(".yaml")
    }


def load_recipe(name: str) -> Recipe:
    """A bundled recipe by name, or one from a YAML file."""
    known = recipes()
    if name in known:
        return known[name]
    path = Path(name)
    if is_file(path):
        return _parse_recipe(path.stem, settings_text(path, "recipe"))
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise ConfigError(f"there is no recipe file {name}", fix="check the path, or name one of `attar list recipes`")
    raise unknown("recipe", name, known, fix="name one of `attar list recipes`, or give the path of a YAML file")


def study_names() -> list[str]:
    """Names of the bundled studies."""
    return sorted(name.removesuffix(".yaml") for name in _studies() if name.endswith(".yaml"))


def study_text(name: str) -> str:
    """The file of a bundled study."""
    text: str = _studies()[f"{name}.yaml"].read_text("utf-8")
    return text


def study_values(name: str) -> dict[str, Any]:
    """What the file of a bundled study sets."""
    return dict(parse_yaml(study_text(name)))


def study_about(name: str) -> str:
    """What a bundled study asks, in a line."""
    return " ".join(str(study_values(name).get("about", "")).split())


def is_file(path: Path) -> bool:
    """Whether a file is there, under a name that a file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero in it
        return False


def settings_text(path: Path, what: str) -> str:
    """The text of a recipe or a study of a user's own; raises ConfigError where it cannot be read as `what`."""
    try:
        with path.open("rb") as file:
            return file.read(
                MOST_YAML_CHARACTERS + 1
            ).decode()  # one more, of which the parser says that it is too many
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} can't be read as a {what}: {error}", expected="a YAML file in UTF-8", fix="write it again"
        ) from error


def settings_values(text: str, what: str) -> dict[str, Any]:
    """The mapping that a recipe or a study is; raises ConfigError that names it as `what`."""
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{what} is not YAML of settings: {error}", expected=_EXPECTED, fix=_SEE) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{what} is not a mapping", expected=_EXPECTED, fix=_SEE)
    return values


def _studies() -> dict[str, Any]:
    return {file.name: file for file in resources.files("attar.recipes").joinpath("studies").iterdir()}


def _parse_recipe(name: str, text: str) -> Recipe:
    values = settings_values(text, f"recipe {name}")
    if odd := [key for key in values if key not in NOTES and not isinstance(values[key], dict)]:
        raise ConfigError(
            f"recipe {name}: {odd[0][:80]!r} is no section",
            expected="sections such as `recover:` with fields under them",
            fix=_SEE,
        )
    notes = {key: values[key] for key in NOTES if key in values}
    return Recipe(name, notes, {key: section for key, section in values.items() if key not in NOTES})
