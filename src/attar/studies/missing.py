"""The trainings that a study lacks, as processes share them; see `evaluation.side_by_side`.

trainings/NAME.ended    how one has ended, well or not, for the process that counts them; a study leaves none
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attar.errors import DivergedError
from attar.evaluation.side_by_side import Open, handable
from attar.registry import found_here_alone
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import read_json, write_json
from attar.runtime.team import Team
from attar.studies.settings import StudySettings
from attar.studies.trainings import Study, Training

_ENDED = ".ended"


@dataclass(frozen=True)
class Ending:
    """How a training has ended: after how many seconds, None where they are not known, and why without an accuracy."""

    wall_s: float | None
    diverged: DivergedError | None


@dataclass(frozen=True)
class Missing:
    """Trainings of a study by their place in `numbers`, which are theirs in the study."""

    study: Study
    numbers: Sequence[int]

    @property
    def all(self) -> list[Training]:
        """All of them, in the order in which one process does them."""
        return [self.study.trainings[number] for number in self.numbers]

    @property
    def files(self) -> list[Path]:
        """What each leaves until `forget`, that it has ended; its result stands in `Study.file`."""
        return [self._file(training) for training in self.all]

    @property
    def costs(self) -> list[int]:
        """Images that each sees."""
        return [training.images_seen for training in self.all]

    @property
    def handable(self) -> bool:
        """Whether another process finds the images, all networks and all strategies by their names."""
        study = self.study
        given = found_here_alone("attar.sources", study.settings.data.source)
        return not given and all(handable(cell.model, cell.settings) for cell in study.cells)

    def most_processes(self, number: int) -> int:
        """One: a study is the same to the bit, whoever trains."""
        return 1

    def reached(self, number: int, team: Team | None = None) -> float:
        """Accuracy in percent of a training, which is done now if it is not finished; not a number if it diverges."""
        study, training = self.study, self.all[number]
        begun_s = time.monotonic() if study.finished(training) is None else None
        accuracy, why = math.nan, None
        try:
            accuracy = study.accuracy(training)
        except DivergedError as error:
            why = [error.found, error.expected, error.fix]
        wall_s = None if begun_s is None else round(time.monotonic() - begun_s, 2)
        if why is None and wall_s is not None:
            about = training.item.fields()
            study.events.emit("study", "trained", **about, step=0, accuracy=accuracy, wall_s=wall_s)
        write_json(self._file(training), {"wall_s": wall_s, "diverged": why})
        return accuracy

    def ended(self, number: int) -> Ending:
        """How a training has ended that this process or another has done."""
        note = read_json(self._file(self.all[number]))
        if note["diverged"] is None:
            return Ending(note["wall_s"], None)
        found, expected, fix = note["diverged"]
        return Ending(note["wall_s"], DivergedError(found, expected=expected, fix=fix))

    def forget(self) -> None:
        """Remove what says how trainings have ended, those of an earlier call too; results stay."""
        for path in self.study.trials.folder.glob(f"*{_ENDED}"):
            path.unlink(missing_ok=True)

    @property
    def again(self) -> Open:
        """Opens the same trainings in another process, which reads the images itself."""
        return _Opening(self.study.settings, self.study.folder, tuple(self.numbers)).missing

    def _file(self, training: Training) -> Path:
        return self.study.file(training).with_suffix(_ENDED)


@dataclass(frozen=True)
class _Opening:
    settings: StudySettings
    folder: Path
    numbers: tuple[int, ...]

    def missing(self, engine: Engine, events: Events) -> Missing:
        return Missing(Study(self.settings, engine, events, self.folder), self.numbers)
