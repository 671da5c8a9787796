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

from attar.artifacts.claims import STUDY, claim
from attar.artifacts.run import RunFolder
from attar.errors import DivergedError
from attar.evaluation.side_by_side import how_shared, train
from attar.report.formats import count, duration
from attar.report.study import write_study_report
from attar.run.sharing import sharing_engine
from attar.runtime.engine import Engine, device_named
from attar.runtime.events import Events
from attar.runtime.files import write_text
from attar.runtime.machine import require_threads
from attar.runtime.processes import launched
from attar.studies.missing import Missing
from attar.studies.result import StudyResult, gather, held_equal, write
from attar.studies.settings import StudySettings
from attar.studies.trainings import Clock, Study
from attar.text import yaml_text


@dataclass(frozen=True)
class Machine:
    """Where and how a study is trained.

    `processes` trainings at a time, None: what the machine bears; each has `workers` threads, None: one on a CPU.
    """

    device: str = "auto"
    precision: str = "auto"
    processes: int | None = None
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
    require_threads(machine.processes or 1, "--processes")
    claim(folder, "a study")
    with (
        sharing_engine(machine.device, machine.precision, _threads(machine), machine.peer_timeout, folder) as engine,
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
    missing, plan = Missing(study, study.missing()), _plan(study)
    if engine.leads:
        missing.forget()
    engine.barrier()  # all have looked before any trains
    if engine.leads:
        write_text(folder / STUDY, yaml_text(_plain(settings)))
        events.say(f"{plan}. {plan.held_equal}")
    diverged = _train(missing, machine.processes)
    engine.barrier()
    if engine.leads:
        missing.forget()
    if diverged:
        raise _diverged(diverged, len(study.trainings))
    result = gather(study)
    if not engine.leads:
        return result
    write(result, study)
    study.trials.tidy()
    return replace(result, report=write_study_report(folder))


def _train(missing: Missing, processes: int | None) -> dict[str, DivergedError]:
    """Do these, shared with all processes, and tell how long it takes; returns those that diverged, by their names."""
    study, all_of_them = missing.study, missing.all
    if not all_of_them:
        return {}
    engine, events = study.engine, study.events
    clock = Clock(engine.share(all_of_them), how_shared(missing, engine, processes))
    told = False

    def ended(number: int) -> dict[str, float]:
        nonlocal told
        training, ending = all_of_them[number], missing.ended(number)
        left_s = clock.ended(training, ending.wall_s)
        if not told and left_s and ending.wall_s is not None:
            events.say(f"the first took {duration(ending.wall_s)}; about {duration(left_s)} left")
        told = True
        reached = study.finished(training)
        if ending.diverged:
            events.say(f"{training.name} has diverged; the others go on")
        return {**({"left_s": left_s} if left_s else {}), **({} if reached is None else {"accuracy": reached})}

    train(missing, missing.again, engine, events, study.folder, stage="study", processes=processes, ended=ended)
    endings = [missing.ended(number).diverged for number in range(len(all_of_them))]
    return {one.name: why for one, why in zip(all_of_them, endings, strict=True) if why}


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


def _threads(machine: Machine) -> int | None:
    """Threads of each training; None: as many as a launcher or, beside a GPU, torch says.

    On a CPU there is one, so that no training has other bits in a study that has grown or has other processes.
    """
    alone_on_cpu = launched().num == 1 and device_named(machine.device).type == "cpu"
    return machine.workers or (1 if alone_on_cpu else None)


def _plain(settings: StudySettings) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude_unset=True)
