"""Compare training strategies over a grid, and methods under one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attar.api.arguments import sections, takes
from attar.api.options import BenchOptions, PlanStudyOptions, StudyOptions
from attar.config import Config, dump, merge, place
from attar.options import Effort, given
from attar.runtime.trackers import tracked

if TYPE_CHECKING:
    from attar.studies.bench import BenchResult
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
    machine = Machine(asked.device, asked.precision, asked.processes, asked.workers, asked.peer_timeout)
    with tracked(asked.loggers, folder, folder.name, settings.model_dump(mode="json"), asked.callbacks):
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


@takes(BenchOptions)
def bench(asked: BenchOptions) -> BenchResult:
    """Compare methods under one protocol: the same network, schedule, augmentation and labelling teacher for all.

    Each method makes a set for each number of images per class, by its own settings, in the time that is given to it;
    on a CPU, unless told otherwise, that is quick. The same call again goes on where it was interrupted;
    more methods, numbers, labels and seeds are made beside what is there. Settings are those of the section `train`,
    which change the protocol for all, and of `source`.

    Raises ConfigError and DataError before any long work, where they can be known then.
    """
    from attar.data.sources import SourceSettings
    from attar.models.factory import require_known
    from attar.protocols import protocol
    from attar.run.preparing import slug
    from attar.runtime.engine import device_named
    from attar.studies.bench import require_methods, run_bench
    from attar.training.section import TrainSection

    require_methods(asked.methods)
    if asked.model != "auto":
        require_known(asked.model)
    flags = given(asked)
    kinds: dict[str, type[Config]] = {"train": TrainSection, "source": SourceSettings}
    reading, run = flags.get("source", {}), {**flags.get("run", {}), "source": asked.source}
    settled = sections(kinds, asked.assigned, {"train": protocol(asked.protocol).sections["train"], "source": reading})
    training = settled["train"]
    assert isinstance(training, TrainSection)
    placed, _ = place(kinds, asked.assigned)
    said = asked.quick or asked.thorough or asked.time is not None
    on_cpu = device_named(asked.device).type == "cpu"
    folder = Path(asked.out or Path("runs") / f"bench-{slug(asked.source)}")
    with tracked(asked.loggers, folder, folder.name, dump(training), asked.callbacks):
        return run_bench(
            asked,
            merge({"run": run, "source": reading}, {"source": placed.get("source", {})}),
            training,
            asked if said or not on_cpu else Effort(quick=True),
            folder,
            processes=asked.processes,
            quiet=asked.quiet,
        )
