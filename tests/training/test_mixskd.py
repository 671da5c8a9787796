"""mixskd: each term against its formula, what its mixtures are, and that it goes on where it stopped."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.augment.replayed import ReplayedSet
from attar.augment.views import Views, ViewSettings
from attar.data.loading import TensorSet
from attar.runtime.checkpoint import read_tensors
from attar.runtime.engine import Engine
from attar.runtime.seeding import scoped
from attar.runtime.team import Team
from attar.studies.grid import at_equal_images, images_seen
from attar.testing import check_strategy
from attar.training import loop
from attar.training.loop import accuracy, fit
from attar.training.mixing import Mix, Mixed
from attar.training.section import TrainSection
from attar.training.strategies import STRATEGIES, Batch, make_strategy
from attar.training.strategies.mixskd import Beside, MixSKD

NUM, CLASSES, TAU = 6, 5, 2.5
RNG = torch.Generator().manual_seed(0)
IMAGES = torch.randn(NUM, 3, 12, 12, generator=RNG)
HARD = torch.tensor([0, 1, 2, 3, 4, 0])
SOFT = torch.rand(NUM, CLASSES, generator=RNG).softmax(1)
PARTNER, SHARE = [2, 0, 1, 5, 3, 4], 0.7
NOTHING = {"mixed": 0.0, "logits": 0.0, "features": 0.0, "adversarial": 0.0}
ENGINE = Engine("cpu")


def convolution(here: int, there: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(here, there, 3, stride, 1), nn.BatchNorm2d(there), nn.ReLU())


class Staged(nn.Module):
    """Three stages, with maps of 12, 6 and 3 px."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = convolution(3, 4, 1), convolution(4, 6, 2), convolution(6, 8, 2)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layer3(self.layer2(self.layer1(images))).mean((2, 3)))
        return logits


def make_net() -> Staged:
    with scoped(0, "net"):
        return Staged()


def ready(model: nn.Module, **settings: Any) -> MixSKD:
    strategy = MixSKD(TrainSection(strategy="mixskd", **settings), NUM)
    with scoped(0, "strategy"):
        strategy.prepare(model, lambda: IMAGES[:1], None)
    strategy._mixtures = (Mixed(torch.tensor(PARTNER), SHARE),)
    return strategy


def make_batch(targets: Tensor = HARD, **fields: Any) -> Batch:
    return Batch(0, 0, torch.arange(NUM), targets, lambda _: IMAGES, **fields)


def mixed_by_hand(values: Tensor) -> Tensor:
    """Row by row."""
    return torch.stack([SHARE * values[i] + (1 - SHARE) * values[PARTNER[i]] for i in range(NUM)])


def cross_entropy_by_hand(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets * logits.log_softmax(1)).sum() / len(logits)


def kl_by_hand(teacher: Tensor, student: Tensor) -> Tensor:
    p, q = (teacher.detach() / TAU).softmax(1), (student / TAU).softmax(1)
    return TAU**2 * (p * (p / q).log()).sum() / len(p)


def by_hand(term: str, model: Staged, beside: Beside, one_hot: Tensor) -> Tensor:
    """One term of the formula, without its weight."""
    maps = [torch.cat([IMAGES, mixed_by_hand(IMAGES)])]
    for stage in (model.layer1, model.layer2, model.layer3):
        maps.append(stage(maps[-1]))
    last = [beside.bottlenecks[0](maps[1]), beside.bottlenecks[1](maps[2]), maps[3]]
    heads = [beside.classifiers[0], beside.classifiers[1], model.fc]
    logits = [head(found.mean((2, 3))) for head, found in zip(heads, last, strict=True)]
    of_mixtures = [found[NUM:] for found in last]
    interpolated = [mixed_by_hand(found[:NUM]) for found in last]
    taught, taught_interpolated = (
        beside.teacher(torch.cat([found.mean((2, 3)) for found in side], 1)) for side in (of_mixtures, interpolated)
    )
    losses: list[Tensor] = []
    if term == "images":
        losses = [cross_entropy_by_hand(found[:NUM], one_hot) for found in logits]
    if term == "mixed":
        of_all = [*(found[NUM:] for found in logits), taught, taught_interpolated]
        losses = [cross_entropy_by_hand(found, mixed_by_hand(one_hot)) for found in of_all]
    if term == "logits":
        for found in logits[:2]:
            here, there = mixed_by_hand(found[:NUM]), found[NUM:]
            losses += [kl_by_hand(here, there), kl_by_hand(there, here)]
        losses += [kl_by_hand(taught, mixed_by_hand(logits[2][:NUM])), kl_by_hand(taught_interpolated, logits[2][NUM:])]
    if term == "features":
        losses = [((here - there) ** 2).mean() for here, there in zip(interpolated, of_mixtures, strict=True)]
    if term == "adversarial":
        for judge, here, there in zip(beside.discriminators, interpolated, of_mixtures, strict=True):
            for found, which in ((here, 0), (there, 1)):
                sure = judge(found.mean((2, 3))).sigmoid()
                losses.append(-(sure[:, which].log() + (1 - sure[:, 1 - which]).log()).sum() / (4 * NUM))
    return torch.stack(losses).sum()


@pytest.mark.parametrize("term", ["images", "mixed", "logits", "features", "adversarial"])
def test_each_term_and_its_gradient_are_those_of_the_formula(term: str) -> None:
    weight = 1.0 if term == "images" else 0.6
    own = NOTHING | ({} if term == "images" else {term: weight})
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for which in ("strategy", "hand"):
        model = make_net()
        strategy = ready(model, mixskd={"tau": TAU, **own})
        beside = strategy.extra
        assert isinstance(beside, Beside)
        if which == "strategy":
            loss = strategy.loss(model, make_batch())
        strategy.release()
        if which == "hand":
            one_hot = F.one_hot(HARD, CLASSES).float()
            loss = by_hand("images", model, beside, one_hot)
            loss = loss + weight * by_hand(term, model, beside, one_hot) if term != "images" else loss
        loss.backward()
        parameters = [*model.named_parameters(), *beside.named_parameters()]
        gradients = {name: torch.zeros(1) if one.grad is None else one.grad for name, one in parameters}
        found.append((loss.detach(), gradients))
    (loss, gradients), (expected, expected_gradients) = found
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, value in expected_gradients.items():
        torch.testing.assert_close(gradients[name].sum(), value.sum(), atol=2e-5, rtol=1e-3, msg=name)
        torch.testing.assert_close(gradients[name], value.expand_as(gradients[name]), atol=2e-5, rtol=1e-3, msg=name)


def test_all_terms_have_weight_1_by_default() -> None:
    model = make_net()
    whole = ready(model).loss(model, make_batch()).item()
    plain = ready(model, mixskd=NOTHING).loss(model, make_batch()).item()
    alone = [ready(model, mixskd=NOTHING | {term: 1}).loss(model, make_batch()).item() - plain for term in NOTHING]
    assert min(alone) > 0
    assert whole == pytest.approx(plain + sum(alone), rel=1e-5)


def test_the_self_teacher_learns_from_labels_alone() -> None:
    for own, moved in (({"mixed": 0.0}, False), ({"logits": 0.0}, True)):
        model = make_net()
        strategy = ready(model, mixskd=own)
        strategy.loss(model, make_batch()).backward()
        assert isinstance(strategy.extra, Beside)
        assert all(
            bool(one.grad is not None and one.grad.any()) == moved for one in strategy.extra.teacher.parameters()
        )
        strategy.release()


def test_to_fool_the_discriminators_is_the_opposite_gradient_for_the_network_alone() -> None:
    gradients = []
    for fool in (False, True):
        strategy = ready(make_net(), mixskd={"fool": fool})
        assert isinstance(strategy.extra, Beside)
        maps = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        losses = strategy.extra.tell_apart([(maps[:2], maps[2:])] * 3, fool)
        torch.stack(losses).sum().backward()
        assert maps.grad is not None
        weights = [one.grad for one in strategy.extra.discriminators.parameters()]
        gradients.append((maps.grad, [weight for weight in weights if weight is not None]))
    (helping, judged), (fooling, judged_too) = gradients
    assert helping.abs().max() > 0
    torch.testing.assert_close(fooling, -helping)
    assert len(judged) == 12
    for one, other in zip(judged, judged_too, strict=True):
        torch.testing.assert_close(one, other)


def test_a_convolution_before_the_average_is_the_teachers_first_layer_behind_it() -> None:
    strategy = ready(make_net())
    assert isinstance(strategy.extra, Beside)
    maps = [torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    first, head = strategy.extra.teacher
    convolved = F.conv2d(torch.cat(maps, 1), first.weight[:, :, None, None])
    torch.testing.assert_close(strategy.extra.teach(maps), head(convolved.mean((2, 3))))


@pytest.mark.parametrize("mix", [None, Mix((Mixed(torch.tensor([1, 0, 3, 2, 5, 4]), 0.6),))])
@pytest.mark.parametrize("soft", [False, True])
def test_mixtures_have_the_labels_of_both_images_soft_or_mixed_already(soft: bool, mix: Mix | None) -> None:
    model = make_net()
    strategy = ready(model, temperature=2.0, label_smoothing=0.1)
    logits = torch.randn(2 * NUM, CLASSES, generator=torch.Generator().manual_seed(2))
    found = strategy.supervised(logits, make_batch(SOFT if soft else HARD, mix=mix))
    targets = (SOFT.log() / 2).softmax(1) if soft else F.one_hot(HARD, CLASSES).float()
    targets = targets if mix is None else mix.targets(targets)
    smoothed = 0.9 * torch.cat([targets, mixed_by_hand(targets)]) + 0.1 / CLASSES
    scaled = logits / 2 if soft else logits
    assert found.item() == pytest.approx(2 * cross_entropy_by_hand(scaled, smoothed).item(), rel=1e-5)


def test_a_batch_is_half_images_and_half_their_mixtures_and_an_epoch_shows_twice_the_images() -> None:
    settings = TrainSection(strategy="mixskd", batch_size=8, epochs=10)
    strategy = make_strategy(settings, 14)
    parts = strategy.batches(0, torch.Generator().manual_seed(0))
    assert [part.num for part in parts] == [4, 4, 4, 2]
    assert sorted(torch.cat([part.indices for part in parts]).tolist()) == list(range(14))
    assert strategy.showings == 2
    assert images_seen(settings, 14) == 2 * 14 * 10
    assert images_seen(at_equal_images(settings), 14) == images_seen(TrainSection(epochs=10), 14)
    shown: list[Tensor] = []
    model = make_net()
    whole = ready(model)
    model.layer1.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    whole.look(model, make_batch())
    torch.testing.assert_close(shown, [torch.cat([IMAGES, mixed_by_hand(IMAGES)])])


def test_shares_are_of_the_beta_distribution_and_partners_a_permutation() -> None:
    strategy = MixSKD(TrainSection(strategy="mixskd", batch_size=8, mixskd={"alpha": 0.4}), 4000)
    strategy.batches(0, torch.Generator().manual_seed(0))
    shares = np.array([mixture.share for mixture in strategy._mixtures])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)
    seen = torch.zeros(4, 4)
    for mixture in strategy._mixtures:
        assert sorted(mixture.partner.tolist()) == [0, 1, 2, 3]
        seen[torch.arange(4), mixture.partner] += 1
    assert (seen - 250).abs().max() < 60


def test_processes_mix_their_own_images_with_one_share() -> None:
    found = []
    for rank in (0, 1):
        strategy = MixSKD(TrainSection(strategy="mixskd", batch_size=20), 25)
        strategy.join(Team(rank, 2))
        parts = strategy.batches(3, torch.Generator().manual_seed(0))
        assert [len(mixture.partner) for mixture in strategy._mixtures] == [len(part.indices) for part in parts]
        assert all(sorted(one.partner.tolist()) == list(range(len(one.partner))) for one in strategy._mixtures)
        found.append(strategy._mixtures)
    assert [one.share for one in found[0]] == [one.share for one in found[1]]
    assert len({one.share for one in found[0]}) == 3


def make_data(num: int = 18) -> TensorSet:
    return TensorSet(torch.randn(num, 3, 12, 12, generator=torch.Generator().manual_seed(1)), torch.arange(num) % 3)


@pytest.mark.parametrize("views", ["none", "cutmix"])
def test_it_trains_on_views_with_soft_labels_of_their_own(views: Any) -> None:
    data = make_data()
    made = Views(ViewSettings(mix=views), 0, 18, (3, 12, 12))
    weight = torch.randn(CLASSES, 432, generator=torch.Generator().manual_seed(5)) / 20
    replayed = ReplayedSet(data.images, data.labels, made, lambda images: images.flatten(1) @ weight.T)
    settings = TrainSection(strategy="mixskd", epochs=2, batch_size=8, temperature=4)
    assert all(np.isfinite(fit(make_net(), replayed, settings, seed=0, engine=ENGINE).losses))


def test_it_resumes_all_that_is_trained_beside_the_network_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    settings = TrainSection(strategy="mixskd", epochs=4, batch_size=8, optimizer="adamw", learning_rate=0.01, ema=0.5)
    common: dict[str, Any] = {"seed": 2, "engine": ENGINE}

    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    fit(make_net(), make_data(), settings, **common, checkpoint=whole)
    with pytest.raises(KeyboardInterrupt):
        fit(make_net(), make_data(), settings, **common, checkpoint=broken, after_epoch=stop)
    fit(make_net(), make_data(), settings, **common, checkpoint=broken)
    names = set(read_tensors(whole)[0])
    assert {"extra.teacher.0.weight", "extra.bottlenecks.1.0.weight", "extra.discriminators.2.0.weight"} <= names
    assert broken.read_bytes() == whole.read_bytes()


def test_what_the_network_is_shown_between_two_steps_is_no_part_of_either() -> None:
    losses = []
    for between in (False, True):
        model = make_net()
        strategy = ready(model)
        if between:
            model.eval()(IMAGES[:5])
            model.train()
        losses.append(strategy.loss(model, make_batch()))
        strategy.release()
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", ["byot", "mixskd"])
def test_no_maps_of_images_that_test_the_network_are_kept(name: str) -> None:
    model = make_net()
    strategy = STRATEGIES.all()[name](TrainSection(strategy=name), NUM)
    strategy.prepare(model, lambda: IMAGES[:1], None)
    accuracy(model, make_data(), ENGINE)
    assert not strategy._stages._kept  # type: ignore[attr-defined]
    model(IMAGES)
    assert len(strategy._stages._kept) == 3  # type: ignore[attr-defined]
    strategy.release()


@pytest.mark.parametrize(("name", "kept"), [("zipf-ls", "_maps"), ("ddgsd", "_features")])
def test_nothing_of_images_that_test_the_network_is_kept(name: str, kept: str) -> None:
    model = make_net()
    strategy = STRATEGIES.all()[name](TrainSection(strategy=name), NUM)
    strategy.prepare(model, lambda: IMAGES[:1], None)
    accuracy(model, make_data(), ENGINE)
    assert not getattr(strategy, kept)
    model(IMAGES)
    assert len(getattr(strategy, kept)) == 1
    strategy.release()


def test_the_contract_holds() -> None:
    check_strategy(MixSKD)
