"""Experts: side by side or one by one, stopped and resumed, extended, and told apart by what made them."""

import json
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.data.loading import MemorySplit, RealSet
from attar.errors import ArtifactError, ConfigError, DivergedError
from attar.runtime.checkpoint import read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.runtime.processes import Processes
from attar.squeeze import experts, stacking, trajectories
from attar.squeeze.expert_files import ExpertSettings, Making, list_experts, read_expert
from attar.squeeze.experts import fastest, make_experts, measure
from attar.squeeze.trajectories import Experts, TrajectoryKnowledge
from attar.task import Normalization, Task

ENGINE = Engine("cpu")
NET = "convnet-d2-w8"
NORM = Normalization((0.5, 0.4), (0.25, 0.3))


def make_task(names: str = "abc", norm: Normalization = NORM) -> Task:
    return Task(tuple(names), 2, 8, 8, norm)


def make_set(num: int = 70, norm: Normalization = NORM) -> RealSet:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(num) % 3
    pixels = torch.randint(0, 120, (num, 2, 8, 8), generator=rng) + 60 * labels.view(-1, 1, 1, 1)
    return RealSet(MemorySplit(pixels.to(torch.uint8), labels), norm)


def make_settings(**changes: Any) -> ExpertSettings:
    return ExpertSettings(**{"model": NET, "num_experts": 3, "epochs": 3, "batch_size": 32} | changes)


def make(folder: Path, settings: ExpertSettings, **changes: Any) -> list[str]:
    given: dict[str, Any] = {"seed": 5, "engine": ENGINE, "events": Events(quiet=True)} | changes
    return make_experts(given.pop("data", make_set()), given.pop("task", make_task()), settings, folder=folder, **given)


def rows_of(folder: Path) -> list[Tensor]:
    return [read_tensors(file.path)[0]["parameters"] for file in list_experts(folder)]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class KilledError(Exception):
    """A kill."""


def stop_when(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, when: Callable[[Path], bool]) -> None:
    """Let a function of files stop at the first path that is said."""
    real = getattr(module, name)

    def stopping(path: Path, *rest: Any, **named: Any) -> None:
        if when(path):
            raise KilledError
        real(path, *rest, **named)

    monkeypatch.setattr(module, name, stopping)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-3, "schedule": "cosine", "warmup_epochs": 1},
        {"augment": "dsa", "augment_per": "image", "label_smoothing": 0.1},
        {"optimizer": "adamw", "learning_rate": 1e-3, "model": f"{NET}-none"},  # biases before a norm have no gradient
    ],
)
def test_stacked_is_one_by_one_but_for_rounding(tmp_path: Path, changes: dict[str, Any]) -> None:
    make(tmp_path / "one", make_settings(**changes))
    make(tmp_path / "stack", make_settings(**changes, experts_at_once=3))
    for one, stacked in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "stack"), strict=True):
        assert torch.equal(one[0], stacked[0])
        moved = (one[-1] - one[0]).norm()
        assert moved > 0.01
        assert (stacked - one).norm(dim=1).max() < 1e-4 * moved
    for one, stacked in zip(list_experts(tmp_path / "one"), list_experts(tmp_path / "stack"), strict=True):
        assert stacked.note["losses"] == pytest.approx(one.note["losses"], rel=1e-5)
        assert (one.note["stack"], stacked.note["stack"]) == (1, 3)


@pytest.mark.parametrize("model", ["convnet-d2-w4-none", "convnet-d2-w16-group", "convnet-d1-w4-layer"])
def test_every_norm_that_experts_may_have_can_be_stacked(tmp_path: Path, model: str) -> None:
    settings = make_settings(model=model, num_experts=2, epochs=1)
    make(tmp_path / "one", settings)
    make(tmp_path / "stack", settings.model_copy(update={"experts_at_once": 2}))
    for one, stacked in zip(rows_of(tmp_path / "one"), rows_of(tmp_path / "stack"), strict=True):
        assert torch.allclose(one, stacked, atol=1e-5)


def test_an_expert_does_not_depend_on_its_company(tmp_path: Path) -> None:
    make(tmp_path / "few", make_settings(num_experts=3, experts_at_once=2))
    make(tmp_path / "many", make_settings(num_experts=4, experts_at_once=2))
    assert len(list_experts(tmp_path / "few")) == 3
    few, many = bytes_of(tmp_path / "few"), bytes_of(tmp_path / "many")
    assert few == {name: many[name] for name in few}


@pytest.mark.parametrize("at_once", [1, 2])
def test_more_experts_leave_those_that_are_there_alone(tmp_path: Path, at_once: int) -> None:
    make(tmp_path / "grown", make_settings(num_experts=1, experts_at_once=at_once))
    first = next(path for path in (tmp_path / "grown").iterdir())
    before, stamp = first.read_bytes(), first.stat().st_mtime_ns
    make(tmp_path / "grown", make_settings(num_experts=4, experts_at_once=at_once))
    assert (first.read_bytes(), first.stat().st_mtime_ns) == (before, stamp)
    make(tmp_path / "whole", make_settings(num_experts=4, experts_at_once=at_once))
    assert bytes_of(tmp_path / "grown") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("where", ["epoch-0002", "expert-0000", "expert-0001"])
def test_resumed_is_unbroken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, where: str) -> None:
    monkeypatch.setattr(stacking, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr("attar.training.loop.CHECKPOINT_EVERY_S", 0.0)
    settings = make_settings(experts_at_once=at_once, momentum=0.9)
    make(tmp_path / "unbroken", settings)
    function = "write_tensors" if where.startswith("epoch") else "write_expert"
    with monkeypatch.context() as patch:
        stop_when(patch, experts, function, lambda path: path.stem == where)
        with pytest.raises(KilledError):
            make(tmp_path / "broken", settings)
    left = bytes_of(tmp_path / "broken")
    assert any(name.endswith("checkpoint.safetensors") for name in left)
    assert ("expert-0000.safetensors" in left) == (where == "expert-0001")
    make(tmp_path / "broken", settings)
    assert bytes_of(tmp_path / "broken") == bytes_of(tmp_path / "unbroken")


def test_an_expert_whose_first_file_could_not_be_written_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings(num_experts=1, epochs=1)
    make(tmp_path / "unbroken", settings)

    def full(path: Path, *_: Any) -> None:
        path.parent.mkdir(parents=True)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(experts, "write_tensors", full)
        with pytest.raises(KilledError):
            make(tmp_path / "broken", settings)
    make(tmp_path / "broken", settings)
    assert bytes_of(tmp_path / "broken") == bytes_of(tmp_path / "unbroken")


def test_a_stack_whose_files_are_being_cleared_is_begun_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(num_experts=1, experts_at_once=2, epochs=2)

    def half(folder: Path, **_: bool) -> None:
        (folder / "epoch-0001.safetensors").unlink()
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(experts.shutil, "rmtree", half)
        with pytest.raises(KilledError):
            make(tmp_path, settings)
    make(tmp_path, settings.model_copy(update={"num_experts": 2}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expert-0000.safetensors", "expert-0001.safetensors"]


def test_what_another_size_of_stacks_left_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_when(patch, experts, "write_expert", lambda path: True)
        with pytest.raises(KilledError):
            make(tmp_path / "changed", make_settings(experts_at_once=3))
    make(tmp_path / "changed", make_settings())
    make(tmp_path / "plain", make_settings())
    assert bytes_of(tmp_path / "changed") == bytes_of(tmp_path / "plain")


@pytest.mark.parametrize("at_once", [1, 2])
def test_processes_share_the_work_and_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(Processes, "barrier", lambda *_: None)
    settings = make_settings(num_experts=4, experts_at_once=at_once, epochs=1)
    for rank in (1, 0):
        make(tmp_path / "shared", settings, engine=Engine("cpu", processes=Processes(rank, 2)))
    make(tmp_path / "alone", settings)
    assert bytes_of(tmp_path / "shared") == bytes_of(tmp_path / "alone")


def test_each_expert_of_a_stack_tells_its_losses(tmp_path: Path) -> None:
    make(tmp_path, make_settings(experts_at_once=3), events=Events(tmp_path / "events.jsonl", quiet=True))
    found = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "epoch"]
    assert {(event["item"], event["step"]) for event in found} == {
        (f"expert-{k:04d}", epoch) for k in range(3) for epoch in (1, 2, 3)
    }


def test_a_stack_that_diverges_names_the_expert_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"expert-000\d has diverged") as caught:
        make(tmp_path, make_settings(experts_at_once=3, learning_rate=1e20, model="convnet-d2-w8-none"))
    assert "squeeze.learning_rate" in caught.value.fix
    kept = list(tmp_path.rglob("epoch-*.safetensors"))
    assert kept
    assert all(value.isfinite().all() for path in kept for value in read_tensors(path)[0].values())


@pytest.mark.parametrize(
    ("model", "says"), [("vgg11-small", "32 px"), ("convnet-d2-w8-batch", "state beside its parameters")]
)
def test_what_cannot_be_stacked_is_told_before_any_training(tmp_path: Path, model: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make(tmp_path, make_settings(model=model, experts_at_once=2))
    assert not list(tmp_path.iterdir())


def test_dropout_cannot_be_stacked() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(128, 3))
    found = stacking.why_not(model, (2, 8, 8), make_settings().training, ENGINE)
    assert found is not None
    assert "torch cannot stack it" in found


class Warns(torch.nn.Module):
    """Warns as torch does where a GPU multiplies for the first time in a thread."""

    def forward(self, images: Tensor) -> Tensor:
        warnings.warn("Attempting to run cuBLAS, but there was no current CUDA context!", stacklevel=1)
        return images


class OneByOne(torch.nn.Module):
    """An operation that torch knows no stack of."""

    def forward(self, images: Tensor) -> Tensor:
        return images.renorm(2, 0, 1.0)


@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")
def test_of_what_torch_warns_only_work_one_by_one_is_no_stack() -> None:
    for layer, stacks in ((Warns(), True), (OneByOne(), False)):
        model = torch.nn.Sequential(torch.nn.Flatten(), layer, torch.nn.Linear(128, 3))
        found = stacking.why_not(model, (2, 8, 8), make_settings().training, ENGINE)
        assert stacks == (found is None), found


def test_settings_that_cannot_be_stacked_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"ema=0\.99 is for one network"):
        make_settings(experts_at_once=2, ema=0.99)
    for changes in ({"optimizer": "rmsprop"}, {"cutmix": 0.5}, {"label_noise": 0.2}):
        with pytest.raises(ValueError, match=f"{next(iter(changes))}=.* is for one network"):
            make_settings(experts_at_once=2, **changes)
    with pytest.raises(ValueError, match="at least 1"):
        make_settings(experts_at_once=0)
    assert make_settings(ema=0.99).experts_at_once == "auto"
    assert set(ExpertSettings.model_fields) >= stacking.HANDLED


def test_auto_on_a_cpu_is_one_by_one(tmp_path: Path) -> None:
    make(tmp_path, make_settings(num_experts=2, epochs=1))
    assert [file.note["stack"] for file in list_experts(tmp_path)] == [1, 1]
    assert not (tmp_path / "at-once.json").exists()


def test_what_auto_chose_elsewhere_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine("cpu")
    monkeypatch.setattr(engine, "device", type("Gpu", (), {"type": "elsewhere"})())
    making = Making(NET, make_settings().training, make_task(), 5, "32-true")
    work = experts._Work(make_set(), making, tmp_path, engine, Events(quiet=True))
    monkeypatch.setattr(experts._Work, "_why_not", lambda self: None)
    monkeypatch.setattr(experts, "measure", lambda *rest: {1: 1.0, 2: 1.0, 5: 2.0})
    assert work.at_once(make_settings(num_experts=10)) == 5
    monkeypatch.setattr(experts, "measure", lambda *rest: {1: 1.0, 2: 0.1})
    assert work.at_once(make_settings(num_experts=20)) == 5
    assert json.loads((tmp_path / "at-once.json").read_text())["step_s"] == {"1": 1.0, "2": 1.0, "5": 2.0}


def test_the_size_that_ends_first_is_chosen() -> None:
    assert fastest(10, {1: 1.0, 2: 1.2, 5: 2.0, 10: 5.0}) == 5
    assert fastest(3, {1: 1.0, 2: 1.2, 5: 2.0, 10: 5.0}) == 5
    assert fastest(2, {1: 1.0, 2: 1.2, 5: 2.0, 10: 5.0}) == 2
    assert fastest(10, {1: 1.0, 2: 1.9}) == 1  # not worth it


def test_sizes_are_measured_on_the_real_step() -> None:
    making = Making(NET, make_settings().training, make_task())
    data = make_set()
    some = experts.TensorSet(data.images(torch.arange(64)), data.targets(torch.arange(64)))
    found = measure(some, making, (1, 2), ENGINE)
    assert set(found) == {1, 2}
    assert all(seconds > 0 for seconds in found.values())


def test_the_file_says_what_made_it(tmp_path: Path) -> None:
    settings = make_settings(num_experts=1, momentum=0.5)
    make(tmp_path, settings)
    (found,) = list_experts(tmp_path)
    assert (found.expert, found.model, found.epochs) == (0, NET, 3)
    assert found.note["task"] == json.loads(json.dumps(make_task().to_json()))
    assert found.note["training"]["momentum"] == 0.5
    assert found.loss == found.note["losses"][-1]
    assert found.num_bytes == found.path.stat().st_size > 4 * 4 * found.num_parameters


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("classes", {"task": make_task("bac")}, "class 0"),
    (
        "normalisation",
        {"task": make_task(norm=Normalization((0.5, 0.5), (0.25, 0.3)))},
        "another normalisation",
    ),
    ("network", {"settings": make_settings(model="convnet-d1-w8", num_experts=2)}, "is a convnet-d2-w8"),
    ("rate", {"settings": make_settings(learning_rate=0.02, num_experts=2)}, r"learning_rate: was 0.01, now"),
    ("epochs", {"settings": make_settings(epochs=4, num_experts=2)}, "epochs: was 3, now 4"),
]


@pytest.mark.parametrize(("changes", "says"), [case[1:] for case in OTHERS], ids=[case[0] for case in OTHERS])
def test_experts_of_something_else_are_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    make(tmp_path, make_settings(num_experts=1))
    before = bytes_of(tmp_path)
    given = {"settings": make_settings(num_experts=2), "task": make_task()} | changes
    with pytest.raises(ArtifactError, match=says):
        make(tmp_path, **given)
    assert bytes_of(tmp_path) == before
    with pytest.raises(ArtifactError, match=says):
        Experts(tmp_path, given["task"], given["settings"].model_copy(update={"num_experts": 1}), ENGINE)


def test_another_seed_or_precision_is_told_where_experts_are_made(tmp_path: Path) -> None:
    make(tmp_path, make_settings(num_experts=1))
    with pytest.raises(ArtifactError, match="seed"):
        make(tmp_path, make_settings(num_experts=2), seed=6)
    with pytest.raises(ArtifactError, match="precision: was 32-true, now bf16-mixed"):
        make(tmp_path, make_settings(num_experts=2), engine=Engine("cpu", "bf16-mixed"))


def test_a_setting_that_came_later_was_at_its_default(tmp_path: Path) -> None:
    make(tmp_path, make_settings(num_experts=1, epochs=1))
    path = tmp_path / "expert-0000.safetensors"
    tensors, note = read_tensors(path)
    del note["training"]["label_smoothing"]
    write_tensors(path, tensors, note)
    read_expert(path).require(Making(NET, make_settings(epochs=1).training, make_task()))
    other = Making(NET, make_settings(epochs=1, label_smoothing=0.1).training, make_task())
    with pytest.raises(ArtifactError, match=r"label_smoothing: was 0, now 0\.1"):
        read_expert(path).require(other)
    note["training"]["not_known_yet"] = 1
    write_tensors(path, tensors, note)
    with pytest.raises(ArtifactError, match="does not know"):
        read_expert(path).require(other)


def test_a_file_that_does_not_say_what_it_is_of_is_no_expert(tmp_path: Path) -> None:
    make(tmp_path, make_settings(num_experts=1))
    path = tmp_path / "expert-0000.safetensors"
    tensors, note = read_tensors(path)
    del note["losses"]
    write_tensors(path, tensors, note)
    assert read_expert(path).loss is None
    knowledge = Experts(tmp_path, make_task(), make_settings(num_experts=1), ENGINE)
    assert torch.equal(knowledge.segment(0, 1, 3).target, tensors["parameters"][3])
    write_tensors(path, tensors, note | {"model": "convnet-d2-w4"})
    with pytest.raises(ArtifactError, match="is a convnet-d2-w4"):
        Experts(tmp_path, make_task(), make_settings(num_experts=1), ENGINE)
    write_tensors(path, tensors, {"seed": note["seed"], "model": NET})
    with pytest.raises(ArtifactError, match="it does not say its task and training"):
        Experts(tmp_path, make_task(), make_settings(num_experts=1), ENGINE)


def test_labels_are_the_mean_over_experts_and_epochs_in_any_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, make_settings(num_experts=2, learning_rate=0.1))
    experts = Experts(tmp_path, make_task(), make_settings(num_experts=2, learning_rate=0.1), ENGINE)
    images = torch.randn(7, 2, 8, 8, generator=torch.Generator().manual_seed(1))

    def mean(epochs: Sequence[int]) -> Tensor:
        found = [experts.flat(rows[epoch], images).softmax(1) for rows in rows_of(tmp_path) for epoch in epochs]
        return torch.stack(found).mean(0).detach()

    for epochs in ([1, 2], [3], range(1, 4)):
        labeller = experts.labeller(epochs)
        soft = labeller.soft_labels(images)
        assert torch.allclose(soft, mean(epochs), atol=1e-6)
        assert torch.allclose(labeller.logits(images).softmax(1), soft, atol=1e-6)
        with monkeypatch.context() as patched:
            patched.setattr(trajectories, "BATCH", 3)
            assert torch.allclose(labeller.soft_labels(images), soft, atol=1e-6)
    assert (mean([1, 2]) - mean([3])).abs().max() > 1e-3
    finished = TrajectoryKnowledge().labeller(experts, "all").soft_labels(images)
    assert torch.allclose(finished, mean([3]), atol=1e-6)


def test_experts_that_label_are_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, make_settings())
    experts = Experts(tmp_path, make_task(), make_settings(), ENGINE)
    read, alive, real = list[weakref.ref[Tensor]](), list[int](), experts.rows

    def watched(expert: int, epochs: Iterable[int]) -> Iterator[Tensor]:
        rows = real(expert, epochs)
        while (row := next(rows, None)) is not None:
            read.append(weakref.ref(row))
            alive.append(sum(ref() is not None for ref in read))
            yield row

    monkeypatch.setattr(experts, "rows", watched)
    experts.labeller(range(4)).soft_labels(torch.zeros(2, 2, 8, 8))
    assert len(read) == 3 * 4
    assert max(alive) <= 2, "the one that is read, and the one before until it is there"


def test_a_missing_or_foreign_file_is_told_when_experts_are_opened(tmp_path: Path) -> None:
    make(tmp_path, make_settings(num_experts=1, epochs=1))
    with pytest.raises(ArtifactError, match=r"expert-0001\.safetensors is missing"):
        Experts(tmp_path, make_task(), make_settings(num_experts=2, epochs=1), ENGINE)
    _, note = read_tensors(tmp_path / "expert-0000.safetensors")
    write_tensors(tmp_path / "expert-0001.safetensors", {"parameters": torch.zeros(2, 5)}, note)
    with pytest.raises(ArtifactError, match="5 parameters an epoch"):
        Experts(tmp_path, make_task(), make_settings(num_experts=2, epochs=1), ENGINE)
    (tmp_path / "expert-0001.safetensors").write_bytes(b"none of ours")
    with pytest.raises(ArtifactError, match="cannot be read as an expert"):
        make(tmp_path, make_settings(num_experts=2, epochs=1))


def test_an_empty_folder_holds_no_experts(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished experts"):
        list_experts(tmp_path)
