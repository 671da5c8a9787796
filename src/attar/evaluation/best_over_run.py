"""The best over a run, beside the last: what published tables of distilled images report.

    over the steps of recover     MTT and TESLA: images kept on the way are judged too, the best mean over seeds counts
    over the epochs of students   SRe2L, RDED: a student is tested on the way, its best epoch counts, seed by seed

Both choose by the images that judge, so they flatter, most where spreads are wide. They are records of their own
(`attar.results.records.Record.best`) that no headline takes.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from attar.artifacts.distilled import Distilled
from attar.artifacts.recovered import read_states
from attar.errors import ConfigError
from attar.results.records import Best, Labels, Measurement, Record

RECOVERED = "recover"


def states_of(distilled: Distilled, labels: Labels) -> dict[int, Distilled]:
    """The images of a run as they were on the way, each state as a distilled dataset, by its step.

    Args:
        distilled: in the folder of the run that made it, where recover kept states.
        labels: the kind that they are to have.

    Raises ConfigError where there are none, or none with such labels.
    """
    states = read_states(distilled.path.resolve().parent / RECOVERED)
    if not states:
        raise ConfigError(
            "recover kept no images on the way, so that there is no best over the run",
            expected="a distilled dataset in its run folder, of a method whose images are made together (as by tesla)",
            fix="distill with --set recover.num_states=5",
        )
    if labels == "soft" and any(state.soft_labels is None for state in states.values()):
        raise ConfigError(
            "the images on the way have no soft labels of their own, so that there is no best over the run",
            expected="labels of the method, or classes",
            fix="--set relabel.labels=method, or --set evaluate.labels=[hard]",
        )
    info = {**distilled.info, "pixels": "float32"}
    return {
        step: replace(
            distilled,
            stored=state.images,
            labels=state.labels,
            soft_labels=state.soft_labels,
            learning_rate=state.learning_rate,
            info=info,
        )
        for step, state in states.items()
    }


def best_state(last: Record, states: Mapping[int, Record]) -> Record:
    """The record of the state with the best mean, the last one among them; `states` are by their step."""
    every: dict[int | None, Record] = {**dict(sorted(states.items())), None: last}
    place = max(every, key=lambda step: every[step].mean)
    best = Best("steps", () if place is None else (place,), _tested({at: one.mean for at, one in every.items()}))
    return replace(every[place], subject=f"{last.subject}, best over the run", best=best)


def best_epochs(last: Record, tested: Sequence[Mapping[int, float]]) -> Record:
    """The record of each training's best epoch; `tested` has the accuracies of each, by the epoch."""
    places = tuple(max(found, key=lambda epoch: found[epoch]) for found in tested)
    values = [found[place] for found, place in zip(tested, places, strict=True)]
    means = {epoch: statistics.fmean(found[epoch] for found in tested) for epoch in tested[0]}
    best = Best("epochs", places, _tested(means))
    return last.with_values(values, subject=f"{last.subject}, best epoch", best=best)


def _tested(means: Mapping[int | None, float] | Mapping[int, float]) -> tuple[Measurement, ...]:
    return tuple(Measurement(at, round(mean, 4)) for at, mean in means.items())
