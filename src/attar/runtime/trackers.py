"""TensorBoard and Weights & Biases, where they are asked for: both follow the events of a run.

A tracker draws every number of an event that has a step (`loss`, `learning_rate`, ...) against that step. The libraries
are imported when a tracker is made and not before.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from attar.errors import ConfigError, unknown
from attar.runtime.events import Event, Follower, followed_by
from attar.runtime.processes import launched

_NOT_DRAWN = ("time_s", "step")


@contextmanager
def tracked(
    names: Iterable[str],
    folder: Path | None,
    title: str,
    settings: Mapping[str, Any],
    callbacks: Iterable[Callable[[Event], None]] = (),
) -> Iterator[None]:
    """Let trackers and callbacks follow all that happens inside the block, in the process that leads.

    Args:
        names: of `TRACKERS`.
        folder: where they write.
        title: of the run, as they show it.
        settings: plain values shown with it.
        callbacks: called with each event; an error that one raises ends the work, which can be gone on with.

    Raises ConfigError for a name that isn't known, whose library isn't installed, or that has no folder, before the
    block.
    """
    names = list(dict.fromkeys(names))
    if names and folder is None:
        raise ConfigError("loggers have nowhere to write to", expected="a folder", fix="leave out --no-keep")
    with ExitStack() as stack:
        followers: list[Follower] = []
        if launched().rank == 0:
            followers += [stack.enter_context(_made(name)(folder or Path(), title, settings)) for name in names]
            followers += [_called(callback) for callback in callbacks]
        with followed_by(followers):
            yield


def _called(callback: Callable[[Event], None]) -> Follower:
    return lambda note: callback(Event.of(note))


def _made(name: str) -> Callable[[Path, str, Mapping[str, Any]], Any]:
    if name not in TRACKERS:
        raise unknown("logger", name, TRACKERS)
    return TRACKERS[name]


@contextmanager
def _tensorboard(folder: Path, title: str, settings: Mapping[str, Any]) -> Iterator[Follower]:
    writer = _library("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def follow(event: Mapping[str, Any]) -> None:
        for key, value in _numbers(event):
            writer.add_scalar(key, value, event["step"])

    try:
        yield follow
    finally:
        writer.close()


@contextmanager
def _wandb(folder: Path, title: str, settings: Mapping[str, Any]) -> Iterator[Follower]:
    folder.mkdir(parents=True, exist_ok=True)
    run = _library("wandb", "wandb").init(project="attar", name=title, dir=str(folder), config=dict(settings))

    def follow(event: Mapping[str, Any]) -> None:
        values = dict(_numbers(event))
        if values:
            run.log({**values, "step": event["step"]})

    try:
        yield follow
    finally:
        run.finish()


def _numbers(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers of an event that has a step above 0, by stage, item and name."""
    if not event.get("step"):
        return
    where = "/".join(str(event[key]) for key in ("stage", "item") if event.get(key) is not None)
    for key, value in event.items():
        if key not in _NOT_DRAWN and isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{where}/{key}", float(value)


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"the logger {package} was asked for, and {package} is not installed",
            expected=f"the package {package}",
            fix=f"pip install 'attar[{package}]', or leave the logger out",
        ) from error


TRACKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any]], Any]] = {"tensorboard": _tensorboard, "wandb": _wandb}
"""What may follow a run, by name."""
