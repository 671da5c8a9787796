"""Open other people's sets to be judged, together with the real images that they were made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attar.artifacts.distilled import Distilled
from attar.config import build, place
from attar.data.sources import Source, SourceSettings, open_source
from attar.errors import unknown
from attar.interop.folder import require_new
from attar.interop.foreign import READERS, Foreign, require_recognised
from attar.interop.loaded import Loaded, Origin
from attar.interop.settings import ForeignSettings
from attar.runtime.events import Events

_SECTION = "foreign"


@dataclass(frozen=True)
class Opened:
    """A set of another program as a distilled dataset, its source, and the assignments that are for others to read."""

    distilled: Distilled
    source: Source
    assignments: Sequence[str]


def open_foreign(
    path: Path,
    source: str,
    assignments: Iterable[str] = (),
    *,
    given: Mapping[str, Any] | None = None,
    events: Events | None = None,
) -> Opened:
    """Open a set in another format, with the source brought to its size.

    Args:
        path: a folder or file, see `attar.interop.foreign`.
        source: the real images, as `open_source` takes them.
        assignments: `foreign.pixels=zca` and the like; those of the section `source` count too, and stay.
        given: fields of the section `source` that come first.
        events: progress and notes of reading.

    Raises AttarError where it cannot be read, or what its values are cannot be told.
    """
    texts = list(assignments)
    settings, reading = _settings(texts, given or {})
    found = require_recognised(path)
    real, reading = _source(source, found, settings, reading, events)
    loaded = found.read(Origin(real.task, source, real.train), settings)
    _tell(path, loaded, events)
    distilled = loaded.open()
    info = {**distilled.info, "settings": {**loaded.settings, "source": reading}}
    left = [text for text in texts if not _key(text).startswith(f"{_SECTION}.")]
    return Opened(replace(distilled, info=info), real, left)


def import_foreign(
    path: Path,
    out: Path,
    kind: str = "auto",
    source: str | None = None,
    assignments: Iterable[str] = (),
    *,
    given: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    events: Events | None = None,
) -> Distilled:
    """Turn a set in another format into a distilled dataset: images, labels of any kind, how its authors train on it.

    Args:
        path: a folder or file, see `attar.interop.foreign`.
        out: where the distilled dataset goes; must be new or empty, unless `overwrite`.
        kind: its format, a name in `READERS`, or auto.
        source: the real images that it was made from: they give class names, and normalisation where need be.
        assignments: as for `open_foreign`.
        given: fields of the section `source` that come first.
        overwrite: replace a distilled dataset at `out`.
        events: progress and notes of reading.
    """
    if kind not in ("auto", *READERS):
        raise unknown("format", kind, ["auto", *READERS])
    require_new(out, overwrite=overwrite)
    settings, reading = _settings(list(assignments), given or {})
    found = require_recognised(path) if kind == "auto" else Foreign(path, kind)
    if source is None:
        return found.read(None, settings).write(out, overwrite=overwrite)
    real, reading = _source(source, found, settings, reading, events)
    loaded = found.read(Origin(real.task, source, real.train), settings)
    _tell(path, loaded, events)
    how = {key: value for key, value in reading.items() if key != "data_dir" and value is not None}
    return replace(loaded, settings={**loaded.settings, "source": how}).write(out, overwrite=overwrite)


def _tell(path: Path, loaded: Loaded, events: Events | None) -> None:
    if events is not None and loaded.read_as:
        events.say(f"{path}: read as {loaded.read_as}")


def _settings(assignments: Sequence[str], given: Mapping[str, Any]) -> tuple[ForeignSettings, dict[str, Any]]:
    """How a set is read, and the fields that are set of how its source is."""
    mine = [text for text in assignments if _key(text).startswith(f"{_SECTION}.") or _is_source(_key(text))]
    placed, problems = place({_SECTION: ForeignSettings, "source": SourceSettings}, mine)
    settings = build({_SECTION: ForeignSettings}, {_SECTION: placed.get(_SECTION, {})}, problems)[_SECTION]
    assert isinstance(settings, ForeignSettings)
    named = {name: value for name, value in given.items() if value is not None}
    return settings, {**named, **placed.get("source", {})}


def _source(
    name: str, found: Foreign, settings: ForeignSettings, reading: Mapping[str, Any], events: Events | None
) -> tuple[Source, dict[str, Any]]:
    """The real images at the size of the set, unless another is asked for; and how they were read."""
    values = {"resolution": found.resolution(settings), **reading}
    how = build({"source": SourceSettings}, {"source": values})["source"]
    assert isinstance(how, SourceSettings)
    return open_source(name, how, events=events), values


def _key(assignment: str) -> str:
    return assignment.partition("=")[0].strip()


def _is_source(key: str) -> bool:
    return key.startswith("source.") or key in SourceSettings.model_fields
