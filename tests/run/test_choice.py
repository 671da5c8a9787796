"""What `auto` chooses."""

from __future__ import annotations

from itertools import product

import pytest

from attar.methods import methods
from attar.options import Effort
from attar.run import preparing
from attar.run.choice import MEASURED, RULES, choose_method
from attar.run.effort import in_minutes
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
    either = (False, True)
    places = product((8, 32, 64, 224), (10, 100, 1000), (1, 3), (1, 10, 50), either, either, either)
    found = {
        choose_method(task(px, num, channels), ipc, on_cpu=cpu, soft=soft, minutes=minutes)[1].partition(": ")[2]
        for px, num, channels, ipc, cpu, soft, minutes in places
    }
    assert found == {f"{rule.why} ({MEASURED})" for rule in RULES}


@pytest.mark.parametrize(("size_px", "num_classes", "ipc"), [(32, 10, 1), (64, 10, 10), (224, 1000, 50), (8, 10, 10)])
def test_the_first_rule_that_fits_is_chosen_and_says_why(size_px: int, num_classes: int, ipc: int) -> None:
    name, why = choose_method(task(size_px, num_classes), ipc, on_cpu=False)
    rule = next(rule for rule in RULES if rule.fits(task(size_px, num_classes), ipc, on_cpu=False))
    assert name == rule.method
    assert why.startswith(f"{name} for {size_px} px, {num_classes} classes, {ipc} image")
    assert why.endswith(f"{rule.why} ({MEASURED})")


def test_a_processor_optimises_fewer_images_than_a_gpu() -> None:
    assert choose_method(task(32, 200), 1, on_cpu=False)[0] == "tesla"
    assert choose_method(task(32, 100), 1, on_cpu=True)[0] == "dm"
    assert choose_method(task(32, 200), 1, on_cpu=True)[0] == "cim", "of many classes a step looks at many images"
    assert choose_method(task(32, 1000), 3, on_cpu=True)[0] == "easy"
    assert choose_method(task(64), 20, on_cpu=False)[0] == "tesla"
    assert choose_method(task(64), 20, on_cpu=True)[0] == "cim"
    assert choose_method(task(65), 20, on_cpu=True)[0] == "pca"


@pytest.mark.parametrize("on_cpu", [False, True])
def test_a_coreset_is_chosen_where_it_does_as_well(on_cpu: bool) -> None:
    name, why = choose_method(task(8, channels=1), 10, on_cpu=on_cpu)
    assert name == "kmeans"
    assert "coreset" in why
    assert choose_method(task(8, channels=1), 1, on_cpu=on_cpu)[0] == "tesla"


def test_a_processor_matches_mean_features_or_with_soft_labels_those_of_each_image() -> None:
    for size_px, ipc in ((32, 1), (32, 50), (64, 10)):
        assert choose_method(task(size_px), ipc, on_cpu=True)[0] == "dm"
        assert choose_method(task(size_px), ipc, on_cpu=True, soft=True)[0] == "cim"
        assert choose_method(task(size_px), ipc, on_cpu=False)[0] == "tesla"
        assert choose_method(task(size_px), ipc, on_cpu=False, soft=True)[0] == "tesla"
    assert choose_method(task(32), 51, on_cpu=True)[0] == "easy", "more than 500 images"
    assert choose_method(task(32), 51, on_cpu=True, soft=True)[0] == "easy"
    assert choose_method(task(32, 100), 2, on_cpu=True, soft=True)[0] == "cim", "few images of many classes"
    assert choose_method(task(32, 100), 3, on_cpu=True, soft=True)[0] == "easy", "no longer ahead of random ones"
    assert choose_method(task(32, channels=1), 51, on_cpu=True)[0] == "kmeans", "easy grey images are all alike"
    assert choose_method(task(64), 11, on_cpu=True)[0] == "cim", "more than 100 larger ones"
    assert choose_method(task(65), 1, on_cpu=True)[0] == "pca", "larger still"
    assert choose_method(task(65), 1, on_cpu=True, soft=True)[0] == "easy"
    for size_px, ipc in ((64, 11), (65, 1)):
        assert choose_method(task(size_px, channels=1), ipc, on_cpu=True)[0] == "kmeans"
    assert choose_method(task(16), 1, on_cpu=True)[0] == "tesla", "a quarter of a small one shows nothing"
    assert choose_method(task(16), 1, on_cpu=True, soft=True)[0] == "tesla"
    assert choose_method(task(28, channels=1), 1, on_cpu=True)[0] == "dm"
    assert choose_method(task(28, channels=1), 50, on_cpu=True)[0] == "dm"
    assert choose_method(task(28, channels=1), 1, on_cpu=True, soft=True)[0] == "tesla"


def test_with_hours_a_processor_matches_trajectories() -> None:
    assert choose_method(task(32), 1, on_cpu=True, minutes=False)[0] == "tesla"
    assert choose_method(task(64), 1, on_cpu=True, minutes=False)[0] == "cim"
    asked = (Effort(), Effort(quick=True), Effort(time="1h"), Effort(time="2h"), Effort(thorough=True), None)
    assert [in_minutes(one) for one in asked] == [True, True, True, False, False, False]


@pytest.mark.parametrize(("assigned", "soft"), [([], False), (["relabel.labels=epochs"], True)])
def test_whether_soft_labels_are_asked_for_reaches_the_choice(
    assigned: list[str], soft: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bool] = []

    def choose(task: Task, ipc: int, *, on_cpu: bool, soft: bool, minutes: bool) -> tuple[str, str]:
        heard.append(soft)
        return "kmeans", ""

    monkeypatch.setattr(preparing, "choose_method", choose)
    preparing.prepare({"run": {"source": "digits", "ipc": 1}}, recipe="none", assignments=assigned, quiet=True)
    assert heard == [soft]
