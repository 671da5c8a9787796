"""What a process takes before its first stage and after its last: to load Python, torch and the rest, and to end.

Measured by one that does nothing else, as a process that plans has loaded all long ago.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass

_LOADING = """
import resource, torch
import attar.cli, attar.run.pipeline, attar.report.page, pyarrow.pandas_compat
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)
"""
"""What stages import when they first need it."""


@dataclass(frozen=True)
class Start:
    """Seconds of a process that only starts and ends, and the bytes by which its memory grows while it ends."""

    seconds: float
    ending_bytes: int


def measured_start() -> Start:
    """Start such a process and wait for its end; zeros where none can be started."""
    began_s = time.perf_counter()
    words = [sys.executable, "-c", _LOADING]
    try:
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            loaded = int(process.stdout.read())
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    except (OSError, ValueError):
        return Start(0.0, 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return Start(time.perf_counter() - began_s, max(0, used.ru_maxrss - loaded) * unit)
