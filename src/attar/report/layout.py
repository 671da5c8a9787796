"""How the pictures stand on the page: which layout suits their number and size, and their data URIs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from attar.report.collect import ReportData
from attar.report.figures import SMALL_PX, data_uris, keeps_bits, sheet_columns, sheet_uri
from attar.report.formats import count, size
from attar.report.pictures import Film, Gallery, round_by_class

BOUQUET_PX = 112
BOUQUET_COLUMNS = 5


@dataclass(frozen=True)
class ClassRow:
    """The shown images of one class, as data URIs."""

    name: str
    images: tuple[str, ...]
    real: tuple[str, ...] = ()
    """Real images of the class."""


@dataclass(frozen=True)
class GalleryView:
    """The images by class; `size` is a CSS class, `layout` several, `bouquet` a few small ones for the page's head."""

    rows: tuple[ClassRow, ...]
    note: str
    size: str
    layout: str
    bouquet: tuple[str, ...]


@dataclass(frozen=True)
class FilmView:
    """The animation: a sheet per frame, the names of the tiles on it, and what the player must know as JSON."""

    sheets: tuple[str, ...]
    tiles: tuple[str, ...]
    layout: str
    caption: str
    last: str
    player: str


def gallery_view(data: ReportData) -> GalleryView | None:
    """Lay out the images; None where there are none."""
    gallery = data.gallery
    if gallery is None:
        return None
    rows: dict[int, list[str]] = {}
    for label, uri in zip(gallery.labels, data_uris(gallery.pixels), strict=True):
        rows.setdefault(label, []).append(uri)
    real = _real(data)
    return GalleryView(
        rows=tuple(ClassRow(data.class_name(at), tuple(images), real.get(at, ())) for at, images in rows.items()),
        note=_note(data, gallery),
        size=_size_class(gallery),
        layout=f"{_size_class(gallery)} {_arrangement(gallery)}",
        bouquet=_bouquet(gallery),
    )


def film_view(data: ReportData) -> FilmView | None:
    """Lay out the animation; None where there are fewer than two snapshots."""
    film = data.film
    if film is None or data.gallery is None or len(film.steps) < 2:
        return None
    size_class, lossless = _size_class(data.gallery), keeps_bits(film.pixels)
    return FilmView(
        sheets=tuple(sheet_uri(frame, lossless=lossless) for frame in film.pixels),
        tiles=tuple(data.class_name(label) for label in film.labels),
        layout=size_class if size_class == "small" else f"{size_class} {_columns(len(film.labels))}",
        caption=_caption(film, data.gallery.num_images, _in_chunks(data)),
        last=f"step {count(film.steps[-1])}",
        player=json.dumps({"steps": film.steps, "columns": sheet_columns(len(film.labels))}),
    )


def _real(data: ReportData) -> dict[int, tuple[str, ...]]:
    """Real images by class, as data URIs."""
    if data.strips is None:
        return {}
    found: dict[int, list[str]] = {}
    for label, uri in zip(data.strips.labels, data_uris(data.strips.pixels, SMALL_PX), strict=True):
        found.setdefault(label, []).append(uri)
    return {label: tuple(uris) for label, uris in found.items()}


def real_note(data: ReportData) -> str:
    """What the real images on the page weigh; empty where there are none."""
    if data.strips is None:
        return ""
    kept = f"{count(len(data.strips.labels))} real images ({size(data.strips.num_bytes)})"
    return f"For this page the run also keeps {kept}; training needs none of them, and no size counts them."


def _note(data: ReportData, gallery: Gallery) -> str:
    told = data.description.get("tiles")
    held = told if isinstance(told, int) and told > 0 else 1
    parts = (
        _which(data, gallery),
        f"Each holds {count(held**2)} smaller ones, and training sees one of them at a time." if held != 1 else "",
        "Small, below them: real training images of the class." if data.strips else "",
    )
    return " ".join(part for part in parts if part)


def _which(data: ReportData, gallery: Gallery) -> str:
    shown, classes = len(gallery.labels), len(set(gallery.labels))
    if shown == gallery.num_images:
        what = f"All {count(shown)} images" if shown > 1 else "The one image"
    else:
        what = f"{count(shown)} of {count(gallery.num_images)} images"
        each = set(Counter(gallery.labels).values())
        of_each = f"{max(each)} of each class" if len(each) == 1 else f"at most {max(each)} of each class"
        fewer = classes < gallery.num_classes
        what += f", {f'from {count(classes)} of {count(gallery.num_classes)} classes' if fewer else of_each}"
    if not data.description and data.film:
        return f"{what}, as the last snapshot (step {count(data.film.steps[-1])}) has them."
    if data.description.get("pixels") == "float32":
        return f"{what}, shown in 8 bits; training takes their float values."
    return f"{what}."


def _caption(film: Film, num_images: int, in_chunks: bool) -> str:
    stretch = f"step {count(film.steps[0])} to step {count(film.steps[-1])} in {len(film.steps)} frames."
    shown, whole = len(film.labels), max(num_images, film.num_images)
    if shown == whole:
        return f"From {stretch}"
    chunk = ", taken from the first chunk" if in_chunks else ""
    return f"{count(shown)} of the {count(whole)} images{chunk}; {stretch}"


def _in_chunks(data: ReportData) -> bool:
    items = {series.item for curve in data.curves if curve.stage == "recover" for series in curve.series}
    return len(items) > 1


def _size_class(gallery: Gallery) -> str:
    side_px = max(gallery.pixels.shape[1:3])
    return "small" if side_px <= SMALL_PX // 2 else "medium" if side_px <= SMALL_PX else "large"


def _arrangement(gallery: Gallery) -> str:
    """One image per class: a sheet. A few: blocks side by side. More: a row for each class."""
    num, most = len(gallery.labels), max(Counter(gallery.labels).values())
    if most > 1:
        return "rows" if most > 5 else f"blocks per-{most}{' dense' if num > 40 * most else ''}"
    return f"singles {_columns(num)} phone-{2 if num <= 12 and num % 2 == 0 else 3}"


def _columns(num: int) -> str:
    """Columns that leave no row half empty, where the images are few."""
    return f"of-{next((n for n in (5, 6, 4, 7) if num % n == 0), 5)}" if num <= 12 else ""


def _bouquet(gallery: Gallery) -> tuple[str, ...]:
    """Full rows of small images, of as many classes as there are."""
    order = round_by_class(gallery.labels)[: BOUQUET_COLUMNS**2]
    full = len(order) // BOUQUET_COLUMNS * BOUQUET_COLUMNS
    return tuple(data_uris(gallery.pixels[order[:full]], BOUQUET_PX))
