"""DLB: what a batch is made of, what is remembered, and what it costs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.data.loading import TensorSet
from attar.models.convnet import ConvNet
from attar.runtime.engine import Engine
from attar.runtime.seeding import scoped
from attar.training import loop
from attar.training.loop import fit
from attar.training.section import TrainSection
from attar.training.strategies import Batch
from attar.training.strategies.dlb import DLB

ENGINE = Engine("cpu")


def make_net() -> nn.Module:
    with scoped(0, "net"):
        return ConvNet(3, 1, 8, 8, depth=1, width=4, norm="batch")


def make_data(num: int = 21) -> TensorSet:
    return TensorSet(torch.randn(num, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(num) % 3)


def make_settings(**changes: Any) -> TrainSection:
    basis: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 0.1, "augment": "scale_rotate"}
    return TrainSection(**basis | {"strategy": "dlb"} | changes)


class Watched(DLB):
    """DLB that keeps every batch, its logits, its loss, and what it remembered before."""

    def __init__(self, settings: TrainSection, num_images: int) -> None:
        super().__init__(settings, num_images)
        self.seen: list[tuple[Batch, Tensor, Tensor, dict[str, Tensor]]] = []

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        remembered = {key: value.clone() for key, value in self.memory().items()}
        logits = self.look(model, batch)
        supervised, term = self.supervised(logits, batch), self.term(logits, batch)
        loss = supervised if term is None else supervised + term
        self.seen.append((batch, logits.detach(), loss.detach(), remembered))
        return loss


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Watched]]:
    made: list[Watched] = []

    def make(settings: TrainSection, num_images: int) -> Watched:
        made.append(Watched(settings, num_images))
        return made[-1]

    monkeypatch.setattr(loop, "make_strategy", make)
    return made


def test_half_of_each_batch_was_new_in_the_one_before_across_epochs_and_uneven_ends(watched: list[Watched]) -> None:
    fit(make_net(), make_data(21), make_settings(), seed=0, engine=ENGINE)
    seen = watched[0].seen
    batches = [batch.indices for batch, *_ in seen]
    assert [len(batch) for batch in batches[:7]] == [4, 8, 8, 8, 9, 9, 8]  # 21 = 4 + 4 + 4 + 4 + 5: one joins
    new = [batches[0]]
    for batch in batches[1:]:
        assert torch.equal(batch[: len(new[-1])], new[-1])
        new.append(batch[len(new[-1]) :])
    for epoch in range(3):
        assert sorted(torch.cat(new[5 * epoch : 5 * epoch + 5]).tolist()) == list(range(21))


def test_the_shared_half_is_the_same_images_under_fresh_augmentation(watched: list[Watched]) -> None:
    fit(make_net(), make_data(), make_settings(augment_per="image"), seed=0, engine=ENGINE)
    pairs = list(zip(watched[0].seen, watched[0].seen[1:], strict=False))
    for (before, *_), (now, *_) in pairs:
        shared = now.images[: len(now.indices) // 2]
        first = before.images[-len(shared) :] if len(before.indices) > len(shared) else before.images
        same = [torch.equal(a, b) for a, b in zip(first, shared, strict=False)]
        assert not any(same)


def test_the_memory_is_the_last_iterations_logits_without_a_gradient(watched: list[Watched]) -> None:
    fit(make_net(), make_data(), make_settings(), seed=0, engine=ENGINE)
    before: Tensor | None = None
    for batch, logits, _, remembered in watched[0].seen:
        num = len(remembered["indices"])
        if before is not None:
            assert torch.equal(remembered["logits"], before)
            assert torch.equal(remembered["indices"], batch.indices[:num])
        assert not remembered["logits"].requires_grad
        before = logits[num:]


def test_the_loss_is_the_formula(watched: list[Watched]) -> None:
    fit(make_net(), make_data(), make_settings(epochs=2), seed=0, engine=ENGINE)
    first, *others = watched[0].seen
    assert torch.allclose(first[2], F.cross_entropy(first[1], first[0].targets))
    for batch, logits, loss, remembered in others:
        last, now = remembered["logits"] / 3, logits[: len(remembered["logits"])] / 3
        kl = (last.softmax(1) * (last.log_softmax(1) - now.log_softmax(1))).sum(1).mean()
        assert torch.allclose(loss, F.cross_entropy(logits, batch.targets) + 9 * kl, atol=1e-5)


def test_no_gradient_flows_through_the_memory() -> None:
    strategy, model = DLB(make_settings(), 8), nn.Linear(4, 3)
    images = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    new, both = torch.arange(4), torch.arange(8)
    strategy.loss(model, Batch(0, 0, new, torch.zeros(4, dtype=torch.int64), lambda _: images[:4]))
    last = strategy.memory()["logits"]
    target = Batch(0, 1, both, torch.zeros(8, dtype=torch.int64), lambda _: images[4:])
    strategy.loss(model, target).backward()
    twin = nn.Linear(4, 3)
    twin.load_state_dict(model.state_dict())
    logits = twin(images[4:])
    constant = (last / 3).softmax(1)
    kl = 9 * F.kl_div((logits[:4] / 3).log_softmax(1), constant, reduction="batchmean")
    (F.cross_entropy(logits, target.targets) + kl).backward()
    assert model.weight.grad is not None
    assert twin.weight.grad is not None
    assert torch.allclose(model.weight.grad, twin.weight.grad, atol=1e-6)


def test_alpha_0_is_cross_entropy_on_the_same_batches() -> None:
    data, settings = make_data(), make_settings(dlb={"alpha": 0})
    model, plain = make_net(), make_net()
    result = fit(model, data, settings, seed=4, engine=ENGINE)

    class SameBatches(DLB):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            logits = model(batch.images).float()
            self._indices = batch.indices[len(self._indices) :]
            return F.cross_entropy(logits, batch.targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_strategy", SameBatches)
        assert fit(plain, data, settings, seed=4, engine=ENGINE).losses == pytest.approx(result.losses, abs=1e-7)
    for key, value in plain.state_dict().items():
        assert torch.allclose(model.state_dict()[key], value, atol=1e-7)


def test_a_batch_that_does_not_continue_the_last_one_is_refused() -> None:
    strategy, model = DLB(make_settings(), 8), nn.Linear(4, 3)
    labels = torch.zeros(4, dtype=torch.int64)
    strategy.loss(model, Batch(0, 0, torch.arange(4), labels, lambda _: torch.zeros(4, 4)))
    with pytest.raises(ValueError, match="does not begin"):
        strategy.loss(model, Batch(0, 1, torch.arange(4, 8), labels, lambda _: torch.zeros(4, 4)))


@pytest.mark.parametrize("changes", [{}, {"cutmix": 0.5}, {"dlb": {"apart": True}}, {"accumulate": 2}])
@pytest.mark.parametrize("stopped_at", [1, 2])
def test_killed_and_resumed_equals_unbroken(
    changes: dict[str, Any], stopped_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)

    def stop(epoch: int) -> None:
        if epoch == stopped_at + 1:
            raise KeyboardInterrupt

    data, settings, path = make_data(), make_settings(**changes), tmp_path / "checkpoint.safetensors"
    unbroken, resumed = make_net(), make_net()
    expected = fit(unbroken, data, settings, seed=2, engine=ENGINE, checkpoint=tmp_path / "a.safetensors")
    with pytest.raises(KeyboardInterrupt):
        fit(make_net(), data, settings, seed=2, engine=ENGINE, checkpoint=path, after_epoch=stop)
    assert fit(resumed, data, settings, seed=2, engine=ENGINE, checkpoint=path) == expected
    for key, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)
    assert path.read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_the_shared_half_keeps_its_mixture_under_fresh_augmentation(kind: str, watched: list[Watched]) -> None:
    fit(make_net(), make_data(), make_settings(augment="none", **{kind: 1.0}), seed=0, engine=ENGINE)
    num_mixed = 0
    for (before, *_), (now, _, _, remembered) in zip(watched[0].seen, watched[0].seen[1:], strict=False):
        num = len(remembered["indices"])
        assert torch.equal(now.images[:num], before.images[-num:])  # without augmentation, the mixtures themselves
        if now.mix and before.mix:
            assert now.mix.groups[0].share == before.mix.groups[-1].share
            num_mixed += now.mix.groups[0].share < 1
    assert num_mixed > 5


def test_halves_apart_go_through_the_network_new_half_first(watched: list[Watched]) -> None:
    passes: list[Tensor] = []

    class Watching(ConvNet):
        def forward(self, images: Tensor) -> Tensor:
            passes.append(images)
            return super().forward(images)

    with scoped(0, "net"):
        net = Watching(3, 1, 8, 8, depth=1, width=4, norm="batch")
    before = net.features[1].running_mean.clone()
    fit(net, make_data(16), make_settings(epochs=1, dlb={"apart": True}), seed=0, engine=ENGINE)
    assert [len(images) for images in passes] == [4, 4, 4, 4, 4, 4, 4]
    for k, (batch, *_) in enumerate(watched[0].seen[1:]):
        new, shared = passes[1 + 2 * k], passes[2 + 2 * k]
        assert torch.equal(torch.cat([shared, new]), batch.images)
        assert batch.indices[4:].tolist() != batch.indices[:4].tolist()
    assert not torch.equal(net.features[1].running_mean, before)


def test_halves_apart_train_as_a_loop_of_two_passes_does(watched: list[Watched]) -> None:
    """The new half first, then the shared one; cross-entropy of both, and agreement with the last step's logits."""
    ours, theirs, settings = make_net(), make_net(), make_settings(epochs=2, dlb={"apart": True})
    fit(ours, make_data(), settings, seed=0, engine=ENGINE)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    remembered: Tensor | None = None
    steps = len(watched[0].seen) // 2
    for k, (batch, *_) in enumerate(watched[0].seen):
        optimizer.param_groups[0]["lr"] = 0.1 if k < steps else 0.01  # the schedule: a tenth from half of the epochs
        num = 0 if remembered is None else len(remembered)
        new = theirs(batch.images[num:])
        loss = F.cross_entropy(new, batch.targets[num:])
        if remembered is not None:
            shared = theirs(batch.images[:num])
            agree = F.kl_div((shared / 3).log_softmax(1), (remembered / 3).softmax(1), reduction="batchmean")
            loss = F.cross_entropy(torch.cat([shared, new]), batch.targets) + 9 * agree
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        remembered = new.detach()
    for key, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[key], value, atol=1e-5), key


def test_tiny_batches_and_sets_work() -> None:
    for num, batch_size in ((2, 8), (5, 1), (3, 3)):
        result = fit(make_net(), make_data(num), make_settings(batch_size=batch_size), seed=0, engine=ENGINE)
        assert len(result.losses) == 3
