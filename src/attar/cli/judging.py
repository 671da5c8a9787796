"""Judge a distilled dataset."""

from __future__ import annotations

from typing import Any

from attar.cli.app import command_of
from attar.cli.texts import echo, print_json

PANEL = "Train and judge"


@command_of("EvaluateOptions", panel=PANEL)
def evaluate(given: dict[str, Any], as_json: bool) -> None:
    """Train networks on DISTILLED and on its baselines alike, and test them on the real test split.

    DISTILLED may be what another program left: folders of images, .pt tensors, shards (`attar show foreign`).
    """
    from attar import api

    result = api.evaluate(**given)
    if as_json:
        found = {"records": [record.to_json() for record in result.records], "verdict": result.verdict.to_json()}
        page = str(result.report) if result.report else None
        print_json({**found, "scores": [one.to_json() for one in result.scores], "report": page})
        return
    from attar.cli.tables import print_records, print_scores

    print_records(result.records, result.verdict)
    print_scores(result.scores, told=bool(given.get("scores")))
    if result.report:
        echo(f"report: {result.report}")


@command_of("ContinualOptions", panel=PANEL)
def continual(given: dict[str, Any], as_json: bool) -> None:
    """Let classes arrive step by step; train from scratch on the distilled images of all classes seen."""
    from attar import api

    records = api.continual(**given)
    if as_json:
        print_json({"records": [record.to_json() for record in records]})
        return
    from attar.cli.tables import print_steps

    print_steps(records)
