"""Soft labels for every epoch: which views a strategy is shown, and what cannot be done with them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.augment.replayed import ReplayedSet
from attar.augment.views import Views, ViewSettings
from attar.data.loading import TensorSet
from attar.errors import ConfigError
from attar.models.convnet import ConvNet
from attar.runtime.engine import Engine
from attar.runtime.seeding import scoped
from attar.training import loop
from attar.training.loop import fit
from attar.training.section import TrainSection
from attar.training.strategies import Batch
from attar.training.strategies.ce import CrossEntropy
from attar.training.strategies.dlb import DLB
from attar.training.strategies.targets import divergence

NUM = 10
ENGINE = Engine("cpu")
IMAGES = torch.randn(NUM, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def label(views: Tensor) -> Tensor:
    """Logits that tell views apart."""
    return torch.stack([views.mean((1, 2, 3)), views.std((1, 2, 3)), views[:, 0, 0, 0]], 1)


def replayed(mix: Any) -> ReplayedSet:
    views = Views(ViewSettings(mix=mix, min_scale=0.2), 3, NUM, (1, 8, 8))
    return ReplayedSet(lambda indices: IMAGES[indices], torch.arange(NUM) % 3, views, label)


def make_net() -> nn.Module:
    with scoped(0, "net"):
        return ConvNet(3, 1, 8, 8, depth=1, width=4, norm="batch")


def make_settings(strategy: str = "dlb", **changes: Any) -> TrainSection:
    return TrainSection(**{"epochs": 4, "batch_size": 8, "learning_rate": 0.1, "strategy": strategy} | changes)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Batch, Tensor, Tensor]]:
    """Every batch of dlb, what its logits were, and what its loss was."""
    found: list[tuple[Batch, Tensor, Tensor]] = []

    class Watched(DLB):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            logits = self.look(model, batch)
            supervised, term = self.supervised(logits, batch), self.term(logits, batch)
            loss = supervised if term is None else supervised + term
            found.append((batch, logits.detach(), loss.detach()))
            return loss

    monkeypatch.setattr(loop, "make_strategy", Watched)
    return found


def halves(seen: list[tuple[Batch, Tensor, Tensor]]) -> list[tuple[Batch, int, Batch | None]]:
    """Every batch, how many of its images are shared, and the batch that they were new in."""
    found: list[tuple[Batch, int, Batch | None]] = []
    num_new, before = 0, None
    for batch, *_ in seen:
        found.append((batch, num_new, before))
        num_new, before = len(batch.indices) - num_new, batch
    return found


def test_dlb_goes_through_the_views_of_twice_as_many_epochs(seen: list[Any]) -> None:
    data = replayed("none")
    fit(make_net(), data, make_settings(), seed=0, engine=ENGINE)
    counted: Counter[tuple[int, int]] = Counter()
    for batch, num_shared, before in halves(seen):
        epochs = [2 * before.epoch + 1] * num_shared if before else []
        epochs += [2 * batch.epoch] * (len(batch.indices) - num_shared)
        for place, (index, epoch) in enumerate(zip(batch.indices, epochs, strict=True)):
            counted[int(index), epoch] += 1
            assert torch.equal(batch.images[place], data.batch(epoch, index[None])[0][0])
    last = seen[-1][0].indices[-2:].tolist()  # new in the last batch, so never shared: 10 = 4 + 4 + 2
    assert counted == Counter({(i, e) for i in range(NUM) for e in range(8)} - {(i, 7) for i in last})


def test_dlb_sees_a_mixture_again_as_it_was(seen: list[Any]) -> None:
    data = replayed("cutmix")
    fit(make_net(), data, make_settings(), seed=0, engine=ENGINE)
    for batch, num_shared, before in halves(seen):
        new = batch.indices[num_shared:]
        assert torch.equal(batch.images[num_shared:], data.batch(batch.epoch, new)[0])
        if before:
            assert torch.equal(batch.indices[:num_shared], before.indices[-num_shared:])
            assert torch.equal(batch.images[:num_shared], before.images[-num_shared:])
            assert torch.equal(batch.targets[:num_shared], before.targets[-num_shared:])


@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_the_loss_is_of_the_shown_views_labels_and_of_the_last_prediction(mix: str, seen: list[Any]) -> None:
    fit(make_net(), replayed(mix), make_settings(temperature=2), seed=0, engine=ENGINE)
    last = torch.zeros(0, 3)
    for batch, logits, loss in seen:
        assert torch.allclose(batch.targets, label(batch.images))
        num_shared = len(last)
        expected = F.cross_entropy(logits / 2, (batch.targets / 2).softmax(1))
        if num_shared:
            expected = expected + divergence(logits[:num_shared], last, 3.0)
        assert torch.allclose(loss, expected, atol=1e-6)
        last = logits[num_shared:]


def test_plain_training_is_shown_the_views_of_each_epoch() -> None:
    (shown,) = CrossEntropy(make_settings("ce"), NUM).view_epochs(2, [torch.tensor([4, 1])], True)
    assert shown.tolist() == [2, 2]


@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_resumed_equals_unbroken(mix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)

    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    path, data = tmp_path / "checkpoint.safetensors", replayed(mix)
    unbroken, resumed = make_net(), make_net()
    losses = fit(unbroken, data, make_settings(), seed=0, engine=ENGINE).losses
    with pytest.raises(KeyboardInterrupt):
        fit(make_net(), data, make_settings(), seed=0, engine=ENGINE, checkpoint=path, after_epoch=stop)
    assert fit(resumed, data, make_settings(), seed=0, engine=ENGINE, checkpoint=path).losses == losses
    for key, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)


@pytest.mark.parametrize(
    ("strategy", "mix", "says"),
    [
        ("ddgsd", "none", "compares 2 views"),
        ("dlb+ddgsd", "cutmix", "compares 2 views"),
        ("ps-kd", "mixup", "remembers predictions by image"),
        ("dlb+ps-kd", "cutmix", "remembers predictions by image"),
    ],
)
def test_what_replayed_views_do_not_allow_is_refused(strategy: str, mix: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        fit(make_net(), replayed(mix), make_settings(strategy), seed=0, engine=ENGINE)
    if strategy.endswith("ps-kd"):
        fit(make_net(), replayed("none"), make_settings(strategy), seed=0, engine=ENGINE)


def test_the_square_of_the_difference_to_the_teachers_logits_may_be_the_loss() -> None:
    data, settings = replayed("cutmix"), make_settings("ce", soft_loss="mse", epochs=1, batch_size=NUM)
    fitted = fit(make_net(), data, settings, seed=0, engine=ENGINE)
    places = torch.arange(NUM)
    shown, targets = data.batch(0, places)
    net = make_net().train()
    assert fitted.losses[0] == pytest.approx((net(shown) - targets).square().mean().item(), rel=1e-5)


def test_probabilities_are_no_logits() -> None:
    settings = make_settings("ce", soft_loss="mse")
    with pytest.raises(ConfigError, match="these soft labels are probabilities"):
        fit(make_net(), TensorSet(IMAGES, torch.full((NUM, 3), 1 / 3)), settings, seed=0, engine=ENGINE)
    fit(make_net(), TensorSet(IMAGES, torch.arange(NUM) % 3), settings, seed=0, engine=ENGINE)
    with pytest.raises(ValueError, match="no temperature_squared"):
        make_settings("ce", soft_loss="mse", temperature_squared=True)


@pytest.mark.parametrize(
    ("epochs", "hard", "kinds", "stored"),
    [
        (6, 2, "sshhss", [0, 1, 2, 3]),
        (5, 2, "shhss", [0, 1, 2]),
        (4, 3, "hhhs", [0]),
        (3, 0, "sss", [0, 1, 2]),
    ],
)
def test_hard_epochs_stand_in_the_middle_and_soft_ones_follow_each_other(
    epochs: int, hard: int, kinds: str, stored: list[int]
) -> None:
    settings = make_settings("ce", epochs=epochs, hard_epochs=hard)
    assert "".join("h" if settings.is_hard(epoch) else "s" for epoch in range(epochs)) == kinds
    assert [settings.soft_epoch(epoch) for epoch in range(epochs) if not settings.is_hard(epoch)] == stored
    assert settings.soft_epochs == len(stored)
    with pytest.raises(ValueError, match="at least one of the epochs soft"):
        make_settings("ce", epochs=epochs, hard_epochs=epochs)


def test_a_middle_epoch_is_of_classes_smoothed_and_mixed_and_the_others_of_the_views_that_are_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, bool, bool, float]] = []
    asked: list[int] = []

    class Watched(CrossEntropy):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            seen.append((batch.epoch, batch.targets_are_logits, batch.mix is not None, self.settings.label_smoothing))
            return super().loss(model, batch)

    def batch(self: ReplayedSet, epoch: int, indices: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(epoch)
        return whole(self, epoch, indices)

    whole = ReplayedSet.batch
    monkeypatch.setattr(ReplayedSet, "batch", batch)
    monkeypatch.setattr(loop, "make_strategy", Watched)
    settings = make_settings("ce", epochs=6, hard_epochs=2, batch_size=NUM, augment="none", hard_smoothing=0.7)
    fit(make_net(), replayed("none"), settings, seed=0, engine=ENGINE)
    assert [one[1] for one in seen] == [True, True, False, False, True, True]
    assert [one[3] for one in seen] == [0, 0, 0.7, 0.7, 0, 0]
    assert any(one[2] for one in seen)
    assert not any(one[2] for one in seen if one[1])
    assert sorted(set(asked)) == [0, 1, 2, 3]
    unmixed = settings.model_copy(update={"hard_cutmix": 0.0})
    seen.clear()
    fit(make_net(), replayed("none"), unmixed, seed=0, engine=ENGINE)
    assert not any(one[2] for one in seen)


def test_hard_labels_know_no_hard_epochs_and_such_a_training_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    plain, data = make_settings("ce", augment="none"), TensorSet(IMAGES, torch.arange(NUM) % 3)
    hard = plain.model_copy(update={"hard_epochs": 2})
    assert fit(make_net(), data, hard, seed=0, engine=ENGINE) == fit(make_net(), data, plain, seed=0, engine=ENGINE)

    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    unbroken = fit(make_net(), replayed("none"), hard, seed=0, engine=ENGINE)
    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(make_net(), replayed("none"), hard, seed=0, engine=ENGINE, checkpoint=path, after_epoch=stop)
    assert fit(make_net(), replayed("none"), hard, seed=0, engine=ENGINE, checkpoint=path) == unbroken
