"""The scores of DD-Ranking, computed from records: what is the images', and what the labels' and the augmentation's?

    HLR = acc(real, hard) - acc(syn, hard)             hard-label recovery; less is better
    IOR = acc(syn, own) - acc(random, own)             improvement over random, as many images with the same labels
    LRS = n(w IOR - (1 - w) HLR)                       label-robust score
    ARS = n(γ IOR + (1 - γ) (acc(syn, own, plain) - acc(random, own, plain)))      augmentation-robust score
    n(x) = (exp(x) - exp(-1)) / (exp(1) - exp(-1))     -1..1 to 0..1;  w = γ = 1/2

`hard` labels are classes, `own` ones those that a distilled set brings, `plain` images are not augmented; accuracies
are parts of 1 within n. HLR and IOR are told in points, LRS and ARS in percent. 26.9 % is n(0): as good as the whole
set with hard labels and no better than random, say.

Source: Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", arXiv 2505.13300.

Differs from the authors' code
- A training's accuracy is that of its last epoch, with the rate that is set; theirs is the best over epochs and over
  five rates, by the test set.
- Differences are paired by the seed, and std is that of a sample (n - 1).
- Their release (0.2.0) puts points into n where the paper puts parts of 1, so that its LRS and ARS leave 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from attar.results.records import Labels, Record

HLR, IOR = "hard_label_recovery", "improvement_over_random"
LRS, ARS = "label_robust_score", "augmentation_robust_score"
NAMES = {HLR: "HLR", IOR: "IOR", LRS: "LRS", ARS: "ARS"}
NEEDS = {
    HLR: ("full", "hard"),
    IOR: ("own", "random"),
    LRS: ("full", "hard", "own", "random"),
    ARS: ("own", "random", "own plain", "random plain"),
}
"""Trainings that each score is made of."""


@dataclass(frozen=True)
class Training:
    """A training that scores are made of: on which images, with classes or the set's own labels, augmented or not."""

    group: str
    labels: Literal["hard", "own"]
    augmented: bool
    words: str


TRAININGS = {
    "full": Training("full", "hard", True, "the whole training set with hard labels"),
    "hard": Training("distilled", "hard", True, "distilled images with hard labels"),
    "own": Training("distilled", "own", True, "distilled images with their own labels"),
    "random": Training("random", "own", True, "random real images with such labels"),
    "own plain": Training("distilled", "own", False, "distilled images without augmentation"),
    "random plain": Training("random", "own", False, "random real images without augmentation"),
}
_WEIGHT = 0.5
"""w and γ, as on the published leaderboard."""

ValuesOf = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Scores:
    """The scores of one network: a record for each that could be computed, and what trainings the others lack."""

    model: str
    found: Mapping[str, Record] = field(default_factory=dict)
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def lacking(self) -> tuple[str, ...]:
        """Every training that is missing for one of the scores, in words."""
        return tuple(
            TRAININGS[name].words for name in dict.fromkeys(n for names in self.missing.values() for n in names)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {
            "model": self.model,
            "found": {name: record.to_json() for name, record in self.found.items()},
            "missing": {name: [TRAININGS[one].words for one in names] for name, names in self.missing.items()},
        }


def scores(records: Sequence[Record], own: Labels | None = None) -> tuple[Scores, ...]:
    """Compute what can be, for each network that was trained on distilled images.

    `own` is the kind of labels that the distilled set brings; None: soft where a record is of such.
    """
    records = [record for record in records if not record.best]
    distilled = [record for record in records if record.group == "distilled"]
    if own is None:
        own = "soft" if any(record.labels == "soft" for record in distilled) else "hard"
    return tuple(_of_model(model, records, own) for model in dict.fromkeys(record.model for record in distilled))


def normalised(difference: float) -> float:
    """n: bring a difference of accuracies, in points -100..100, to percent 0..100."""
    return 100 * (math.exp(difference / 100) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def score_text(name: str, record: Record) -> str:
    """A score for a person: `8.1 ± 0.2 points`, `26.5 ± 0.1 %`."""
    spread = f" ± {record.std:.1f}" if record.n > 1 else ""
    mean = f"{record.mean:.1f}".replace("-", "−")
    return f"{mean}{spread} {'points' if name in (HLR, IOR) else '%'}"


def _of_model(model: str, records: Sequence[Record], own: Labels) -> Scores:
    trained = {name: record for name, one in TRAININGS.items() if (record := _training(one, model, records, own))}
    found, missing = {}, {}
    for name, needs in NEEDS.items():
        lacking = tuple(need for need in needs if need not in trained)
        if lacking:
            missing[name] = lacking
        elif record := _score(name, {need: trained[need] for need in needs}, trained[needs[1 if name == HLR else 0]]):
            found[name] = record
    return Scores(model, found, missing)


def _training(asked: Training, model: str, records: Sequence[Record], own: Labels) -> Record | None:
    wanted = model, asked.group, own if asked.labels == "own" else "hard", asked.augmented
    found = (one for one in records if (one.model, one.group, one.labels, one.augmented) == wanted)
    return next(found, None)


def _score(name: str, trained: Mapping[str, Record], of: Record) -> Record | None:
    """The score over the seeds that all of its trainings share; None where they share none."""
    by_seed = {key: dict(zip(record.seeds, record.values, strict=True)) for key, record in trained.items()}
    seeds = [seed for seed in of.seeds if all(seed in values for values in by_seed.values())]
    if not seeds:
        return None
    return Record.of(
        name,
        "distilled",
        of.model,
        [_value(name, by_seed, seed) for seed in seeds],
        seeds=seeds,
        num_images=of.num_images,
        size_bytes=of.size_bytes,
        group="distilled",
        protocol={"of": list(trained), **({"weight": _WEIGHT} if name in (LRS, ARS) else {})},
    )


def _value(name: str, by_seed: ValuesOf, seed: int) -> float:
    def gap(one: str, other: str) -> float:
        return by_seed[one][seed] - by_seed[other][seed]

    if name == HLR:
        return gap("full", "hard")
    if name == IOR:
        return gap("own", "random")
    if name == LRS:
        return normalised(_WEIGHT * gap("own", "random") - (1 - _WEIGHT) * gap("full", "hard"))
    return normalised(_WEIGHT * gap("own", "random") + (1 - _WEIGHT) * gap("own plain", "random plain"))
