"""Bytes of what a run folder holds for people: the log of events, the pictures and the page, which no setting is about.

Beside large sets they are little; beside small ones they are most of the folder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from attar.artifacts.card import shown
from attar.data.sources import Source
from attar.methods.base import Method, Optimised
from attar.report import figures, pictures, strips
from attar.run.settings import Settings
from attar.squeeze.rehearsal import Estimate
from attar.stages import recover
from attar.training import loop

WORDS_BYTES = 240_000
"""Of a page without pictures and curves, and of manifests, settings, records and the card."""
EVENT_BYTES = 480
"""In the log, and as a point of a curve."""
LOSSY = 0.35
"""Bytes of a pixel of noise that is stored as a photograph."""
REAL, MADE = 0.6, 0.9
"""What is left of photographs, and of what was made, where nothing may be lost."""
TRAINED = ("squeeze", "evaluate")
IN_TEXT = 4 / 3
"""Bytes of a picture inside a page for each of its own."""


def page_bytes(settings: Settings, source: Source, method: Method, estimates: Sequence[Estimate]) -> int:
    """About the bytes of all these files; `estimates` say how many networks are trained."""
    labels, task = method.labels(), source.task
    image_bytes = math.prod(task.shape)
    tiles = len(shown(labels.numpy()))
    classes, each = strips.places(task.num_classes, settings.source.strip)
    small = image_bytes * min(1.0, strips.STRIP_PX / max(task.height_px, task.width_px)) ** 2
    real = len(classes) * each * small if source.has_images and settings.source.strip else 0.0
    num_shown = len(pictures.choose_images(labels.tolist()))
    side_px = min(max(task.height_px, task.width_px), int(math.sqrt(figures.PAGE_PIXELS / num_shown)))
    small_ones = max(task.height_px, task.width_px) <= figures.SMALL_PX
    left = MADE if isinstance(method, Optimised) else REAL
    still = _encoded(num_shown, side_px, image_bytes * num_shown, left, small=small_ones)
    words = WORDS_BYTES + EVENT_BYTES * _num_events(settings, method, estimates)
    return round(words + tiles * image_bytes + real * (1 + REAL * IN_TEXT) + still + _film(settings, source, method))


def _film(settings: Settings, source: Source, method: Method) -> float:
    """Of the animation from snapshots of the first chunk."""
    num = len(recover.snapshot_steps(settings.recover))
    if num < 2:
        return 0.0
    first = recover.chunks(method, settings.recover)[0][: recover.SNAPSHOT_IMAGES]
    px = max(source.task.height_px, source.task.width_px)
    frames, kept = pictures.film_of(num, method.labels()[first].tolist(), px)
    num_bytes = frames * len(kept) * math.prod(source.task.shape)
    return _encoded(frames * len(kept), min(px, figures.SHEET_TILE_PX), num_bytes, MADE, small=px <= figures.SMALL_PX)


def _encoded(num: int, side_px: int, num_bytes: float, left: float, *, small: bool) -> float:
    """Of so many pictures of `num_bytes` in a page: the part `left` of them where they are small and few."""
    lossless = small and num_bytes <= figures.LOSSLESS_BYTES
    return IN_TEXT * (left * num_bytes if lossless else LOSSY * num * side_px**2)


def _num_events(settings: Settings, method: Method, estimates: Sequence[Estimate]) -> int:
    """Of epochs of all trainings, of looks at students, and of steps of all chunks."""
    judging, parts = settings.evaluate.complete(), len(recover.chunks(method, settings.recover))
    every = max(1, math.ceil(settings.recover.iterations * min(parts, 20) / recover.MAX_EVENTS))
    trained = {part: {place for one in estimates if one.part == part for place in one.places} for part in TRAINED}
    full = judging.seeds * len(judging.models) if trained["evaluate"] and "full" in judging.baselines else 0

    def of_student(epochs: int) -> int:
        return min(epochs, loop.MAX_EVENTS) + min(epochs, judging.curve_points)

    return (
        parts * (settings.recover.iterations // every)
        + len(trained["squeeze"]) * min(getattr(settings.sections["squeeze"], "epochs", 0), loop.MAX_EVENTS)
        + (len(trained["evaluate"]) - full) * of_student(settings.train.epochs)
        + full * of_student(judging.full_epochs)
    )
