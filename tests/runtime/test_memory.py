"""Memory that is kept for the next step."""

import platform
import subprocess
import sys

import pytest

from attar.runtime.memory import keep_freed_memory

FAULTS = """
import resource, torch
from attar.runtime.engine import Engine
torch.set_num_threads(1)
layer, images = torch.nn.Conv2d(1, 9, 1), torch.randn(256, 1, 64, 64)
def step():
    layer(images).relu().square().mean().backward()
def faults():
    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults())
Engine("cpu")
print(faults())
"""
"""Faults of pages in three steps, each of which allocates several blocks of 38 MB, 9,200 pages, before and after."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
@pytest.mark.slow
def test_pages_are_taken_from_the_system_once():
    assert keep_freed_memory()
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, done.stdout.split())
    assert given_back > 50_000
    assert kept < given_back / 5


def test_other_allocators_are_left_alone(monkeypatch):
    monkeypatch.setattr("attar.runtime.memory.ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()
