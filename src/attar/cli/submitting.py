"""Queue a run on a cluster."""

from __future__ import annotations

from typing import Any

from attar.cli.app import command_of
from attar.cli.texts import echo, print_json


@command_of("SubmitOptions", panel="Distill")
def submit(given: dict[str, Any], as_json: bool) -> None:
    r"""Queue a run of `attar distill SOURCE` on a cluster: for each stage an array of shards, and a last job.

    It needs submitit: pip install 'attar\[submit]'.
    """
    from attar import api

    queued = api.submit(**given)
    if as_json:
        print_json({"run": str(queued.path), "logs": str(queued.logs), "jobs": queued.jobs, "last": queued.last})
        return
    for stage, jobs in queued.jobs.items():
        echo(f"{stage:<9} {len(jobs)} task{'s' * (len(jobs) > 1)}: job {jobs[0].partition('_')[0]}")
    echo(f"{'last':<9} job {queued.last}, which makes what is missing and puts all together")
    echo(f"output: {queued.logs}; run folder: {queued.path}")
