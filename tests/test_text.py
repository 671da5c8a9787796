"""The one reader of YAML and JSON: what it takes, and that hostile texts end in one error within a second."""

from __future__ import annotations

import ast
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import attar
from attar.config import parse_value
from attar.errors import ConfigError
from attar.recipes import load_recipe
from attar.text import MOST_DEPTH, TextError, parse_json, parse_yaml, yaml_text

PACKAGE = Path(attar.__file__).parent
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 30))
HOSTILE_YAML = {
    "laughs": (LAUGHS, "more than"),
    "merges": (MERGES, "names|merge|more than"),
    "a merge": ("a: {<<: {x: 1}}", "<<"),
    "itself": ("a: &a [*a]", "stands for nothing"),
    "deep": ("[" * 500_000, "deeply"),
    "deep mapping": ("{a: " * 200_000, "deeply"),
    "wide": ("[" + "1," * 500_000 + "]", "more than"),
    "long": ("x" * 1_100_000, "characters"),
    "base 60": ("a: " + ":".join(["1"] * 200_000), "a number of more"),
    "digits": ("a: " + "9" * 900_000, "a number of more"),
    "whole": ("a: " + "9" * 30, "beyond"),
    "infinite": ("a: .inf", "inf is no number"),
    "too large": ("a: 1.0e+999", "inf is no number"),
    "twice": ("a: 1\nb: 2\na: 3", "'a' is there twice"),
    "many, one twice": ("{" + ",".join(f"{i}: 1" for i in range(40_000)) + ",39999: 2}", "'39999' is there twice"),
    "an object": ("a: !!python/object/apply:os.system [x]", "!!python/object"),
    "a set": ("a: !!set {x}", "!!set"),
    "bytes": ("a: !!binary eA==", "!!binary"),
    "a tag of its own": ("a: !mine x", "!mine"),
    "not so": ("a: !!int x", "'x' is no int"),
    "nor so": ("a: !!bool maybe", "'maybe' is no bool"),
    "a key": ("? [a]\n: 1", "names"),
    "two": ("a: 1\n---\nb: 2", "document"),
    "zero": ("a: \0", "unacceptable"),
    "half a pair": ('a: "\\ud800"', "."),
    "no YAML": ("a: [", "."),
}
MOST_S = 20
"""Far more than the second that a slow processor takes, far less than what grows with the square of these sizes."""
HOSTILE_JSON = {
    "twice": ('{"a": 1, "a": 2}', "'a' is there twice"),
    "deep": ("[" * 100_000, "deeply"),
    "deeper than allowed": ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "deeply"),
    "digits": ("9" * 1_000_000, "digits"),
    "not finite": ("[NaN]", "NaN"),
    "too large": ("-1e999", "inf"),
    "half a pair": ('"\\ud800"', "surrogate"),
    "no text": (b"\xff", "utf-8"),
    "nothing": ("", "."),
}


@pytest.mark.parametrize(("text", "said"), HOSTILE_YAML.values(), ids=list(HOSTILE_YAML))
def test_hostile_yaml_is_one_error_and_hangs_nothing(text, said):
    started_s = time.process_time()
    with pytest.raises(TextError, match=said) as caught:
        parse_yaml(text)
    assert time.process_time() - started_s < MOST_S
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "said"), HOSTILE_JSON.values(), ids=list(HOSTILE_JSON))
def test_hostile_json_is_one_error_and_hangs_nothing(text, said):
    started_s = time.process_time()
    with pytest.raises(TextError, match=said):
        parse_json(text)
    assert time.process_time() - started_s < MOST_S


def test_numbers_to_the_base_of_60_are_texts():
    assert parse_yaml("seeds: 1:2:3\nratio: 1:30.5") == {"seeds": "1:2:3", "ratio": "1:30.5"}


def test_dates_are_texts_and_keys_are_names():
    """A day that no month has is no error of a library's, and a class may be called 0, on or 2020."""
    text = "day: 2020-99-99\n0: [yes, ~, 0x10, 1_000, 1.5, 'off']\non: 2020-01-01\n"
    assert parse_yaml(text) == {"day": "2020-99-99", "0": [True, None, 16, 1000, 1.5, "off"], "on": "2020-01-01"}


def test_an_alias_repeats_its_value():
    assert parse_yaml("a: &x {lr: [1, 2]}\nb: *x\n") == {"a": {"lr": [1, 2]}, "b": {"lr": [1, 2]}}


def test_numbers_that_are_not_finite_are_read_where_they_may_be():
    assert parse_json("[Infinity, 1e999, -Infinity]", finite=False) == [float("inf"), float("inf"), -float("inf")]


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(-1e50, 1e50) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(plain)
def test_what_attar_writes_is_read_as_it_was(value):
    assert parse_yaml(yaml_text({"value": value})) == {"value": value}
    assert parse_json(json.dumps(value)) == value


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@`,?\n 01.~<=", max_size=40))
def test_any_text_is_read_or_refused(text):
    for parse in (parse_yaml, parse_json):
        try:
            parse(text)
        except TextError as error:
            assert str(error)  # noqa: PT017 (it may be read as well)


@pytest.mark.parametrize("text", ["1e999", "-1e999", "nan", "inf"])
def test_no_value_of_a_setting_is_an_infinite_number(text):
    assert parse_value(text) == text


@pytest.mark.parametrize("text", [LAUGHS, "[" * 10_000, "run: {ipc: 1, ipc: 2}", "run: !!set {x}", "run: 3", "3", ""])
def test_a_hostile_recipe_is_one_error_that_says_what_to_do(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path))
    assert caught.value.found.startswith("recipe mine")
    assert caught.value.expected
    assert caught.value.fix
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("name", ["x" * 5_000 + ".yaml", "a\0b.yaml"])
def test_a_recipe_whose_name_no_file_can_have_is_unknown(name):
    with pytest.raises(ConfigError, match=r"recipe"):
        load_recipe(name)


def test_no_other_module_reads_yaml_or_json():
    """But for `interop/loaders`, which go with exported sets and must run without attar."""
    reading = {
        "json.load",
        "json.loads",
        "json.JSONDecoder",
        *(f"yaml.{name}" for name in ("load", "load_all", "safe_load", "full_load", "unsafe_load", "parse", "compose")),
    }
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "loaders"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in reading
    }
    assert found == {"text.py"}
