"""The other strategies against their formulas, their sums, their refusals, and their resumption."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from attar.data.loading import TensorSet
from attar.errors import ConfigError
from attar.models.convnet import ConvNet
from attar.models.factory import build
from attar.runtime.checkpoint import read_tensors
from attar.runtime.engine import Engine
from attar.runtime.seeding import scoped
from attar.task import Normalization, Task
from attar.training import loop
from attar.training.loop import fit
from attar.training.section import TrainSection
from attar.training.strategies import STRATEGIES, Batch, Strategy, find
from attar.training.strategies.byot import Exit
from attar.training.strategies.exits import stages

ENGINE = Engine("cpu")
RNG = torch.Generator().manual_seed(0)
IMAGES, OTHERS = torch.randn(6, 4, generator=RNG), torch.randn(6, 4, generator=RNG)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
ALL = (
    "ce",
    "label-smoothing",
    "dlb",
    "ddgsd",
    "ps-kd",
    "tf-kd",
    "byot",
    "kd",
    "mixskd",
    "dlb+ddgsd",
    "dlb+ps-kd",
    "byot+dlb",
)


class Teacher:
    """Logits that are a fixed linear function of the pixels."""

    def __init__(self, size: int, num_classes: int = 3) -> None:
        self.weight = torch.randn(num_classes, size, generator=torch.Generator().manual_seed(5))

    def logits(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def make_net(norm: Any = "batch") -> nn.Module:
    with scoped(0, "net"):
        return ConvNet(3, 1, 8, 8, depth=2, width=4, norm=norm)


def make_data(num: int = 22) -> TensorSet:
    return TensorSet(torch.randn(num, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(num) % 3)


def make_settings(strategy: str, **changes: Any) -> TrainSection:
    basis: dict[str, Any] = {"epochs": 4, "batch_size": 8, "learning_rate": 0.05, "augment": "scale_rotate"}
    return TrainSection(**basis | {"strategy": strategy} | changes)


def loss_of(name: str, model: nn.Module, settings: TrainSection, targets: Tensor = LABELS, **fields: Any) -> Tensor:
    strategy = STRATEGIES.all()[name](settings, 6)
    strategy.prepare(model, lambda: IMAGES[:1], Teacher(4, 5))
    batch = Batch(0, 0, torch.arange(6), targets, lambda k: (IMAGES, OTHERS)[k], **fields)
    try:
        return strategy.loss(model, batch)
    finally:
        strategy.release()


def test_label_smoothing_is_ce_with_a_tenth_spread() -> None:
    model = nn.Linear(4, 5)
    expected = F.cross_entropy(model(IMAGES), LABELS, label_smoothing=0.1)
    assert torch.equal(loss_of("label-smoothing", model, make_settings("label-smoothing")), expected)
    other = loss_of("label-smoothing", model, make_settings("label-smoothing", label_smoothing=0.3))
    assert torch.equal(other, F.cross_entropy(model(IMAGES), LABELS, label_smoothing=0.3))


def test_kd_is_its_formula_and_ce_at_alpha_0() -> None:
    model, taught = nn.Linear(4, 5), Teacher(4, 5).logits(IMAGES) / 4
    own = model(IMAGES) / 4
    kl = (taught.softmax(1) * (taught.log_softmax(1) - own.log_softmax(1))).sum(1).mean()
    ce = F.cross_entropy(model(IMAGES), LABELS)
    assert torch.allclose(loss_of("kd", model, make_settings("kd")), 0.1 * ce + 0.9 * 16 * kl)
    assert torch.allclose(loss_of("kd", model, make_settings("kd", kd={"alpha": 0})), ce)


def test_kd_without_a_teacher_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="no teacher"):
        fit(make_net(), make_data(), make_settings("kd"), seed=0, engine=ENGINE)


def test_tf_kd_is_its_formula() -> None:
    model = nn.Linear(4, 5)
    virtual = torch.full((6, 5), 0.01 / 4).scatter_(1, LABELS[:, None], 0.99)
    kl = F.kl_div(model(IMAGES).log_softmax(1), (virtual / 20).softmax(1), reduction="batchmean")
    expected = 0.9 * F.cross_entropy(model(IMAGES), LABELS) + 0.1 * kl
    assert torch.allclose(loss_of("tf-kd", model, make_settings("tf-kd")), expected)


def test_ddgsd_agrees_with_itself_where_both_views_are_one() -> None:
    model = nn.Linear(4, 5)
    strategy = STRATEGIES.all()["ddgsd"](make_settings("ddgsd"), 6)
    strategy.prepare(model, lambda: IMAGES[:1], None)
    loss = strategy.loss(model, Batch(0, 0, torch.arange(6), LABELS, lambda _: IMAGES))
    strategy.release()
    assert torch.allclose(loss, F.cross_entropy(model(IMAGES), LABELS), atol=1e-6)


def test_ddgsd_is_its_formula() -> None:
    model = nn.Linear(4, 5)
    first, second = model(IMAGES) / 3, model(OTHERS) / 3
    there = (second.softmax(1) * (second.log_softmax(1) - first.log_softmax(1))).sum(1).mean()
    back = (first.softmax(1) * (first.log_softmax(1) - second.log_softmax(1))).sum(1).mean()
    mmd = (IMAGES.mean(0) - OTHERS.mean(0)).square().sum()
    ce = (F.cross_entropy(model(IMAGES), LABELS) + F.cross_entropy(model(OTHERS), LABELS)) / 2
    expected = ce + 9 * (there + back) / 2 + 0.005 * mmd
    assert torch.allclose(loss_of("ddgsd", model, make_settings("ddgsd")), expected, atol=1e-5)


def test_ddgsd_counts_views_in_the_batch_size() -> None:
    batches = STRATEGIES.all()["ddgsd"](make_settings("ddgsd"), 22).batches(0, torch.Generator())
    assert [part.num for part in batches] == [4, 4, 4, 4, 4, 2]


def test_ps_kd_refines_targets_by_what_it_predicted_last() -> None:
    model, settings = nn.Linear(4, 5), make_settings("ps-kd")
    strategy = STRATEGIES.all()["ps-kd"](settings, 6)

    def take(epoch: int) -> Tensor:
        return strategy.loss(model, Batch(epoch, 0, torch.arange(6), LABELS, lambda _: IMAGES))

    assert torch.allclose(take(0), F.cross_entropy(model(IMAGES), LABELS))
    predicted = model(IMAGES).detach().softmax(1)
    assert torch.allclose(strategy.common()["past"], predicted)
    alpha = 0.8 * 2 / 4
    refined = (1 - alpha) * F.one_hot(LABELS, 5) + alpha * predicted
    with torch.no_grad():
        model.weight += 0.1
    assert torch.allclose(take(1), F.cross_entropy(model(IMAGES), refined))


def test_ps_kd_forgets_what_was_mixed_and_needs_some_that_is_not() -> None:
    data, settings = make_data(), make_settings("ps-kd", mixup=0.5, epochs=1)
    kept: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:

        class Watched(STRATEGIES.all()["ps-kd"]):  # type: ignore[misc]
            def release(self) -> None:
                kept.append(self.common()["past"])

        patch.setattr(loop, "make_strategy", Watched)
        fit(make_net(), data, settings, seed=0, engine=ENGINE)
    predicted = kept[0].any(1)
    assert 0 < int(predicted.sum()) < 22
    with pytest.raises(ValidationError, match="not mixed"):
        make_settings("ps-kd", mixup=0.5, cutmix=0.5)


def deep_net() -> nn.Module:
    """Three stages, so two exits."""
    with scoped(0, "net"):
        return ConvNet(3, 1, 8, 8, depth=3, width=4, norm="batch")


def byot_of(model: nn.Module, num_images: int = 22, **own: Any) -> tuple[Strategy, Callable[[], Batch]]:
    """The strategy, ready for `model`, and what makes its batch of all images."""
    data = make_data(num_images)
    strategy = STRATEGIES.all()["byot"](make_settings("byot", byot=own), num_images)
    with scoped(0, "strategy"):
        strategy.prepare(model, lambda: data.images(torch.tensor([0])), None)
    images = data.images(torch.arange(num_images))
    return strategy, lambda: Batch(0, 0, torch.arange(num_images), data.labels, lambda _: images)


def exits_of(strategy: Strategy) -> list[Exit]:
    assert isinstance(strategy.extra, nn.ModuleList)
    return [exit_ for exit_ in strategy.extra if isinstance(exit_, Exit)]


def maps_of(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Outputs of the stages, one by one."""
    maps, found = images, []
    for module in model.get_submodule("features").children():
        maps = module(maps)
        if isinstance(module, nn.AvgPool2d):
            found.append(maps)
    return found


def test_byot_at_alpha_0_and_lam_0_is_ce_at_every_exit_and_leaves_the_network_alone() -> None:
    model = make_net()
    names = set(model.state_dict())
    strategy, batch = byot_of(model, alpha=0, lam=0)
    loss, images, labels = strategy.loss(model, batch()), batch().images, batch().targets
    (exit_,) = exits_of(strategy)
    early, adapted = exit_(maps_of(model, images)[0])
    assert adapted is None
    assert torch.allclose(loss, F.cross_entropy(model(images), labels) + F.cross_entropy(early, labels), atol=1e-5)
    strategy.release()
    assert set(model.state_dict()) == names
    assert not stages(model, "byot")[0]._forward_hooks


@pytest.mark.parametrize(("spares", "near"), [("deepest", [0]), ("shallowest", [1]), ("none", [0, 1])])
def test_byot_is_its_formula(spares: str, near: list[int]) -> None:
    """As the released code adds it up: soft cross-entropy without tau², and the plain norm over the whole batch."""
    model = deep_net()
    strategy, batch = byot_of(model, spares=spares)
    images, labels = batch().images, batch().targets
    loss = strategy.loss(model, batch())
    *maps, last = maps_of(model, images)
    logits, end = model(images).detach(), last.mean((2, 3)).detach()
    expected = F.cross_entropy(model(images), labels)
    entropy = -((logits / 3).softmax(1) * (logits / 3).log_softmax(1)).sum(1).mean()
    for place, (exit_, found) in enumerate(zip(exits_of(strategy), maps, strict=True)):
        features = exit_.bottleneck(found).mean((2, 3))
        early = exit_.classifier(features)
        soft = -((logits / 3).softmax(1) * (early / 3).log_softmax(1)).sum(1).mean()
        expected = expected + 0.7 * F.cross_entropy(early, labels) + 0.3 * (soft - entropy)
        assert (exit_.adaptation is not None) == (place in near)
        if exit_.adaptation is not None:
            expected = expected + 0.03 * torch.dist(exit_.adaptation(features), end)
    assert torch.allclose(loss, expected, atol=1e-5)
    strategy.release()


def test_byot_without_the_features_term_is_what_it_was_before_there_was_one() -> None:
    model = deep_net()
    plain, batch = byot_of(model, lam=0)
    expected = plain.loss(model, batch())
    plain.release()
    whole, batch = byot_of(model, lam=0.5)
    for name, value in plain.extra.state_dict().items():  # type: ignore[union-attr]
        counted = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        assert counted or torch.equal(whole.extra.state_dict()[name], value)  # type: ignore[union-attr]
    loss = whole.loss(model, batch())
    features = exits_of(whole)[0].bottleneck(maps_of(model, batch().images)[0]).mean((2, 3))
    adapted = exits_of(whole)[0].adaptation
    assert adapted is not None
    distance = torch.dist(adapted(features), maps_of(model, batch().images)[-1].mean((2, 3)))
    assert distance > 1
    assert torch.allclose(loss - 0.5 * distance, expected, atol=1e-5)
    whole.release()


def test_byot_brings_features_near_by_moving_exits_and_adaptations_but_not_the_end() -> None:
    model = deep_net()
    strategy, batch = byot_of(model)
    strategy.look(model, batch())
    early, _, last = strategy._stages.take(strategy.whole)  # type: ignore[attr-defined]
    _, adapted = exits_of(strategy)[0](early)
    (adapted - last.mean((2, 3)).detach()).norm().backward()
    moved = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
    assert moved == {name for name, _ in model.named_parameters() if name.startswith(("features.0", "features.1."))}
    strategy.release()
    trained: list[dict[str, Tensor]] = []
    for epochs in (1, 5):
        with pytest.MonkeyPatch.context() as patch:

            class Watched(STRATEGIES.all()["byot"]):  # type: ignore[misc]
                def release(self) -> None:
                    trained.append(exits_of(self)[0].state_dict())
                    super().release()

            patch.setattr(loop, "make_strategy", Watched)
            settings = make_settings("byot", epochs=epochs, learning_rate=1e-9 if epochs == 1 else 0.05)
            fit(deep_net(), make_data(), settings, seed=0, engine=ENGINE)
    start, end = trained
    assert {name for name in start if name.startswith("adaptation")} == {"adaptation.weight", "adaptation.bias"}
    for name, value in start.items():
        if not name.endswith("num_batches_tracked"):
            assert not torch.allclose(end[name], value, atol=1e-4)


def test_the_norm_of_a_part_of_a_batch_is_of_the_size_of_the_whole_ones() -> None:
    model = deep_net().eval()
    strategy, batch = byot_of(model, num_images=8, alpha=1)
    assert strategy.extra is not None
    strategy.extra.eval()

    def distance(rows: slice, num_of_all: int | None) -> Tensor:
        indices = torch.arange(8)[rows]
        part = Batch(0, 0, indices, batch().targets[rows], lambda _: batch().images[rows], num_of_all=num_of_all)
        found = []
        for lam in (0.03, 0.0):
            strategy.settings = make_settings("byot", byot={"alpha": 1, "lam": lam})
            found.append(strategy.term(strategy.look(model, part), part))
        assert isinstance(found[0], Tensor)
        assert isinstance(found[1], Tensor)
        return found[0] - found[1]

    halves = torch.stack([distance(slice(0, 4), 8), distance(slice(4, 8), 8)])
    assert torch.allclose(halves.square().mean(), distance(slice(0, 8), None).square(), rtol=1e-4)
    strategy.release()


def test_what_the_network_is_shown_between_two_steps_is_no_part_of_either() -> None:
    for name in ("byot", "ddgsd"):
        losses = []
        for between in (False, True):
            model = deep_net()
            strategy = STRATEGIES.all()[name](make_settings(name), 6)
            with scoped(0, "strategy"):
                strategy.prepare(model, lambda: make_data().images(torch.tensor([0])), None)
            images = make_data().images(torch.arange(6))
            if between:
                model.eval()(images[:5])
                model.train()
            losses.append(strategy.loss(model, Batch(0, 0, torch.arange(6), LABELS % 3, lambda k, i=images: i)))
            strategy.release()
        assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("name", "num"), [("resnet18-small", 4), ("vgg11-small", 5), ("convnet-d3-w8", 3), ("timm:resnet10t", 4)]
)
def test_networks_with_stages(name: str, num: int) -> None:
    task = Task(("a", "b"), 3, 32, 32, Normalization((0.5,) * 3, (0.5,) * 3))
    assert len(stages(build(name, task), "byot")) == num


def test_networks_without_stages_or_features_are_refused_before_training() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    for name in ("byot", "mixskd"):
        with pytest.raises(ConfigError, match=f"no stages to leave at, for the strategy {name}"):
            fit(net, make_data(), make_settings(name), seed=0, engine=ENGINE)
    bare = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    with pytest.raises(ConfigError, match="no features"):
        fit(bare, make_data(), make_settings("ddgsd"), seed=0, engine=ENGINE)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("dlb+dbl", "unknown strategy 'dbl'"),
        ("ps-kd+tf-kd", "both say what the targets are"),
        ("dlb+dlb", "both make the batches"),
        ("ddgsd+ddgsd", "twice"),
        ("dlb+mixskd", "mixskd cannot be added to others"),
    ],
)
def test_sums_that_cannot_be_are_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        find(name, STRATEGIES.all())
    with pytest.raises(ValidationError, match=says):
        make_settings(name)


def test_a_sum_of_terms_without_weight_is_cross_entropy() -> None:
    nothing: dict[str, Any] = {"dlb": {"alpha": 0}, "ddgsd": {"alpha": 0, "mu": 0}}
    settings = make_settings("dlb+ddgsd", **nothing)
    strategy, model = find("dlb+ddgsd", STRATEGIES.all())(settings, 6), nn.Linear(4, 5)
    strategy.prepare(model, lambda: IMAGES[:1], None)
    for step in range(2):
        indices = torch.arange(3 * (1 + step)) if step == 0 else torch.arange(6)
        batch = Batch(0, step, indices, LABELS[indices], lambda k, i=indices: (IMAGES, OTHERS)[k][i])
        expected = (
            F.cross_entropy(model(IMAGES[indices]), batch.targets)
            + F.cross_entropy(model(OTHERS[indices]), batch.targets)
        ) / 2
        assert torch.allclose(strategy.loss(model, batch), expected, atol=1e-6)
    assert sorted(strategy.memory()) == ["dlb.born", "dlb.indices", "dlb.logits"]
    strategy.release()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("soft", [False, True])
def test_every_strategy_trains_on_hard_and_soft_labels_mixed_or_not(name: str, soft: bool) -> None:
    data = make_data()
    if soft:
        targets = torch.rand(22, 3, generator=torch.Generator().manual_seed(3)).softmax(1)
        data = TensorSet(data.images(torch.arange(22)), targets)
    changes: dict[str, Any] = {"cutmix": 0.4, "mixup": 0.3, "cutout_px": 4, "temperature": 2, "epochs": 2}
    model = make_net()
    fitted = fit(model, data, make_settings(name, **changes), seed=0, engine=ENGINE, teacher=Teacher(64))
    assert all(0 < loss < 50 for loss in fitted.losses)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ALL)
def test_every_strategy_resumes_to_the_same_bits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    path = tmp_path / "checkpoint.safetensors"

    def train(model: nn.Module, path: Path | None, after: Callable[[int], None] | None = None) -> tuple[float, ...]:
        settings = make_settings(name, mixup=0.3, ema=0.5)
        common: dict[str, Any] = {"seed": 2, "engine": ENGINE, "teacher": Teacher(64)}
        return fit(model, make_data(), settings, **common, checkpoint=path, after_epoch=after).losses

    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    unbroken, resumed = make_net(), make_net()
    losses = train(unbroken, None)
    with pytest.raises(KeyboardInterrupt):
        train(make_net(), path, stop)
    assert train(resumed, path) == losses
    for key, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)


def test_byot_resumes_its_exits_and_adaptations_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    settings = make_settings("byot", optimizer="adamw", learning_rate=0.01)
    common: dict[str, Any] = {"seed": 2, "engine": ENGINE}

    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    fit(deep_net(), make_data(), settings, **common, checkpoint=whole)
    with pytest.raises(KeyboardInterrupt):
        fit(deep_net(), make_data(), settings, **common, checkpoint=broken, after_epoch=stop)
    fit(deep_net(), make_data(), settings, **common, checkpoint=broken)
    assert any(name.startswith("extra.0.adaptation") for name in read_tensors(whole)[0])
    assert broken.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", ["dlb", "dlb+ddgsd", "byot+dlb"])
def test_halves_apart_are_put_together_again_in_the_order_of_the_batch(name: str) -> None:
    """Without BatchNorm in the network, whose statistics would be of a half, apart and together are the same."""

    def train(apart: bool) -> nn.Module:
        with scoped(0, "net"):
            net = ConvNet(3, 1, 8, 8, depth=3, width=4, norm="group")
        fit(net, make_data(), make_settings(name, dlb={"apart": apart}), seed=0, engine=ENGINE)
        return net

    together, apart = train(False), train(True)
    for key, value in together.state_dict().items():
        assert torch.allclose(apart.state_dict()[key], value, atol=1e-4), key


def test_replayed_labels_keep_their_own_mix(tmp_path: Path) -> None:
    from attar.augment.replayed import ReplayedSet
    from attar.augment.views import Views, ViewSettings

    data = make_data()
    views = Views(ViewSettings(mix="cutmix"), 0, 22, (1, 8, 8))
    replayed = ReplayedSet(data.images, data.labels, views, Teacher(64).logits)
    result = fit(make_net(), replayed, make_settings("dlb", epochs=2), seed=0, engine=ENGINE)
    assert len(result.losses) == 2
    for changes in ({"cutmix": 0.5}, {"label_noise": 0.1}):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            fit(make_net(), replayed, make_settings("dlb", **changes), seed=0, engine=ENGINE)
