"""Cut networks: smaller, opened again without the library, trained a little; and those that cannot be cut."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attar.data.loading import MemorySplit, RealSet
from attar.errors import ArtifactError, ConfigError
from attar.models.factory import build, num_parameters
from attar.runtime.checkpoint import read_note, read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.squeeze.pool import PoolSettings, TrainedPool, make_pool
from attar.squeeze.pruning import prune, require_prunable
from attar.squeeze.resizing import resize
from attar.squeeze.teacher_files import open_network
from attar.task import Normalization, Task

pytest.importorskip("torch_pruning")
ENGINE = Engine("cpu")


def make_task(size: int = 16, channels: int = 3) -> Task:
    norm = Normalization((0.5,) * channels, (0.25,) * channels)
    return Task(tuple("abc"), channels, size, size, norm)


def make_set(task: Task, num: int = 24) -> RealSet:
    pixels = torch.randint(0, 256, (num, *task.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return RealSet(MemorySplit(pixels, torch.arange(num) % 3), task.normalization)


def squeeze(folder: Path, task: Task, settings: PoolSettings) -> TrainedPool:
    data, events = make_set(task), Events(quiet=True)
    make_pool(data, make_set(task, 9), task, settings, seed=0, folder=folder, engine=ENGINE, events=events)
    return TrainedPool(folder, task, settings, ENGINE)


def make_settings(**changes: Any) -> PoolSettings:
    plain = {"pool": "post", "model": "convnet-d2-w8-batch", "ratios": [0.25, 0.5], "epochs": 1, "tune_epochs": 1}
    return PoolSettings(**plain | {"batch_size": 8, "augment": "none"} | changes)


@pytest.mark.parametrize("name", ["resnet18-small", "mobilenet_v2", "convnet-d2-w8-batch"])
def test_what_is_cut_is_smaller_and_opened_again_from_its_state_alone(name: str) -> None:
    task = make_task(32 if name == "mobilenet_v2" else 16)
    network = build(name, task)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pruned = prune(network, 0.5, task)
    assert num_parameters(pruned) < 0.5 * num_parameters(network)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items()), "it is a copy"
    again, state = build(name, task, seed=1), pruned.state_dict()
    resize(again, state)
    again.load_state_dict(state)
    images = torch.randn(2, *task.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(again.eval()(images), pruned(images))
    same = prune(network, 0.5, task).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in state.items())
    convolution = next(module for module in again.modules() if isinstance(module, nn.Conv2d))
    assert convolution.out_channels == len(convolution.weight)


def test_the_channels_that_go_are_those_of_the_smallest_norm() -> None:
    task = make_task()
    network = build("convnet-d1-w8-batch", task)
    with torch.no_grad():
        next(network.parameters())[[1, 4, 6]] *= 0.01
    first = next(network.parameters())
    assert torch.equal(next(prune(network, 0.375, task).parameters()), first[[0, 2, 3, 5, 7]])


@pytest.mark.parametrize("name", ["shufflenet_v2_x1_0", "bnvit-d1-w24-p8"])
def test_a_network_that_cannot_be_cut_is_refused_before_any_training(name: str, tmp_path: Path) -> None:
    task = make_task(64)
    with pytest.raises(ConfigError, match="cannot be pruned") as caught:
        squeeze(tmp_path, task, make_settings(model=name, ratios=[0.7]))
    assert "squeeze.pool=prior" in caught.value.fix
    assert not list(tmp_path.iterdir())


def test_without_the_library_it_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    task, settings = make_task(), make_settings(ratios=[0.5])
    there = squeeze(tmp_path / "there", task, settings)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ConfigError, match=r"torch-pruning, which is not installed") as caught:
        squeeze(tmp_path / "new", task, settings)
    assert "attar[prune]" in caught.value.fix
    images = make_set(task).images(torch.arange(4))
    assert there.logits(images).shape == (4, 3), "what is there is opened without it"


def test_one_channel_cannot_be_halved() -> None:
    with pytest.raises(ConfigError, match="no layer has a channel to lose"):
        require_prunable("convnet-d1-w1-batch", make_task(), 0.5)


def test_copies_are_trained_on_and_stored_with_what_was_cut(tmp_path: Path) -> None:
    opened = squeeze(tmp_path / "tuned", make_task(), make_settings())
    names = [path.stem for path in opened.paths]
    assert names == ["member-00-pruned-5000", "member-00-pruned-2500", "member-00-pruned-0000"]
    sizes = [num_parameters(open_network(path, make_task()).network.requires_grad_()) for path in opened.paths]
    assert sizes[0] < sizes[1] < sizes[2]
    assert [read_note(path).get("pruned") for path in opened.paths] == [{"ratio": 0.5}, {"ratio": 0.25}, None]
    raw = squeeze(tmp_path / "raw", make_task(), make_settings(tune_epochs=0))
    weights = [read_tensors(pool.paths[0])[0]["classifier.weight"] for pool in (opened, raw)]
    assert not torch.equal(*weights)
    whole = [read_tensors(pool.paths[2])[0]["classifier.weight"] for pool in (opened, raw)]
    assert torch.equal(*whole)


def test_weights_from_elsewhere_keep_their_normalisation_when_cut(tmp_path: Path) -> None:
    task, model = make_task(), "convnet-d1-w8-batch"
    torch.save(build(model, task, seed=5).state_dict(), tmp_path / "mine.pt")
    given = {"model": model, "weights": str(tmp_path / "mine.pt"), "ratios": [0.5], "tune_epochs": 0}
    norm = {"weights_mean": (0.4, 0.4, 0.4), "weights_std": (0.2, 0.2, 0.2)}
    opened = squeeze(tmp_path / "pool", task, make_settings(**given, **norm))
    for path in opened.paths:
        network = open_network(path, task)
        assert network.note["renormalization"]["mean"] == [0.4, 0.4, 0.4]
        assert network.note["weights"] == "checkpoint"
        images = torch.randn(2, *task.shape)
        assert torch.allclose(network.whole(images), network.network(images * 1.25 + 0.5), atol=1e-5)


def test_other_sizes_in_a_layer_of_another_kind_are_told(tmp_path: Path) -> None:
    task = make_task()
    network = build("bnvit-d1-w24-p8", task)
    state = {key: value[:1] if value.ndim == 3 else value for key, value in network.state_dict().items()}
    state = {key: value[:, :1] if "pos_embed" in key else value for key, value in state.items()}
    path = tmp_path / "odd.safetensors"
    note = {"model": "bnvit-d1-w24-p8", "task": task.to_json(), "pruned": {"ratio": 0.5}}
    write_tensors(path, state, note)
    with pytest.raises(ArtifactError, match="other sizes in the file"):
        open_network(path, task)
