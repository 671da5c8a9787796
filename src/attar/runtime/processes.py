"""Several processes on one piece of work, started by `torchrun` or Slurm: who am I, and wait for the others.

Work is cut into items (chunks of images, shards of labels, trainings), each a function of the seed and its number.
Processes share the items and meet through files, so that any number of them gives the same bits; all that they say
to each other is that they are there. What cannot be cut, they do as a team: see `team.py`.
"""

from __future__ import annotations

import atexit
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from attar.errors import AttarError, ConfigError, ResourceError
from attar.runtime.files import writing
from attar.runtime.interfaces import choose_interface, names_of_interfaces
from attar.runtime.peers import Watch, wait
from attar.text import shortened

PATIENCE = timedelta(days=30)
"""How long a process waits for one that lives: it may train a network for days. Whether it lives, see `peers.py`."""
PEER_TIMEOUT_S = 600.0
_LOOKING_S, _REMEMBERED_S, _STEP_S = 10.0, 90.0, 0.05
"""How long a file of another machine may take to be seen on a shared disk: one that nobody has looked for here, and one
that was looked for before it was there, as NFS keeps for up to a minute that there is no such file."""
_LAUNCHERS = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))


@dataclass(frozen=True)
class Processes:
    """This process among `num`; `rank` counts from 0, `local_rank` on this machine."""

    rank: int = 0
    num: int = 1
    local_rank: int = 0

    def join(self, peer_timeout_s: float = PEER_TIMEOUT_S) -> None:
        """Meet the others, before the first barrier, and watch over them until `leave`."""
        if self.num == 1:
            return
        import torch

        from attar.runtime.machine import require_threads

        global _meeting
        distributed: Any = torch.distributed
        host, port = _meeting_point()
        require_threads(_number(os.environ, "LOCAL_WORLD_SIZE", 1), "LOCAL_WORLD_SIZE")
        if _number(os.environ, "LOCAL_WORLD_SIZE", self.num) < self.num:
            choose_interface(host)
        patience = timedelta(seconds=peer_timeout_s)
        try:
            # a client counts as come when it has connected, so that one that never comes is missed here
            store, _, _ = next(distributed.rendezvous("env://", self.rank, self.num, timeout=patience))
            name = f"attar/{_Meeting.number}"
            _Meeting.number += 1
            distributed.init_process_group(
                "gloo",
                store=distributed.PrefixStore(name, store),
                rank=self.rank,
                world_size=self.num,
                timeout=PATIENCE,
            )
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"the {self.num} processes do not find each other at {host}:{port}: {shortened(str(error), 300)}",
                expected=f"all of them, at one MASTER_ADDR and MASTER_PORT, within {peer_timeout_s:g} s",
                fix="start with `torchrun --nproc-per-node N -m attar ...`, on Slurm one torchrun a machine; name the "
                f"network between the machines with GLOO_SOCKET_IFNAME ({names_of_interfaces()} here)",
            ) from error

        def connect() -> Any:
            client = distributed.TCPStore(host, port, is_master=False, timeout=patience, wait_for_workers=False)
            return distributed.PrefixStore(f"{name}/alive", client)

        watch = Watch(self.rank, self.num, peer_timeout_s, connect)
        _meeting = _Meeting(store, f"{name}/said", watch, self.num)
        self.barrier()  # from here on each has heard of each

    @contextmanager
    def joined(self, peer_timeout_s: float = PEER_TIMEOUT_S) -> Iterator[None]:
        """Have met the others inside the block."""
        try:
            self.join(peer_timeout_s)
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Part from the others, after the last barrier."""
        if self.num > 1:
            from torch import distributed

            global _meeting
            watch, _meeting = watch_of(), None
            if watch is not None and (watch.silence() or not watch.stop()):
                atexit.register(_end_at_once)  # to take the group down would be to wait for the silent one
            elif distributed.is_initialized():
                distributed.destroy_process_group()

    @property
    def apart(self) -> bool:
        """Whether they never meet, and each leads itself; see `shards.py`."""
        return False

    def turn(self) -> AbstractContextManager[None]:
        """Hold what only one of several leading processes may do at a time; of processes that meet, one leads."""
        return nullcontext()

    def claim(self, name: str) -> AbstractContextManager[bool]:
        """Whether this process is the one to make an item that cannot be shared, inside the block."""
        return nullcontext(True)

    def barrier(self, needs: Iterable[Path] = ()) -> None:
        """Wait until all have come here; `needs` are files that they then have made, and that are seen here too."""
        if self.num > 1:
            from torch import distributed

            with all_there(self.num):
                # of gloo: a GPU must not spin for the days that others may take
                wait(distributed.barrier(async_op=True), watch_of())
            missing, until_s = [*needs], time.monotonic() + _REMEMBERED_S
            while (missing := [path for path in missing if not path.exists()]) and time.monotonic() < until_s:
                time.sleep(_STEP_S)  # whoever reads what is still missing then says so

    def require_shared(self, folder: Path) -> None:
        """Raise ResourceError in all processes where one does not see the folder of the first, which makes it."""
        if self.num == 1 or _meeting is None:
            return
        seen, host = True, platform.node()
        if self.rank == 0:
            token = folder / f".meeting-{secrets.token_hex(8)}.tmp"
            with writing(token):
                folder.mkdir(parents=True, exist_ok=True)
                token.touch()
            _meeting.say("token", f"{token.name} {host} {folder}")
        name, first, where = _meeting.hear("token").split(" ", 2)
        until_s = time.monotonic() + _LOOKING_S
        while not (seen := (folder / name).exists()) and time.monotonic() < until_s:
            time.sleep(_STEP_S)
        _meeting.say(f"saw {self.rank}", f"{int(seen)} {host}")
        answers = [_meeting.hear(f"saw {rank}").split(" ", 1) for rank in range(self.num)]
        self.barrier()
        if self.rank == 0:
            with suppress(OSError):
                token.unlink(missing_ok=True)
        _meeting.next()
        if blind := [(rank, its) for rank, (saw, its) in enumerate(answers) if saw == "0"]:
            rank, its = blind[0]
            raise ResourceError(
                f"process {rank} on {its} does not see {where}, which process 0 on {first} has made",
                expected="one run folder for all processes",
                fix="put --out on a disk that all machines share, and give it as a path that is the same on each",
            )


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


class _Meeting:
    """What `num` processes have while they work together: words by name, which each may say and hear, and a watch.

    Both raise AttarError where the process is gone at which all have met.
    """

    number = 0

    def __init__(self, store: Any, prefix: str, watch: Watch, num: int) -> None:
        self._store, self._prefix, self.watch, self._num, self._round = store, prefix, watch, num, 0

    def say(self, name: str, text: str) -> None:
        """Let all hear it."""
        with all_there(self._num):
            self._store.set(self._key(name), text)

    def hear(self, name: str) -> str:
        """Wait until it is said; raises ResourceError where a process is silent meanwhile."""
        key = self._key(name)
        with all_there(self._num):
            while not self._store.check([key]):
                if problem := self.watch.silence():
                    raise problem
                time.sleep(_STEP_S)
            heard: bytes = self._store.get(key)
        return heard.decode()

    def next(self) -> None:
        """Let names be used again."""
        self._round += 1

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{self._round}/{name}"


_meeting: _Meeting | None = None


def watch_of() -> Watch | None:
    """The watch over the others, while this process works with them."""
    return None if _meeting is None else _meeting.watch


def _end_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ResourceError.exit_code)


def launched(environment: Mapping[str, str] | None = None) -> Processes:
    """What the launcher says about this process; alone where there is none.

    Raises ConfigError where it makes no sense.
    """
    found = os.environ if environment is None else environment
    for rank, num, local_rank in _LAUNCHERS:
        # Slurm sets its names in every job, but one task a machine is no wish for several processes
        if rank in found and (size := _number(found, num, 1)) > 1:
            mine = Processes(_number(found, rank), size, _number(found, local_rank, 0))
            if mine.rank >= mine.num:
                raise _misled(rank, found[rank], f"a number below {num}, which is {mine.num}")
            return mine
    if "RANK" not in found and _number(found, "WORLD_SIZE", 1) > 1:
        raise _misled("RANK", None, f"the number of this process, as WORLD_SIZE is {found['WORLD_SIZE']}")
    return Processes()


def _number(found: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = found.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"[0-9]{1,6}", text.strip()):
        raise _misled(name, text, "a whole number")
    return int(text)


def _misled(name: str, text: str | None, expected: str) -> ConfigError:
    return ConfigError(
        f"{name} is {'not set' if text is None else repr(shortened(text))} in the environment",
        expected=f"{expected}, as torchrun and Slurm set it in each process",
        fix="start with `torchrun --nproc-per-node N -m attar ...`; "
        "for one process `unset RANK WORLD_SIZE SLURM_NTASKS`",
    )


def _meeting_point() -> tuple[str, int]:
    """Where the processes meet, by the launcher's words."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not host or re.search(r"[\s,\[\]]", host):
        raise _misled("MASTER_ADDR", host, "the name or address of one machine, and no list of them")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 1 << 16:
        raise _misled("MASTER_PORT", port, "the number of a free port of that machine")
    return host, int(port)


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
