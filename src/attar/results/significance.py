"""Differences of accuracies between trainings, with their uncertainty, and what they say in words.

    difference = mean of one - mean of the other                        in points
    interval   = difference ± t(97.5 %, df) sqrt(s1² / n1 + s2² / n2)      Welch's, 95 %
    p          = of Welch's t test, two-sided;  Holm's correction over all differences that are told together

The uncertainty is that of trainings: other seeds, the same images to train on and to judge by. Needs no torch.

Source: Welch 1947; Holm 1979.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, get_args

from attar.errors import ArtifactError
from attar.results.records import Cell, Record
from attar.results.verdict import Words

LEVEL = 0.05
Verdict = Literal["better", "worse", "perhaps better", "perhaps worse", "no difference shown", "one training: no proof"]
MEANING = (
    "better, worse: Welch's t test at 5 %, corrected for the number of comparisons (Holm). perhaps: only without that "
    "correction. no difference shown: these trainings do not tell the two apart, which is no proof that they are alike."
)


@dataclass(frozen=True)
class Contrast:
    """One record beside the one that it is compared with; `low`, `high` and the p values are None with one training."""

    record: Record
    baseline: Record
    points: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None

    @property
    def verdict(self) -> Verdict:
        """In words that claim no more than the trainings show."""
        if self.p is None or self.p_holm is None:
            return "one training: no proof"
        if self.p >= LEVEL:
            return "no difference shown"
        if self.p_holm < LEVEL:
            return "better" if self.points > 0 else "worse"
        return "perhaps better" if self.points > 0 else "perhaps worse"

    @property
    def interval(self) -> str:
        """`−0.1 to +2.0`; empty with one training."""
        return "" if self.low is None or self.high is None else f"{signed(self.low)} to {signed(self.high)}"

    def to_json(self) -> dict[str, Any]:
        """Plain values beside those of the records."""
        mine = cell_of(self.record)
        return {
            "strategy": mine.strategy,
            "variant": mine.variant,
            "label_noise": mine.label_noise,
            "model": self.record.model,
            "baseline": cell_of(self.baseline).strategy,
            "points": self.points,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "p_holm": self.p_holm,
            "verdict": self.verdict,
        }


def to_baseline(records: Sequence[Record], baseline: str) -> list[Contrast]:
    """Each record of a study beside that of the strategy `baseline` with the same network, variant and wrong labels."""
    found = {place(record): record for record in records if cell_of(record).strategy == baseline}
    others = [record for record in records if cell_of(record).strategy != baseline and place(record) in found]
    return contrasts((record, found[place(record)]) for record in others)


def contrasts(pairs: Iterable[tuple[Record, Record]]) -> list[Contrast]:
    """Compare each record with its baseline; all are told together, and Holm's correction is over all."""
    found = [(record, baseline, *_welch(record, baseline)) for record, baseline in pairs]
    corrected = iter(holm([p for *_, p in found if p is not None]))
    return [
        Contrast(record, baseline, points, low, high, p, None if p is None else next(corrected))
        for record, baseline, points, low, high, p in found
    ]


def summary(found: Sequence[Contrast]) -> Words:
    """Words on all differences of a study to its baseline: how many there are, and points for each strategy.

    One with right labels, one with wrong ones: what helps there may harm here.
    """
    if not found:
        return Words()
    by_name: dict[tuple[str, bool], list[Contrast]] = {}
    for contrast in sorted(found, key=lambda contrast: bool(cell_of(contrast.record).label_noise)):
        own = cell_of(contrast.record)
        by_name.setdefault((own.strategy, bool(own.label_noise)), []).append(contrast)
    num = f"{len(found)} comparisons, corrected together" if len(found) > 1 else "one comparison"
    head = f"Accuracy beside {cell_of(found[0].baseline).strategy}: {num}."
    points = (_line(f"{name}, wrong labels" if wrong else name, of) for (name, wrong), of in by_name.items())
    return Words((head,), tuple(points))


def cell_of(record: Record) -> Cell:
    """The place of a record in its study; raises ArtifactError where it is of none."""
    if record.cell is None:
        raise ArtifactError(
            f"{record.subject} on {record.model} is of no study",
            expected="records with strategy, variant and part of wrong labels",
            fix="run the study again: what is finished is kept",
        )
    return record.cell


def place(record: Record) -> tuple[str, str, float]:
    """What a record shares with the baseline that it is compared with: network, variant and part of wrong labels."""
    return record.model, cell_of(record).variant, cell_of(record).label_noise


def _line(name: str, found: Sequence[Contrast]) -> str:
    points = [contrast.points for contrast in found]
    if len(found) == 1:
        one = found[0]
        interval = f" (95 %: {one.interval})" if one.interval else ""
        return f"{name}: {signed(points[0])} points{interval}; {one.verdict}."
    verdicts = Counter(contrast.verdict for contrast in found)
    told = "; ".join(f"{verdict} in {verdicts[verdict]}" for verdict in get_args(Verdict) if verdicts[verdict])
    spread = f"from {signed(min(points))} to {signed(max(points))}"
    return f"{name}: {signed(fmean(points))} points on average over {len(found)} comparisons ({spread}); {told}."


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's p values, in the order given: the k-th smallest of m times m - k + 1, never below the one before."""
    made, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        made[place] = highest
    return made


def _welch(one: Record, other: Record) -> tuple[float, float | None, float | None, float | None]:
    """Difference, the ends of its interval, and p."""
    points = one.mean - other.mean
    if min(one.n, other.n) < 2:
        return points, None, None, None
    first, second = one.std**2 / one.n, other.std**2 / other.n
    error = math.sqrt(first + second)
    if error == 0:
        return points, points, points, float(points == 0)
    from scipy.special import stdtr, stdtrit  # type: ignore[import-untyped]

    df = (first + second) ** 2 / (first**2 / (one.n - 1) + second**2 / (other.n - 1))
    reach = float(stdtrit(df, 1 - LEVEL / 2)) * error
    return points, points - reach, points + reach, 2 * float(stdtr(df, -abs(points) / error))


def signed(points: float) -> str:
    """`+0.8`, `−1.2`, `0.0`."""
    text = f"{points:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")
