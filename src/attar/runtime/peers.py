"""Whether the other processes are still there: each says so every few seconds, and what it is doing.

A process that was stopped, or whose machine or network is cut off, closes no connection, so that whoever waits for it
would wait for ever. Two threads look after that. One tells the others, through the store at which all have met, that
this process lives. The other keeps a clock of the time that this process itself has run (a laptop may have slept), and
ends it where it waits in a library that cannot be interrupted. Both have ended before the process does: one that is
in the store while Python goes away takes it down with SIGABRT.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from attar.errors import ResourceError

FIX = "look at that machine; raise --peer-timeout where it is only slow. The same command again goes on from here"
_GONE = "-"
_LEAVING_S = 5.0
"""How long the last words to the others may take."""
_doing = "start"


def now_at(stage: str) -> None:
    """Let the others know what this process is doing."""
    global _doing
    _doing = stage.replace("\n", " ")[:100]


class Watch:
    """Watches over `num` processes, of which this is `rank`; `patience_s` of silence is too long.

    `connect` makes a client of the store of its own: one that waits for an answer would keep others waiting. The thread
    that works asks for `silence` while it waits; where it cannot, `end` is called a little later.
    """

    def __init__(
        self,
        rank: int,
        num: int,
        patience_s: float,
        connect: Callable[[], Any],
        end: Callable[[ResourceError], None] | None = None,
    ) -> None:
        self._rank, self._others, self._patience_s = rank, [other for other in range(num) if other != rank], patience_s
        self._store, self._end = connect(), end or _end
        self._interval_s = min(10.0, patience_s / 8)
        self._clock_s = self._answered_s = 0.0
        self._heard = dict.fromkeys(self._others, ("", 0.0))
        self._over, self._blind = threading.Event(), False
        self._say("0")
        self._threads = [self._start(self._tell), self._start(self._tick)]

    def silence(self) -> ResourceError | None:
        """Who has been silent for too long, and where; None where all are there."""
        if self._blind:
            return None
        if self._clock_s - self._answered_s > self._patience_s:
            return self._silent("the process at which all have met (rank 0, or torchrun's agent beside it)", "")
        for other, (said, when_s) in self._heard.items():
            if said != _GONE and self._clock_s - when_s > self._patience_s:
                return self._silent(f"process {other}", said.partition(" ")[2])
        return None

    def stop(self) -> bool:
        """Leave: the others need not hear of this process any more. False where the store lets a thread wait."""
        self._over.set()
        if not self._blind and self.silence() is None:
            self._threads.append(self._start(self._say, _GONE))
        until_s = time.monotonic() + _LEAVING_S
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @staticmethod
    def _start(work: Callable[..., None], *given: str) -> threading.Thread:
        thread = threading.Thread(target=work, args=given, name=f"peers-{work.__name__}", daemon=True)
        thread.start()
        return thread

    def _say(self, text: str) -> None:
        try:
            self._store.set(str(self._rank), text)
        except Exception:  # it is gone, which gloo tells whoever waits
            self._blind = True

    def _tell(self) -> None:
        beats = 0
        while not self._over.wait(self._interval_s) and not self._blind:
            beats += 1
            self._say(f"{beats} {_doing}")
            try:
                answers = self._store.multi_get([str(other) for other in self._others])
            except Exception:
                self._blind = True
                return
            self._answered_s = self._clock_s
            for other, answer in zip(self._others, answers, strict=True):
                if (said := answer.decode(errors="replace")) != self._heard[other][0]:
                    self._heard[other] = said, self._clock_s

    def _tick(self) -> None:
        step_s, silent_s = self._interval_s / 4, 0.0
        before_s = time.monotonic()
        while not self._over.wait(step_s):
            now_s = time.monotonic()
            self._clock_s += min(now_s - before_s, 4 * step_s)
            before_s = now_s
            problem = self.silence()
            silent_s = silent_s + step_s if problem else 0.0
            if problem and silent_s > max(5.0, self._patience_s / 10):
                self._end(problem)
                return

    def _silent(self, who: str, stage: str) -> ResourceError:
        after = f"; it was last at: {stage}" if stage else ""
        return ResourceError(
            f"{who} has said nothing for {_span(self._patience_s)}{after}",
            expected=f"all {len(self._others) + 1} processes at work; this one, {self._rank}, is at: {_doing}",
            fix=FIX,
        )


def wait(work: Any, watch: Watch | None) -> None:
    """Wait for a collective operation; raises ResourceError where another process has fallen silent meanwhile."""
    while watch is not None and not work.is_completed():
        try:
            work.wait(timedelta(seconds=1))
        except RuntimeError:
            if work.is_completed():
                raise
            if problem := watch.silence():
                raise problem from None
    work.wait()


def _end(problem: ResourceError) -> None:
    sys.stderr.flush()
    os.write(2, f"error: {problem}\n".encode(errors="backslashreplace"))
    os._exit(problem.exit_code)


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
