"""What training programs save beside a state dict: left out, never run, never in the way."""

import argparse
import collections
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attar.errors import ArtifactError
from attar.models.checkpoints import read_state

STATE = {"conv1.weight": torch.arange(6.0).view(1, 1, 2, 3), "fc.bias": torch.tensor([1.0, -2.0])}


class Meter:
    """Somebody's own class, as in `best=AverageMeter()`."""

    def __init__(self) -> None:
        self.value = 3.0


def same(state: dict[str, Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[name], value) for name, value in STATE.items())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["net", "network", "state_dict", "model", "model_state_dict", "weights", "best"])
def test_a_state_dict_is_found_beside_what_training_programs_save(name: str, zipped: bool, tmp_path: Path) -> None:
    saved = {
        "args": argparse.Namespace(lr=0.1, milestones=[100, 150], note=argparse.Namespace(deep=True)),
        "acc": np.float64(91.7),
        "epoch": np.int64(200),
        "history": np.arange(4.0),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        name: collections.OrderedDict(STATE),
    }
    torch.save(saved, tmp_path / "mine.th", _use_new_zipfile_serialization=zipped)
    assert same(read_state(tmp_path / "mine.th")[0])


def test_an_object_of_any_class_beside_it_is_left_out(tmp_path: Path) -> None:
    saved = {"meter": Meter(), "scheduler": np.random.RandomState(0), "model": {"depth": 20}, "net": STATE}
    torch.save(saved, tmp_path / "mine.pth")
    assert same(read_state(tmp_path / "mine.pth")[0])


def test_a_whole_module_holds_no_state_dict(tmp_path: Path) -> None:
    torch.save({"net": nn.Linear(2, 2)}, tmp_path / "mine.pth")
    with pytest.raises(ArtifactError, match="holds no state dict") as caught:
        read_state(tmp_path / "mine.pth")
    assert "model.state_dict()" in caught.value.fix


class Calls:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [os.mkdir, exec, eval, subprocess.call, getattr])
def test_what_would_run_something_is_refused(function: Any, zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    code = str(trace) if function is os.mkdir else f"open({str(trace)!r}, 'w')"
    given = {subprocess.call: (["touch", str(trace)],), getattr: (Meter, "__init__")}.get(function, (code,))
    torch.save(
        {"net": STATE, "extra": Calls(function, *given)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(ArtifactError, match="nothing in it was run"):
        read_state(tmp_path / "x.pt")
    assert not trace.exists()


def test_what_looks_harmless_is_not_run_either(tmp_path: Path) -> None:
    torch.save({"net": STATE, "extra": Calls(touch, tmp_path / "it-ran")}, tmp_path / "x.pt")
    assert same(read_state(tmp_path / "x.pt")[0])
    assert not (tmp_path / "it-ran").exists()


def touch(path: Path) -> None:
    path.touch()


def test_stand_ins_do_not_stay_allowed(tmp_path: Path) -> None:
    torch.save({"net": STATE, "args": argparse.Namespace()}, tmp_path / "mine.pth")
    before = set(torch.serialization.get_safe_globals())
    read_state(tmp_path / "mine.pth")
    assert set(torch.serialization.get_safe_globals()) == before
