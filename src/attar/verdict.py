"""What accuracies say in words: do distilled images beat as many random real ones, with each kind of labels?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from attar.records import Record

CLEAR_SPREADS = 2.0
"""A difference of means counts as clear from this many pooled standard deviations on."""
BULLET = "- "
NOT_AUGMENTED = ", not augmented"
"""Ends the subject of a training on images as they are."""

Outcome = Literal["beats", "ahead", "not ahead"]


@dataclass(frozen=True)
class Pair:
    """One network trained on the distilled images, and on random real ones with the same labels where there are any."""

    distilled: Record
    random: Record | None

    @property
    def labels(self) -> str:
        """Kind of the distilled images' labels, `hard` or `soft`; empty where the record does not say."""
        return _labels(self.distilled)

    @property
    def labelled_alike(self) -> bool:
        """Whether nothing but the images differs."""
        return self.random is None or _labels(self.random) == self.labels

    @property
    def outcome(self) -> Outcome | None:
        """Whether the distilled images are clearly ahead, ahead, or not; None where nothing was compared."""
        if self.random is None:
            return None
        gain, spread = _gain(self.distilled, self.random), _spread(self.distilled, self.random)
        if gain <= 0:
            return "not ahead"
        return "beats" if min(self.distilled.n, self.random.n) > 1 and gain >= CLEAR_SPREADS * spread else "ahead"


def verdict(records: Sequence[Record]) -> str:
    """Say for each network and kind of labels whether distilled images beat random ones, also where they don't.

    One line each. With several networks a line for each kind of labels counts the networks, and a line for each
    network, which starts with BULLET, has the differences. Where random images with other labels, or chosen ones with
    the same, are better than distilled ones, a line says so, lest the comparison mislead. A best over the run has no
    part in it.
    """
    records = [record for record in records if not record.is_best]
    found = pairs(records)
    by_model = [[p for p in found if p.distilled.model == model] for model in models_of(found)]
    if len(by_model) < 2:
        return "\n".join([*(_sentence(pair, found) for pair in found), *_better_labels(found), *_chosen(records)])
    kinds = dict.fromkeys(pair.labels for pair in found)
    counts = [_count([pair for pair in found if pair.labels == kind and pair.random]) for kind in kinds]
    bullets = [_bullet(members) for members in by_model]
    return "\n".join([*filter(None, counts), *_better_labels_across(by_model), *_chosen(records), *bullets])


def best_lines(records: Sequence[Record]) -> list[str]:
    """A line for each record that is a best over the run, with how it was chosen."""
    lines = []
    for record in records:
        if record.is_best:
            place, among = record.protocol.get("best_at", "one of them"), record.protocol.get("best_of")
            num = f"{len(among)} tested" if isinstance(among, Mapping) else "several tested"
            chosen = f"{place} of {num}, chosen by the images that judge, as in published tables"
            lines.append(f"{record.subject}, on {record.model}: {record.score} ({chosen})")
    return lines


def models_of(found: Sequence[Pair]) -> list[str]:
    """Networks, in the order of their first pair."""
    return list(dict.fromkeys(pair.distilled.model for pair in found))


def pairs(records: Sequence[Record]) -> list[Pair]:
    """Each accuracy of distilled images with the one of random real images that it is to be compared with.

    Trainings without augmentation, which only scores are about, are left out.
    """
    records = [record for record in records if augmented(record.subject)]
    made = []
    for record in records:
        if base(record.subject) == "distilled":
            rivals = [other for other in records if base(other.subject) == "random" and other.model == record.model]
            alike = [other for other in rivals if _labels(other) == _labels(record)]
            made.append(Pair(record, next(iter(alike or rivals), None)))
    return made


def base(subject: str) -> str:
    """What was trained on, without its labels and views: `random, hard labels` -> `random`."""
    return without_labels(subject).removesuffix(NOT_AUGMENTED)


def without_labels(subject: str) -> str:
    """`random, hard labels, not augmented` -> `random, not augmented`."""
    views = "" if augmented(subject) else NOT_AUGMENTED
    subject = subject.removesuffix(NOT_AUGMENTED)
    for kind in ("hard", "soft"):
        subject = subject.removesuffix(f", {kind} labels")
    return subject + views


def augmented(subject: str) -> bool:
    """Whether images were augmented, as the settings have it."""
    return not subject.endswith(NOT_AUGMENTED)


def _sentence(pair: Pair, others: Sequence[Pair]) -> str:
    several = len({other.labels for other in others}) > 1
    named = pair.labels and pair.labelled_alike and (several or pair.labels == "soft")
    labels = f" and {pair.labels} labels" if named else ""
    reached = f"With {pair.distilled.model}{labels}, distilled images reach {pair.distilled.score}"
    if pair.random is None:
        return f"{reached}; they were not compared with random real images."
    against = f"{reached} and random real images at the same count {pair.random.score}"
    return f"{against}: {_judge(pair, pair.random)}{_label_note(pair, pair.random)}"


def _bullet(found: Sequence[Pair]) -> str:
    """One network: its differences to random images, with each kind of labels."""
    told = "; ".join(_difference(pair, pair.random) for pair in found if pair.random)
    alone = f"distilled {found[0].distilled.score}; they were not compared with random real images."
    return f"{BULLET}{found[0].distilled.model}: {told or alone}"


def _difference(pair: Pair, random: Record) -> str:
    gain = _gain(pair.distilled, random)
    which = pair.labels if pair.labelled_alike else f"{pair.labels} against {_labels(random)}"
    clear = ", clear" if pair.outcome == "beats" else ", not clear" if pair.outcome == "ahead" else ""
    points = f"{gain:+.1f}".replace("-", "−") if gain else "0.0"
    return f"{points} points{f' with {which} labels' if which else ''}{clear}"


def _chosen(records: Sequence[Record]) -> list[str]:
    """Real images, chosen well, that do better than distilled ones with the same labels: one line, where there are."""
    ahead: dict[str, None] = {}
    found = pairs(records)
    several = len(models_of(found)) > 1
    for pair in found:
        for other in records:
            chosen = augmented(other.subject) and base(other.subject) not in ("distilled", "random", "full")
            alike = other.model == pair.distilled.model and _labels(other) == pair.labels
            if chosen and alike and other.mean > pair.distilled.mean:
                where = f" on {other.model}" if several else ""
                labels = f", {pair.labels} labels" if pair.labels else ""
                ahead[f"{base(other.subject)}{where} ({other.score}{labels})"] = None
    return [f"Real images that were chosen are ahead of distilled ones: {', '.join(ahead)}."] if ahead else []


def _judge(pair: Pair, random: Record) -> str:
    gain, spread = _gain(pair.distilled, random), _spread(pair.distilled, random)
    if pair.outcome == "not ahead":
        behind = f"{-gain:.1f} points behind" if gain else "no difference"
        return f"distilled images do not beat random ones ({behind})."
    if min(pair.distilled.n, random.n) < 2:
        return f"distilled images are {gain:.1f} points ahead, but one training of each is no proof."
    if pair.outcome == "ahead":
        return f"distilled images are {gain:.1f} points ahead, which is within the spread and no clear win."
    times = f", {gain / spread:.0f} times the spread" if spread else ""
    return f"distilled images beat random ones by {gain:.1f} points{times}."


def _label_note(pair: Pair, random: Record) -> str:
    if pair.labelled_alike:
        return ""
    return (
        f" The distilled images had {pair.labels} labels, the random ones {_labels(random)}: "
        "part of the difference is the labels'."
    )


def _count(compared: Sequence[Pair]) -> str:
    """One kind of labels over all networks."""
    if not compared:
        return ""
    outcomes = [pair.outcome for pair in compared]
    labels = f"With {compared[0].labels} labels, distilled" if compared[0].labels else "Distilled"
    clear, ahead = outcomes.count("beats"), outcomes.count("ahead")
    more = f", and are ahead but not clearly on {ahead}{' more' if clear else ''}" if ahead else ""
    on = _share(clear, len(compared))
    return f"{labels} images clearly beat random real images at the same count on {on} networks{more}."


def _better_labels(found: Sequence[Pair]) -> list[str]:
    """The line on one network whose random images do best with labels that the comparison at equal labels hides."""
    best = _best_of_each(found)
    if best is None:
        return []
    ours, theirs = best
    return [
        f"With the better labels for each, random real images are ahead: {theirs.score} ({_labels(theirs)} labels) "
        f"against {ours.score} ({_labels(ours)})."
    ]


def _better_labels_across(by_model: Sequence[Sequence[Pair]]) -> list[str]:
    num = sum(_best_of_each(found) is not None for found in by_model)
    if not num:
        return []
    on = _share(num, len(by_model))
    return [f"With the better labels for each, random real images are ahead on {on} networks."]


def _best_of_each(found: Sequence[Pair]) -> tuple[Record, Record] | None:
    """The best of distilled and of random images, where random is ahead although not with every kind of labels."""
    compared = [(pair.distilled, pair.random) for pair in found if pair.random]
    if not any(_gain(ours, theirs) > 0 for ours, theirs in compared):
        return None
    ours = max((ours for ours, _ in compared), key=lambda record: record.mean)
    theirs = max((theirs for _, theirs in compared), key=lambda record: record.mean)
    return (ours, theirs) if theirs.mean > ours.mean else None


def _share(num: int, of: int) -> str:
    return f"all {of}" if num == of > 1 else f"{num or 'none'} of {of}"


def _labels(record: Record) -> str:
    return str(record.protocol.get("labels", ""))


def _gain(distilled: Record, random: Record) -> float:
    return distilled.mean - random.mean


def _spread(distilled: Record, random: Record) -> float:
    return math.sqrt((distilled.std**2 + random.std**2) / 2)
