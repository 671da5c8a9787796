"""Shards: processes that share the items of one run folder and never meet.

Shard K of N makes every N-th item, as process K of N would. It needs no address and no common start, only the folder,
so that it may be a task of a job array, or a machine that is taken away at any moment. Where several processes wait for
each other, a shard looks for the files that the others leave there. Where one is missing, it ends, having made its own.

    .lock                  held by all shards at work together; a run without shards holds it alone
    .lock-shard-3-of-64    held by that shard
    .lock-turn             held while one shard does what only one may do, such as writing a manifest or distilled/
    .lock-item-NAME        held while one shard makes an item that cannot be shared

Needs no torch.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from attar.errors import ArtifactError, ConfigError
from attar.runtime.files import locked_file
from attar.runtime.holding import LOCK, held_with_others
from attar.runtime.processes import Processes
from attar.runtime.together import claimed
from attar.text import shortened

LOG = "events-{}-of-{}.jsonl"
"""Name of the event log of a shard."""
MOST = 100_000
"""Shards of a run, at most."""
_LOOK_S = 2.0
_PLACE = re.compile(rf"{re.escape(LOCK)}-shard-([0-9]{{1,6}})-of-([0-9]{{1,6}})")
_ARRAYS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX"),
    ("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", "", ""),
)
"""What schedulers call the number of a task, how many there are, and the lowest and highest number (0 and on: none)."""


class OthersMissingError(Exception):
    """A shard has made its part, and files that others are to make are not there; no error, but no way on.

    `missing` are these files, `at_work` the shards that were at work then.
    """

    def __init__(self, missing: Sequence[Path], at_work: Sequence[int]) -> None:
        super().__init__(f"{len(missing)} files of other shards are not there yet")
        self.missing, self.at_work = tuple(missing), tuple(at_work)


@dataclass
class _Turn:
    """How often this process has entered its turn, without having left it."""

    depth: int = 0


@dataclass(frozen=True)
class Shard(Processes):
    """Shard `rank` + 1 of `num` over one run folder.

    `wait_s` is how long it looks for files of others, from the last one that came, before it ends.
    """

    folder: Path = Path()
    wait_s: float = 0.0
    _turn: _Turn = field(default_factory=_Turn, compare=False, repr=False)

    @property
    def name(self) -> str:
        """As it is typed: 3/64."""
        return f"{self.rank + 1}/{self.num}"

    @property
    def log(self) -> str:
        """Name of its event log."""
        return LOG.format(self.rank + 1, self.num)

    @property
    def apart(self) -> bool:
        """They never meet."""
        return True

    @contextmanager
    def at_work(self, inner: Sequence[str] = ()) -> Iterator[None]:
        """Hold the folder together with the other shards, and this shard's place among them.

        `inner` are the names of folders in it that are written into. Raises ArtifactError where a run without shards,
        this shard, or one of another number of shards is at work in it.
        """
        with held_with_others(self.folder, inner), ExitStack() as places:
            with self.turn():
                self._require_same_number()
                place = f"shard {self.name} of {self.folder}"
                places.enter_context(locked_file(self.folder / self._place, place, "wait for it, or stop it"))
            yield

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the others' turns to end, and keep them waiting inside the block."""
        if self._turn.depth:
            yield
            return
        with locked_file(self.folder / f"{LOCK}-turn", self.folder, "", wait=True):
            self._turn.depth += 1
            try:
                yield
            finally:
                self._turn.depth -= 1

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold an item that cannot be shared; whether no other shard does."""
        with claimed(self.folder, name) as mine:
            yield mine

    def barrier(self, needs: Iterable[Path] = ()) -> None:
        """Look for files that others leave, for `wait_s` from the last that came.

        Raises OthersMissingError where one is not there.
        """
        missing = _absent(needs)
        until_s = time.monotonic() + self.wait_s
        while missing and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, left_s))
            if len(still := _absent(missing)) < len(missing):
                until_s = time.monotonic() + self.wait_s
            missing = still
        if missing:
            with self.turn():
                at_work = [number for number, _ in self._held_places()]
            raise OthersMissingError(missing, at_work)

    def join(self, peer_timeout_s: float = 0.0) -> None:
        """Meet nobody."""

    def leave(self) -> None:
        """Part from nobody."""

    def require_shared(self, folder: Path) -> None:
        """Ask nobody: who does not see the folder of the others begins one, and ends as they are missing there."""

    @property
    def _place(self) -> str:
        return f"{LOCK}-shard-{self.rank + 1}-of-{self.num}"

    def _held_places(self) -> list[tuple[int, int]]:
        """Number and count, as in 3/64, of the other shards at work; only asked in a turn, in which none begins."""
        places = (_PLACE.fullmatch(path.name) for path in self.folder.glob(f"{LOCK}-shard-*"))
        others = [place for place in places if place and place[0] != self._place]
        return sorted((int(place[1]), int(place[2])) for place in others if _is_held(self.folder / place[0]))

    def _require_same_number(self) -> None:
        """Raise ArtifactError where shards are at work that divide the items in another way."""
        for number, num in self._held_places():
            if num != self.num:
                raise ArtifactError(
                    f"shard {number}/{num} is at work in {self.folder}, and this is shard {self.name}",
                    expected="all shards at work at one time to be of one number",
                    fix=f"wait for it, or give --shard K/{num}",
                )


def parse_shard(text: str, environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Number of a shard, from 0, and of all: from 3/64, or from `auto`, by what a scheduler says of this task.

    Raises ConfigError where it is neither, or where no scheduler says so.
    """
    if text == "auto":
        return _scheduled(os.environ if environment is None else environment)
    match = re.fullmatch(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST:
        raise ConfigError(
            f"{shortened(text)!r} is no shard",
            expected=f"K/N, such as 3/64, with K from 1 to N and N up to {MOST:,}; or auto",
        )
    return int(match[1]) - 1, int(match[2])


def make_shard(text: str, folder: Path | None, wait_s: float) -> Shard:
    """The shard of these options; raises ConfigError where there is no folder that shards could share."""
    rank, num = parse_shard(text)
    if folder is None:
        raise ConfigError(
            f"--shard {text} without --out", expected="one run folder that all shards see", fix="name it with --out"
        )
    return Shard(rank, num, folder=folder, wait_s=wait_s)


def _scheduled(found: Mapping[str, str]) -> tuple[int, int]:
    for task, count, lowest, highest in _ARRAYS:
        if task not in found:
            continue
        number, num = _whole(found, task), _whole(found, count)
        first = _whole(found, lowest) if lowest else 0
        last = _whole(found, highest) if highest else num - 1
        if last - first + 1 != num or not first <= number <= last or num > MOST:
            raise ConfigError(
                f"{task} is {number} of {num} tasks from {first} to {last}",
                expected="tasks without a gap between their numbers",
                fix="give the shard itself, such as --shard $SLURM_ARRAY_TASK_ID/64 with --array=3,7,21",
            )
        return number - first, num
    raise ConfigError(
        "--shard auto, and no scheduler says which task this is",
        expected=" or ".join(names[0] for names in _ARRAYS) + " in the environment",
        fix="give the shard itself, such as --shard 3/64",
    )


def _whole(found: Mapping[str, str], name: str) -> int:
    text = found.get(name, "")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ConfigError(
            f"{name} is {shortened(text)!r} in the environment",
            expected="a whole number, as the scheduler sets it",
            fix="give the shard itself, such as --shard 3/64",
        )
    return int(text)


def _absent(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if not path.exists()]


def _is_held(lock: Path) -> bool:
    """Whether a process holds a lock."""
    try:
        with locked_file(lock, lock, ""):
            return False
    except ArtifactError:
        return True
