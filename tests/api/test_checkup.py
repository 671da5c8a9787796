"""What a machine has, in the words of `attar doctor`."""

from __future__ import annotations

import pytest

from attar.api.checkup import checkup
from attar.data.readers import hub
from attar.data.readers.hub import read_hub
from attar.errors import DataError


def test_a_machine_is_described() -> None:
    found = checkup()
    assert {"attar", "python", "devices", "bfloat16", "threads", "memory", "disk", "extras"} <= set(found)
    assert found["devices"][-1].startswith("cpu: ")
    assert "torch 2" in found["attar"]
    assert "datasets" not in found


def test_data_sets_of_a_folder_are_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    (digits,) = checkup(str(tmp_path_factory.mktemp("empty")))["datasets"]
    assert digits == "digits: 10 classes, 1,797 train"


def test_a_hub_that_cannot_be_reached_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    import datasets.config

    monkeypatch.setattr(hub, "_is_reached", lambda endpoint: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(DataError, match="hf:nobody/nothing-at-all is not in the cache, and the hub can't be reached"):
        read_hub("nobody/nothing-at-all")
    assert before == datasets.config.HF_HUB_OFFLINE


def test_what_answers_nowhere_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "getproxies", dict)
    assert not hub._is_reached("https://127.0.0.1:1")
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy"})
    assert hub._is_reached("https://127.0.0.1:1")
