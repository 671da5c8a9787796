"""The pages on methods: what they tell to type can be typed."""

import re
import shlex
from pathlib import Path

import pytest
from toy_commands import attar_itself

from attar.cli.flags import typed
from attar.config import place
from attar.methods import methods
from attar.models.factory import require_known
from attar.recipes import recipes
from attar.run.settings import resolve, sections_of

PAGES = {path.stem: path.read_text("utf-8") for path in (Path(__file__).parents[2] / "docs" / "methods").glob("*.md")}
NAMES = {page: re.match(r"# (.+?): ", text)[1].split(", ") for page, text in PAGES.items()}
"""The methods of each page, by its first line."""
METHOD_OF = {page: names[0] for page, names in NAMES.items()}
"""The method that a page's commands are of, where they name none."""
COMMANDS = [
    (page, line.strip())
    for page, text in PAGES.items()
    for line in re.findall(r"^ {4}(?:torchrun .* -m )?(attar .*)$|`(attar [^`]*)`", text, re.MULTILINE)
    for line in filter(None, line)
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_a_command_on_a_page_is_one_that_attar_takes(page, line):
    words = shlex.split(line)[1:]
    sub = attar_itself().commands[words[0]]
    params = typed(sub.make_context(words[0], words[1:], resilient_parsing=len(words) == 1))
    method, of_page = params.get("method") or METHOD_OF[page], METHOD_OF[page]
    if params.get("recipe") not in (None, "auto", "none"):
        assert params["recipe"] in recipes()
        method = recipes()[params["recipe"]].sections["run"]["method"]
    if params.get("model"):
        require_known(params["model"])
    kind = methods()[of_page if method == "auto" else method]
    _, problems = place(sections_of(kind), params.get("settings", []))
    assert not problems


def test_every_method_has_one_page():
    assert sorted(name for names in NAMES.values() for name in names) == sorted(methods())


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_sets_is_a_setting_with_such_a_value(page):
    for line in PAGES[page].splitlines():
        assignments = re.findall(r"--set ([\w.]+=[^\s`]+)", line)
        named = re.search(r"--method (\w+)", line)
        method = named[1] if named else METHOD_OF[page]
        resolve({"run": {"source": "digits", "method": method}}, assignments)


@pytest.mark.parametrize("page", PAGES)
def test_a_table_of_settings_names_fields_and_their_defaults(page):
    rows = re.findall(r"^\| `(\w+)\.(\w+)`(?:, `[\w.]+`)? \| ([^|]+) \|", PAGES[page], re.MULTILINE)
    assert len(rows) >= 6
    resolved = resolve({"run": {"source": "digits", "method": METHOD_OF[page]}}).sections
    settings = {name: section.model_dump(mode="json") for name, section in resolved.items()}  # unused ones too
    for section, name, default in rows:
        assert re.split(r"[:,]", default)[0] == shown(settings[section][name]), f"{section}.{name}"


def shown(value):
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
