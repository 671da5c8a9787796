"""What can be named, and what every setting means: the content of `attar list` and `attar show`, without torch.

What attar brings stands in `catalogue.json`, which `python tools/docs.py` writes and a test compares with the classes;
sizes of the libraries' networks in `models/sizes.json`, which `python tools/networks.py` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any, Literal

from attar.errors import ConfigError, nearest, unknown
from attar.models.counted import counted
from attar.models.names import FAMILIES, OWN, library_names
from attar.protocols import PROTOCOLS, Protocol
from attar.recipes import Recipe, recipes, study_about, study_names, study_values
from attar.registry import outside, summary
from attar.text import parse_json

Kind = Literal["methods", "recipes", "protocols", "datasets", "models", "strategies", "studies"]
FILE, SIZES = "catalogue.json", "sizes.json"


def names(kind: Kind, pattern: str = "") -> list[tuple[str, str]]:
    """Names of a kind, each with a line on what it is.

    Only those that hold the text `pattern`, or fit it where it has wildcards (`*`, `?`, `[ab]`).
    """
    fits = pattern if set(pattern) & set("*?[") else f"*{pattern}*"
    return [row for row in _all(kind) if fnmatchcase(row[0], fits)]


def _all(kind: Kind) -> list[tuple[str, str]]:
    match kind:
        case "methods" | "strategies":
            return [(name, found["summary"]) for name, found in _bundled()[kind].items()] + _brought(f"attar.{kind}")
        case "recipes":
            return [(name, _summary(recipe)) for name, recipe in recipes().items()]
        case "protocols":
            own = [(name, one.notes.get("about", "")) for name, one in PROTOCOLS.own.items()]
            return own + _brought("attar.protocols")
        case "datasets":
            return [(name, about) for name, about in _bundled()["datasets"]] + _brought("attar.sources")
        case "models":
            own = [(name, "attar") for name in _bundled()["models"]] + _brought("attar.models")
            return own + [(name, family) for family in FAMILIES for name in library_names(family)]
        case "studies":
            return [(name, study_about(name)) for name in study_names()]


def section_names() -> list[str]:
    """Names of the sections of settings, and `study`."""
    return [*_bundled()["sections"], "study"]


def setting_names() -> list[str]:
    """Every setting of any method as section.field, for the shell to offer."""
    found = {
        f"{section}.{option['name']}"
        for method in _bundled()["methods"].values()
        for section, key in method["sections"].items()
        for option in _bundled()["settings"][key]
    }
    return sorted(found)


def describe(name: str) -> dict[str, Any]:
    """Every field of a method with the sections it uses, of a strategy, a recipe, a protocol, or one section.

    `protocol:NAME` is a protocol where something else has that name too. Of a network its size; another package's
    network is built for it, with torch.
    """
    bundled, found_recipes = _bundled(), recipes()
    kind, colon, own_name = name.partition(":")
    if colon and kind == "protocol":
        return _protocol(PROTOCOLS.find(own_name))
    if name in bundled["methods"]:
        return _method(name, bundled["methods"][name], bundled["settings"])
    if name in outside("attar.methods"):
        from attar.described import method

        return _method(name, *method(name))
    if name in found_recipes:
        return _recipe(found_recipes[name])
    if name in PROTOCOLS:
        return _protocol(PROTOCOLS.find(name))
    if name in bundled["sections"]:
        section = bundled["sections"][name]
        fields = {name: bundled["settings"][section["settings"]]}
        return {"name": name, "summary": section["summary"], "notes": {}, "sections": fields}
    if name == "study":
        summary = "the fields of a study's file (`attar study FILE`); `train` holds those of `attar show train`"
        return {"name": name, "summary": summary, "notes": {}, "sections": {"study": bundled["study"]}}
    if name in bundled["strategies"]:
        found: dict[str, Any] = bundled["strategies"][name]
        return found
    if name in outside("attar.strategies"):
        from attar.described import strategy

        return strategy(name)
    if (about := dict(names("datasets")).get(name)) is not None:
        notes = {"use": f"attar distill {name} --ipc 1; attar doctor --data-dir DIR says what is in a folder"}
        return {"name": name, "summary": about, "notes": notes, "sections": {}}
    if name in study_names():
        values = [(key, value) for key, value in study_values(name).items() if key != "about"]
        own = [{"name": key, "type": "", "default": value, "meaning": ""} for key, value in values]
        notes = {"use": f"attar study {name}; `attar show study` says what the fields mean"}
        return {"name": name, "summary": study_about(name), "notes": notes, "sections": {"study": own}}
    if is_model(name):
        family, own_name, size = _size(name)
        if size:
            return network_about(name, family, own_name, *size)
        from attar.described import network

        return network(name)
    if kind in ("attar", *FAMILIES):
        fix = "`attar list models` lists all of them"
        raise ConfigError(f"unknown model {name!r}", expected=nearest(own_name, _names_of(kind), f"{kind}:"), fix=fix)
    known = [row[0] for kind in ("methods", "strategies") for row in names(kind)]
    known += [*section_names(), *found_recipes, *study_names(), *PROTOCOLS.names()]
    models = list(dict.fromkeys(model for model, _ in names("models")))
    begun = [model for model in models if model.startswith(f"{name}-")]
    if begun or ("did you mean" not in nearest(name, known) and "did you mean" in nearest(name, models)):
        known = begun or models
    fix = "`attar list methods`, or strategies, protocols, recipes or models"
    raise unknown("method, strategy, section, recipe, protocol, study, dataset or model", name, known, fix=fix)


def network_about(
    name: str, family: str, own_name: str, parameters: int, norms: str, shown: str = ""
) -> dict[str, Any]:
    """What `attar show` says of a network, counted for what `shown` says, or else as others of its family."""
    notes = {
        "parameters": f"{parameters:,} {shown or shown_for(family)}",
        "normalisation": norms,
        "use": f"--model {name}, or --models {name} where it judges",
    }
    return {"name": name, "summary": f"a network of {family}'s ({own_name})", "notes": notes, "sections": {}}


def shown_for(family: str) -> str:
    """For what images and classes networks of a family are counted."""
    return "for 1,000 classes at 224 px" if family in FAMILIES else "for 10 classes at 32 px"


def num_parameters(name: str, family: str) -> int | None:
    """Parameters of a listed network of attar's or a library's; None where they are not known without building it."""
    size = _size_in(family, name)
    return size[0] if size else None


def _size(name: str) -> tuple[str, str, tuple[int, str] | None]:
    """The family that a network's name belongs to, the name there, and its parameters and normalisation if known."""
    family, colon, own = name.rpartition(":")
    families = [family] if colon else ["attar", *FAMILIES]
    family = next(known for known in families if _has(known, own))
    return family, own, _size_in(family, own)


def _size_in(family: str, name: str) -> tuple[int, str] | None:
    if family == "attar":
        return None if name in outside("attar.models") else counted(name)
    size = _sizes().get(family, {}).get(name.partition(".")[0])
    return (size[0], size[1]) if size else None


def is_model(name: str) -> bool:
    """Whether a network has this name, with its library before it or without."""
    family, colon, own = name.rpartition(":")
    families = [family] if colon else ["attar", *FAMILIES]
    return any(_has(known, own) for known in families)


def _has(family: str, name: str) -> bool:
    if family == "attar":
        return name in outside("attar.models") or any(pattern.fullmatch(name) for pattern in OWN.values())
    return family in FAMILIES and name.partition(".")[0] in library_names(family)


def _names_of(family: str) -> list[str]:
    """Names of a library's networks, or of attar's own: examples of its patterns, and what other packages bring."""
    own = [*_bundled()["models"], *outside("attar.models")]
    return own if family == "attar" else list(library_names(family))


def _brought(group: str) -> list[tuple[str, str]]:
    """What other packages bring to a group, each with a line on it."""
    return [(name, summary(points[0])) for name, points in outside(group).items()]


def _method(name: str, found: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    sections = {
        section: [
            {**option, "default": found["changed"].get(section, {}).get(option["name"], option["default"])}
            for option in settings[key]
        ]
        for section, key in found["sections"].items()
    }
    notes = {"source": found["source"], "knowledge": found["knowledge"]}
    if name in PROTOCOLS:
        notes["protocol"] = f"a protocol has this name too, `attar show protocol:{name}`"
    return {"name": name, "summary": found["summary"], "notes": notes, "sections": sections}


def _recipe(recipe: Recipe) -> dict[str, Any]:
    fields = {
        section: [{"name": key, "type": "", "default": value, "meaning": ""} for key, value in values.items()]
        for section, values in recipe.sections.items()
    }
    return {"name": recipe.name, "summary": _summary(recipe), "notes": dict(recipe.notes), "sections": fields}


def _protocol(found: Protocol) -> dict[str, Any]:
    fields = {
        section: [{"name": key, "type": "", "default": value, "meaning": ""} for key, value in values.items()]
        for section, values in found.sections.items()
    }
    told = {key: value for key, value in found.notes.items() if key != "about"}
    notes = {"version": str(found.version), "network": found.network or "", **told}
    notes["use"] = f"--protocol {found.name}, for attar distill, evaluate and bench"
    return {"name": found.name, "summary": found.notes.get("about", ""), "notes": notes, "sections": fields}


def _summary(recipe: Recipe) -> str:
    return " ".join(str(recipe.notes.get("about", "")).split())


@cache
def _sizes() -> dict[str, dict[str, tuple[int, str]]]:
    found: dict[str, dict[str, tuple[int, str]]] = parse_json(
        resources.files("attar.models").joinpath(SIZES).read_text("utf-8")
    )
    return found


@cache
def _bundled() -> dict[str, Any]:
    found: dict[str, Any] = parse_json(resources.files("attar").joinpath(FILE).read_text("utf-8"))
    return found
