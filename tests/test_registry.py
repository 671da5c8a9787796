"""What goes by a name: found, refused with one clear error, or handed over as an object."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import attar
from attar import catalogue, registry
from attar.data.examples import Examples, Found
from attar.data.named import NAMED
from attar.data.named.base import NamedSource, of_arrays
from attar.data.sources import open_source
from attar.errors import ConfigError
from attar.labels.codecs import CODECS, Half
from attar.methods import METHODS, methods
from attar.methods.base import Selector
from attar.methods.coreset import Random
from attar.models.factory import NETWORKS, Network, build
from attar.task import Normalization, Task
from attar.testing import check_method, check_strategy
from attar.training.strategies import STRATEGIES
from attar.training.strategies.ce import CrossEntropy

TASK = Task(("a", "b"), 1, 8, 8, Normalization((0.5,), (0.5,)))
TOY = {
    "recover.iterations": 0,
    "train.epochs": 1,
    "evaluate.seeds": 1,
    "evaluate.full_epochs": 1,
    "source.train_per_class": 5,
}


class Mine(Random):
    """Random images under another name."""

    name = "mine"
    source = "this test"


class Hollow(Selector[Any, Any]):
    """No method yet."""

    name, summary, knowledge, separable = "hollow", "nothing", "none", True


class Quiet(CrossEntropy):
    """Cross-entropy under another name."""

    name = "quiet"


class Halves(Half):
    """float16 under another name."""

    name = "halves"


def tiny(task: Task) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(task.shape).numel(), task.num_classes))


def dots(data_dir: Path | None, download: bool) -> Found:
    """Forty white squares and black ones."""
    pixels = torch.arange(40).remainder(2).mul(255).to(torch.uint8).view(40, 1, 1).expand(40, 8, 8).numpy()
    examples: Examples = of_arrays(pixels, [k % 2 for k in range(40)], "dot")
    return Found(("black", "white"), {"train": examples})


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test hands over or pretends to be installed is forgotten after it."""
    for one in (METHODS, NETWORKS, STRATEGIES, CODECS, NAMED):
        monkeypatch.setattr(one, "_added", {})
        monkeypatch.setattr(one, "_loaded", {})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry, "_points", lambda group: [point for point in points if point.group == group])
    return points


def point(group: str, name: str, what: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{what}", f"attar.{group}")


def test_each_group_is_found_by_its_entry_points(installed: list[EntryPoint]) -> None:
    installed += [
        point("methods", "mine", "Mine"),
        point("models", "tiny", "tiny"),
        point("strategies", "quiet", "Quiet"),
        point("codecs", "halves", "Halves"),
        point("sources", "dots", "dots"),
    ]
    assert methods()["mine"] is Mine
    assert build("tiny", TASK)(torch.zeros(3, 1, 8, 8)).shape == (3, 2)
    assert STRATEGIES["quiet"] is Quiet
    assert CODECS["halves"] is Halves
    source = open_source("dots")
    assert source.task.class_names == ("black", "white")
    assert NAMED["dots"].summary == "Forty white squares and black ones."
    check_method(Mine)
    check_strategy(Quiet)


def test_a_name_is_listed_without_its_package(installed: list[EntryPoint]) -> None:
    installed.append(EntryPoint("far", "no_such_package:Far", "attar.methods"))
    assert "far" in METHODS
    assert ("far", "of no_such_package") in catalogue.names("methods")
    assert "far" not in methods()
    with pytest.raises(ConfigError, match=r"method 'far' of no_such_package can't be loaded: ModuleNotFoundError"):
        METHODS["far"]


def test_what_is_none_of_its_kind_is_refused(installed: list[EntryPoint]) -> None:
    installed.append(point("methods", "wrong", "tiny"))
    with pytest.raises(ConfigError, match="is no method"):
        METHODS["wrong"]
    with pytest.raises(ConfigError, match="Hollow lacks init, source, Settings"):
        METHODS.add(Hollow)


def test_two_packages_with_one_name_are_told_apart_by_nobody(installed: list[EntryPoint]) -> None:
    installed += [point("methods", "mine", "Mine"), EntryPoint("mine", "another:Mine", "attar.methods")]
    with pytest.raises(ConfigError, match="both bring a method 'mine'"):
        METHODS["mine"]
    assert "mine" not in methods()


def test_our_own_name_wins(installed: list[EntryPoint]) -> None:
    installed.append(point("methods", "random", "Mine"))
    assert methods()["random"] is Random


def test_an_unknown_name_is_told_with_those_of_other_packages(installed: list[EntryPoint]) -> None:
    installed.append(EntryPoint("distributions", "far:Away", "attar.methods"))
    with pytest.raises(ConfigError, match="did you mean distributions"):
        METHODS.find("distribution")


def test_a_class_a_function_and_a_network_are_taken_in_place_of_names(tmp_path: Path) -> None:
    toy = TOY | {"evaluate.models": ["convnet-d1-w4"]}
    run = attar.distill("digits", Mine, 1, recipe="none", out=tmp_path / "run", settings=toy)
    assert run.records[0].n == 1
    judged = attar.evaluate(run.path, "digits", models=[tiny, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))], seeds=1)
    assert {record.model.partition("-")[0] for record in judged.records} == {"tiny", "Sequential"}
    trained = attar.train("digits", tiny, strategy=Quiet, settings={"epochs": 1}, keep=False)
    assert 0 <= trained.accuracies["validation"] <= 100


def test_a_network_is_made_anew_for_each_seed() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    name = NETWORKS.add(network)
    first, again, other = (build(name, TASK, seed=seed)[1].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, network[1].weight)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

    with pytest.raises(ConfigError, match="has parameters of its own"):
        build(NETWORKS.add(Own()), TASK)


def test_what_cannot_be_named_is_refused() -> None:
    with pytest.raises(ConfigError, match="lambda has no name"):
        NETWORKS.add(lambda task: tiny(task))
    with pytest.raises(ConfigError, match="network 'resnet18' already"):
        NETWORKS.add(Network("resnet18", tiny))
    with pytest.raises(ConfigError, match="method 'random' already"):
        METHODS.add(type("Other", (Random,), {"name": "random"}))
    with pytest.raises(ConfigError, match="is no network"):
        NETWORKS.add(3)
    with pytest.raises(ConfigError, match="made no network but int"):
        build(NETWORKS.add(_three), TASK)
    assert METHODS.add(Mine) == METHODS.add(Mine) == "mine"
    assert NAMED.add(NamedSource("dots", "squares", dots)) == "dots"


def _three(task: Task) -> int:
    return 3
