"""What `auto` chooses."""

from __future__ import annotations

import pytest

from attar.methods import methods
from attar.run.choice import RULES, choose_method
from attar.task import Normalization, Task


def task(size_px: int, num_classes: int = 10, channels: int = 3) -> Task:
    names = tuple(f"class {k}" for k in range(num_classes))
    half = (0.5,) * channels
    return Task(names, channels, size_px, size_px, Normalization(half, half))


def test_rules_name_methods_and_the_last_fits_all() -> None:
    assert {rule.method for rule in RULES} <= set(methods())
    assert RULES[-1].fits(task(224, 1000), 200)
    assert all(not rule.fits(task(224, 1000), 200) for rule in RULES[:-1]), "no rule is hidden by one before it"


@pytest.mark.parametrize(("size_px", "num_classes", "ipc"), [(32, 10, 1), (64, 10, 10), (224, 1000, 50), (8, 10, 10)])
def test_the_first_rule_that_fits_is_chosen_and_says_why(size_px: int, num_classes: int, ipc: int) -> None:
    name, why = choose_method(task(size_px, num_classes), ipc)
    rule = next(rule for rule in RULES if rule.fits(task(size_px, num_classes), ipc))
    assert name == rule.method
    assert why.startswith(f"{name} for {size_px} px, {num_classes} classes, {ipc} image")
    assert why.endswith(rule.why)
