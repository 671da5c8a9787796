"""Compare training strategies over a grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attar.api.arguments import takes
from attar.api.options import PlanStudyOptions, StudyOptions
from attar.options import given

if TYPE_CHECKING:
    from attar.studies.result import StudyResult
    from attar.studies.running import StudyPlan
    from attar.studies.settings import StudySettings


@takes(StudyOptions)
def study(asked: StudyOptions) -> StudyResult:
    """Train a grid of strategies, networks, variants, wrong labels and seeds, and compare the strategies.

    The same call again goes on where it was interrupted. A file that has changed keeps what was trained with the same
    settings, and trains the rest.

    Raises ConfigError with all that is wrong in the file, before any training; DivergedError, after all others have
    ended, where trainings left the finite numbers.
    """
    from attar.studies.running import Machine, run_study

    settings, folder = _opened_study(asked)
    machine = Machine(asked.device, asked.precision, asked.jobs, asked.workers)
    return run_study(settings, folder, machine, quiet=asked.quiet)


@takes(PlanStudyOptions)
def plan_study(asked: PlanStudyOptions) -> StudyPlan:
    """Count what `study` would train with these arguments, and train nothing."""
    from attar.studies import running

    settings, folder = _opened_study(asked)
    return running.plan_study(settings, folder, running.Machine(asked.device, asked.precision), quiet=asked.quiet)


def _opened_study(asked: PlanStudyOptions) -> tuple[StudySettings, Path]:
    """A study's settings and its folder."""
    from attar.studies.settings import read_study

    folder = Path(asked.out or Path("runs") / f"study-{Path(asked.file).stem}")
    return read_study(str(asked.file), asked.assigned, given(asked).get("source")), folder
