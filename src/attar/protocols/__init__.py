"""Protocols: how a set of images is judged, as a named, versioned file. Needs no torch.

A protocol fixes the network, the schedule, the augmentation, the batch size and the kinds of labels that students are
trained with. A method names the one that it is judged by where nobody says otherwise; a recipe names another in
`evaluate.protocol`, and `--protocol` another still. Whoever names one replaces all that was set below it:

    method's defaults  <  recipe  <  flags  <  --set          each over the protocol that it names, if it names one

Records carry the name, the version, and what was set differently. A new protocol is a YAML file here, a file of a
user's own (`--protocol my.yaml`), or a mapping that another package names as an entry point of `attar.protocols`. A
file that changes what it sets gets the next version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from attar.config import merge
from attar.errors import ConfigError
from attar.recipes import settings_text, settings_values
from attar.registry import Registry

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "train": (),
    "evaluate": ("labels", "use_learned_rate", "test_resize_px"),
    "relabel": ("min_scale", "flip", "mix", "mix_alpha", "shuffle_patches"),
}
"""Sections that a protocol may set, and which of their fields; none named: all of them."""
REPLACED: Mapping[str, tuple[str, ...]] = {"train": (), "evaluate": ("models", *SECTIONS["evaluate"])}
"""What the naming of a protocol takes out of the layers below: sections as a whole, or these of their fields."""
NOTES = ("about", "source", "code")


@dataclass(frozen=True)
class Protocol:
    """How images are judged: settings with a name and a version, and where they are from."""

    name: str
    version: int
    notes: Mapping[str, str]
    """`about` in a line; the paper (`source`); which code was read for the figures (`code`)."""
    sections: Mapping[str, Mapping[str, Any]]
    network: str | None = None
    """The network that `auto` stands for: resnet18, whose stem suits the resolution, or a name from `attar list
    models`; None: the one used for distillation, or a ConvNet for the resolution."""


def protocol(name: str) -> Protocol:
    """A protocol by its name, or one from a YAML file; ConfigError where there is none or it is not whole."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return _parsed(path.stem, settings_text(path, "protocol"))
    return PROTOCOLS.find(name)


def layered(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Merge layers of sections, later ones over earlier ones, each over the protocol that it names."""
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        name = layer.get("evaluate", {}).get("protocol")
        if isinstance(name, str):
            merged = merge(_without_replaced(merged), protocol(name).sections)
        merged = merge(merged, layer)
    return merged


def _without_replaced(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sections without what a protocol replaces."""
    kept = {name: dict(fields) for name, fields in values.items()}
    for section, fields in REPLACED.items():
        found = kept.pop(section, {})
        if fields and (rest := {key: value for key, value in found.items() if key not in fields}):
            kept[section] = rest
    return kept


def _own() -> list[Protocol]:
    files = sorted(resources.files(__name__).iterdir(), key=lambda file: file.name)
    names = [(file.name.removesuffix(".yaml"), file) for file in files if file.name.endswith(".yaml")]
    return [_parsed(name, file.read_text("utf-8")) for name, file in names]


def _parsed(name: str, text: str) -> Protocol:
    return _accepted(settings_values(text, f"protocol {name}"), name)


def _accepted(values: Any, name: str) -> Protocol:
    """A protocol of a mapping as the files hold it; ConfigError with all that is wrong."""
    if isinstance(values, Protocol):
        return values
    if not isinstance(values, Mapping):
        raise ConfigError(f"protocol {name or values!r} is no mapping", expected="version, about, train, ...")
    problems = []
    version, network = values.get("version"), values.get("network")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        problems.append("version is a whole number from 1")
    if network is not None and not isinstance(network, str):
        problems.append("network is the name of one")
    if not isinstance(values.get("train"), Mapping) or not values["train"]:
        problems.append("train says how networks are trained")
    for key, value in values.items():
        if key in SECTIONS:
            fields = value if isinstance(value, Mapping) else {}
            odd = [field for field in fields if SECTIONS[key] and field not in SECTIONS[key]]
            problems += [f"{key}.{field} is not for a protocol to set" for field in odd]
            if not isinstance(value, Mapping):
                problems.append(f"{key} is a section of settings")
        elif key not in ("name", "version", "network", *NOTES):
            problems.append(f"{key} is nothing that a protocol has")
    if problems:
        raise ConfigError(
            f"protocol {name} is not whole:\n" + "\n".join(f"  - {problem}" for problem in problems),
            expected=f"version and train, and perhaps network, {', '.join(NOTES)}, evaluate and relabel",
        )
    notes = {key: " ".join(str(values[key]).split()) for key in NOTES if key in values}
    sections = {key: dict(values[key]) for key in SECTIONS if key in values}
    return Protocol(str(values.get("name", name)), int(version or 1), notes, sections, network)


PROTOCOLS: Registry[Protocol] = Registry("attar.protocols", "protocol", _own, _accepted)
"""Every protocol by the name that is typed after `--protocol`."""
