"""Trainings in several processes; started as a script by those that a launcher starts, with a folder for results.

Every process leaves what it ended with in `SCENE-RANK.safetensors`, and the first a checkpoint, `SCENE.safetensors`.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attar.data.loading import TensorSet
from attar.errors import AttarError
from attar.models.convnet import ConvNet
from attar.runtime.checkpoint import write_tensors
from attar.runtime.engine import Engine
from attar.runtime.files import write_json
from attar.runtime.processes import launched
from attar.runtime.seeding import scoped
from attar.runtime.team import Team, shared_device, team
from attar.training import loop
from attar.training.distributed import Gradients, average_statistics, unused_parameters
from attar.training.loop import FitResult, accuracy, fit
from attar.training.section import TrainSection
from attar.training.strategies import Batch, Part, make_strategy
from attar.training.strategies.ce import CrossEntropy
from attar.training.strategies.dlb import DLB

NUM_IMAGES = {"ce": 18, "dlb": 18, "ps-kd": 10, "dlb+ddgsd": 18, "dlb+ps-kd": 10}
"""So many that the last batch of an epoch has two images, which the first process has alone."""
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "norms": ("batch", {"sync_batch_norm": True}),
    "wide": ("none", {"strategy": "dlb", "batch_size": 16}),
}
SCENES: dict[str, tuple[str, dict[str, Any]]] = {
    "ce": ("none", {"batch_size": 4, "accumulate": 2, "ema": 0.9, "nesterov": True}),
    "dlb": ("none", {"strategy": "dlb"}),
    "ps-kd": ("none", {"strategy": "ps-kd", "batch_size": 4}),
    "dlb+ddgsd": ("none", {"strategy": "dlb+ddgsd", "batch_size": 16, "ddgsd": {"mu": 0}}),
    "dlb+ps-kd": ("none", {"strategy": "dlb+ps-kd", "learning_rate": 0.5}),
    "batch": ("batch", {"strategy": "byot+dlb", "cutmix": 0.5, "randaugment": 0, "ema": 0.5}),
    "mixskd": ("batch", {"strategy": "mixskd", "batch_size": 16}),
}
"""Normalisation of the network, and settings."""


class StopError(Exception):
    pass


class Watched(DLB):
    """DLB that compares what it remembers with what it saw; `num_seen` steps had a shared half."""

    num_seen = 0
    _before: tuple[Tensor, Tensor] | None = None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        remembered, num = self.memory(), len(self.memory()["indices"])
        if self._before is not None:
            assert torch.equal(remembered["indices"], self._before[0])
            assert torch.equal(remembered["logits"], self._before[1])
            assert torch.equal(batch.indices[:num], self._before[0])
            assert not remembered["logits"].requires_grad
            Watched.num_seen += num > 0
        logits = self.look(model, batch)
        term = self.term(logits, batch)
        self._before = batch.indices[num:], logits[num:].detach()
        loss = self.supervised(logits, batch)
        return loss if term is None else loss + term


def make_net(norm: Any) -> nn.Module:
    with scoped(0, "net"):
        return ConvNet(3, 1, 8, 8, depth=2, width=4, norm=norm)


def make_data(num: int) -> TensorSet:
    return TensorSet(torch.randn(num, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(num) % 3)


def train(scene: str, members: Team, checkpoint: Path, **options: Any) -> tuple[FitResult, dict[str, Tensor]]:
    """Train as the scene says; what `fit` gives, and the network's state."""
    norm, changes = (SCENES | OTHERS)[scene]
    basis: dict[str, Any] = {"epochs": 4, "batch_size": 8, "learning_rate": 0.1, "augment": "flip_crop_scale"}
    settings = TrainSection(**basis | {"augment_per": "image"} | changes)
    data, model, engine = make_data(NUM_IMAGES.get(scene, 24)), make_net(norm), Engine("cpu", processes=launched())
    found = fit(model, data, settings, seed=2, engine=engine, checkpoint=checkpoint, team=members, **options)
    percent = accuracy(model, data, engine, batch_size=4, team=members)
    return found, model.state_dict() | {"accuracy": torch.tensor(percent)}


def stop_after_two(epoch: int) -> None:
    if epoch == 3:
        raise StopError


def play_all(folder: Path, members: Team, scenes: Iterable[str] = SCENES) -> None:
    """Each scene once unbroken and once stopped and resumed; whatever its end is, once."""
    for scene in scenes:
        found, state = train(scene, members, folder / f"{scene}.safetensors")
        write_tensors(folder / f"{scene}-{members.rank}.safetensors", state, {"losses": found.losses})
        try:
            train(scene, members, folder / f"{scene}-resumed.safetensors", after_epoch=stop_after_two)
        except StopError:
            train(scene, members, folder / f"{scene}-resumed.safetensors")


def watched(folder: Path, members: Team) -> str:
    loop.make_strategy = Watched
    train("dlb", members, folder / "watched.safetensors")
    loop.make_strategy = make_strategy
    return f"{Watched.num_seen} steps"


def of_one(folder: Path, members: Team) -> str:
    train("dlb", members, folder / "alone.safetensors")
    return "went on"


def lost(folder: Path, members: Team) -> str:
    def make(num: int) -> TensorSet:
        data = kept(num)
        spoilt = data.images(torch.arange(num))
        if members.rank == 1:
            spoilt[:] = float("nan")
        return TensorSet(spoilt, data.labels)

    global make_data
    kept, make_data = make_data, make
    try:
        train("ce", members, folder / "lost.safetensors")
    finally:
        make_data = kept
    return "went on"


def averages(folder: Path, members: Team) -> str:
    """Gradients of a batch of two parts, of one that the first process has alone, and of both in a row; statistics."""
    model = nn.ModuleDict({"used": nn.Linear(2, 1, bias=False), "unused": nn.Linear(2, 1)})
    model.forward = lambda images: model["used"](images)  # type: ignore[method-assign]
    nn.init.zeros_(model["used"].weight)
    unused = unused_parameters(model, torch.ones(1, 2))
    engine = Engine("cpu", processes=launched())
    gradients = Gradients(model, lambda batch: model(batch.images).mean(), engine, members, unused)

    def batch_of(values: list[float]) -> tuple[Batch | None, Part]:
        """Of two images for each process that has a value: pixels of that value."""
        if members.rank >= len(values):
            return None, Part(torch.zeros(0), torch.zeros(0), 2 * len(values))
        images = torch.full((2, 2), values[members.rank])
        batch = Batch(0, 0, torch.zeros(2, dtype=torch.int64), torch.zeros(2), lambda _: images)
        return batch, Part(torch.zeros(2), torch.zeros(2), 2 * len(values))

    def gradient() -> list[float]:
        weight = model["used"].weight
        assert weight.grad is not None
        found, weight.grad = weight.grad.flatten().tolist(), None
        assert all(parameter.grad is None for parameter in unused)
        return found

    found = []
    for values in ([1.0, 3.0], [5.0]):
        gradients.add(*batch_of(values), scale=lambda loss: loss)
        found.append(gradient())
    gradients.add(*batch_of([1.0, 3.0]), scale=lambda loss: loss, exchange=False)
    gradients.add(*batch_of([5.0]), scale=lambda loss: loss)
    found.append(gradient())
    state = {"bn.running_mean": torch.full((2,), 3.0 * members.rank), "weight": torch.full((1,), float(members.rank))}
    average_statistics([state], members)
    return f"{len(unused)} {found} {state['bn.running_mean'].tolist()} {state['weight'].item()}"


def devices(folder: Path, members: Team) -> str:
    """What is said of one GPU for both, and of one for each."""
    same, own = shared_device(members, "host gpu-a"), shared_device(members, f"host gpu-{members.rank}")
    return f"{same.found if same else None} | {own}"


def norms(folder: Path, members: Team) -> str:
    train("norms", members, folder / "norms.safetensors")
    return "went on"


def gone(folder: Path, members: Team) -> str:
    """The second process leaves in the middle of an epoch; the last scene."""

    class Leaving(CrossEntropy):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            if members.rank == 1 and batch.epoch == 1 and batch.step == 2:
                raise StopError
            return super().loss(model, batch)

    loop.make_strategy = Leaving
    train("ce", members, folder / "gone.safetensors")
    return "went on"


def tried(play: Callable[[Path, Team], str], folder: Path, members: Team) -> str:
    try:
        return play(folder, members)
    except (AttarError, StopError) as error:
        return f"{type(error).__name__} {' '.join(str(error).split())}"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    loop.CHECKPOINT_EVERY_S = 0.0
    processes = launched()
    with processes.joined():
        members = team(processes, processes.num, torch.device("cpu"))
        assert members is not None
        play_all(folder, members, SCENES if processes.num == 2 else ["wide"])
        if processes.num > 2:
            return
        plays = (watched, of_one, lost, averages, devices, norms, gone)  # after the last the second has left
        told = {play.__name__: tried(play, folder, members) for play in plays}
        write_json(folder / f"said-{processes.rank}.json", told)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
