"""Compare training strategies over a grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attar.api.arguments import PathLike, Settings, assignments

if TYPE_CHECKING:
    from attar.studies.result import StudyResult
    from attar.studies.running import StudyPlan
    from attar.studies.settings import StudySettings


def study(
    file: PathLike,
    *,
    out: PathLike | None = None,
    settings: Settings = (),
    data_dir: PathLike | None = None,
    jobs: int = 1,
    device: str = "auto",
    precision: str = "32-true",
    workers: int | None = None,
    quiet: bool = True,
) -> StudyResult:
    """Train a grid of strategies, networks, variants, wrong labels and seeds, and compare the strategies.

    The same call again goes on where it was interrupted. A file that has changed keeps what was trained with the same
    settings, and trains the rest.

    Args:
        file: a name from `attar list studies`, or a YAML file; `attar show study` lists its fields.
        out: folder; None makes one under `runs/`.
        settings: of the file, such as `{"seeds": 5, "train.epochs": 20}`.
        data_dir: folder of a source that goes by its name, such as cifar10 or imagenet-1k.
        jobs: processes that share the trainings, each with one thread unless `workers` says otherwise.
        device: auto, cpu, cuda or mps.
        precision: 32-true, bf16-mixed or 16-mixed.
        workers: CPU threads of each process.
        quiet: show no progress.

    Raises ConfigError with all that is wrong in the file, before any training; DivergedError, after all others have
    ended, where trainings left the finite numbers.
    """
    from attar.studies.running import Machine, run_study

    given, folder = _opened_study(file, out, settings, data_dir)
    return run_study(given, folder, Machine(device, precision, jobs, workers), quiet=quiet)


def plan_study(
    file: PathLike,
    *,
    out: PathLike | None = None,
    settings: Settings = (),
    data_dir: PathLike | None = None,
    device: str = "auto",
    precision: str = "32-true",
    quiet: bool = True,
) -> StudyPlan:
    """Count what `study` would train with these arguments, and train nothing."""
    from attar.studies import running

    given, folder = _opened_study(file, out, settings, data_dir)
    return running.plan_study(given, folder, running.Machine(device, precision), quiet=quiet)


def _opened_study(
    file: PathLike, out: PathLike | None, settings: Settings, data_dir: PathLike | None
) -> tuple[StudySettings, Path]:
    """A study's settings and its folder."""
    from attar.studies.settings import read_study

    given = {"data_dir": str(data_dir)} if data_dir else {}
    return read_study(str(file), assignments(settings), given), Path(out or Path("runs") / f"study-{Path(file).stem}")
