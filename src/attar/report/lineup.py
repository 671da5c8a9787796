"""The images of several sets side by side, a column for each class, for a comparison. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from attar.report.figures import SMALL_PX, data_uris
from attar.report.outside import read_outside
from attar.report.pictures import Gallery, Pixels, read_gallery
from attar.report.several import Group, Judged
from attar.report.strips import Strips, read_strips

MOST_COLUMNS = 10
SIDE_PX = 96


@dataclass(frozen=True, eq=False)
class Shown:
    """The images of a set, and real ones where its run keeps some."""

    gallery: Gallery | None
    strips: Strips | None


@dataclass(frozen=True)
class Line:
    """The images of a set, one of each class that is shown, None where it has none; `real` ones of all."""

    name: str
    images: tuple[str | None, ...]
    real: bool = False


@dataclass(frozen=True)
class Pictures:
    """Names of the classes, and a line for each set."""

    classes: tuple[str, ...]
    lines: tuple[Line, ...]
    size: str


def read_shown(judged: Sequence[Judged]) -> dict[str, Shown]:
    """The images of sets by their names; raises ArtifactError where they are damaged."""
    found = {}
    for one in judged:
        outside = read_outside(one.path)
        gallery = outside[1] if outside else read_gallery(one.path / "distilled" / "data")
        found[one.name] = Shown(gallery, read_strips(one.path))
    return found


def pictures(group: Group, shown: Mapping[str, Shown]) -> Pictures | None:
    """Lay out the first image of each of up to MOST_COLUMNS classes, set by set; None where there are no images."""
    members = [(one, gallery) for one in group.members if one.name in shown and (gallery := shown[one.name].gallery)]
    if not members:
        return None
    labels = sorted({label for _, gallery in members for label in gallery.labels})
    columns = [labels[i * len(labels) // MOST_COLUMNS] for i in range(MOST_COLUMNS)] if len(labels) > 10 else labels
    lines = [Line(one.name, _first(gallery.pixels, gallery.labels, columns)) for one, gallery in members]
    strips = next((strips for one, _ in members if (strips := shown[one.name].strips)), None)
    if strips:
        lines.append(Line("Real images", _first(strips.pixels, strips.labels, columns), real=True))
    names = next((one.class_names for one, _ in members if one.class_names), ())
    side_px = max(max(gallery.pixels.shape[1:3]) for _, gallery in members)
    return Pictures(
        classes=tuple(names[label] if 0 <= label < len(names) else f"class {label}" for label in columns),
        lines=tuple(lines),
        size="small" if side_px <= SMALL_PX // 2 else "large",
    )


def _first(pixels: Pixels, labels: Sequence[int], columns: Sequence[int]) -> tuple[str | None, ...]:
    first = {label: place for place, label in reversed([*enumerate(labels)])}
    places = [first[label] for label in columns if label in first]
    uris = iter(data_uris(pixels[places], SIDE_PX))
    return tuple(next(uris) if label in first else None for label in columns)
