"""The program's start: `attar`, and `python -m attar`, which is what `torchrun -m attar` starts.

Nothing that takes time is imported before an interruption has its place, and where the system's texts are no UTF-8
(LC_ALL=C), Python begins again with UTF-8, and what the terminal cannot show is escaped.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

INTERRUPTED = 130
GO_ON = "interrupted; run the same command again to go on where it stopped"


def main() -> None:
    """Run the command line."""
    at_once = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else a shell or a program ignores it
    if at_once:
        signal.signal(signal.SIGINT, _leave)
    _speak_utf8()
    from attar.cli import run

    if at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = _again
    try:
        run()
    finally:
        if at_once:
            signal.signal(signal.SIGINT, _leave)  # while Python takes its modules apart
        # Python ends by the signal, and with no exit code, if an interruption ever went through the exec of a text, as
        # of a dataclass that is made; it forgets that with the next
        exec("")


def _leave(*_: Any) -> None:
    os.write(2, f"{GO_ON}\n".encode())
    os._exit(INTERRUPTED)


def _again(told: sys.UnraisableHookArgs) -> None:
    """Interrupt once more, a moment later, where Python lets no interruption pass: in a finaliser, as a generator's."""
    if told.exc_type is not None and issubclass(told.exc_type, KeyboardInterrupt):
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(told)


def _speak_utf8() -> None:
    """Begin again with UTF-8 for paths and files where the system has another encoding for them."""
    if sys.getfilesystemencoding().lower().replace("-", "") == "utf8" or os.environ.get("PYTHONUTF8") == "1":
        return
    shown = sys.stdout.encoding if sys.stdout else "ascii"
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", f"{shown}:backslashreplace")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
