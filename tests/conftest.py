"""Shared by all tests: no network, and one thread for each process."""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

gc.disable()  # until all is imported: half a million objects stay, and looking through them takes a second
settings.register_profile("attar", suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
settings.load_profile("attar")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["ATTAR_CACHE"] = ""  # no listings of files that are gone when a test ends


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Collect garbage again."""
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Torch is imported here, not above, because the process that only hands tests to workers needs none of it."""
    import torch

    from attar.runtime import together

    torch.set_num_threads(1)
    together.START_S = 3600.0  # no test starts processes that it does not ask for


@pytest.fixture(scope="session", autouse=True)
def no_syncs() -> None:
    """No file of a test has to outlive the machine, and each sync waits for the disk."""
    os.fsync = lambda descriptor: None


@pytest.fixture(scope="session", autouse=True)
def no_starts() -> None:
    """A plan starts a process to time it, for seconds; tests/run/test_starting.py does."""
    from attar.run import planning, starting

    planning.measured_start = lambda: starting.Start(0.0, 0)


@pytest.fixture(autouse=True)
def one_draw() -> None:
    """What a test draws from torch's own generator, such as the weights of a network, is drawn alike in every run."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def own_names() -> Iterator[None]:
    """What the tests of a module hand over by name is known to no other."""
    from attar.registry import Registry

    before = {group: dict(registry._added) for group, registry in Registry._made.items()}
    yield
    for group, registry in Registry._made.items():
        registry._added = before.get(group, {})
