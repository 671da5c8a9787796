"""What accuracies say in words: do distilled images beat as many random real ones, with each kind of labels?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from attar.errors import ArtifactError
from attar.results.records import Best, Labels, Record

_CLEAR_SPREADS = 2.0
"""A difference of means counts as clear from this many pooled standard deviations on."""
_NOT_CHOSEN = ("distilled", "random", "full")

Outcome = Literal["beats", "ahead", "not ahead"]


@dataclass(frozen=True)
class Words:
    """What measurements say: sentences, and points that are listed below them."""

    sentences: tuple[str, ...] = ()
    points: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([*self.sentences, *(f"- {point}" for point in self.points)])

    def __bool__(self) -> bool:
        return bool(self.sentences or self.points)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {"sentences": list(self.sentences), "points": list(self.points)}

    @classmethod
    def from_json(cls, values: Any) -> Words:
        """Read what `to_json` wrote; raises ArtifactError for anything else."""
        parts: list[Any] = [values.get(name) if isinstance(values, dict) else None for name in ("sentences", "points")]
        if not all(isinstance(part, list) and all(isinstance(line, str) for line in part) for part in parts):
            raise ArtifactError(
                f"what measurements say could not be read: {str(values)[:50]!r}",
                expected="a list of `sentences` and one of `points`, all of them texts",
                fix="run the command that measured again, such as `attar evaluate`",
            )
        return cls(tuple(parts[0]), tuple(parts[1]))


@dataclass(frozen=True)
class Pair:
    """One network trained on the distilled images, and on random real ones with the same labels where there are any."""

    distilled: Record
    random: Record | None

    @property
    def labels(self) -> Labels | None:
        """Kind of the distilled images' labels; None where the record does not say."""
        return self.distilled.labels

    @property
    def labelled_alike(self) -> bool:
        """Whether nothing but the images differs."""
        return self.random is None or self.random.labels == self.labels

    @property
    def outcome(self) -> Outcome | None:
        """Whether the distilled images are clearly ahead, ahead, or not; None where nothing was compared."""
        if self.random is None:
            return None
        gain, spread = _gain(self.distilled, self.random), _spread(self.distilled, self.random)
        if gain <= 0:
            return "not ahead"
        return "beats" if min(self.distilled.n, self.random.n) > 1 and gain >= _CLEAR_SPREADS * spread else "ahead"


def verdict(records: Sequence[Record], called: str = "distilled images") -> Words:
    """Say for each network and kind of labels whether distilled images beat random ones, also where they don't.

    A sentence each. With several networks a sentence for each kind of labels counts the networks, and a point for each
    network has the differences. Where random images with other labels, or chosen ones with the same, are better than
    distilled ones, a sentence says so, lest the comparison mislead. A best over the run has no part in it. `called` is
    what the images are that are judged.
    """
    found = pairs(records)
    by_model = [[p for p in found if p.distilled.model == model] for model in _models_of(found)]
    if len(by_model) < 2:
        return Words(
            (*(_sentence(pair, found, called) for pair in found), *_better_labels(found), *_chosen(records, found))
        )
    kinds = dict.fromkeys(pair.labels for pair in found)
    counts = [_count([pair for pair in found if pair.labels == kind and pair.random], called) for kind in kinds]
    sentences = *filter(None, counts), *_better_labels_across(by_model), *_chosen(records, found)
    return Words(sentences, tuple(_point(members) for members in by_model))


def best_lines(records: Sequence[Record]) -> list[str]:
    """A line for each record that is a best over the run, with how it was chosen."""
    return [
        f"{record.subject}, on {record.model}: {record.score} ({_place(best)} of {len(best.tested)} tested, chosen by "
        "the images that judge, as in published tables)"
        for record in records
        if (best := record.best)
    ]


def _place(best: Best) -> str:
    """`step 20`, `the last step`, `epochs 4, 6`."""
    if best.over == "steps":
        return f"step {best.at[0]}" if best.at else "the last step"
    return f"epoch{'s' * (len(best.at) > 1)} {', '.join(map(str, best.at))}"


def group_words(record: Record) -> str:
    """What was trained on, where its labels stand beside: `random, not augmented`."""
    return record.group if record.augmented else f"{record.group}, not augmented"


def _models_of(found: Sequence[Pair]) -> list[str]:
    """Networks, in the order of their first pair."""
    return list(dict.fromkeys(pair.distilled.model for pair in found))


def pairs(records: Sequence[Record]) -> list[Pair]:
    """Each accuracy of distilled images with the one of random real images that it is to be compared with.

    Trainings without augmentation, which only scores are about, are left out, and so is a best over the run.
    """
    records = [record for record in records if record.augmented and not record.best]
    made = []
    for record in records:
        if record.group == "distilled":
            rivals = [other for other in records if other.group == "random" and other.model == record.model]
            alike = [other for other in rivals if other.labels == record.labels]
            made.append(Pair(record, next(iter(alike or rivals), None)))
    return made


def _sentence(pair: Pair, others: Sequence[Pair], called: str) -> str:
    several = len({other.labels for other in others}) > 1
    named = pair.labels and pair.labelled_alike and (several or pair.labels == "soft")
    labels = f" and {pair.labels} labels" if named else ""
    reached = f"With {pair.distilled.model}{labels}, {called} reach {pair.distilled.score}"
    if pair.random is None:
        return f"{reached}; they were not compared with random real images."
    against = f"{reached} and random real images at the same count {pair.random.score}"
    return f"{against}: {_judge(pair, pair.random, called)}{_label_note(pair, pair.random, called)}"


def _point(found: Sequence[Pair]) -> str:
    """One network: its differences to random images, with each kind of labels."""
    told = "; ".join(_difference(pair, pair.random) for pair in found if pair.random)
    alone = f"distilled {found[0].distilled.score}; they were not compared with random real images."
    return f"{found[0].distilled.model}: {told or alone}"


def _difference(pair: Pair, random: Record) -> str:
    gain = _gain(pair.distilled, random)
    which = pair.labels if pair.labelled_alike else f"{pair.labels} against {random.labels}"
    clear = ", clear" if pair.outcome == "beats" else ", not clear" if pair.outcome == "ahead" else ""
    points = f"{gain:+.1f}".replace("-", "−") if gain else "0.0"
    return f"{points} points{f' with {which} labels' if which else ''}{clear}"


def _chosen(records: Sequence[Record], found: Sequence[Pair]) -> list[str]:
    """One sentence on real images, chosen well, that do better than distilled ones with the same labels."""
    ahead: dict[str, None] = {}
    several = len(_models_of(found)) > 1
    chosen = [one for one in records if one.augmented and not one.best and one.group not in _NOT_CHOSEN]
    for pair in found:
        for other in chosen:
            alike = other.model == pair.distilled.model and other.labels == pair.labels
            if alike and other.mean > pair.distilled.mean:
                where = f" on {other.model}" if several else ""
                labels = f", {pair.labels} labels" if pair.labels else ""
                ahead[f"{other.group}{where} ({other.score}{labels})"] = None
    return [f"Real images that were chosen are ahead of distilled ones: {', '.join(ahead)}."] if ahead else []


def _judge(pair: Pair, random: Record, called: str) -> str:
    gain, spread = _gain(pair.distilled, random), _spread(pair.distilled, random)
    if pair.outcome == "not ahead":
        behind = f"{-gain:.1f} points behind" if gain else "no difference"
        return f"{called} do not beat random ones ({behind})."
    if min(pair.distilled.n, random.n) < 2:
        return f"{called} are {gain:.1f} points ahead, but one training of each is no proof."
    if pair.outcome == "ahead":
        return f"{called} are {gain:.1f} points ahead, which is within the spread and no clear win."
    times = f", {gain / spread:.0f} times the spread" if spread else ""
    return f"{called} beat random ones by {gain:.1f} points{times}."


def _label_note(pair: Pair, random: Record, called: str) -> str:
    if pair.labelled_alike:
        return ""
    return (
        f" The {called} had {pair.labels} labels, the random ones {random.labels}: "
        "part of the difference is the labels'."
    )


def _count(compared: Sequence[Pair], called: str) -> str:
    """One kind of labels over all networks."""
    if not compared:
        return ""
    outcomes = [pair.outcome for pair in compared]
    who = f"With {compared[0].labels} labels, {called}" if compared[0].labels else f"{called[:1].upper()}{called[1:]}"
    clear, ahead = outcomes.count("beats"), outcomes.count("ahead")
    more = f", and are ahead but not clearly on {ahead}{' more' if clear else ''}" if ahead else ""
    on = _share(clear, len(compared))
    return f"{who} clearly beat random real images at the same count on {on} networks{more}."


def _better_labels(found: Sequence[Pair]) -> list[str]:
    """The line on one network whose random images do best with labels that the comparison at equal labels hides."""
    best = _best_of_each(found)
    if best is None:
        return []
    ours, theirs = best
    return [
        f"With the better labels for each, random real images are ahead: {theirs.score} ({theirs.labels} labels) "
        f"against {ours.score} ({ours.labels})."
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


def _gain(distilled: Record, random: Record) -> float:
    return distilled.mean - random.mean


def _spread(distilled: Record, random: Record) -> float:
    return math.sqrt((distilled.std**2 + random.std**2) / 2)
