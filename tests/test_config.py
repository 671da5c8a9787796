from typing import Annotated, Literal

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


class Bounded(Config):
    """A choice of a bounded number or a word."""

    share: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = "auto"
    """Which part."""


def test_bounds_of_a_number_are_no_part_of_its_types_name():
    assert config.options(Bounded)[0].type == "float | auto"


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


class Grouped(Loop):
    """A loop with a group."""

    inner: Loop = Loop()
    """A loop within."""
    extra: int = 0
    """Came later."""
    later = ("inner", "extra")


class FurtherGrouped(Grouped):
    """A subclass, whose own later fields add to those it inherits."""

    more: int = 1
    """Came later still."""
    later = ("more",)


def test_a_field_of_a_group_is_set_by_its_path():
    sections = {"train": Grouped, "recover": Loop}
    placed, problems = config.place(sections, ["train.inner.rate=2", "inner.iterations=3", "train.rate=1"])
    assert placed == {"train": {"inner": {"rate": 2, "iterations": 3}, "rate": 1}}
    built = config.build(sections, placed, problems)["train"]
    assert built == Grouped(rate=1, inner=Loop(rate=2, iterations=3))
    assert config.options(Grouped)[2].name == "inner.iterations"


def test_a_misspelt_field_of_a_group_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"train.inner.rat: no such field; did you mean rate"):
        config.build({"train": Grouped}, {"train": {"inner": {"rat": 2}}})


def test_layers_merge_groups_field_by_field():
    layers = {"train": {"inner": {"rate": 2}}}, {"train": {"inner": {"iterations": 3}, "rate": 1}}
    assert config.merge(*layers) == {"train": {"inner": {"rate": 2, "iterations": 3}, "rate": 1}}
    assert layers[0] == {"train": {"inner": {"rate": 2}}}


def test_what_came_later_is_left_out_of_a_dump_while_it_is_unused():
    assert config.dump(FurtherGrouped()) == config.dump(Loop())
    used = config.dump(FurtherGrouped(inner=Loop(rate=2), more=2))
    assert used["inner"] == {"iterations": 10, "rate": 2.0}
    assert used["more"] == 2
    assert "extra" not in used
