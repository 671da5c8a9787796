from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.data.loading import TensorSet
from attar.runtime.engine import Engine
from attar.training import loop
from attar.training.loop import fit
from attar.training.section import TrainSection
from attar.training.strategies import STRATEGIES, Batch, Part, Strategy, find, num_batches
from attar.training.strategies.ce import CrossEntropy

RNG = torch.Generator().manual_seed(0)
IMAGES = torch.randn(6, 4, generator=RNG)
LOGITS = nn.Linear(4, 5)
HARD = torch.tensor([0, 1, 2, 3, 4, 0])
SOFT = torch.rand(6, 5, generator=RNG).softmax(1)


def make_batch(targets: Tensor) -> Batch:
    return Batch(0, 0, torch.arange(6), targets, lambda k: IMAGES)


def ce(targets: Tensor, smoothing: float = 0.0) -> Tensor:
    return CrossEntropy(TrainSection(label_smoothing=smoothing), 6).loss(LOGITS, make_batch(targets))


def test_every_strategy_has_its_name_and_a_summary() -> None:
    assert STRATEGIES.all()["ce"] is CrossEntropy
    assert all(name == kind.name and kind.summary for name, kind in STRATEGIES.all().items())


def test_ce_on_hard_labels_is_torchs() -> None:
    assert torch.equal(ce(HARD), F.cross_entropy(LOGITS(IMAGES), HARD))
    expected = F.cross_entropy(LOGITS(IMAGES), HARD, label_smoothing=0.2)
    assert torch.equal(ce(HARD, 0.2), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ce_on_one_hot_soft_labels_is_ce_on_hard_ones(smoothing: float) -> None:
    assert torch.allclose(ce(F.one_hot(HARD, 5).float(), smoothing), ce(HARD, smoothing))


def test_ce_on_soft_labels_is_kl_plus_their_entropy() -> None:
    kl = F.kl_div(LOGITS(IMAGES).log_softmax(1), SOFT, reduction="batchmean")
    entropy = -(SOFT * SOFT.log()).sum(1).mean()
    assert torch.allclose(ce(SOFT), kl + entropy)


def test_batches_show_every_image_once() -> None:
    strategy = CrossEntropy(TrainSection(batch_size=4), 10)
    batches = strategy.batches(0, torch.Generator().manual_seed(0))
    assert [part.num for part in batches] == [4, 4, 2]
    indices = torch.cat([part.indices for part in batches])
    assert sorted(indices.tolist()) == list(range(10))
    again = strategy.batches(0, torch.Generator().manual_seed(1))
    assert not torch.equal(indices, torch.cat([part.indices for part in again]))


@pytest.mark.parametrize("name", [*STRATEGIES.all(), "dlb+ddgsd"])
@pytest.mark.parametrize("num_images", [1, 2, 8, 17, 33])
def test_batches_are_counted_before_they_are_made(name: str, num_images: int) -> None:
    settings = TrainSection(batch_size=8, strategy=name)
    made = find(name, STRATEGIES.all())(settings, num_images).batches(0, torch.Generator())
    assert num_batches(settings, num_images) == len(made)


class Remembering(Strategy):
    """Adds its previous logits' distance to the loss, across steps and epochs, under two views."""

    name = "remembering"
    summary = "a strategy with a memory, as DLB will have"

    def __init__(self, settings: TrainSection, num_images: int) -> None:
        super().__init__(settings, num_images)
        self.last = torch.zeros(num_images, 3)

    def batches(self, epoch: int, rng: torch.Generator) -> list[Part]:
        order = torch.randperm(self.num_images, generator=rng)
        return [Part.whole(batch) for batch in order.unfold(0, 4, 2)]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        first, second = model(batch.view(0)), model(batch.view(1))
        assert not torch.equal(first, second)
        loss = F.cross_entropy(first, batch.targets) + F.mse_loss(second, self.last[batch.indices])
        self.last[batch.indices] = second.detach()
        return loss

    def memory(self) -> dict[str, Tensor]:
        return {"last": self.last}

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        self.last = memory["last"]


def test_a_strategy_with_a_memory_overlapping_batches_and_two_views_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(loop, "make_strategy", Remembering)
    data = TensorSet(torch.randn(12, 1, 4, 4, generator=RNG), torch.arange(12) % 3)
    settings = TrainSection(epochs=4, augment="scale_rotate")
    common: dict[str, Any] = {"seed": 0, "engine": Engine("cpu")}

    def make_net() -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        nn.init.constant_(net[1].weight, 0.1)
        nn.init.zeros_(net[1].bias)
        return net

    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    unbroken, broken = make_net(), make_net()
    result = fit(unbroken, data, settings, **common)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(broken, data, settings, **common, checkpoint=path, after_epoch=stop)
    resumed = make_net()
    assert fit(resumed, data, settings, **common, checkpoint=path) == result
    assert torch.equal(resumed[1].weight, unbroken[1].weight)
