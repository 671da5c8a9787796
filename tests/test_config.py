from typing import Literal

import pytest
from pydantic import Field

from attar import config
from attar.config import Config
from attar.errors import ConfigError


class Loop(Config):
    """A loop."""

    iterations: int = Field(10, ge=0)
    """How many."""
    rate: float = 0.1
    """How fast."""


class Fast(Loop):
    """A faster loop."""

    changed = {"rate": 2.0}
    kind: str = "x"
    """Which."""


SECTIONS = {"recover": Loop, "squeeze": Fast}


def test_a_subclass_changes_defaults_without_stating_the_field_again():
    assert Fast().rate == 2.0
    assert Fast(rate=3.0).rate == 3.0
    assert {option.name: option.default for option in config.options(Fast)} == {
        "iterations": "10",
        "rate": "2",
        "kind": "x",
    }
    assert config.options(Loop)[0].meaning == "How many."


def test_every_problem_is_told_at_once():
    placed, problems = config.place(
        SECTIONS, ["recover.iteratons=3", "rate=1", "nonsense", "kind=y", "recover.iterations=-1", "house.x=1"]
    )
    with pytest.raises(ConfigError) as caught:
        config.build(SECTIONS, placed, problems)
    text = str(caught.value)
    assert "6 settings" not in text
    for part in (
        "did you mean iterations",
        "recover.rate or squeeze.rate",
        "nonsense",
        "house",
        "greater than or equal",
    ):
        assert part in text
    assert "kind" not in text.replace("known: iterations, rate, kind", "")


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("1e-3", 1e-3), ("null", None), ("[a, b]", ["a", "b"]), ("true", True), ("x", "x")]
)
def test_values_are_yaml(text, value):
    assert config.parse_value(text) == value


def test_differences_name_the_leaf():
    found = config.differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})
    assert found == ["a.c: was 2, now 3", "d: was none, now 4"]


def test_types_are_told_in_words():
    class Shown(Config):
        """Shown."""

        mode: Literal["one", "all"] | None = None
        """Which."""
        sizes: tuple[int, ...] = (1,)
        """How large."""
        rate: float | None = None
        """How fast."""

    assert [option.type for option in config.options(Shown)] == ["one | all | none", "list of int", "float | none"]
