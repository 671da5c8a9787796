"""Every kind of knowledge passes the same battery; one from outside goes through the whole pipeline."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attar
from attar.config import Config
from attar.data.loading import SubsetSplit
from attar.data.sources import Source, open_source
from attar.errors import ConfigError
from attar.methods import METHODS
from attar.methods.coreset import Random
from attar.models.factory import build
from attar.run.preparing import prepare
from attar.run.settings import resolve
from attar.runtime.checkpoint import read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.squeeze.knowledge import KINDS, Kind, Knowledge, Members, kinds, knowledge
from attar.squeeze.rehearsal import Estimate, Rehearsal
from attar.task import Task

PACKAGE = Path(attar.__file__).parent
ENGINE = Engine("cpu")
SMALL: dict[str, dict[str, Any]] = {
    "none": {},
    "teacher": {"model": "convnet-d1-w4-batch", "more_models": ("convnet-d1-w4",), "epochs": 3},
    "pool": {"model": "convnet-d1-w4-batch", "epochs": 3, "num_members": 3},
    "trajectories": {"model": "convnet-d1-w4", "epochs": 2, "num_experts": 3},
}


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source("digits")


def cut(source: Source, few: Tensor) -> Source:
    nothing = SubsetSplit(source.validation, torch.arange(0))
    return replace(source, train=SubsetSplit(source.train, few), validation=nothing)


def make(kind: Kind, source: Source, settings: Config, folder: Path) -> list[str]:
    return kind.make(source, settings, seed=0, folder=folder, engine=ENGINE, events=Events(quiet=True))


@pytest.mark.parametrize("name", kinds())
def test_a_stand_in_is_made_opened_and_asked_like_the_knowledge(name: str, source: Source, tmp_path: Path) -> None:
    kind = knowledge(name)
    wanted = kind.Settings(**SMALL[name])
    settings, few = kind.stand_in(wanted, source.train.labels, source.task.num_classes)
    assert type(settings) is kind.Settings
    assert len(few) <= 32
    names = make(kind, cut(source, few), settings, tmp_path)
    assert sorted(names) == sorted(path.name for path in tmp_path.glob("*.safetensors"))
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in names}
    assert make(kind, cut(source, few), settings, tmp_path) == names
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in names} == before, "what is there is not made again"
    opened = kind.open(settings, source.task, tmp_path, ENGINE)
    labeller = kind.labeller(opened, "all")
    assert (labeller is not None) == kind.gives_labels
    if labeller is not None:
        soft = labeller.soft_labels(torch.zeros(2, *source.task.shape))
        assert soft.shape == (2, 10)
        assert torch.allclose(soft.sum(1).cpu(), torch.ones(2))
    num = kind.num_labellers(wanted)
    if num:
        assert num == kind.num_labellers(settings), "a stand-in has as many networks to choose among"
        files = [path.name for path in kind.labeller(opened, [num - 1]).paths]  # type: ignore[union-attr]
        assert len(files) == 1
        assert set(files) < set(names)


@pytest.mark.parametrize("name", kinds())
def test_a_rehearsal_estimates_every_network(name: str, source: Source, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Rehearsal, "unit_s", staticmethod(lambda work, most=2: (work(1), 0.5)[1]))
    kind = knowledge(name)
    wanted = kind.Settings(**SMALL[name])
    settings, few = kind.stand_in(wanted, source.train.labels, source.task.num_classes)
    make(kind, cut(source, few), settings, tmp_path)
    found = kind.rehearse(wanted, Rehearsal(cut(source, torch.arange(200)), ENGINE, tmp_path))
    assert bool(found) == bool(kind.networks(wanted))
    trained = [estimate for estimate in found if estimate.unit == "training steps"]
    assert len(trained) == len(kind.networks(wanted))
    num_trainings = 3 if name == "trajectories" else 1
    for estimate in trained:
        assert estimate.units == num_trainings * wanted.epochs * -(-200 // wanted.batch_size)
        assert estimate.unit_s > 0
        assert estimate.disk_bytes > 0
    for network in kind.networks(wanted):
        kind.require_network(build(network, source.task))
    assert set(kind.guides(wanted)) <= set(kind.networks(wanted))


def test_only_experts_need_a_network_whose_parameters_are_its_state(source: Source) -> None:
    batch = build("convnet-d1-w4-batch", source.task)
    knowledge("teacher").require_network(batch)
    with pytest.raises(ConfigError):
        knowledge("trajectories").require_network(batch)


@pytest.mark.parametrize(
    ("assigned", "method", "why"),
    [
        (["squeeze.pool=post", "squeeze.ratios=[]"], "teddy", "a pool"),
        (["more_models=[resnet18]"], "sre2l", "is a teacher"),
        (["squeeze.model=convnet-d2-w8-batch"], "sre2l", "is a teacher"),
        (["squeeze.model=convnet-d2-w8"], "tesla", "trajectory matching"),
        (["squeeze.weights={}"], "tesla", "are experts"),
    ],
)
def test_what_is_given_for_squeeze_tells_which_method_is_meant(
    assigned: list[str], method: str, why: str, tmp_path: Path
) -> None:
    (buffers := tmp_path / "replay_buffer_0.pt").touch()
    assignments = [one.format(buffers) for one in assigned]
    found = prepare({"run": {"source": "digits"}}, recipe="none", assignments=assignments, quiet=True)
    assert found.settings.run.method == method
    assert found.why[0].startswith(f"{method}: " if why != "trajectory matching" else "tesla for")
    assert why in found.why[0]


def test_an_unknown_kind_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"kind of knowledge 'trajectory'") as caught:
        knowledge("trajectory")
    assert "did you mean trajectories?" in str(caught.value)


class MeanSettings(Config):
    """How the mean is taken."""

    scale: float = 1.0
    """What distances are multiplied by."""


class Means:
    """The mean image of each class, which labels by its distance."""

    def __init__(self, means: Tensor) -> None:
        self.means = means

    def logits(self, images: Tensor) -> Tensor:
        """Logits (b, classes)."""
        return -(images.flatten(1)[:, None] - self.means).square().mean(2)

    def soft_labels(self, images: Tensor) -> Tensor:
        """Probabilities (b, classes)."""
        return self.logits(images).softmax(1)


class MeanKnowledge(Knowledge[MeanSettings, Means]):
    """A kind that another package might bring."""

    name = "means"
    Settings = MeanSettings

    def make(
        self, source: Source, settings: MeanSettings, *, seed: int, folder: Path, engine: Engine, events: Events
    ) -> list[str]:
        images = source.task.normalization.normalize(source.train.pixels(torch.arange(len(source.train))))
        means = torch.stack([images[source.train.labels == k].flatten(1).mean(0) for k in range(10)])
        if engine.leads:
            write_tensors(folder / "means.safetensors", {"means": settings.scale * means}, {})
        engine.barrier()
        return ["means.safetensors"]

    def open(self, settings: MeanSettings, task: Task, folder: Path, engine: Engine) -> Means:
        return Means(read_tensors(folder / "means.safetensors")[0]["means"])

    def stand_in(self, settings: MeanSettings, labels: Tensor, num_classes: int) -> tuple[MeanSettings, Tensor]:
        return settings, torch.arange(50)

    def rehearse(self, settings: MeanSettings, rehearsal: Rehearsal) -> list[Estimate]:
        return [Estimate("squeeze", "images", len(rehearsal.source.train), 1e-6, rehearsal.num_bytes)]

    def labeller(self, opened: Means, members: Members) -> Means:
        return opened

    def meant_by(self, given: Any) -> str | None:
        return "it is the method that looks at means" if "scale" in given else None


class Nearest(Random):
    """Random images, which the means may label."""

    name = "nearest"
    knowledge = "means"


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KINDS, "_added", {})
    monkeypatch.setattr(METHODS, "_added", {})
    KINDS.add(MeanKnowledge)
    METHODS.add(Nearest)


TOY = {
    "relabel.labels": "epochs",
    "recover.iterations": 0,
    "train.epochs": 2,
    "evaluate.models": ["convnet-d1-w4"],
    "evaluate.seeds": 1,
    "evaluate.full_epochs": 1,
    "source.train_per_class": 10,
}


@pytest.mark.usefixtures("outside")
def test_a_kind_from_outside_is_squeezed_planned_and_labels(tmp_path: Path) -> None:
    made = attar.distill("digits", "nearest", 1, recipe="none", out=tmp_path / "run", settings=TOY)
    assert (tmp_path / "run/squeeze/means.safetensors").is_file()
    assert made.load().label_kind == "epochs"
    planned = attar.plan("digits", "nearest", 1, recipe="none", settings=TOY)
    squeezed = next(estimate for estimate in planned.estimates if estimate.stage == "squeeze")
    assert squeezed.units == 100
    meant = prepare({"run": {"source": "digits"}}, recipe="none", assignments=["squeeze.scale=2"], quiet=True)
    assert meant.why[0] == "nearest: it is the method that looks at means"
    with pytest.raises(ConfigError, match="nearest squeezes none"):
        resolve({"run": {"source": "digits", "method": "nearest"}}, ["relabel.labels=online"])


@pytest.mark.usefixtures("outside")
def test_a_name_is_given_once() -> None:
    assert KINDS.add(MeanKnowledge()) == "means"

    class Other(MeanKnowledge):
        """Another of the same name."""

    Other.name = "teacher"
    with pytest.raises(ConfigError, match="already"):
        KINDS.add(Other)


def test_no_kind_is_known_outside_its_room() -> None:
    """Nobody else imports a kind's settings or object, or compares with its name."""
    named = {type(kind).__name__ for kind in kinds().values()} | {kind.Settings.__name__ for kind in kinds().values()}
    own = {"pool", "trajectories"}  # a teacher is a kind of labels as well, and `none` of much else
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "squeeze":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not {alias.name for alias in node.names} & named, path
            if isinstance(node, ast.Compare):
                parts = [node.left, *node.comparators]
                literals = {part.value for part in parts if isinstance(part, ast.Constant)}
                asked = {part.attr for part in parts if isinstance(part, ast.Attribute)}
                needs = any(isinstance(part, ast.Call) and ast.unparse(part.func).endswith("needs") for part in parts)
                assert not literals & own, (path, ast.unparse(node))
                assert not (literals and ("knowledge" in asked or needs)), (path, ast.unparse(node))


@pytest.mark.parametrize(
    ("brief", "each_s", "calls"), [(True, 20.0, [1]), (True, 1.0, [1, 1]), (False, 5.0, [1, 1, 3])]
)
def test_units_that_take_long_are_measured_over_few(
    brief: bool, each_s: float, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    done, now_s = list[int](), [0.0]

    def work(num: int) -> None:
        done.append(num)
        now_s[0] += each_s * num

    monkeypatch.setattr("attar.squeeze.rehearsal.time.perf_counter", lambda: now_s[0])
    source = attar.open("digits", quiet=True)
    assert Rehearsal(source, Engine("cpu"), Path(), brief).unit_s(work) == pytest.approx(each_s)
    assert done == calls


def test_a_unit_takes_as_long_as_the_device_works_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is given work at once and does it in its own time; what is measured has been done."""
    now_s, given = [0.0], list[int]()

    def finish(device: torch.device) -> None:
        now_s[0] += 3.0 * sum(given)
        given.clear()

    monkeypatch.setattr("attar.squeeze.rehearsal.time.perf_counter", lambda: now_s[0])
    monkeypatch.setattr(torch.cuda, "synchronize", finish)
    engine = Engine("cpu")
    engine.device = torch.device("cuda")
    source = attar.open("digits", quiet=True)
    assert Rehearsal(source, engine, Path()).unit_s(given.append) == pytest.approx(3.0)
