"""Names of the same parts in other programs: each layout is a network of its own here, and must compute alike."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.errors import ArtifactError
from attar.models.weight_names import renamed, without_prefix
from attar.models.weights import load_weights, num_channels, read_weights
from attar.task import Normalization, Task

TASK = Task(tuple("abcde"), 3, 16, 16, Normalization((0.5,) * 3, (0.25,) * 3))


class Padded(nn.Module):
    """The parameterless shortcut of option A."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, x.shape[1] // 2, x.shape[1] // 2))


class Block(nn.Module):
    """A basic block in the layout of most programs for CIFAR."""

    def __init__(self, here: int, there: int, stride: int, projected: bool, name: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(here, there, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(there)
        self.conv2 = nn.Conv2d(there, there, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(there)
        self.way: nn.Module = nn.Sequential()
        if stride > 1 or here != there:
            changes = nn.Sequential(nn.Conv2d(here, there, 1, stride, bias=False), nn.BatchNorm2d(there))
            self.way = changes if projected else Padded()
        self.add_module(name, self.way)
        del self.way
        self.way_name = name

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.get_submodule(self.way_name)(x))


class Theirs(nn.Module):
    """A ResNet of basic blocks, one of each stage, its parts named as others do."""

    def __init__(self, widths: list[int], projected: bool, last: str, name: str, blocks: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        here = widths[0]
        self.num = len(widths)
        for stage, width in enumerate(widths, 1):
            made = [Block(here, width, 1 if stage == 1 else 2, projected, name)]
            made += [Block(width, width, 1, projected, name) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*made))
            here = width
        self.last = last
        self.add_module(last, nn.Linear(here, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.num + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.get_submodule(self.last)(x.mean((2, 3)))
        return logits


def used(network: nn.Module) -> nn.Module:
    """With statistics of its own in every BatchNorm."""
    torch.manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.weight, module.bias):
                assert isinstance(values, Tensor)
                values.data = torch.randn_like(values)
            assert isinstance(module.running_var, Tensor)
            module.running_var.data = torch.rand_like(module.running_var) + 0.5
    return network.eval()


def load(state: Any, name: str, folder: Path) -> nn.Module:
    torch.save(state, folder / "mine.pth")
    weights = read_weights(str(folder / "mine.pth"), name, TASK)
    assert num_channels(weights, name, TASK) == 3
    return load_weights(weights, name, TASK, 3)[0].eval()


@pytest.mark.parametrize(
    ("last", "shortcut", "wrap"),
    [
        ("linear", "shortcut", lambda state: {"net": {f"module.{k}": v for k, v in state.items()}, "acc": 90.1}),
        ("fc", "downsample", lambda state: {"state_dict": state}),
        ("classifier", "shortcut", lambda state: {f"module.model.{k}": v for k, v in state.items()}),
    ],
)
def test_a_cifar_resnet_without_parameters_in_its_shortcuts(
    last: str, shortcut: str, wrap: Callable[[Any], Any], tmp_path: Path
) -> None:
    theirs = used(Theirs([16, 32, 64], False, last, shortcut))
    ours, images = load(wrap(theirs.state_dict()), "resnet8-cifar", tmp_path), torch.randn(3, 3, 16, 16)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)


def in_ten(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Another layout in wide use: conv2_x.0.residual_function.0."""
    inner = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}
    found = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            parts[:1] = ["conv1", "0" if parts[0] == "conv1" else "1"]
        elif parts[0].startswith("layer"):
            parts[0] = f"conv{int(parts[0][-1]) + 1}_x"
            if parts[2] in inner:
                parts[2:3] = ["residual_function", str(inner[parts[2]])]
        found[".".join(parts)] = value
    return found


@pytest.mark.parametrize("layout", ["linear", "fc", "in ten"])
def test_a_resnet_18_with_projections_in_its_shortcuts(layout: str, tmp_path: Path) -> None:
    last = "linear" if layout == "linear" else "fc"
    theirs = used(Theirs([64, 128, 256, 512], True, last, "shortcut", blocks=2))
    state = in_ten(theirs.state_dict()) if layout == "in ten" else theirs.state_dict()
    assert ("conv5_x.0.shortcut.0.weight" in state) == (layout == "in ten")
    ours, images = load({"net": state, "epoch": 3}, "resnet18-small", tmp_path), torch.randn(2, 3, 16, 16)
    assert torch.allclose(ours(images), theirs(images), rtol=1e-4, atol=1e-3)


def test_a_network_with_other_shortcuts_is_another_network(tmp_path: Path) -> None:
    theirs = Theirs([16, 32, 64], True, "linear", "shortcut")
    with pytest.raises(ArtifactError, match=r"it has layer2.0.shortcut.0.weight.* besides"):
        load(theirs.state_dict(), "resnet8-cifar", tmp_path)


def test_names_that_say_nothing_or_that_two_parts_share_are_left_alone() -> None:
    one = torch.zeros(1)
    assert renamed({"linear.weight": one}, ["fc.weight"]).keys() == {"fc.weight"}
    assert renamed({"linear.weight": one, "head.weight": one}, ["fc.weight"]).keys() == {"linear.weight", "head.weight"}
    assert renamed({"neck.weight": one}, ["fc.weight"]).keys() == {"neck.weight"}
    assert renamed({"fc.weight": one, "linear.weight": one}, ["fc.weight"]).keys() == {"fc.weight", "linear.weight"}
    assert without_prefix({"module.linear.weight": one}, ["fc.weight"]).keys() == {"linear.weight"}
    assert without_prefix({"a.neck.weight": one, "b.x": one}, ["fc.weight"]).keys() == {"a.neck.weight", "b.x"}
