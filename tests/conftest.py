"""Shared by all tests: no network, and one thread for each process."""

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Torch is imported here, not above, because the process that only hands tests to workers needs none of it."""
    import torch

    torch.set_num_threads(1)
