"""A study from its file to its page: what is missing is trained, alone or in several processes, then all is compared.

study.yaml     the settings as they were last
trainings/     a file for each finished training, a checkpoint for one that runs
events.jsonl   what happened, appended
study.json     records, differences, words;  study.csv: a line for each training;  report.html
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attar.artifacts.run import RunFolder
from attar.errors import ArtifactError, ConfigError, DivergedError
from attar.report.formats import count, duration
from attar.report.study import write_study_report
from attar.run.sharing import sharing_engine
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import write_text
from attar.runtime.machine import require_threads
from attar.runtime.processes import launched
from attar.runtime.trackers import TRACKERS
from attar.studies.jobs import train_in_jobs
from attar.studies.result import StudyResult, gather, held_equal, write
from attar.studies.settings import StudySettings
from attar.studies.trainings import Clock, Outcome, Study, train_here
from attar.text import yaml_text

SETTINGS = "study.yaml"


@dataclass(frozen=True)
class Machine:
    """Where and how a study is trained.

    `jobs` processes, each with `workers` threads; None: one thread each of several, and all of the machine's of one.
    """

    device: str = "auto"
    precision: str = "auto"
    jobs: int = 1
    workers: int | None = None
    peer_timeout: str = "10m"


@dataclass(frozen=True)
class StudyPlan:
    """What a study would train: trainings, those of them that are finished, and images that are left to be seen."""

    num_trainings: int
    num_finished: int
    images_left: int
    held_equal: str

    def __str__(self) -> str:
        there = f", {count(self.num_finished)} of them finished" if self.num_finished else ""
        return f"{count(self.num_trainings)} trainings{there}; {count(self.images_left)} images to be seen"


def run_study(settings: StudySettings, folder: Path, machine: Machine, *, quiet: bool = False) -> StudyResult:
    """Train what is missing in `folder`, compare all, and write study.json, study.csv and report.html.

    Raises ConfigError and DataError before any training, where they can be known then; DivergedError, when all others
    have ended, where some trainings left the finite numbers.
    """
    _require_one_way(machine)
    _claim(folder)
    threads = machine.workers or (1 if machine.jobs > 1 else None)
    with (
        sharing_engine(machine.device, machine.precision, threads, machine.peer_timeout, folder) as engine,
        RunFolder(folder).locked() if engine.leads else nullcontext(),
    ):
        events = Events(folder / "events.jsonl", quiet=quiet)
        engine.warn(events.say)
        return _run(settings, folder, machine, engine, events)


def plan_study(settings: StudySettings, folder: Path, machine: Machine, *, quiet: bool = False) -> StudyPlan:
    """Count what a study would train, and train nothing; the same errors as `run_study`, before training."""
    return _plan(Study(settings, Engine(machine.device, machine.precision), Events(quiet=quiet), folder))


def _run(settings: StudySettings, folder: Path, machine: Machine, engine: Engine, events: Events) -> StudyResult:
    study = Study(settings, engine, events, folder)
    missing, plan = study.missing(), _plan(study)
    engine.barrier()  # all have looked before any trains
    if engine.leads:
        write_text(folder / SETTINGS, yaml_text(_plain(settings)))
        events.say(f"{plan}. {plan.held_equal}")
    diverged = _train(study, missing, machine)
    engine.barrier()
    if diverged:
        raise _diverged(diverged, len(study.trainings))
    result = gather(study)
    if not engine.leads:
        return result
    write(result, study)
    study.trials.tidy()
    return replace(result, report=write_study_report(folder))


def _train(study: Study, missing: list[int], machine: Machine) -> dict[str, DivergedError]:
    """Train these, share by share, and tell how long it takes; returns those that diverged."""
    mine = study.engine.share(missing)
    clock = Clock([study.trainings[number] for number in mine], machine.jobs)
    diverged: dict[str, DivergedError] = {}
    told = False
    with study.events.progress("study", len(mine)) as bar:

        def ended(number: int, outcome: Outcome, wall_s: float) -> None:
            nonlocal told
            training = study.trainings[number]
            left_s = clock.ended(training, wall_s)
            if not told and left_s:
                study.events.say(f"the first took {duration(wall_s)}; about {duration(left_s)} left")
            told = True
            shown: dict[str, Any] = {"minutes_left": left_s / 60}
            if isinstance(outcome, DivergedError):
                diverged[training.name] = outcome
                study.events.say(f"{training.name} has diverged; the others go on")
            else:
                shown["accuracy"] = outcome
                study.events.emit(
                    "study", "trained", **training.item.fields(), step=0, accuracy=outcome, wall_s=round(wall_s, 2)
                )
            bar.advance(**shown)

        if machine.jobs > 1 and mine:
            engine = machine.device, machine.precision
            train_in_jobs(mine, machine.jobs, study.settings, study.folder, engine, machine.workers or 1, ended)
        else:
            train_here(study, mine, ended)
    return diverged


def _plan(study: Study) -> StudyPlan:
    left = sum(study.trainings[number].images_seen for number in study.missing())
    finished = sum(study.finished(one) is not None for one in study.trainings)
    return StudyPlan(len(study.trainings), finished, left, held_equal(study))


def _diverged(found: dict[str, DivergedError], num: int) -> DivergedError:
    first = next(iter(found.values()))
    return DivergedError(
        f"{len(found)} of {num} trainings have diverged:\n" + "\n".join(f"  - {name}" for name in found),
        expected=first.expected,
        fix=f"{first.fix}; or leave them out with `grid`. The others are finished and kept",
    )


def _require_one_way(machine: Machine) -> None:
    require_threads(machine.jobs, "--jobs")
    if machine.jobs > 1 and launched().num > 1:
        raise ConfigError(
            f"torchrun has started {launched().num} processes, and --jobs {machine.jobs} would start more in each",
            fix="leave --jobs out, or start without torchrun",
        )


def _claim(folder: Path) -> None:
    """Raise ArtifactError where the folder holds something else."""
    if (
        folder.is_dir()
        and any(folder.iterdir())
        and not any((folder / name).exists() for name in (SETTINGS, ".lock", *TRACKERS))
    ):
        raise ArtifactError(f"{folder} is not empty and not a study", fix="choose another --out")
    if (folder / "config.yaml").exists():
        raise ArtifactError(f"{folder} is a run folder of `attar distill`", fix="choose another --out")


def _plain(settings: StudySettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude_unset=True)
