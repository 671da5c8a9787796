"""Bundled recipes and studies, and recipes of a user's own: a set of settings with a name. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from attar.errors import ConfigError, unknown

NOTES = ("about", "published", "reached", "cost", "when", "quick")
"""Keys of a recipe file beside the sections of settings."""
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same language; the one in C is seven times as fast."""


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


def recipes() -> dict[str, Recipe]:
    """The bundled recipes by name."""
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
    if path.is_file():
        try:
            return _parse_recipe(path.stem, path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} can't be read as a recipe: {error}", expected="a YAML file in UTF-8") from error
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
    return dict(_load_yaml(study_text(name)))


def study_about(name: str) -> str:
    """What a bundled study asks, in a line."""
    return " ".join(str(study_values(name).get("about", "")).split())


def _load_yaml(text: str) -> Any:
    """Plain values of a YAML text; raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def _studies() -> dict[str, Any]:
    return {file.name: file for file in resources.files("attar.recipes").joinpath("studies").iterdir()}


def _parse_recipe(name: str, text: str) -> Recipe:
    try:
        values = _load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {name} is not YAML: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(values[k], dict) for k in values if k not in NOTES):
        raise ConfigError(
            f"recipe {name} is not a mapping of sections",
            expected="sections such as `recover:` with fields under them",
        )
    notes = {key: values[key] for key in NOTES if key in values}
    return Recipe(name, notes, {key: section for key, section in values.items() if key not in NOTES})
