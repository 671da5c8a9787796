"""Names that move the cursor or turn the direction of writing are shown as what they are, wherever they are shown."""

import json
from typing import Any

import pytest

from attar.artifacts.card import class_names, render
from attar.artifacts.description import Description, describe
from attar.cli.tables import print_records
from attar.cli.texts import echo, print_json
from attar.report.downloads import download
from attar.report.page import draw
from attar.results.records import ACCURACY, Record
from attar.results.verdict import Words
from attar.runtime.events import Events
from attar.task import Normalization, Task
from attar.text import parse_yaml, yaml_text
from attar.visible import visible, visible_json

EVIL = "cat\x1b[31m\u202egod\u2066\x9b\x07\ufeff\u200b\r\ud800"
GOOD = "Käse, 猫, שלום, علي, नमस्ते, می\u200cخواهم, 👩\u200d🔬, 1\u202f000\u00a0px\n\tx"
UNSEEN = "\x1b\u202e\u2066\x9b\x07\ufeff\u200b\r\ud800"


PAGE: dict[str, Any] = {
    "kind": "a page",
    "subtitle": [],
    "groups": [],
    "runs": [],
    "runs_file": download("a", "b", ["c"], []),
}


def record(name: str) -> Record:
    """One of the set that has this name."""
    return Record.of(ACCURACY, name, name, [50.0], seeds=[0], num_images=1, size_bytes=1, group="distilled")


def described(name: str) -> Description:
    """A set of which class, method and source have this name."""
    return describe(
        {"method": name, "source": {"name": name}, "settings": {"train": {"model": name}}},
        num_images=1,
        task=Task((name,), 1, 2, 2, Normalization((0.5,), (0.5,))).to_json(),
        pixels="uint8",
        image_range=None,
        soft_labels=None,
        labels={"kind": "hard"},
        learning_rate=None,
        sizes={"images": 1, "labels": 1, "teacher": 0, "total": 2},
        files={"images": ["data/train-00000-of-00001.parquet"]},
    )


def test_what_cannot_be_seen_is_escaped_and_writing_is_left_alone():
    assert visible(GOOD) == GOOD
    assert visible(EVIL) == "cat\\x1b[31m\\u202egod\\u2066\\x9b\\x07\\ufeff\\u200b\\r\\ud800"


def test_json_stands_for_the_same_values():
    value = {EVIL: [EVIL, GOOD, "\U000e0041"]}
    text = visible_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(text) == value
    assert not set(UNSEEN) & set(text)


def test_a_page_a_card_and_a_terminal_show_it_alike(capsys: pytest.CaptureFixture[str]):
    evil = EVIL.replace("\ud800", "")
    told = described(evil)
    card = render(told, [record(evil)], Words((f"{evil} wins",)))
    page = draw("compare.html", PAGE | {"title": evil, "draw": evil})
    Events().say(evil)
    echo(evil)
    print_json({"name": evil})
    print_records([record(evil)], Words((f"{evil} wins",)))
    printed = capsys.readouterr()
    for text in (card, page, printed.out, printed.err):
        assert not set(UNSEEN) & set(text)
        assert "\\u202egod" in text
    assert class_names(card) == told.task.class_names, "what is read off the card is the name itself"
    assert parse_yaml(visible(yaml_text({"name": evil}))) == {"name": evil}
