"""What the measurements say, in the fewest numbers: the honest comparison, and what was gained and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attar.plain import is_number
from attar.report.axes import Axis, accuracy_axis
from attar.report.charts import Bar, bars
from attar.report.formats import count, setting, size
from attar.results.records import Labels, Record, Split
from attar.results.verdict import Pair, Words, pairs

SPLITS: tuple[Split, ...] = ("test", "validation")
GROUPS = {
    "distilled": "Distilled",
    "random": "Random real images",
    "herding": "Herding",
    "kcenter": "K-center",
    "kmeans": "K-means",
    "easy": "Easy",
    "full": "Whole training set",
}
ORDER = {"distilled": 0, "random": 1}


@dataclass(frozen=True)
class Fact:
    """A number in large type and what it says."""

    value: str
    meaning: str
    detail: str


@dataclass(frozen=True)
class Group:
    """Accuracies that stand together; `title` is empty where there is one kind of labels only."""

    title: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Comparison:
    """The accuracies of one model, side by side, those with the same labels together."""

    model: str
    axis: Axis
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Protocol:
    """How the accuracies were measured: what is common, and what differs with whom it is true of."""

    common: dict[str, str]
    differing: dict[str, str]


def accuracies(records: Sequence[Record]) -> list[Record]:
    """Accuracies on the split that judges: the test split, or validation where nothing was tested."""
    measured = [record for record in records if record.n > 0 and record.is_accuracy and not record.best]
    found = ([record for record in measured if record.split == split] for split in SPLITS)
    return next(filter(None, found), [])


def unbroken_words(words: Words) -> Words:
    """The same words; no line of the page ends within a score."""
    return Words(tuple(map(unbroken, words.sentences)), tuple(map(unbroken, words.points)))


def unbroken(text: str) -> str:
    """The same text, with scores that no line ends within."""
    return text.replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


def facts(records: Sequence[Record]) -> tuple[Fact, ...]:
    """What the distilled set gains and saves, of the first model."""
    measured = accuracies(records)
    ours = [record for record in measured if record.model == measured[0].model]
    compared = [pair for pair in pairs(ours) if pair.random]
    made = [_gain(pair, pair.random, len(compared) > 1) for pair in compared if pair.random]
    found = {record.group: record for record in reversed(ours) if record.augmented}
    distilled, full = found.get("distilled"), found.get("full")
    if distilled and full and full.mean > 0:
        of = f"{distilled.mean:.1f} of {full.mean:.1f} %{_trained_for(full, distilled)}"
        made.append(Fact(f"{100 * distilled.mean / full.mean:.1f} %", "of the whole set’s accuracy", of))
    if distilled and full and distilled.num_images and distilled.size_bytes:
        images = f"{count(full.num_images)} → {count(distilled.num_images)}"
        made.append(Fact(*_ratio(full.num_images, distilled.num_images, "fewer images", "more images"), images))
        weight = f"{size(full.size_bytes)} → {size(distilled.size_bytes)}"
        made.append(Fact(*_ratio(full.size_bytes, distilled.size_bytes, "fewer bytes", "more bytes"), weight))
    return tuple(made)


def _trained_for(full: Record, distilled: Record) -> str:
    """Where the whole set was gone through less often than the distilled one: how often."""
    often, ours = (record.protocol.get("epochs") for record in (full, distilled))
    if not (is_number(often) and is_number(ours)) or often >= ours:
        return ""
    return f", which is trained on for {count(round(often))} epoch{'s' if often != 1 else ''}"


def _gain(pair: Pair, random: Record, several: bool) -> Fact:
    gain = pair.distilled.mean - random.mean
    meaning = f"points {'ahead of' if gain >= 0 else 'behind'} random real images"
    of = f"{pair.distilled.mean:.1f} against {random.mean:.1f} % with {count(random.num_images)} images each"
    return Fact(f"{abs(gain):.1f}", f"{meaning}, {pair.labels} labels" if several else meaning, of)


def _ratio(whole: int, part: int, smaller: str, larger: str) -> tuple[str, str]:
    ratio = whole / part if whole >= part else part / max(whole, 1)
    text = f"{ratio:,.0f}×" if ratio >= 9.95 else f"{ratio:.1f}×"
    return text, smaller if whole >= part else larger


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Put the accuracies of each model side by side, on one axis: the distilled set first, the whole set last."""
    measured = accuracies(records)
    if not measured:
        return []
    axis = accuracy_axis(measured)
    kinds = list(dict.fromkeys(pair.labels for pair in pairs(measured)))
    made = []
    for model in dict.fromkeys(record.model for record in measured):
        ours = [record for record in measured if record.model == model]
        made.append(Comparison(model, axis, tuple(_groups(ours, kinds, axis))))
    return made


def _groups(records: Sequence[Record], kinds: Sequence[Labels | None], axis: Axis) -> list[Group]:
    """A group for each kind of labels, one for images that were not augmented, and one for the whole set."""

    def group(title: str, members: Sequence[Record]) -> Group:
        ordered = sorted(members, key=lambda r: ORDER.get(r.group, 2))
        names = [group_title(one.group) if title else trained_on(one, records) for one in ordered]
        return Group(title, bars(ordered, axis, names))

    full = [record for record in records if record.group == "full"]
    plain = [record for record in records if not record.augmented]
    rest = [record for record in records if record not in full and record not in plain]
    if len(kinds) < 2 and not plain:
        return [group("", [*rest, *full])]
    of_kind = {kind: [r for r in rest if r.labels == kind] for kind in kinds}
    made = [group(f"{kind} labels" if len(kinds) > 1 else "", members) for kind, members in of_kind.items()]
    made.append(group(_plain_title(plain, kinds), plain))
    made.append(group("", [*(r for r in rest if r.labels not in kinds), *full]))
    return [one for one in made if one.bars]


def _plain_title(plain: Sequence[Record], kinds: Sequence[Labels | None]) -> str:
    labels = f"{plain[0].labels} labels, " if plain and len(kinds) > 1 else ""
    return f"{labels}not augmented"


def protocol(records: Sequence[Record]) -> Protocol:
    """Compare how the accuracies were measured, field by field."""
    measured = [record for record in accuracies(records) if record.protocol]
    common, differing = {}, {}
    for key in dict.fromkeys(key for record in measured for key in how_measured(record)):
        whose: dict[str, dict[str, None]] = {}
        for record in measured:
            whose.setdefault(setting(how_measured(record).get(key)), {})[trained_on(record, measured)] = None
        if len(whose) == 1:
            common[key] = next(iter(whose))
        else:
            differing[key] = _differing(whose)
    return Protocol(common, differing)


def _differing(whose: dict[str, dict[str, None]]) -> str:
    """Each value with the names that it is true of; the longest list of names is all others."""
    longest = max(whose, key=lambda value: len(whose[value]))
    shown = {value: ", ".join(names) for value, names in whose.items()}
    others = {name for value in whose if value != longest for name in whose[value]}
    if len(whose[longest]) > 2 and not others & set(whose[longest]):
        shown[longest] = "all others"
    return "; ".join(f"{value} ({names})" for value, names in shown.items())


def how_measured(record: Record) -> dict[str, Any]:
    """Which images judge and how the network was trained, by the names that a person sees; empty where nobody said."""
    told = {
        "tested_on": record.tested_on or None,
        "protocol": record.followed.title if record.followed else None,
        "changed": (", ".join(record.followed.changed) or None) if record.followed else None,
        "precision": record.protocol.get("precision"),
        "labels": record.labels,
    }
    return {**{key: value for key, value in told.items() if value is not None}, **record.protocol}


def group_title(group: str) -> str:
    """A kind of images, in words."""
    return GROUPS.get(group, group)


def trained_on(record: Record, among: Sequence[Record]) -> str:
    """What was trained on, in words; its labels are named where the same images come before it with others."""
    first = next((other.labels for other in among if other.group == record.group), record.labels)
    labels = f", {record.labels} labels" if record.labels != first else ""
    return f"{group_title(record.group)}{labels}{'' if record.augmented else ', not augmented'}"


def unlabelled(record: Record) -> str:
    """What was trained on, in words, where its labels stand beside."""
    return record.subject if record.best else trained_on(record, [record])
