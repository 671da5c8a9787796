"""The scores of DD-Ranking, network by network, and what is missing for those that are not there."""

from __future__ import annotations

from dataclasses import dataclass

from attar.report.collect import ReportData
from attar.report.headline import accuracies
from attar.results.ddranking import NAMES, NEEDS, score_text, scores


@dataclass(frozen=True)
class ScoresView:
    """A row of scores for each network, empty where one could not be computed; `lacking` says what it takes."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    lacking: tuple[str, ...]


def scores_view(data: ReportData) -> ScoresView | None:
    """Lay out the scores; None where none can be computed."""
    labels = data.description.get("labels")
    kind = labels.get("kind") if isinstance(labels, dict) else None
    found = scores(accuracies(data.records), "hard" if kind == "hard" else "soft" if kind else None)
    if not any(one.found for one in found):
        return None
    return ScoresView(
        columns=tuple(NAMES.values()),
        rows=tuple(
            (one.model, tuple(score_text(name, one.found[name]) if name in one.found else "" for name in NEEDS))
            for one in found
        ),
        lacking=tuple(dict.fromkeys(text for one in found for text in one.lacking)),
    )
