"""What happens while long work runs: an event log (JSON lines) and progress for the person watching.

Events are appended and flushed one by one; a resumed run appends again from its checkpoint, so a reader
keeps the last event of each (stage, event, item, step) and skips a half-written last line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

from attar.runtime.files import unlinked, writing
from attar.runtime.reading import lines_of, require_file
from attar.text import parse_json
from attar.visible import visible

_PLAIN_INTERVAL_S = 10.0
KEY = ("stage", "event", "item", "step")
"""Fields that identify an event."""
_MOST_LOG_BYTES, _MOST_LINE_BYTES = 1 << 30, 1 << 20


class Progress(Protocol):
    """One running bar."""

    def advance(self, num: int = 1, /, *, left_s: float | None = None, **metrics: float) -> None:
        """Move on by `num` units and show the newest metrics.

        `left_s` are the seconds that are left, for whoever knows them better than by the units' mean rate.
        """


@dataclass(frozen=True)
class Event:
    """Something that happened, as callbacks are given it.

    `values` are the event's own, such as loss and learning_rate; `about` says in fields what the item is.
    """

    stage: str
    """squeeze, recover, relabel, evaluate, train, study or bench."""
    name: str
    """What happened, such as epoch, step or accuracy."""
    time_s: float
    """Seconds since 1970."""
    item: str | None
    """What it happened to, where there are several: an expert, a chunk, a student."""
    step: int | None
    """Epoch, iteration or step, from 1, where it has one."""
    about: Mapping[str, Any]
    values: Mapping[str, Any]

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> Event:
        """The event of a line of the log."""
        known = ("stage", "event", "time_s", "item", "step", "about")
        values = {key: value for key, value in note.items() if key not in known}
        at = note.get("item"), note.get("step")
        return cls(note["stage"], note["event"], note["time_s"], *at, note.get("about") or {}, values)


Follower = Callable[[Mapping[str, Any]], None]
_FOLLOWERS: ContextVar[tuple[Follower, ...]] = ContextVar("followers", default=())


@contextmanager
def followed_by(followers: Iterable[Follower]) -> Iterator[None]:
    """Call these with every event of every log inside the block, as the log has it."""
    token = _FOLLOWERS.set((*_FOLLOWERS.get(), *followers))
    try:
        yield
    finally:
        _FOLLOWERS.reset(token)


def is_followed() -> bool:
    """Whether someone follows the events."""
    return bool(_FOLLOWERS.get())


class Events:
    """The event log of one run folder and the progress bars on stderr.

    Args:
        path: the JSON-lines file, or None to keep no log.
        quiet: show no progress.
    """

    def __init__(self, path: Path | None = None, *, quiet: bool = False) -> None:
        self.path = path
        self.quiet = quiet
        self._console = Console(stderr=True)
        self._bars: RichProgress | None = None
        if path is not None and path.exists():
            require_file(path, None)
            with writing(path):
                _end_last_line(path)

    def emit(self, stage: str, event: str, **fields: Any) -> None:
        """Append one event; `item` and `step` among the fields identify it on resume."""
        note = {"stage": stage, "event": event, "time_s": round(time.time(), 3), **fields}
        for follow in _FOLLOWERS.get():
            follow(note)
        if self.path is None:
            return
        line = json.dumps(note)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8", opener=unlinked) as file:
                file.write(line + "\n")

    def say(self, message: str) -> None:
        """Tell the person one line, above any running bar."""
        if not self.quiet:
            console = self._bars.console if self._bars else self._console
            console.print(visible(message), highlight=False, markup=False)

    @contextmanager
    def progress(self, description: str, total: int, done: int = 0) -> Iterator[Progress]:
        """Show a bar of `total` units, `done` of them already complete, for the length of the block."""
        description = visible(description)
        if self.quiet:
            yield _Silent()
        elif not self._console.is_terminal:
            plain = _Plain(description, total, done)
            yield plain
            plain.finish()
        elif self._bars is not None:
            inner = _Bar(self._bars, description, total, done)
            try:
                yield inner
            finally:
                inner.remove()  # the outer bar goes on; a long run would fill the screen with finished ones
        else:
            with RichProgress(*_columns(), console=self._console) as self._bars:
                try:
                    yield _Bar(self._bars, description, total, done)
                finally:
                    self._bars = None


def read_events(path: Path) -> list[dict[str, Any]]:
    """Read an event log, the last event of each (stage, event, item, step) only, in order of first mention.

    Logs of shards beside it are read too, by the time of their events. Lines that hold no event are left out, such as
    the half-written last one of a killed run. Raises ArtifactError for what is no plain file, or larger than
    _MOST_LOG_BYTES.
    """
    events: dict[tuple[Any, ...], dict[str, Any]] = {}
    read = _read(path)
    if others := logs_of_shards(path.parent):
        every = [event for log in others for event in _read(log)]
        read = iter(sorted([*read, *every], key=_time_s))
    for event in read:
        key = tuple(event.get(name) for name in KEY)
        events[key if key[3] is not None else (*key, len(events))] = event
    return list(events.values())


def logs_of_shards(folder: Path) -> list[Path]:
    """The event logs that shards keep in a run folder, each its own."""
    return sorted(folder.glob("events-*-of-*.jsonl"))


def _time_s(event: Mapping[str, Any]) -> float:
    """When an event happened, in seconds; 0 where it does not say."""
    found = event.get("time_s")
    return float(found) if isinstance(found, int | float) else 0.0


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        require_file(path, _MOST_LOG_BYTES)
        for line in lines_of(path, _MOST_LINE_BYTES):
            if event := _event(line):
                yield event


def _event(line: bytes) -> dict[str, Any] | None:
    """The event of a line; None where it holds none."""
    try:
        event = parse_json(line.decode("utf-8", errors="replace"), finite=False)
    except ValueError:
        return None
    if not isinstance(event, dict) or not all(_is_flat(event.get(name)) for name in KEY):
        return None
    return {name: value for name, value in event.items() if _is_flat(value) or _holds_flat(value)}


def _is_flat(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _holds_flat(value: Any) -> bool:
    return all(map(_is_flat, value.values() if isinstance(value, dict) else value))


class _Silent:
    def advance(self, num: int = 1, /, *, left_s: float | None = None, **metrics: float) -> None:
        pass


class _Bar:
    def __init__(self, bars: RichProgress, description: str, total: int, done: int) -> None:
        self._bars = bars
        self._started_s = time.monotonic()
        self._done = 0
        self._task = bars.add_task(description, total=total, completed=done, rate="", metrics="", ends_s=None)

    def advance(self, num: int = 1, /, *, left_s: float | None = None, **metrics: float) -> None:
        self._done += num
        now_s = time.monotonic()
        rate = self._done / max(now_s - self._started_s, 1e-9)
        shown: dict[str, Any] = {"metrics": _metrics(metrics)} if metrics else {}
        if left_s is not None:
            shown["ends_s"] = now_s + left_s
        self._bars.update(self._task, advance=num, rate=_rate(rate), **shown)

    def remove(self) -> None:
        self._bars.remove_task(self._task)


class _Plain:
    """Progress where stderr is no terminal: one line at the start, every ten seconds and at the end."""

    def __init__(self, description: str, total: int, done: int) -> None:
        self._description, self._total, self._first, self._done = description, total, done, done
        self._started_s = self._last_s = time.monotonic()
        self._metrics, self._told = "", -1
        self._ends_s: float | None = None
        self._line()

    def advance(self, num: int = 1, /, *, left_s: float | None = None, **metrics: float) -> None:
        self._done += num
        if left_s is not None:
            self._ends_s = time.monotonic() + left_s
        self._metrics = _metrics(metrics) or self._metrics
        if time.monotonic() - self._last_s >= _PLAIN_INTERVAL_S:
            self._line()

    def finish(self) -> None:
        if self._done > self._told:
            self._line()

    def _line(self) -> None:
        self._told = self._done
        now_s = self._last_s = time.monotonic()
        rate = (self._done - self._first) / max(now_s - self._started_s, 1e-9)
        left_s = (self._total - self._done) / rate if rate else 0.0
        if self._ends_s is not None:
            left_s = max(0.0, self._ends_s - now_s)
        left = f", {left_s:.0f} s left" if 0 < self._done < self._total and left_s else ""
        speed = f" {_rate(rate)}{left}" if self._done > self._first else ""
        print(  # noqa: T201
            f"{self._description} {self._done}/{self._total}{speed} {self._metrics}".rstrip(),
            file=sys.stderr,
            flush=True,
        )


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields.get("rate", ""), style="progress.data.speed")


class _TimeColumn(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        if task.finished or task.fields.get("ends_s") is None:
            return super().render(task)
        left_s = max(0, round(task.fields["ends_s"] - time.monotonic()))
        minutes, seconds = divmod(left_s, 60)
        hours, minutes = divmod(minutes, 60)
        shown = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
        return Text(shown, style="progress.remaining")


def _columns() -> list[ProgressColumn]:
    return [
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        _RateColumn(),
        _TimeColumn(compact=True, elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[metrics]}"),
    ]


def _rate(per_s: float) -> str:
    return f"{per_s:.1f}/s" if per_s >= 1 else f"{1 / per_s:.1f} s each" if per_s else ""


def _metrics(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())


def _end_last_line(path: Path) -> None:
    with open(path, "rb+", opener=unlinked) as file:
        if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")
