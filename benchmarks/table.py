"""What the benchmarks share: a table on stdout and, with --json, rows and checks in a file."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
Checks = dict[str, dict[str, float]]


def arguments(description: str, add: Callable[[argparse.ArgumentParser], None] = lambda _: None) -> argparse.Namespace:
    """Parse --json and what a benchmark adds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write {rows, checks} here")
    add(parser)
    return parser.parse_args()


def spread(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation, and n."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.fmean(values):.1f} ± {std:.1f} (n={len(values)})"


def accuracy_rows(scores: Mapping[str, Sequence[float]], sizes: Mapping[str, int]) -> Rows:
    """A row for each thing that was trained on: what it costs and the accuracy that it reaches."""
    return [
        {"trained on": name, "bytes": sizes[name], "test accuracy, %": spread(values)}
        for name, values in scores.items()
    ]


def finish(rows: Rows, checks: Checks, path: Path | None) -> None:
    """Print the table and the checks; write them where asked, with date, hardware and command."""
    from attar.runtime.engine import Engine, hardware

    names = list(rows[0])
    widths = [max(len(name), *(len(str(row[name])) for row in rows)) for name in names]
    for cells in [names, *([str(row[name]) for name in names] for row in rows)]:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    for name, check in checks.items():
        print(f"check {name}: {check['value']:.4g}, target {check['target']:.4g}")
    if path:
        note = {
            "command": f"python {' '.join(sys.argv)}",
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "hardware": hardware(Engine().device),
        }
        if held := os.environ.get("ONEDNN_MAX_CPU_ISA"):
            note["ONEDNN_MAX_CPU_ISA"] = held
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**note, "rows": rows, "checks": checks}, indent=2) + "\n")
