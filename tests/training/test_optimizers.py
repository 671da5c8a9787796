"""Optimisers by name, what they take, and that their state survives a checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from attar.data.loading import MemorySplit, RealSet, TensorSet
from attar.errors import ConfigError
from attar.models import factory
from attar.models.convnet import ConvNet, Norm
from attar.runtime.engine import Engine
from attar.runtime.seeding import scoped
from attar.task import Normalization, Task
from attar.training import loop
from attar.training.feeding import ResidentPixels
from attar.training.loop import fit
from attar.training.optimizers import make_optimizer
from attar.training.section import TrainSection
from attar.training.settings import learning_rate

ENGINE = Engine("cpu")
OF_TORCH = ("muon", "rmsprop", "adadelta", "nadam", "radam", "adamax", "adagrad", "asgd", "rprop", "adafactor")
OF_TIMM = ("lamb", "lion", "sgdw", "madgrad", "adan", "adopt", "mars", "timm:adamw")


def make_net() -> nn.Module:
    with scoped(0, "net"):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def make_data(num: int = 24) -> TensorSet:
    return TensorSet(torch.randn(num, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(num) % 3)


def make_settings(**changes: Any) -> TrainSection:
    basis: dict[str, Any] = {"epochs": 4, "batch_size": 8, "learning_rate": 0.01, "augment": "none"}
    return TrainSection(**basis | changes)


@pytest.mark.parametrize("name", [*OF_TORCH, *OF_TIMM])
def test_any_optimiser_trains_and_resumes_to_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)

    def stop(epoch: int) -> None:
        if epoch == 3:
            raise KeyboardInterrupt

    settings, path = make_settings(optimizer=name), tmp_path / "checkpoint.safetensors"
    unbroken, resumed, start = make_net(), make_net(), make_net()
    expected = fit(unbroken, make_data(), settings, seed=0, engine=ENGINE)
    with pytest.raises(KeyboardInterrupt):
        fit(make_net(), make_data(), settings, seed=0, engine=ENGINE, checkpoint=path, after_epoch=stop)
    assert fit(resumed, make_data(), settings, seed=0, engine=ENGINE, checkpoint=path) == expected
    for key, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)
    assert not torch.equal(unbroken.state_dict()["1.weight"], start.state_dict()["1.weight"])


@pytest.mark.parametrize("name", [*OF_TORCH, *OF_TIMM, "sgd", "adam", "adamw"])
def test_norms_and_biases_are_a_group_without_decay_under_any_optimiser(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)

    def stop(epoch: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    settings = make_settings(optimizer=name, decay_norms=False, weight_decay=0.1, epochs=3)
    *decaying, others = make_optimizer(make_net(), settings).param_groups
    assert [parameter.ndim for group in decaying for parameter in group["params"]] == [2, 2]
    assert [parameter.ndim for parameter in others["params"]] == [1, 1, 1, 1]
    assert {group.get("weight_decay", 0.1) for group in decaying} == {0.1}
    assert others["weight_decay"] == 0
    unbroken, resumed, path = make_net(), make_net(), tmp_path / "checkpoint.safetensors"
    expected = fit(unbroken, make_data(), settings, seed=0, engine=ENGINE)
    with pytest.raises(KeyboardInterrupt):
        fit(make_net(), make_data(), settings, seed=0, engine=ENGINE, checkpoint=path, after_epoch=stop)
    assert fit(resumed, make_data(), settings, seed=0, engine=ENGINE, checkpoint=path) == expected
    for key, value in unbroken.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)


@pytest.mark.parametrize("decay_norms", [True, False])
def test_without_a_gradient_only_what_decays_shrinks(decay_norms: bool) -> None:
    net = make_net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    settings = make_settings(optimizer="adamw", learning_rate=0.5, weight_decay=0.2, decay_norms=decay_norms)
    optimizer = make_optimizer(net, settings)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in net.named_parameters():
        factor = 0.9 if decay_norms or name in ("1.weight", "4.weight") else 1.0
        assert torch.allclose(parameter, factor * before[name])


def test_only_weights_of_two_dimensions_decay_in_a_transformer() -> None:
    """As SRe2L's and RDED's code goes by names and dimensions: positions and class token are no weights."""
    task = Task(("a", "b"), 3, 16, 16, Normalization((0.5,) * 3, (0.5,) * 3))
    model = factory.build("vit-d1-w64-p4", task)
    groups = make_optimizer(model, make_settings(decay_norms=False)).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying, others = [{names[id(parameter)] for parameter in group["params"]} for group in groups]
    assert decaying | others == set(names.values())
    assert all(name.endswith("weight") for name in decaying)
    assert {"pos_embed", "cls_token"} & set(names.values()) <= others
    assert all("norm" in name or "bias" in name or name in ("pos_embed", "cls_token") for name in others)


def test_settings_and_options_reach_the_optimiser() -> None:
    chosen: dict[str, Any] = {"momentum": 0.7, "weight_decay": 0.02, "optimizer_options": {"alpha": 0.5}}
    group = make_optimizer(make_net(), make_settings(optimizer="rmsprop", **chosen)).param_groups[0]
    assert (group["momentum"], group["weight_decay"], group["alpha"], group["lr"]) == (0.7, 0.02, 0.5, 0.01)
    adamw = make_optimizer(make_net(), make_settings(optimizer="adamw", optimizer_options={"betas": [0.5, 0.9]}))
    assert tuple(adamw.defaults["betas"]) == (0.5, 0.9)


@pytest.mark.parametrize("name", ["sdg", "lam", "lbfgs", "optimizer"])
def test_unknown_optimisers_are_told_with_the_nearest(name: str) -> None:
    with pytest.raises(ValidationError, match="unknown optimizer"):
        make_settings(optimizer=name)


def test_options_that_it_does_not_take_are_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="cannot be made"):
        fit(make_net(), make_data(), make_settings(optimizer_options={"beta": 1}), seed=0, engine=ENGINE)


def test_accumulated_batches_are_one_large_batch() -> None:
    def train(**changes: Any) -> nn.Module:
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(0.1)
        fit(net, make_data(), make_settings(learning_rate=0.1, **changes), seed=0, engine=ENGINE)
        return net

    large, small = train(batch_size=24), train(batch_size=8, accumulate=3)
    assert torch.allclose(large[1].weight, small[1].weight, atol=1e-6)
    uneven = train(batch_size=8, accumulate=2)  # 8 + 8, then 8 alone: two steps an epoch
    assert not torch.allclose(large[1].weight, uneven[1].weight, atol=1e-4)


def test_the_last_step_of_an_epoch_may_have_fewer_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    monkeypatch.setattr(loop.Average, "update", lambda self: steps.append(1))
    fit(make_net(), make_data(40), make_settings(epochs=3, accumulate=2), seed=0, engine=ENGINE)
    assert len(steps) == 3 * 3


def test_channels_last_trains_to_nearly_the_same() -> None:
    def train(layout: str) -> tuple[float, ...]:
        with scoped(0, "net"):
            net = ConvNet(3, 3, 8, 8, depth=2, width=4)
        data = TensorSet(torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3)
        settings = make_settings(augment="flip_crop", augment_per="image", memory_format=layout)
        losses = fit(net, data, settings, seed=0, engine=ENGINE).losses
        last = net.features[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert last == (layout == "channels_last")
        return losses

    assert train("channels_last") == pytest.approx(train("auto"), rel=1e-3)


@pytest.mark.parametrize(("norm", "last"), [("batch", True), ("instance", False)])
def test_the_norm_decides_the_layout_on_a_processor(norm: Norm, last: bool) -> None:
    net = ConvNet(3, 3, 8, 8, depth=2, width=4, norm=norm)
    data = TensorSet(torch.randn(6, 3, 8, 8), torch.arange(6) % 3)
    fit(net, data, make_settings(epochs=1), seed=0, engine=ENGINE)
    assert net.features[0].weight.is_contiguous(memory_format=torch.channels_last) == last


def test_pixels_on_a_device_are_normalised_to_the_same_bits() -> None:
    pixels = torch.randint(0, 256, (64, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalization = Normalization((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
    real, indices = RealSet(MemorySplit(pixels, torch.arange(64) % 3), normalization), torch.tensor([5, 5, 60, 0])
    assert torch.equal(ResidentPixels(pixels, normalization).images(indices), real.images(indices))


def test_the_published_schedule_of_dlb_can_be_said() -> None:
    published: dict[str, Any] = {
        "strategy": "dlb",
        "epochs": 240,
        "batch_size": 64,
        "learning_rate": 0.05,
        "nesterov": True,
        "schedule": "step",
        "augment": "crop_flip",
        "augment_per": "image",
    }
    whole = TrainSection(**published, milestones=(150, 180, 210))
    parts = TrainSection(**published, milestones=(0.625, 0.75, 0.875))
    assert (whole.momentum, whole.weight_decay, whole.dlb.tau, whole.dlb.alpha) == (0.9, 5e-4, 3.0, 1.0)
    for epoch, rate in ((0, 0.05), (149.9, 0.05), (150, 0.005), (180, 0.0005), (239, 0.00005)):
        assert learning_rate(whole, epoch) == learning_rate(parts, epoch) == pytest.approx(rate)


def test_one_cycle_rises_and_falls_as_torchs() -> None:
    settings = TrainSection(epochs=10, learning_rate=0.5, schedule="one-cycle")
    optimizer = torch.optim.SGD(make_net().parameters(), 0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=1001, cycle_momentum=False)
    for step in range(0, 1000, 50):
        # theirs peaks at step 0.3 x 1001 - 1
        assert learning_rate(settings, step / 100) == pytest.approx(theirs.get_last_lr()[0], abs=5e-3)
        for _ in range(50):
            optimizer.step()
            theirs.step()
    assert learning_rate(settings, 0) == pytest.approx(0.5 / 25)
    assert learning_rate(settings, 10) == pytest.approx(0.5 / 25 * 1e-4)


def test_one_cycle_takes_no_warm_up() -> None:
    with pytest.raises(ValidationError, match="rises by itself"):
        TrainSection(schedule="one-cycle", warmup_epochs=2)
