from typing import Annotated, Literal

import pytest
from pydantic import Field

from attar import config
from attar.config import Config
from attar.errors import ConfigError, nearest
from attar.training.section import TrainSection
from attar.training.strategies import STRATEGIES


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
    assert "kind" not in text.replace("one of iterations, rate, kind", "")


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("1e-3", 1e-3), ("null", None), ("[a, b]", ["a", "b"]), ("true", True), ("x", "x")]
)
def test_values_are_yaml(text, value):
    assert config.parse_value(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (None, "none"), (0.5, "0.5"), (("a", False), "[a, false]"), ({"a": None}, "{a: none}"), (3, "3")],
)
def test_defaults_are_shown_as_they_are_typed(value, text):
    assert config.value_text(value) == text


class Open(Config):
    """May be left open."""

    size: int | None = 3
    """A number, or none."""
    mix: Literal["none", "cutmix"] | None = "cutmix"
    """A choice of that name."""
    augment: str = "flip"
    """A text."""


def test_none_is_what_yaml_calls_null_where_a_field_may_be_that():
    assert Open.model_validate({"size": "none"}).size is None
    assert Open.model_validate({"mix": "none"}).mix == "none"
    assert Open.model_validate({"augment": "none"}).augment == "none"


def test_a_part_that_is_wrong_is_told_and_not_the_whole_again():
    class Some(Config):
        """Some of few."""

        labels: tuple[Literal["hard", "soft"], ...] = Field(("hard",), min_length=1)
        """Which."""

    with pytest.raises(ConfigError, match="a setting is not valid") as caught:
        config.build({"some": Some}, {"some": {"labels": ["foo"]}})
    assert str(caught.value).count("labels") == 1


def test_an_error_within_an_error_is_told_once_with_one_way_out():
    with pytest.raises(ConfigError) as caught:
        config.build({"train": TrainSection}, {"train": {"strategy": "dbl"}})
    assert str(caught.value).splitlines()[1:] == [
        "  - train.strategy: unknown strategy 'dbl'",
        f"    expected: one of {', '.join(sorted(STRATEGIES.own))}; did you mean dlb?",
        "    to fix: several are joined by '+', such as dlb+ddgsd",
    ]


def test_of_many_names_only_those_that_are_near_are_listed():
    many = [f"recipe-{number}" for number in range(100)]
    assert nearest("recipe-7x", many).startswith("did you mean recipe-7")
    assert "one of" not in nearest("recipe-7x", many)
    assert nearest("zzz", many).endswith("recipe-29 and 70 more")
    assert nearest("tesa", ["tesla", "tesla", "mtt"]) == nearest("tesa", ["tesla", "mtt"])
    assert nearest("tesa", ["tesla", "mtt"]) == "one of tesla, mtt; did you mean tesla?"


def test_differences_name_the_leaf():
    found = config.differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4})
    assert [(one.path, one.before, one.now) for one in found] == [("a.c", 2, 3), ("d", None, 4)]
    assert [str(one) for one in found] == ["a.c: was 2, now 3", "d: was none, now 4"]


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
    """One more."""


def test_a_field_of_a_group_is_set_by_its_path():
    sections = {"train": Grouped, "recover": Loop}
    placed, problems = config.place(sections, ["train.inner.rate=2", "inner.iterations=3", "train.rate=1"])
    assert placed == {"train": {"inner": {"rate": 2, "iterations": 3}, "rate": 1}}
    built = config.build(sections, placed, problems)["train"]
    assert built == Grouped(rate=1, inner=Loop(rate=2, iterations=3))
    assert config.options(Grouped)[2].name == "inner.iterations"


def test_a_misspelt_field_of_a_group_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match=r"train.inner.rat: no such field; .*did you mean rate"):
        config.build({"train": Grouped}, {"train": {"inner": {"rat": 2}}})


def test_layers_merge_groups_field_by_field():
    layers = {"train": {"inner": {"rate": 2}}}, {"train": {"inner": {"iterations": 3}, "rate": 1}}
    assert config.merge(*layers) == {"train": {"inner": {"rate": 2, "iterations": 3}, "rate": 1}}
    assert layers[0] == {"train": {"inner": {"rate": 2}}}


def test_a_dump_holds_every_field():
    loop = {"iterations": 10, "rate": 0.1}
    assert config.dump(Grouped()) == {**loop, "inner": loop, "extra": 0}


class Lists(Config):
    names: tuple[str, ...] = ("a",)
    numbers: tuple[int, ...] = (1,)
    either: Literal["all"] | tuple[int, ...] = "all"
    maybe: tuple[float, ...] | None = None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("names=convnet", ("convnet",)),
        ("names=a, b", ("a", "b")),
        ("names=[a, b]", ("a", "b")),
        ("numbers=3", (3,)),
        ("numbers=3, 4", (3, 4)),
        ("either=all", "all"),
        ("either=-1", (-1,)),
        ("maybe=none", None),
        ("names=none", ()),
        ("numbers=none", ()),
        ("maybe=0.5, 0.75", (0.5, 0.75)),
    ],
)
def test_a_list_is_typed_with_commas(typed, meant):
    placed, problems = config.place({"lists": Lists}, [typed])
    assert getattr(config.build({"lists": Lists}, placed, problems)["lists"], typed.partition("=")[0]) == meant


def test_what_is_no_list_of_such_things_is_told():
    placed, problems = config.place({"lists": Lists}, ["numbers=some", "either=strongest"])
    with pytest.raises(ConfigError) as told:
        config.build({"lists": Lists}, placed, problems)
    assert "lists.numbers.0: Input should be a valid integer" in str(told.value)
    assert "lists.either: Input should be all | list of int (found strongest)" in str(told.value)


@pytest.mark.parametrize(("num", "last"), [(config.MOST_SHOWN, "wrong 19"), (config.MOST_SHOWN + 8, "and 8 more")])
def test_a_long_list_of_problems_is_cut_and_counted(num, last):
    error = config.not_valid([f"wrong {k}" for k in range(num)], "look")
    assert error.found.startswith(f"{num} settings are not valid")
    assert error.found.splitlines()[-1].strip(" -") == last
