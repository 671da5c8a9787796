"""Loggers follow the events, are imported only when asked for, and are missed clearly."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from attar.errors import ConfigError
from attar.runtime import trackers
from attar.runtime.events import Event, Events, read_events
from attar.runtime.trackers import tracked

NUMBERS = {"loss": 0.5, "learning_rate": 0.1}


class Writer:
    made: list["Writer"] = []

    def __init__(self, folder: str) -> None:
        self.folder, self.scalars, self.closed = folder, list[tuple[str, float, int]](), False
        Writer.made.append(self)

    def add_scalar(self, key: str, value: float, step: int) -> None:
        self.scalars.append((key, value, step))

    def close(self) -> None:
        self.closed = True


def emit(events: Events) -> None:
    events.emit("train", "label_noise", item="net", step=0, flipped=3)
    events.emit("train", "epoch", item="net", step=2, note="text", done=True, **NUMBERS)


def test_tensorboard_draws_numbers_against_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))  # type: ignore
    events = Events(tmp_path / "events.jsonl", quiet=True)
    with tracked(["tensorboard", "tensorboard"], tmp_path, "title", {}):
        emit(events)
    emit(events)
    (writer,) = Writer.made
    assert writer.folder == str(tmp_path / "tensorboard")
    assert writer.scalars == [(f"train/net/{key}", value, 2) for key, value in NUMBERS.items()]
    assert writer.closed
    assert len(read_events(tmp_path / "events.jsonl")) == 2


def test_wandb_takes_settings_and_numbers_and_ends_on_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: dict[str, Any] = {}
    logged: list[dict[str, Any]] = []
    ended: list[bool] = []
    run = SimpleNamespace(log=logged.append, finish=lambda: ended.append(True))
    library = ModuleType("wandb")
    library.init = lambda **options: (started.update(options), run)[1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", library)
    events = Events(quiet=True)

    def stopped() -> None:
        with tracked(["wandb"], tmp_path / "new", "title", {"epochs": 3}):
            emit(events)
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert started == {"project": "attar", "name": "title", "dir": str(tmp_path / "new"), "config": {"epochs": 3}}
    assert logged == [{f"train/net/{key}": value for key, value in NUMBERS.items()} | {"step": 2}]
    assert ended == [True]


@pytest.mark.parametrize("name", list(trackers.TRACKERS))
def test_a_missing_library_is_told(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in ("wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match="not installed") as caught, tracked([name], tmp_path, "", {}):
        pass
    assert f"pip install 'attar[{name}]'" in caught.value.fix


def test_an_unknown_logger_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="unknown logger 'tensorbord'") as caught,
        tracked(["tensorbord"], tmp_path, "", {}),
    ):
        pass
    assert "did you mean tensorboard" in caught.value.expected


def test_nothing_is_imported_where_nothing_is_asked_for(tmp_path: Path) -> None:
    import attar.api

    with tracked([], tmp_path, "", {}):
        assert attar.api.train
    assert not {"tensorboard", "wandb", "torch.utils.tensorboard"} & set(sys.modules)


def test_callbacks_are_given_events(tmp_path: Path) -> None:
    seen: list[Event] = []
    with tracked([], None, "", {}, [seen.append]):
        emit(Events(quiet=True))
    emit(Events(quiet=True))
    assert [(event.stage, event.name, event.item, event.step) for event in seen] == [
        ("train", "label_noise", "net", 0),
        ("train", "epoch", "net", 2),
    ]
    assert seen[1].values == {"note": "text", "done": True, **NUMBERS}


def test_loggers_need_a_folder() -> None:
    with pytest.raises(ConfigError, match="nowhere to write"), tracked(["tensorboard"], None, "", {}):
        pass


def test_every_long_command_tells_its_callbacks_and_an_error_of_theirs_ends_it(tmp_path: Path) -> None:
    import attar

    seen: list[attar.Event] = []
    settings = {"source.train_per_class": 5, "train.epochs": 2, "evaluate.seeds": 1, "evaluate.baselines": []}
    toy = {**settings, "evaluate.models": ["convnet-d1-w4"]}
    run = attar.distill("digits", "random", out=tmp_path / "run", settings=toy, callbacks=[seen.append])
    assert {event.stage for event in seen} >= {"evaluate"}
    assert all(isinstance(event.about.get("network", ""), str) for event in seen)
    num = len(seen)
    attar.evaluate(
        run,
        "digits",
        models=["convnet-d1-w5"],
        seeds=1,
        baselines=[],
        out=tmp_path / "judged",
        settings={"source.train_per_class": 5, "train.epochs": 2},
        callbacks=seen.append,
    )
    assert len(seen) > num

    def stop(event: attar.Event) -> None:
        if event.name == "epoch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attar.train("digits", "convnet-d1-w4", out=tmp_path / "net", settings={"train.epochs": 3}, callbacks=[stop])
    trained = attar.train("digits", "convnet-d1-w4", out=tmp_path / "net", settings={"train.epochs": 3})
    assert len(trained.losses) == 3
    with pytest.raises(ConfigError, match="is no callback"):
        attar.train("digits", callbacks=[3])
