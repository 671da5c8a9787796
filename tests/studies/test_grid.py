"""The file of a study, the cells it stands for, and what is held equal among strategies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attar.data.loading import TensorSet
from attar.errors import ConfigError
from attar.models.factory import build
from attar.recipes import study_names as studies
from attar.runtime.engine import Engine
from attar.studies.grid import at_equal_images, cells_of, images_seen, showings
from attar.studies.settings import read_study
from attar.task import Normalization, Task
from attar.training.loop import fit
from attar.training.section import TrainSection
from attar.training.settings import learning_rate

TASK = Task(("a", "b", "c"), 1, 8, 8, Normalization((0.5,), (0.5,)))


def cells(path: Path, *assignments: str) -> Any:
    return cells_of(read_study(str(path), list(assignments)))


def test_without_parts_the_grid_is_all_with_all(study_file: Callable[..., Path]) -> None:
    path = study_file(variants={"plain": None, "cutmix": {"cutmix": 0.5}}, noise=[0, 0.4])
    made = cells(path)
    assert len(made) == 2 * 2 * 2
    assert {cell.seeds for cell in made} == {(0, 1)}
    mixed = [cell for cell in made if cell.variant == "cutmix"]
    assert {cell.settings.cutmix for cell in mixed} == {0.5}
    assert {(cell.strategy, cell.settings.strategy) for cell in made} == {("ce", "ce"), ("dlb", "dlb")}
    assert all(cell.settings.label_noise == cell.noise for cell in made)


def test_parts_are_added_up_and_no_cell_is_there_twice(study_file: Callable[..., Path]) -> None:
    path = study_file(
        variants={"plain": {}, "cutmix": {"cutmix": 0.5}},
        noise=[0, 0.4],
        grid=[{"noise": [0]}, {"variants": ["plain"], "seeds": [1, 5]}],
    )
    made = {(cell.strategy, cell.variant, cell.noise): cell.seeds for cell in cells(path)}
    assert len(made) == 4 + 2
    assert made["ce", "cutmix", 0] == (0, 1)
    assert made["dlb", "plain", 0] == (0, 1, 5)
    assert made["dlb", "plain", 0.4] == (1, 5)


def test_a_strategy_may_have_a_name_and_settings_of_its_own(study_file: Callable[..., Path]) -> None:
    path = study_file(strategies={"ce": None, "soft-dlb": {"strategy": "dlb", "dlb": {"tau": 5}}})
    soft = next(cell for cell in cells(path) if cell.strategy == "soft-dlb")
    assert (soft.settings.strategy, soft.settings.dlb.tau, soft.settings.dlb.alpha) == ("dlb", 5, 1)


def test_everything_that_is_wrong_is_told_at_once(study_file: Callable[..., Path]) -> None:
    path = study_file(
        models=["convnet-d1"],
        strategis=["ce"],
        noise=[1.5],
        data={"source": "digits", "train_per_clas": 6},
        train={"epochz": 3},
        grid=[{"variant": ["plain"]}],
    )
    with pytest.raises(ConfigError) as told:
        cells(path)
    for says in (
        "unknown model",
        "strategis",
        "parts of wrong labels",
        "data.train_per_clas",
        "train.epochz",
        "grid.0",
    ):
        assert says in str(told.value)
    assert "did you mean train_per_class" in str(told.value)


def test_sets_are_checked_by_name_before_anything_is_trained(study_file: Callable[..., Path]) -> None:
    path = study_file(
        strategies={"dbl": None, "ce": {"learning_rates": 1}},
        variants={"both": {"cutmix": 0.7, "mixup": 0.7}, "other": {"strategy": "dlb", "label_noise": 0.2}},
        grid=[{"variants": ["cutmix"]}],
        baseline="plain",
    )
    with pytest.raises(ConfigError) as told:
        cells(path)
    for says in (
        "strategies.dbl.strategy: unknown strategy 'dbl'",
        "did you mean dlb",
        "strategies.ce.learning_rates: no such field; did you mean learning_rate",
        "variants.both: cutmix 0.7 and mixup 0.7 share the batches",
        "variants.other.strategy: give it under `strategies`",
        "variants.other.label_noise: give it under `noise`",
        "grid.0.variants: no 'cutmix' among the study's: both, other",
        "baseline: plain is none of the strategies",
    ):
        assert says in str(told.value), says


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"seeds": 0}, "grid.0.seeds: at least one seed, and none below 0"),
        ({"seeds": []}, "grid.0.seeds: at least one seed, and none below 0"),
        ({"seeds": [1, -1]}, "grid.0.seeds: at least one seed, and none below 0"),
        ({"noise": [0.4, 0.7]}, "grid.0.noise: no 0.7 among the study's: 0.0, 0.4"),
    ],
)
def test_numbers_of_a_part_are_checked_as_the_study_s_are(
    study_file: Callable[..., Path], part: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as told:
        cells(study_file(noise=[0, 0.4], grid=[part]))
    assert says in told.value.found


def test_sets_that_do_not_go_together_are_named_both(study_file: Callable[..., Path]) -> None:
    path = study_file(strategies=["ce", "ps-kd"], variants={"plain": {}, "mixed": {"cutmix": 1.0}})
    with pytest.raises(ConfigError, match="ps-kd with mixed: ps-kd remembers predictions"):
        cells(path)


@pytest.mark.parametrize("strategy", ["ce", "ps-kd", "dlb", "ddgsd", "dlb+ddgsd"])
def test_images_seen_are_those_that_go_through_the_network(strategy: str) -> None:
    settings = TrainSection(epochs=3, batch_size=8, strategy=strategy, augment="none")
    model, seen = build("convnet-d1-w4", TASK), 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0]) if module.training else 0

    model.register_forward_pre_hook(count)
    fit(model, TensorSet(torch.randn(36, 1, 8, 8), torch.arange(36) % 3), settings, seed=0, engine=Engine("cpu"))
    last = 4 * showings(settings) // 2 if "dlb" in strategy else 0  # dlb never comes back to its last new images
    assert images_seen(settings, 36) - last <= seen <= images_seen(settings, 36)


@pytest.mark.parametrize(
    ("strategy", "times"), [("ce", 1), ("dlb", 2), ("ddgsd", 2), ("dlb+ddgsd", 4), ("byot+dlb", 2)]
)
def test_equal_images_seen_keep_the_schedule(strategy: str, times: int) -> None:
    settings = TrainSection(epochs=240, strategy=strategy, milestones=(150, 180, 210), warmup_epochs=4)
    equal = at_equal_images(settings)
    assert images_seen(equal, 100) == 100 * 240
    assert equal.epochs == 240 // times
    plain = TrainSection(epochs=240, milestones=(150, 180, 210), warmup_epochs=4)
    for done in (0, 0.01, 0.3, 0.624, 0.626, 0.8, 0.99):
        assert learning_rate(equal, done * equal.epochs) == pytest.approx(learning_rate(plain, done * 240))


def test_epochs_that_cannot_be_divided_are_told(study_file: Callable[..., Path]) -> None:
    path = study_file()
    with pytest.raises(ConfigError, match=r"dlb with plain: train.epochs 3 .* must divide by 2, or equal: epochs"):
        cells(path, "train.epochs=3")
    as_published = {cell.strategy: cell.settings.epochs for cell in cells(path, "train.epochs=3", "equal=epochs")}
    assert as_published == {"ce": 3, "dlb": 3}


def test_epochs_may_be_so_many_times_those_below(study_file: Callable[..., Path]) -> None:
    path = study_file(
        strategies={
            "ce": {},
            "dlb": {},
            "published": {"strategy": "dlb", "epochs": "1x"},
            "twice": {"strategy": "ce", "epochs": "2x"},
        },
        variants={"plain": {}, "long": {"epochs": "1.5x"}},
        train={"epochs": 40, "milestones": [20, 30]},
    )
    made = {(one.strategy, one.variant): one.settings for one in cells(path)}
    assert {key: one.epochs for key, one in made.items()} == {
        ("ce", "plain"): 40,
        ("dlb", "plain"): 20,
        ("published", "plain"): 40,
        ("twice", "plain"): 80,
        ("ce", "long"): 60,
        ("dlb", "long"): 30,
        ("published", "long"): 60,
        ("twice", "long"): 120,
    }
    for one in made.values():  # the same schedule, longer or shorter
        parts = [place if place < 1 else place / one.epochs for place in one.milestones]
        assert parts == pytest.approx([0.5, 0.75])
    shorter = {(one.strategy, one.variant): one.settings.epochs for one in cells(path, "train.epochs=60")}
    assert (shorter["twice", "plain"], shorter["published", "long"]) == (120, 90)
    with pytest.raises(ConfigError, match=r"strategies.twice.epochs: .*found 11.5"):
        cells(path, "train.epochs=46", "strategies.twice.epochs=0.25x")
    with pytest.raises(ConfigError, match=r"strategies.twice.epochs: .*found x2"):
        cells(path, "strategies.twice.epochs=x2")


def test_a_strategy_that_names_its_epochs_keeps_them_and_a_variant_s_are_shared(
    study_file: Callable[..., Path],
) -> None:
    path = study_file(
        strategies={"ce": {}, "dlb": {}, "long": {"strategy": "dlb", "epochs": 7}},
        variants={"plain": {}, "twice": {"epochs": 4}},
    )
    found = {(cell.strategy, cell.variant): cell.settings.epochs for cell in cells(path)}
    assert found == {
        ("ce", "plain"): 2, ("dlb", "plain"): 1, ("long", "plain"): 7,
        ("ce", "twice"): 4, ("dlb", "twice"): 2, ("long", "twice"): 7,
    }  # fmt: skip


@pytest.mark.parametrize("name", studies())
def test_bundled_studies_are_valid_and_say_what_they_are(name: str) -> None:
    study = read_study(name)
    assert cells_of(study)
    assert study.about
    assert study.cost


@pytest.mark.parametrize(
    ("name", "resolution", "fresh", "epochs", "rate"),
    [("cifar10", None, 64, 240, 0.05), ("cifar100", None, 64, 240, 0.05), ("tiny-imagenet", 32, 128, 200, 0.2)],
)
def test_the_studies_of_dlb_have_what_its_authors_published(
    name: str, resolution: int | None, fresh: int, epochs: int, rate: float
) -> None:
    """From the paper and the released code, which sends the new half through the network first, by itself."""
    study = read_study(name)
    assert (study.data.source, study.data.resolution, study.judge.split) == (name, resolution, "test")
    theirs = {"vgg16-hidden512", "vgg19-hidden512", "resnet32-projected", "resnet110-bottleneck", "wrn-20-8"}
    of_the_paper = {"resnet18-small", "resnet50-small", "wrn-16-8"}
    assert set(study.models) == theirs | {"densenet-bc-40-12"} | of_the_paper
    made = {cell.strategy: cell.settings for cell in cells_of(study) if cell.variant == "plain" and not cell.noise}
    plain, dlb = made["ce"], made["dlb"]
    assert (dlb.dlb.apart, dlb.dlb.alpha, dlb.dlb.tau) == (True, 1, 3)
    assert (plain.batch_size, dlb.batch_size, plain.epochs, dlb.epochs) == (fresh, 2 * fresh, epochs, epochs)
    for settings in (plain, dlb):
        assert (settings.optimizer, settings.nesterov, settings.momentum) == ("sgd", True, 0.9)
        assert (settings.learning_rate, settings.weight_decay, settings.schedule) == (rate, 5e-4, "step")
    if epochs == 240:
        assert [learning_rate(plain, epoch) for epoch in (149, 150, 180, 210)] == pytest.approx(
            [rate, rate / 10, rate / 100, rate / 1000]
        )
    byot = made["byot"].byot
    assert (byot.alpha, byot.tau, byot.lam, byot.spares) == (0.3, 3, 0.03, "deepest")


def test_a_study_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match="did you mean digits"):
        read_study("digitz")
