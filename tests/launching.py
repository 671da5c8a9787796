"""Several processes as a launcher starts them, for tests of what they do together."""

import os
import socket
import subprocess
import sys

LONGEST_S = 900
"""Seconds that processes may take, on a machine that has other things to do."""


def start(words: list[str], num: int) -> list[tuple[int, str]]:
    """Run `python words` in `num` processes; exit code and words of each, once all have ended.

    None outlives a test that waits no longer.
    """
    started = launch(words, num)
    try:
        said = [process.communicate(timeout=LONGEST_S)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, text) for process, text in zip(started, said, strict=True)]


def launch(words: list[str], num: int) -> list[subprocess.Popen[str]]:
    """Start `python words` in `num` processes, with one thread each."""
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(num)}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(num)
    ]


def free_port() -> int:
    """One at which processes of this machine may meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
