import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from attar.config import options
from attar.training.section import TrainSection
from attar.training.settings import learning_rate, make_optimizer
from attar.training.strategies import STRATEGIES, identity, make_strategy


def test_the_defaults_are_the_published_protocol() -> None:
    settings = TrainSection()
    assert (settings.optimizer, settings.learning_rate, settings.momentum) == ("sgd", 0.01, 0.9)
    assert (settings.weight_decay, settings.batch_size, settings.epochs) == (5e-4, 256, 1000)
    assert (settings.augment, settings.augment_per, settings.strategy) == ("dsa", "operation", "ce")
    assert [learning_rate(settings, epoch) for epoch in (0, 499.9, 500, 999)] == pytest.approx(
        [0.01, 0.01, 0.001, 0.001]
    )


@pytest.mark.parametrize(("num", "size"), [(1, 10), (50, 10), (51, 50), (10_000, 50), (10_001, 100), (1_281_167, 100)])
def test_the_batch_size_may_follow_the_number_of_images(num: int, size: int) -> None:
    settings = TrainSection(batch_size="auto")
    assert settings.batch_for(num) == size
    assert TrainSection(batch_size=7).batch_for(num) == 7
    assert make_strategy(settings, num).batch_size == size
    with pytest.raises(ValidationError):
        TrainSection(batch_size=0)


def test_every_option_is_described() -> None:
    assert all(option.meaning for option in options(TrainSection))


def test_several_milestones() -> None:
    settings = TrainSection(epochs=10, learning_rate=1.0, milestones=(0.5, 0.75))
    assert [learning_rate(settings, epoch) for epoch in (4, 5, 7, 8)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_cosine_goes_from_the_rate_to_zero() -> None:
    settings = TrainSection(epochs=8, learning_rate=2.0, schedule="cosine")
    assert learning_rate(settings, 0) == 2.0
    assert learning_rate(settings, 4) == pytest.approx(1.0)
    assert learning_rate(settings, 2) == pytest.approx(1 + math.cos(math.pi / 4))
    assert learning_rate(settings, 8) == pytest.approx(0.0)


def test_warm_up_rises_and_the_cosine_starts_behind_it() -> None:
    settings = TrainSection(epochs=12, learning_rate=1.0, schedule="cosine", warmup_epochs=4)
    assert [learning_rate(settings, epoch) for epoch in (0, 1, 2.5, 4, 8)] == pytest.approx([0, 0.25, 0.625, 1, 0.5])


def test_warm_up_and_cosine_by_epoch_are_those_of_torch() -> None:
    """As torchvision's reference training has them, which trains SRe2L's networks for Tiny-ImageNet."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    rise = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=5)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=15)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, fall], milestones=[5])
    settings = TrainSection(
        epochs=20, learning_rate=0.2, schedule="cosine", warmup_epochs=5, warmup_start=0.01, schedule_by="epoch"
    )
    for epoch in range(20):
        theirs = optimizer.param_groups[0]["lr"]
        assert learning_rate(settings, epoch) == learning_rate(settings, epoch + 0.99) == pytest.approx(theirs)
        optimizer.step()
        schedule.step()


def test_half_a_cosine_ends_at_half_the_rate() -> None:
    """Source: RDED's validation/main.py, 0.5 (1 + cos(pi e / E / 2)) in epoch e of E."""
    settings = TrainSection(epochs=6, learning_rate=2.0, schedule="cosine", cosine_part=0.5, schedule_by="epoch")
    for epoch in range(6):
        assert learning_rate(settings, epoch + 0.5) == pytest.approx(1 + math.cos(math.pi * epoch / 6 / 2))
    assert learning_rate(settings, 6) == pytest.approx(1.0)


def test_constant_stays() -> None:
    settings = TrainSection(schedule="constant", learning_rate=0.3)
    assert {learning_rate(settings, epoch) for epoch in (0, 1, 999.9)} == {0.3}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"strategy": "dlbb"}, "unknown strategy"),
        ({"augment": "flip_crob"}, "unknown augmentation"),
        ({"milestones": [1.5]}, "fractions"),
        ({"milestones": [0]}, "fractions"),
        ({"nesterov": True, "momentum": 0}, "nesterov needs"),
        ({"warmup_epochs": 10, "epochs": 10}, "fewer than epochs"),
        ({"learning_rate": -1}, "greater than 0"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"cosine_part": 0.5}, "is of the cosine schedule"),
        ({"warmup_epochs": 2, "schedule_by": "epoch"}, "warmup_start above 0"),
        ({"learning_rate": math.inf}, "finite"),
    ],
)
def test_values_that_cannot_be_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TrainSection(**changes)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimizers(name: Any, kind: type[torch.optim.Optimizer]) -> None:
    optimizer = make_optimizer(nn.Linear(2, 2), TrainSection(optimizer=name, learning_rate=0.5))
    assert isinstance(optimizer, kind)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 5e-4


def test_sgd_is_the_textbooks() -> None:
    model = nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    settings = TrainSection(learning_rate=0.1, momentum=0.5, weight_decay=0.01)
    optimizer = make_optimizer(model, settings)
    momentum = torch.zeros_like(before)
    for _ in range(2):
        model.weight.grad = torch.ones_like(before)
        momentum = 0.5 * momentum + 1 + 0.01 * before
        before = before - 0.1 * momentum
        optimizer.step()
    assert torch.allclose(model.weight, before)


def test_a_training_is_known_by_the_settings_of_its_own_strategies_alone() -> None:
    groups = {kind.group() for kind in STRATEGIES.all().values() if kind.Settings}
    assert {"dlb", "mixskd"} < groups
    plain = identity(TrainSection(strategy="label-smoothing", label_smoothing=0.2))
    assert not groups & set(plain)
    assert plain["label_smoothing"] == 0.2
    assert identity(TrainSection(mixskd={"tau": 9.0})) == identity(TrainSection()) != identity(TrainSection(epochs=9))
    assert groups & set(identity(TrainSection(strategy="byot+dlb"))) == {"byot", "dlb"}
    tau = [identity(TrainSection(strategy="mixskd", mixskd={"tau": tau}))["mixskd"]["tau"] for tau in (3.0, 9.0)]
    assert tau == [3.0, 9.0]
