"""Trainings side by side: how many of them run at a time, with how many threads, and who does which.

Of several processes that were started together each takes its share. A single one starts others on this machine where
cores have nothing to do; see `runtime.together`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from attar.data.loading import Content
from attar.data.loading import Split as Images
from attar.evaluation.trials import Source
from attar.registry import found_here_alone
from attar.results.records import Split
from attar.runtime.engine import Engine, computing_with
from attar.runtime.events import Events, is_followed
from attar.runtime.machine import available_cores
from attar.runtime.team import Team, share_out
from attar.runtime.together import Job, Make, make_all
from attar.task import Task
from attar.training.loop import TrainSettings


class Trainings(Protocol):
    """Trainings of students, by number, in the order in which one process does them; each leaves a file."""

    @property
    def files(self) -> Sequence[Path]:
        """What each leaves."""

    @property
    def costs(self) -> Sequence[float]:
        """What each takes, in any unit, such as the images that it sees."""

    def reached(self, number: int, team: Team | None = None) -> float:
        """Accuracy in percent of a training, which the team does now where it is not finished."""

    @property
    def handable(self) -> bool:
        """Whether another process can do them too: it finds all networks and strategies by their names."""

    def most_processes(self, number: int) -> int:
        """How many processes may share a training, so that it is that of one to rounding."""


Open = Callable[[Engine, Events], Trainings]
"""Opens the same trainings in another process; can be pickled where images, networks and teacher can."""
Ended = Callable[[int], Mapping[str, float]]
"""Hears the number of a training that has ended, whoever did it; returns what the progress shows of it."""


@dataclass(frozen=True)
class SideBySide:
    """How many students train at a time, each in a process of so many threads."""

    processes: int
    threads: int

    def seconds(self, each_s: Iterable[float]) -> float:
        """About how long these take, the longest first."""
        ends_s = [0.0] * self.processes
        for one_s in sorted(each_s, reverse=True):
            ends_s[ends_s.index(min(ends_s))] += one_s
        return max(ends_s)


def side_by_side(costs: Sequence[float], engine: Engine, asked: int | None) -> SideBySide:
    """How students of these costs, in any unit, share this machine's cores, however many of them are finished.

    The number of threads moves the last bits of a result, so it does not depend on the number of processes, which is
    `asked` or as many as the cores bear. It is what was asked for or, where all cores may be used, the part of each of
    the students that are at least half as long as the longest.
    """
    threads = torch.get_num_threads()
    if engine.processes.num > 1:
        return SideBySide(1, threads)
    on_cpu = engine.device.type == "cpu"
    if on_cpu and engine.threads is None:
        threads = max(1, threads // sum(2 * cost >= max(costs) for cost in costs))
    bearable = max(1, available_cores() // threads) if on_cpu else 1
    # callbacks are of this process, and would not hear of others' events
    return SideBySide(1 if is_followed() else min(asked or bearable, len(costs)), threads)


def how_shared(trainings: Trainings, engine: Engine, asked: int | None) -> SideBySide:
    """How these share this machine, see `side_by_side`; one process does what another cannot."""
    how = side_by_side(trainings.costs, engine, asked)
    return how if trainings.handable else replace(how, processes=1)


def train(
    trainings: Trainings,
    again: Open,
    engine: Engine,
    events: Events,
    folder: Path,
    *,
    stage: str,
    processes: int | None,
    ended: Ended | None = None,
) -> SideBySide:
    """Do all that are not finished, shared with all processes; returns how.

    Args:
        trainings: of students, at least one.
        again: opens them in processes that help.
        engine: of this process.
        events: log and progress.
        folder: holds the locks of what is at work.
        stage: names the progress.
        processes: students at a time; None: what the machine bears, see `side_by_side`.
        ended: hears of each, in this process; None: the progress shows its accuracy.
    """
    how, files = how_shared(trainings, engine, processes), trainings.files
    with computing_with(how.threads):
        if engine.processes.num > 1 or engine.processes.apart:
            _train_share(trainings, len(files), engine, events, stage, ended)
        else:
            asked = str(engine.device), engine.precision, engine.threads
            job = Job(files, folder, partial(_opened, again, asked, how.threads, events.path), how.threads)
            if (processes or 1) > 1 and (why := _why_alone(trainings)):
                events.say(f"one process, though {processes} may work at a time: {why}")
            with events.progress(stage, len(files)) as bar:

                def made(number: int) -> None:
                    bar.advance(**(ended(number) if ended else {"accuracy": trainings.reached(number)}))

                make_all(job, trainings.reached, made, how.processes - 1, events.say)
    engine.barrier(files)
    return how


def handable(model: str, training: TrainSettings) -> bool:
    """Whether another process finds a network, and the strategies of its training, by their names.

    Those that this program has handed over are known to it alone.
    """
    names = [("attar.models", model), *(("attar.strategies", one) for one in training.strategy.split("+"))]
    return not any(found_here_alone(*name) for name in names)


def _why_alone(trainings: Trainings) -> str:
    """Why this process does all, whatever the number asked for; empty where others may help."""
    if is_followed():
        return "callbacks or loggers follow its events"
    return "" if trainings.handable else "no other finds by name what this program has handed over"


def _train_share(
    trainings: Trainings, num: int, engine: Engine, events: Events, stage: str, ended: Ended | None
) -> None:
    """Do this process's part, alone or with others where there are fewer students than processes."""
    mine = share_out(range(num), engine.processes, trainings.most_processes, engine.device)
    with events.progress(stage, len(mine)) as bar:
        for number, members in mine:
            reached = trainings.reached(number, members)
            bar.advance(**(ended(number) if ended else {"accuracy": reached}))


def _opened(again: Open, asked: tuple[str, str, int | None], threads: int, log: Path | None) -> Make:
    torch.set_num_threads(threads)
    device, precision, wanted = asked
    engine = Engine(device, precision, threads=wanted)  # it tunes its process, which is new
    return again(engine, Events(log, quiet=True)).reached


@dataclass(frozen=True)
class Handed:
    """The parts of a source that students need, without what reads it; see `Source`."""

    task: Task
    train: Images
    validation: Images
    test: Images
    fingerprint: str
    judges: Content

    @classmethod
    def of(cls, source: Source, split: Split) -> Handed:
        """Those of an evaluation by the images of `split`; no others of the test split are decoded."""
        test = source.test if split == "test" else source.validation
        return cls(source.task, source.train, source.validation, test, source.fingerprint, source.content(split))

    def content(self, split: Split) -> Content:
        """What tells the images that judge from others."""
        return self.judges
