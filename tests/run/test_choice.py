"""What `auto` chooses."""

from __future__ import annotations

import pytest

from attar.methods import methods
from attar.run import preparing
from attar.run.choice import RULES, choose_method
from attar.task import Normalization, Task


def task(size_px: int, num_classes: int = 10, channels: int = 3) -> Task:
    names = tuple(f"class {k}" for k in range(num_classes))
    half = (0.5,) * channels
    return Task(names, channels, size_px, size_px, Normalization(half, half))


@pytest.mark.parametrize("on_cpu", [False, True])
def test_rules_name_methods_and_one_fits_all(on_cpu: bool) -> None:
    assert {rule.method for rule in RULES} <= set(methods())
    fitting = [rule for rule in RULES if rule.fits(task(224, 1000), 200, on_cpu=on_cpu)]
    assert fitting, "the largest there is"


def test_every_rule_is_the_first_somewhere() -> None:
    sizes = [(size_px, classes, ipc) for size_px in (8, 32, 64, 224) for classes in (10, 1000) for ipc in (1, 10, 50)]
    chosen = {choose_method(task(px, num), ipc, on_cpu=cpu)[0] for px, num, ipc in sizes for cpu in (False, True)}
    assert chosen == {rule.method for rule in RULES}


@pytest.mark.parametrize(("size_px", "num_classes", "ipc"), [(32, 10, 1), (64, 10, 10), (224, 1000, 50), (8, 10, 10)])
def test_the_first_rule_that_fits_is_chosen_and_says_why(size_px: int, num_classes: int, ipc: int) -> None:
    name, why = choose_method(task(size_px, num_classes), ipc, on_cpu=False)
    rule = next(rule for rule in RULES if rule.fits(task(size_px, num_classes), ipc, on_cpu=False))
    assert name == rule.method
    assert why.startswith(f"{name} for {size_px} px, {num_classes} classes, {ipc} image")
    assert why.endswith(rule.why)


def test_a_processor_optimises_fewer_images_than_a_gpu() -> None:
    assert choose_method(task(32, 200), 1, on_cpu=False)[0] == "tesla"
    assert choose_method(task(32, 200), 1, on_cpu=True)[0] == "kmeans"
    assert choose_method(task(64), 1, on_cpu=False)[0] == "tesla"
    assert choose_method(task(64), 1, on_cpu=True)[0] == "kmeans"


@pytest.mark.parametrize("on_cpu", [False, True])
def test_a_coreset_is_chosen_where_it_does_as_well(on_cpu: bool) -> None:
    name, why = choose_method(task(8, channels=1), 10, on_cpu=on_cpu)
    assert name == "kmeans"
    assert "coreset" in why
    assert choose_method(task(8, channels=1), 1, on_cpu=on_cpu)[0] == "tesla"


def test_between_few_and_many_images_a_processor_matches_features_unless_labels_are_soft() -> None:
    assert choose_method(task(32), 50, on_cpu=True)[0] == "dm"
    assert choose_method(task(32), 50, on_cpu=True, soft=True)[0] == "kmeans"
    assert choose_method(task(32), 51, on_cpu=True)[0] == "kmeans", "more than 500 images"
    assert choose_method(task(32, 200), 1, on_cpu=True)[0] == "kmeans", "one image of many classes"
    assert choose_method(task(64), 50, on_cpu=True)[0] == "kmeans", "larger images"
    assert choose_method(task(32), 50, on_cpu=False)[0] == "tesla"


@pytest.mark.parametrize(("assigned", "soft"), [([], False), (["relabel.labels=epochs"], True)])
def test_whether_soft_labels_are_asked_for_reaches_the_choice(
    assigned: list[str], soft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bool] = []

    def choose(task: Task, ipc: int, *, on_cpu: bool, soft: bool) -> tuple[str, str]:
        heard.append(soft)
        return "kmeans", ""

    monkeypatch.setattr(preparing, "choose_method", choose)
    preparing.prepare({"run": {"source": "digits", "ipc": 1}}, recipe="none", assignments=assigned, quiet=True)
    assert heard == [soft]
