"""How much sooner two processes recover images than one, where chunks are items: by torchrun, and as shards.

    python benchmarks/sharing.py --work WORK --source SOURCE --processes 2 --json FILE

Squeezes once, then times `attar recover` on copies of the run folder: by one process, by torchrun with several, by as
many shards at once; each process has one thread. The gain is seconds of one over seconds of several, start included
and, from the events, without it. Needs as many idle cores as processes: the load of the machine is printed beside.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from table import Rows, finish

ATTAR = [sys.executable, "-m", "attar"]


def run(commands: list[list[str]]) -> float:
    """Seconds until all of some commands have ended, begun at once; they must end well."""
    started_s = time.perf_counter()
    processes = [subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"}) for words in commands]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit(f"{commands[0]} ended with {codes}")
    return time.perf_counter() - started_s


def stepping_s(folder: Path) -> float:
    """Seconds from the first to the last step of recovery, by the events of all processes."""
    logs = [*folder.glob("events.jsonl"), *folder.glob("events-*.jsonl")]
    events = [json.loads(line) for log in logs for line in log.read_text("utf-8").splitlines()]
    times = [event["time_s"] for event in events if (event["stage"], event["event"]) == ("recover", "step")]
    return max(times) - min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--source", default="digits")
    parser.add_argument("--model", default="convnet-d3-w64-batch")
    parser.add_argument("--ipc", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write {rows, checks} here")
    asked = parser.parse_args()
    num, squeezed = asked.processes, asked.work / "squeezed"
    sets = [f"squeeze.model={asked.model}", "squeeze.epochs=1", f"recover.iterations={asked.iterations}"]
    sets += ["recover.chunk_size=20", "recover.num_snapshots=0"]
    shutil.rmtree(asked.work, ignore_errors=True)
    command = [*ATTAR, "squeeze", asked.source, "--method", "sre2l", "--ipc", str(asked.ipc), "--recipe", "none"]
    command += ["--thorough", "--workers", "1", "--quiet", "--out", str(squeezed)]
    run([[*command, *(word for one in sets for word in ("--set", one))]])

    def recover(folder: Path, *more: str) -> list[str]:
        return ["-m", "attar", "recover", str(folder), "--quiet", *more]

    def copied(name: str) -> Path:
        return Path(shutil.copytree(squeezed, asked.work / name))

    one, together, apart = copied("one"), copied("together"), copied("apart")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num)]
    ways = {
        "one process": (one, [[sys.executable, *recover(one)]]),
        f"torchrun, {num} processes": (together, [[sys.executable, *launcher, *recover(together)]]),
        f"{num} shards": (
            apart,
            [[sys.executable, *recover(apart, "--shard", f"{k + 1}/{num}", "--shard-wait", "5m")] for k in range(num)],
        ),
    }
    seconds: dict[str, tuple[float, float]] = {}
    rows: Rows = []
    for name, (folder, commands) in ways.items():
        load = os.getloadavg()[0]
        seconds[name] = run(commands), stepping_s(folder)
        whole, steps = (before / now for before, now in zip(seconds["one process"], seconds[name], strict=True))
        rows.append(
            {
                "recovered by": name,
                "seconds": round(seconds[name][0], 1),
                "gain": round(whole, 3),
                "seconds of the steps": round(seconds[name][1], 1),
                "gain of the steps": round(steps, 3),
                "load before": round(load, 1),
            }
        )
    chunks = [sorted((folder / "recover").glob("synthetic-*")) for folder, _ in ways.values()]
    others = sum([path.read_bytes() for path in made] != [path.read_bytes() for path in chunks[0]] for made in chunks)
    checks = {f"gain of {row['recovered by']}": {"value": row["gain of the steps"], "target": 1.9} for row in rows[1:]}
    finish(rows, {**checks, "ways that make other bytes": {"value": others, "target": 0}}, asked.json)


if __name__ == "__main__":
    main()
