"""The beginning of a shard's work on a run folder: held with the others, and settled by the first for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from attar.artifacts.run import CONFIG, WORKED_IN, RunFolder
from attar.run.preparing import Prepared, with_precision
from attar.runtime.shards import Shard


@contextmanager
def at_work(shard: Shard | None) -> Iterator[None]:
    """Hold the run folder of a shard together with the others; None: no shard, whose lock comes later.

    Raises ArtifactError where it holds other things, or where others are at work in it that cannot share it.
    """
    if shard is None:
        yield
        return
    RunFolder(shard.folder).require_free()
    with shard.at_work(WORKED_IN):
        yield


@contextmanager
def settling(shard: Shard | None) -> Iterator[None]:
    """Let the first of the shards settle and write down what all do, before another asks.

    What is cut to fit a time, or chosen by timing, would be something else for each.
    """
    with ExitStack() as first:
        if shard is not None and not (shard.folder / CONFIG).is_file():
            first.enter_context(shard.turn())
            if (shard.folder / CONFIG).is_file():  # another was the first
                first.close()
        yield


def claim(prepared: Prepared, shard: Shard) -> None:
    """Write down what all shards do, in the folder that they share; raises ArtifactError where it holds another run."""
    folder = RunFolder(shard.folder, prepared.settings.rules)
    with shard.turn():
        folder.open(with_precision(prepared.settings, prepared.source.task, folder).plain())
