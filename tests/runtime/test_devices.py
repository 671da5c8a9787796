"""Devices by name: one that this machine lacks is told to a person, whatever is asked of it first."""

from pathlib import Path

import pytest
import torch

import attar
from attar.errors import ConfigError
from attar.runtime.engine import Engine

FEW = {"source.train_per_class": 10}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is found, and what asks for its abilities before that is told fails as torch does."""

    def fails(device: object = None) -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", fails)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_not_there_is_told_before_any_work(device: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        attar.distill("digits", "random", 1, device=device, out=tmp_path / "run", settings=FEW)
    with pytest.raises(ConfigError, match="no CUDA device"):
        attar.plan("digits", "random", 1, device=device, settings=FEW)
    assert not (tmp_path / "run").exists()


def test_the_number_of_a_gpu_is_among_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="no GPU cuda:2"):
        attar.plan("digits", "random", 1, device="cuda:2", settings=FEW)


def test_cudnn_is_asked_to_sum_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    Engine("cpu")
    assert not torch.backends.cudnn.deterministic
    Engine("cuda", "32-true")
    assert torch.backends.cudnn.deterministic
