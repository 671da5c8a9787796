"""What the measurements say, in the fewest numbers: the honest comparison, and what was gained and saved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from attar.records import Record
from attar.report.charts import Axis, Bar, comparison
from attar.report.formats import count, setting, size

ACCURACY = "test_accuracy"
SUBJECTS = {"distilled": "Distilled", "random": "Random real images", "full": "Whole training set"}


@dataclass(frozen=True)
class Fact:
    """A number in large type and what it says."""

    value: str
    meaning: str
    detail: str


@dataclass(frozen=True)
class Comparison:
    """The accuracies of one model, side by side."""

    model: str
    axis: Axis
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Protocol:
    """How the accuracies were measured: what is common, and what differs with whom it is true of."""

    common: dict[str, str]
    differing: dict[str, str]


def facts(records: Sequence[Record]) -> tuple[Fact, ...]:
    """What the distilled set gains and saves, of the first model that has the numbers."""
    found = by_subject(records)
    distilled, random, full = (found.get(name) for name in ("distilled", "random", "full"))
    made = []
    if distilled and random:
        gain = distilled.mean - random.mean
        of = f"{distilled.mean:.1f} against {random.mean:.1f} % with {count(random.num_images)} images each"
        made.append(Fact(f"{abs(gain):.1f}", f"points {'ahead of' if gain >= 0 else 'behind'} random real images", of))
    if distilled and full and full.mean > 0:
        of = f"{distilled.mean:.1f} of {full.mean:.1f} %"
        made.append(Fact(f"{100 * distilled.mean / full.mean:.1f} %", "of the whole set’s accuracy", of))
    if distilled and full and distilled.num_images and distilled.size_bytes:
        images = f"{count(full.num_images)} → {count(distilled.num_images)}"
        made.append(Fact(*_ratio(full.num_images, distilled.num_images, "fewer images", "more images"), images))
        weight = f"{size(full.size_bytes)} → {size(distilled.size_bytes)}"
        made.append(Fact(*_ratio(full.size_bytes, distilled.size_bytes, "fewer bytes", "more bytes"), weight))
    return tuple(made)


def by_subject(records: Iterable[Record]) -> dict[str, Record]:
    """Accuracies of the first model, by what was trained on."""
    accuracies = [record for record in records if record.metric == ACCURACY]
    return {r.subject: r for r in reversed(accuracies) if r.model == accuracies[0].model}


def _ratio(whole: int, part: int, smaller: str, larger: str) -> tuple[str, str]:
    ratio = whole / part if whole >= part else part / max(whole, 1)
    text = f"{ratio:,.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×"
    return text, smaller if whole >= part else larger


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Put the accuracies of each model side by side, the distilled set first, the whole set last."""
    accuracies = [record for record in records if record.metric == ACCURACY and record.n > 0]
    order = {"distilled": 0, "random": 1, "full": 3}
    made = []
    for model in dict.fromkeys(record.model for record in accuracies):
        ours = sorted((r for r in accuracies if r.model == model), key=lambda r: order.get(r.subject, 2))
        made.append(Comparison(model, *comparison(ours)))
    return made


def protocol(records: Sequence[Record]) -> Protocol:
    """Compare how the accuracies were measured, field by field."""
    measured = [record for record in records if record.metric == ACCURACY and record.protocol]
    common, differing = {}, {}
    for key in dict.fromkeys(key for record in measured for key in record.protocol):
        whose: dict[str, list[str]] = {}
        for record in measured:
            whose.setdefault(setting(record.protocol.get(key)), []).append(subject(record.subject))
        if len(whose) == 1:
            common[key] = next(iter(whose))
        else:
            differing[key] = "; ".join(f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in whose.items())
    return Protocol(common, differing)


def subject(name: str) -> str:
    """What was trained on, in words."""
    return SUBJECTS.get(name, name)
