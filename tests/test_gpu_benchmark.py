"""The benchmark that waits for a GPU runs at toy size wherever there is none."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = ("training", "recovery", "beside mtt", "methods")


@pytest.mark.slow
def test_the_whole_table_is_printed_at_toy_size() -> None:
    command = [sys.executable, "gpu.py", "--toy", "--threads", "1", "--methods", "sre2l", "random"]
    told = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, timeout=600, check=False)
    assert told.returncode == 0, told.stderr
    for part in PARTS:
        assert f"{part}: " in told.stdout
    assert "check methods_apart_mean: 0," in told.stdout
    assert "compiled" in told.stdout
