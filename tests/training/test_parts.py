"""What each of several processes has of a batch, all played here by one: whatever their number, they do the same."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attar.errors import ConfigError
from attar.runtime.seeding import generator
from attar.runtime.team import Team
from attar.task import Normalization
from attar.training.distortion import Distortion
from attar.training.distributed import require_enough, share
from attar.training.section import TrainSection
from attar.training.strategies import STRATEGIES, Batch, Part, Strategy, find
from attar.training.strategies.base import shard_batch

NUM = 27
IMAGES = torch.randn(NUM, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(NUM) % 5


def make_settings(strategy: str = "dlb", **changes: Any) -> TrainSection:
    basis: dict[str, Any] = {"epochs": 4, "batch_size": 12, "augment": "flip_crop_scale", "augment_per": "image"}
    return TrainSection(**basis | {"strategy": strategy, "ddgsd": {"mu": 0}} | changes)


class Teacher:
    """Logits that are pixels."""

    def logits(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :5]


class Process:
    """One of `num` processes that train with a strategy."""

    def __init__(self, settings: TrainSection, rank: int, num: int) -> None:
        self.strategy: Strategy = find(settings.strategy, STRATEGIES.all())(settings, NUM)
        self.strategy.join(Team(rank, num))
        self.settings, self.num = settings, num
        self.distortion = Distortion(settings, 7, Normalization((0.5,) * 3, (0.25,) * 3))
        self.order: list[Part] = []

    def begin(self, epoch: int) -> None:
        self.order = self.strategy.batches(epoch, generator(3, "order", epoch))

    def loss(self, model: nn.Module, epoch: int, step: int) -> Tensor:
        """What it adds to the loss of all."""
        part = self.order[step]
        images = IMAGES[part.indices]

        def view(which: int) -> Tensor:
            return self.distortion.view(images, epoch, step, which, None, part)

        if not len(images):
            return torch.zeros(())
        num_of_all = part.num if self.num > 1 else None
        batch = Batch(epoch, step, part.indices, LABELS[part.indices], view, num_of_all=num_of_all)
        self.strategy.prepare(model, lambda: IMAGES[:1], Teacher())
        loss = self.strategy.loss(model, batch)
        self.strategy.release()
        return loss * share(part, self.strategy.team) / self.num


@given(size=st.integers(0, 40), num=st.integers(1, 9))
def test_parts_are_the_batch_and_nobody_has_a_single_image(size: int, num: int) -> None:
    batch = torch.randperm(size, generator=torch.Generator().manual_seed(size))
    parts = [shard_batch(batch, Team(rank, num)) for rank in range(num)]
    assert torch.equal(torch.cat([part.indices for part in parts]), batch)
    assert torch.cat([part.rows for part in parts]).tolist() == list(range(size))
    sizes = [len(part.indices) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(size for size in sizes if size or max(sizes) == 0) <= 1
    assert size < 2 or 1 not in sizes


@pytest.mark.parametrize("num", [2, 3])
@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        ("ce", {}),
        ("ce", {"augment_per": "batch"}),
        ("ce", {"augment": "dsa", "randaugment": 2, "cutout_px": 4}),
        ("label-smoothing", {}),
        ("tf-kd", {}),
        ("kd", {}),
        ("ddgsd", {}),
        ("dlb", {}),
        ("dlb+ddgsd", {"batch_size": 24}),
    ],
)
def test_losses_and_gradients_of_all_processes_are_those_of_one(
    strategy: str, changes: dict[str, Any], num: int
) -> None:
    settings = make_settings(strategy, **changes)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    one, several = [Process(settings, 0, 1)], [Process(settings, rank, num) for rank in range(num)]
    for epoch in range(3):
        for process in one + several:
            process.begin(epoch)
        for step in range(len(one[0].order)):
            found = []
            for processes in (one, several):
                loss = torch.stack([process.loss(model, epoch, step) for process in processes]).sum()
                gradients = torch.autograd.grad(loss, list(model.parameters()))
                found.append(torch.cat([loss.detach().view(1), *(gradient.flatten() for gradient in gradients)]))
            assert torch.allclose(*found, atol=1e-6)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.01 * torch.randn(parameter.shape, generator=generator(step, "walk", epoch))


def test_each_process_of_dlb_sees_its_own_last_images_again_and_remembers_its_own_logits() -> None:
    num, settings = 2, make_settings()
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    processes, one = [Process(settings, rank, num) for rank in range(num)], Process(settings, 0, 1)
    new = [torch.zeros(0, dtype=torch.int64)] * num
    for epoch in range(3):
        one.begin(epoch)
        for process in processes:
            process.begin(epoch)
        sizes = [part.num for part in one.order]
        assert sizes == [9 if epoch else 6, 12, 12, 12, 9]  # 27 = 6 + 6 + 6 + 6 + 3
        for step, whole in enumerate(one.order):
            parts = [process.order[step] for process in processes]
            rows = torch.cat([part.rows for part in parts])
            assert torch.equal(torch.cat([part.indices for part in parts])[rows.argsort()], whole.indices)
            for rank, process in enumerate(processes):
                part, remembered = parts[rank], process.strategy.memory()
                assert torch.equal(part.indices[: len(new[rank])], new[rank])
                assert torch.equal(remembered["indices"], new[rank])
                assert not remembered["logits"].requires_grad
                new[rank] = part.indices[len(new[rank]) :]
                process.loss(model, epoch, step)
                if len(part.indices):
                    images = IMAGES[part.indices]
                    logits = model(process.distortion.view(images, epoch, step, 0, None, part))
                    kept = process.strategy.memory()["logits"]
                    assert torch.allclose(kept, logits[len(logits) - len(new[rank]) :], atol=1e-6)
            one.loss(model, epoch, step)
        assert not torch.equal(new[0], new[1])


def test_images_must_go_round() -> None:
    strategy = find("dlb", STRATEGIES.all())(make_settings(batch_size=12), NUM)
    require_enough(strategy, Team(0, 3))
    with pytest.raises(ConfigError, match="4 processes share 6 new images") as caught:
        require_enough(strategy, Team(0, 4))
    assert "train.batch_size=16" in caught.value.fix
    require_enough(find("dlb", STRATEGIES.all())(make_settings(batch_size=16), NUM), Team(0, 4))
    with pytest.raises(ConfigError, match="14 processes train on 27 images"):
        require_enough(strategy, Team(0, 14))
