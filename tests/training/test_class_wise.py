"""zipf-ls and cs-kd against formulas written another way, and what their batches are made of."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.data.loading import TensorSet
from attar.models.convnet import ConvNet
from attar.runtime.engine import Engine
from attar.testing import check_strategy
from attar.training.loop import fit
from attar.training.mixing import Mix, Mixed
from attar.training.section import TrainSection
from attar.training.strategies import STRATEGIES, Batch, Strategy, make_strategy
from attar.training.strategies.cs_kd import ClassWise
from attar.training.strategies.zipf_ls import ZipfLabelSmoothing, divergence_from_ranks, votes

RNG = torch.Generator().manual_seed(0)
NUM, CLASSES = 6, 5
IMAGES = torch.randn(NUM, 3, 8, 8, generator=RNG)
HARD = torch.tensor([0, 1, 2, 3, 4, 0])


class Pooled(nn.Module):
    """A network that pools a map into its classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 7, 3), nn.BatchNorm2d(7), nn.ReLU()), nn.Linear(7, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(images).mean((2, 3)))
        return found


def make_batch(targets: Tensor = HARD, mix: Mix | None = None, images: Tensor = IMAGES) -> Batch:
    return Batch(0, 0, torch.arange(len(images)), targets, lambda k: images, mix=mix)


def prepared(kind: type[Strategy], model: nn.Module, **settings: Any) -> Strategy:
    made = kind(TrainSection(strategy=kind.name, **settings), NUM)
    made.prepare(model, lambda: IMAGES[:1], None)
    return made


def zipf_by_hand(logits: Tensor, scores: Tensor, left_out: list[set[int]]) -> float:
    """Row by row, class by class; of ranks, ties share the least."""
    total = 0.0
    for row, votes_of_row, own in zip(logits.double().numpy(), scores.numpy(), left_out, strict=True):
        ranks = [1 + int((votes_of_row > votes).sum()) for votes in votes_of_row]
        others = [c for c in range(len(row)) if c not in own]
        q = np.array([1 / ranks[c] for c in others])
        q /= q.sum()
        p = np.exp(row[others] - row[others].max())
        p /= p.sum()
        total += float((q * np.log(q / p)).sum())
    return total / len(logits)


def test_the_divergence_from_ranks_is_that_of_the_formula_ties_and_all() -> None:
    logits = torch.randn(NUM, CLASSES, generator=RNG)
    scores = torch.randint(0, 3, (NUM, CLASSES), generator=RNG).float()
    own = F.one_hot(HARD, CLASSES).bool()
    own[0, 3] = True
    left_out = [set(row.nonzero().flatten().tolist()) for row in own]
    assert float(divergence_from_ranks(logits, scores, ~own)) == pytest.approx(
        zipf_by_hand(logits, scores, left_out), rel=1e-5
    )


def test_no_gradient_goes_to_the_true_class_and_none_is_left_of_two_classes() -> None:
    logits = torch.randn(NUM, CLASSES, generator=RNG).requires_grad_()
    own = F.one_hot(HARD, CLASSES).bool()
    divergence_from_ranks(logits, torch.rand(NUM, CLASSES, generator=RNG), ~own).backward()
    assert logits.grad is not None
    assert (logits.grad[own] == 0).all()
    assert logits.grad[~own].abs().sum() > 0
    all_own = divergence_from_ranks(torch.randn(3, 2), torch.rand(3, 2), torch.zeros(3, 2, dtype=torch.bool))
    assert float(all_own) == 0


def test_every_place_of_the_map_votes() -> None:
    head, features = nn.Linear(7, CLASSES), torch.randn(2, 7, 3, 4, generator=RNG)
    found = votes(features, head)
    by_hand = torch.zeros(2, CLASSES)
    for image in range(2):
        for row in range(3):
            for column in range(4):
                by_hand[image, head(features[image, :, row, column]).argmax()] += 1
    assert torch.equal(found, by_hand)


@pytest.mark.parametrize("dense", [True, False])
def test_zipf_ls_is_ce_and_the_weighted_divergence(dense: bool) -> None:
    model = Pooled()
    strategy = prepared(ZipfLabelSmoothing, model, zipf_ls={"dense": dense, "weight": 0.7})
    loss = strategy.loss(model.train(), make_batch())
    strategy.release()
    maps = model.body(IMAGES)
    logits = model(IMAGES)
    scores = votes(maps, model.head) if dense else logits
    zipf = zipf_by_hand(logits.detach(), scores.detach(), [{label} for label in HARD.tolist()])
    assert loss.item() == pytest.approx(F.cross_entropy(logits, HARD).item() + 0.7 * zipf, rel=1e-5)
    loss.backward()


def test_logits_are_ranked_where_no_map_is_pooled_and_mixtures_leave_out_both_classes() -> None:
    model = ConvNet(CLASSES, 3, 8, 8, depth=1, width=4)
    strategy = prepared(ZipfLabelSmoothing, model)
    mix = Mix((Mixed(torch.tensor([1, 0, 3, 2, 5, 4]), 0.7),))
    logits = model(IMAGES)
    term = strategy.term(logits, make_batch(mix=mix))
    assert term is not None
    both = [{0, 1}, {0, 1}, {2, 3}, {2, 3}, {0, 4}, {0, 4}]
    assert term.item() == pytest.approx(0.1 * zipf_by_hand(logits.detach(), logits.detach(), both), rel=1e-5)


def labels_of(num: int) -> Tensor:
    return torch.arange(num) % 3


@pytest.mark.parametrize("num", [7, 24, 25])
def test_partners_are_of_the_same_class_and_every_image_is_new_once(num: int) -> None:
    strategy, labels = ClassWise(TrainSection(batch_size=8), num), labels_of(num)
    strategy.meet(labels)
    new = []
    for part in strategy.batches(0, torch.Generator().manual_seed(1)):
        images, partners = part.indices.chunk(2)
        assert torch.equal(labels[images], labels[partners])
        new += images.tolist()
    assert sorted(new) == list(range(num))


def test_all_of_a_class_are_partners_alike() -> None:
    strategy = ClassWise(TrainSection(batch_size=8), 9)
    strategy.meet(torch.tensor([0] * 5 + [1] * 4))
    seen = torch.zeros(9, 9)
    for seed in range(400):
        for part in strategy.batches(0, torch.Generator().manual_seed(seed)):
            images, partners = part.indices.chunk(2)
            seen[images, partners] += 1
    assert (seen[:5, 5:] == 0).all()
    assert (seen[:5, :5] - 80).abs().max() < 35
    assert (seen[5:, 5:] - 100).abs().max() < 40


def test_cs_kd_is_ce_of_the_first_half_and_the_divergence_from_the_partners() -> None:
    model = Pooled().train()
    strategy = prepared(ClassWise, model, cs_kd={"weight": 2.0, "tau": 3.0}, label_smoothing=0.1)
    batch = make_batch(torch.tensor([0, 1, 2, 0, 1, 2]))
    loss = strategy.loss(model, batch)
    loss.backward()
    gradient = model.head.weight.grad
    other = Pooled().train()
    first = other(IMAGES[:3])
    with torch.no_grad():
        target = (other(IMAGES[3:]) / 3).softmax(1)
    by_hand = -(target * (first / 3).log_softmax(1)).sum(1) + (target * target.log()).sum(1)
    wanted = F.cross_entropy(first, batch.targets[:3], label_smoothing=0.1) + 2 * 9 * by_hand.mean()
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(gradient, other.head.weight.grad)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], msg=f"{name}: statistics of two passes")


def test_partners_are_mixed_as_their_images_are() -> None:
    strategy = ClassWise(TrainSection(batch_size=8, cutmix=1.0), 12)
    assert strategy.groups(2, 5, 8) == [(4, 2, 5), (4, 2, 5)]
    mix = Mix((Mixed(torch.tensor([1, 2, 0]), 0.6),) * 2)
    batch = make_batch(torch.tensor([0, 1, 2, 0, 1, 2]), mix)
    logits = Pooled()(IMAGES)
    wanted = torch.lerp(
        F.one_hot(torch.tensor([1, 2, 0]), 5).float(), F.one_hot(torch.tensor([0, 1, 2]), 5).float(), 0.6
    )
    assert strategy.supervised(logits, batch).item() == pytest.approx(F.cross_entropy(logits[:3], wanted).item())


@pytest.mark.parametrize("name", ["zipf-ls", "cs-kd", "cs-kd+zipf-ls"])
@pytest.mark.parametrize("mixing", [{}, {"cutmix": 1.0}])
def test_they_train_alone_together_and_on_mixtures(name: str, mixing: dict[str, float]) -> None:
    torch.manual_seed(0)
    data = TensorSet(IMAGES.repeat(3, 1, 1, 1), HARD.repeat(3))
    settings = TrainSection(strategy=name, epochs=2, batch_size=6, learning_rate=0.05, augment="none", **mixing)
    found = fit(Pooled(), data, settings, seed=0, engine=Engine("cpu"))
    assert all(np.isfinite(found.losses))


@pytest.mark.parametrize("kind", [ZipfLabelSmoothing, ClassWise])
def test_the_contract_holds(kind: type[Strategy]) -> None:
    check_strategy(kind)
    assert STRATEGIES[kind.name] is kind


def test_an_image_goes_through_the_network_twice_under_cs_kd_alone() -> None:
    assert make_strategy(TrainSection(strategy="cs-kd"), 9).showings == 2
    assert make_strategy(TrainSection(strategy="zipf-ls"), 9).showings == 1
