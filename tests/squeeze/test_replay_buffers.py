"""Experts of MTT and TESLA: read by what their programs write, the same networks, and told apart from others."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.data.loading import MemorySplit, RealSet
from attar.errors import ArtifactError, ConfigError, DataError
from attar.run.planning import plan
from attar.run.preparing import prepare
from attar.runtime.checkpoint import read_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.runtime.processes import Processes
from attar.squeeze.expert_files import ExpertSettings, list_experts
from attar.squeeze.replay_buffers import buffer_files, import_experts, is_buffers
from attar.squeeze.trajectories import Experts
from attar.task import Normalization, Task

ENGINE = Engine("cpu")
NET, WIDTH, SIZE = "convnet-d2-w6", 6, 8
TASK = Task(("a", "b", "c"), 3, SIZE, SIZE, Normalization((0.5,) * 3, (0.25,) * 3))


def their_network(width: int = WIDTH, norm: str = "instancenorm", seed: int = 0) -> nn.Module:
    """A ConvNet as their programs build it: modules in this order, instance normalisation as groups of one channel."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for here in (3, width):
        layers.append(nn.Conv2d(here, width, kernel_size=3, padding=1))
        if norm == "instancenorm":
            layers.append(nn.GroupNorm(width, width, affine=True))
        layers += [nn.ReLU(inplace=True), nn.AvgPool2d(kernel_size=2, stride=2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (SIZE // 4) ** 2, 3))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # no norm or bias as it was made
    return network


Epochs = list[list[Tensor]]


def trajectory(network: nn.Module, epochs: int = 4) -> Epochs:
    """Parameters after each epoch, the initialisation first, as `buffer.py` keeps them."""
    kept = [[p.detach().cpu().clone() for p in network.parameters()]]
    for _ in range(epochs):
        kept.append([p + 0.01 * torch.randn_like(p) for p in kept[-1]])
    return kept


def save(folder: Path, number: int, trajectories: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(trajectories, folder / f"replay_buffer_{number}.pt")
    return folder


def real_set(num: int = 30, labels: Sequence[int] | None = None) -> RealSet:
    pixels = torch.randint(0, 256, (num, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    given = torch.arange(num) % 3 if labels is None else torch.tensor(labels)
    return RealSet(MemorySplit(pixels.to(torch.uint8), given), TASK.normalization)


def load(out: Path, weights: Path, **changes: Any) -> list[str]:
    given: dict[str, Any] = {"engine": ENGINE, "events": Events(quiet=True), "task": TASK, "validation": real_set()}
    given |= {name: changes.pop(name) for name in list(changes) if name in given}
    settings = ExpertSettings(**{"model": NET, "num_experts": 1, "epochs": 3, "weights": str(weights)} | changes)
    return import_experts(given.pop("validation"), given.pop("task"), settings, folder=out, **given)


def experts(folder: Path, **changes: Any) -> Experts:
    return Experts(folder, TASK, ExpertSettings(**{"model": NET, "num_experts": 1, "epochs": 3} | changes), ENGINE)


@pytest.mark.parametrize(("norm", "model"), [("instancenorm", NET), ("none", f"{NET}-none")])
def test_an_expert_is_the_same_function_as_there(norm: str, model: str, tmp_path: Path) -> None:
    network = their_network(norm=norm)
    kept = trajectory(network)
    load(tmp_path / "run", save(tmp_path / "theirs", 0, [kept]), model=model)
    opened, images = experts(tmp_path / "run", model=model), torch.randn(5, 3, SIZE, SIZE)
    segment = opened.segment(0, 1, 3)
    for epoch, vector in ((1, segment.start), (3, segment.target)):
        for parameter, value in zip(network.parameters(), kept[epoch], strict=True):
            parameter.data = value
        assert torch.allclose(opened.flat(vector, images), network(images), atol=1e-6)
    assert opened.learning_rate == 0.01


def test_files_are_taken_by_number_and_experts_in_their_order(tmp_path: Path) -> None:
    kept = [trajectory(their_network(seed=k)) for k in range(5)]
    for number, part in ((0, kept[:2]), (10, kept[4:]), (2, kept[2:4])):
        save(tmp_path / "theirs", number, part)
    (tmp_path / "theirs" / "notes.pt").write_bytes(b"not one of them")
    assert [path.stem[-2:] for path in buffer_files(tmp_path / "theirs")] == ["_0", "_2", "10"]
    events = Events(tmp_path / "events.jsonl", quiet=True)
    names = load(tmp_path / "run", tmp_path / "theirs", num_experts=5, events=events)
    assert names == [f"expert-{k:04d}.safetensors" for k in range(5)]
    for k, name in enumerate(names):
        rows, note = read_tensors(tmp_path / "run" / name)
        assert rows["parameters"].shape[0] == 4
        assert torch.equal(rows["parameters"][3], torch.cat([p.flatten() for p in kept[k][3]]))
        assert note["imported"] == {
            "file": f"replay_buffer_{(0, 0, 2, 2, 10)[k]}.pt",
            "trajectory": (0, 1, 0, 1, 0)[k],
        }
        assert note["seed"] is None
    assert [(file.epochs, file.loss) for file in list_experts(tmp_path / "run")] == [(3, None)] * 5
    (event,) = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "imported"]
    assert 0 <= event["validation_accuracy"] <= 100
    assert str(tmp_path).encode() not in (tmp_path / "run" / names[0]).read_bytes()


def test_one_file_will_do_and_what_is_there_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "theirs", 3, [trajectory(their_network(seed=k)) for k in range(3)])
    file = folder / "replay_buffer_3.pt"
    load(tmp_path / "run", file, num_experts=1)
    before = (tmp_path / "run" / "expert-0000.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(Processes, "barrier", lambda *_: None)
    for rank in (1, 0):
        load(tmp_path / "run", file, num_experts=3, engine=Engine("cpu", processes=Processes(rank, 2)))
    assert (tmp_path / "run" / "expert-0000.safetensors").stat().st_mtime_ns == before
    assert len(list_experts(tmp_path / "run")) == 3
    assert is_buffers(file)
    assert is_buffers(folder)
    assert not is_buffers(tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "says", "fix"),
    [
        ({"num_experts": 3}, "holds 2 experts", "squeeze.num_experts=2"),
        ({"epochs": 5}, "trajectory 0 has 4 epochs", "squeeze.epochs=4"),
        (
            {"model": "convnet-d2-w8"},
            r"\(6, 3, 3, 3\) as parameter 0 and not \(8, 3, 3, 3\) \(features.0.weight\)",
            "w",
        ),
        ({"model": f"{NET}-none"}, "as parameter 2 and not", "convnet-dDEPTH-wWIDTH"),
        ({"model": "convnet-d3-w6"}, "as parameter 8 and not", "convnet-dDEPTH-wWIDTH"),
    ],
)
def test_other_networks_and_too_few_are_told(changes: dict[str, Any], says: str, fix: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "theirs", 0, [trajectory(their_network(seed=k)) for k in range(2)])
    with pytest.raises(ArtifactError, match=says) as caught:
        load(tmp_path / "run", folder, **changes)
    assert fix in caught.value.fix
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", [f"{NET}-group", f"{NET}-layer", "vgg11-small"])
def test_networks_that_are_another_function_there_are_refused(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "theirs", 0, [trajectory(their_network())])
    task = Task(TASK.class_names, 3, 32, 32, TASK.normalization) if name.startswith("vgg") else TASK
    with pytest.raises(ConfigError, match="are not taken for"):
        load(tmp_path / "run", folder, model=name, task=task)
    with pytest.raises(ConfigError, match="on images of 1 channels"):
        load(tmp_path / "run", folder, task=Task(TASK.class_names, 1, 8, 8, Normalization((0.5,), (0.2,))))


def test_what_is_no_expert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there are no experts at"):
        load(tmp_path / "run", tmp_path / "away")
    for number, odd in enumerate(([[torch.zeros(2)]], {"a": 1}, [3], [[[1.0]]], [])):
        with pytest.raises(ArtifactError, match=r"holds no experts|holds 0 experts|is not of convnet|has 0 epochs"):
            load(tmp_path / "run", save(tmp_path / f"odd-{number}", 0, odd))
    (tmp_path / "replay_buffer_0.pt").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ArtifactError, match="cannot be read as experts"):
        load(tmp_path / "run", tmp_path / "replay_buffer_0.pt")
    kept = trajectory(their_network())
    kept[2][0][0] = float("nan")
    with pytest.raises(ArtifactError, match="not finite numbers after epoch 2"):
        load(tmp_path / "run", save(tmp_path / "nan", 0, [kept]))
    assert not list((tmp_path / "run").glob("expert-*.safetensors"))


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    folder = save(tmp_path / "theirs", 0, [trajectory(their_network()), Hostile(tmp_path / "it-ran")])
    with pytest.raises(ArtifactError, match="nothing in it was run"):
        load(tmp_path / "run", folder)
    assert not (tmp_path / "it-ran").exists()


def test_another_order_of_classes_is_told(tmp_path: Path) -> None:
    network = their_network()
    kept, pixels = trajectory(network, 3), real_set(300)
    for parameter, value in zip(network.parameters(), kept[3], strict=True):
        parameter.data = value
    predicted = network(pixels.images(torch.arange(300))).argmax(1)
    folder = save(tmp_path / "theirs", 0, [kept])
    load(tmp_path / "good", folder, validation=real_set(300, predicted.tolist()))
    with pytest.raises(DataError, match="stand in another order"):
        load(tmp_path / "bad", folder, validation=real_set(300, ((predicted + 1) % 3).tolist()))


def test_a_run_takes_them(tmp_path: Path) -> None:
    """From files to segments that are matched: with the experts' normalisation as the task's."""
    from PIL import Image

    from attar import api

    for label in range(3):
        for place in range(12):
            path = tmp_path / "photographs" / f"class-{label}" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            values = torch.randint(0, 256, (SIZE, SIZE, 3), generator=torch.Generator().manual_seed(place)).byte()
            Image.fromarray(values.numpy()).save(path)
    folder = save(tmp_path / "theirs", 0, [trajectory(their_network(seed=k)) for k in range(2)])
    assigned = [
        "squeeze.num_experts=2",
        "squeeze.epochs=3",
        "source.normalization=cifar",
        "method.num_steps=2",
        "method.expert_epochs=2",
        "method.max_start_epoch=2",
        "recover.iterations=2",
        "train.epochs=1",
        "evaluate.seeds=1",
        "evaluate.baselines=[random]",
        f"squeeze.weights={folder}",
        f"squeeze.model={NET}",
    ]
    photographs = str(tmp_path / "photographs")
    prepared = prepare({"run": {"source": photographs, "ipc": 1}}, recipe="none", assignments=assigned, quiet=True)
    assert prepared.settings.run.method == "tesla"
    assert prepared.source.task.normalization == Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    made = plan(prepared.settings, prepared.source, ENGINE).estimates
    squeezed = next(one for one in made if one.stage == "squeeze")
    assert (squeezed.unit, squeezed.units) == ("experts read", 2)
    out = tmp_path / "run"
    api.distill(photographs, method="tesla", ipc=1, recipe="none", out=out, settings=assigned, until="recover")
    assert len(list_experts(out)) == 2
    assert (out / "recover" / "manifest.json").is_file()
