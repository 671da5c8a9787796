"""Several processes on one piece of work, started by `torchrun` or Slurm: who am I, and wait for the others.

Work is cut into items (chunks of images, shards of labels, trainings), each a function of the seed and its number.
Processes share the items and meet through files, so that any number of them gives the same bits; all that they say
to each other is that they are there. What cannot be cut, they do as a team: see `team.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from attar.errors import AttarError, ConfigError

PATIENCE = timedelta(days=30)
"""How long a process waits for the others: one of them may train a network for days."""
_LAUNCHERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class Processes:
    """This process among `num`; `rank` counts from 0, `local_rank` on this machine."""

    rank: int = 0
    num: int = 1
    local_rank: int = 0

    def join(self) -> None:
        """Meet the others, before the first barrier."""
        if self.num == 1:
            return
        from torch import distributed

        os.environ.setdefault("RANK", str(self.rank))
        os.environ.setdefault("WORLD_SIZE", str(self.num))
        try:
            distributed.init_process_group("gloo", timeout=PATIENCE)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"the {self.num} processes do not find each other: {error}",
                expected="MASTER_ADDR and MASTER_PORT in the environment, as torchrun sets them",
                fix="start with `torchrun --nproc-per-node N -m attar ...`, on Slurm one torchrun a machine",
            ) from error

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Have met the others inside the block."""
        self.join()
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Part from the others, after the last barrier."""
        if self.num > 1:
            from torch import distributed

            distributed.destroy_process_group()

    def barrier(self) -> None:
        """Wait until all have come here."""
        if self.num > 1:
            from torch import distributed

            with all_there(self.num):
                distributed.barrier()  # of gloo: a GPU must not spin for the days that others may take


@contextmanager
def all_there(num: int, *, computing: bool = False) -> Iterator[None]:
    """Raise an AttarError where one of `num` processes is gone in the middle of the block.

    `computing`: the block does more than communicate, and its other errors are left as they are.
    """
    try:
        yield
    except RuntimeError as error:
        if computing and not _names_a_peer(error):
            raise
        raise AttarError(
            f"another process is gone: {str(error).split('. ')[0]}",
            expected=f"{num} processes that work together to the end",
            fix="look what it said last, and run the same command again: it goes on from the last checkpoint",
        ) from error


def _names_a_peer(error: RuntimeError) -> bool:
    """Whether an error comes from gloo or NCCL, as far as torch tells."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))


def launched(environment: Mapping[str, str] | None = None) -> Processes:
    """What the launcher says about this process; alone where there is none."""
    found = os.environ if environment is None else environment
    for rank, num, local_rank in _LAUNCHERS:
        # Slurm sets its names in every job, but one task a machine is no wish for several processes
        if rank in found and int(found.get(num, "1")) > 1:
            return Processes(int(found[rank]), int(found[num]), int(found.get(local_rank, "0")))
    return Processes()


def alone() -> Processes:
    """One process; raises ConfigError where a launcher has started several, which would do the same work at once."""
    found = launched()
    if found.num > 1:
        raise ConfigError(
            f"this command works in one process, and {found.num} were started",
            expected="distill, squeeze, recover, relabel or train, which share their work",
            fix="start it without torchrun",
        )
    return found
