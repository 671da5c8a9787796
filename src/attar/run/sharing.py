"""The engine that processes share, and a folder that one of them holds for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from attar.artifacts.run import RunFolder
from attar.config import parse_duration
from attar.runtime.engine import Engine
from attar.runtime.machine import require_startable, require_threads
from attar.runtime.processes import launched
from attar.runtime.shards import Shard


@contextmanager
def sharing_engine(
    device: str,
    precision: str,
    workers: int | None,
    peer_timeout: str = "10m",
    folder: Path | None = None,
    shard: Shard | None = None,
) -> Iterator[Engine]:
    """The engine of all processes; while it is in use, torch has this number of threads in each, or what it had.

    Raises ResourceError where several processes do not see one `folder`, or where the threads cannot be started.
    """
    require_threads(workers or 1, "--workers")
    before, processes = torch.get_num_threads(), shard or launched()
    require_startable(workers or before)
    torch.set_num_threads(workers or before)
    try:
        with processes.joined(parse_duration(peer_timeout)):
            if folder is not None:
                processes.require_shared(folder)
            yield Engine(device, precision, processes, workers)
    finally:
        torch.set_num_threads(before)


@contextmanager
def held_by_one(folder: Path, engine: Engine) -> Iterator[None]:
    """One process holds a folder for all, which go on once it does; see `RunFolder.locked`."""
    with RunFolder(folder).locked() if engine.leads else nullcontext():
        engine.barrier()
        yield
