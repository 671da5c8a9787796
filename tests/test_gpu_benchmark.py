"""The benchmark that waits for a GPU runs at toy size wherever there is none."""

import importlib
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

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


def test_what_fails_is_a_row_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    gpu: Any = importlib.import_module("gpu")

    def no_memory(*_: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 90 GiB")

    def both(size: Namespace, recovered: str, matched: str) -> Any:
        if recovered != "convnet-d1-w8-batch":
            no_memory()
        return {"mtt": (2.0, 0.0), "sre2l": (1.0, 0.0)}, {"mtt": 3.0, "sre2l": 1.0}

    monkeypatch.setattr(gpu.recover, "time_one", no_memory)
    monkeypatch.setattr(gpu, "both_sides", both)
    monkeypatch.setattr(gpu, "every_method", no_memory)
    monkeypatch.setattr(gpu.torch, "set_num_threads", lambda _: None)
    parts = ["--parts", "recovery", "beside mtt", "methods"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--toy", "--threads", "1", *parts])
    with pytest.raises(SystemExit, match="3 cases failed"):
        gpu.main()
    told = capsys.readouterr().out
    assert "convnet-d2-w8-batch: failed, RuntimeError: CUDA out of memory" in told
    assert "the whole part: failed, RuntimeError: CUDA out of memory" in told
    assert "check mtt_memory_over_sre2l_ResNet-18: 3," in told
    assert "check minutes" in told
