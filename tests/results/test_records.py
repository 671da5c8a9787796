"""Records say what they are of in typed fields, and whatever else stands in a file is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attar.errors import ArtifactError
from attar.results.records import Arrival, Best, Cell, Measurement, Record, read_records

WHOLE = Record.of(
    "accuracy",
    "in words",
    "net",
    [50.0, 52.0],
    seeds=[0, 1],
    num_images=10,
    size_bytes=100,
    group="distilled",
    labels="soft",
    augmented=False,
    split="validation",
    num_judges=12,
    resize_px=72,
    best=Best("epochs", (2, 4), (Measurement(2, 50.0), Measurement(None, 52.0))),
    arrival=Arrival(1, 5, 2),
    cell=Cell("dlb", "plain", 0.4, 1200, 2),
    protocol={"epochs": 3},
)


def test_every_field_is_read_back_from_json() -> None:
    assert Record.from_json(json.loads(json.dumps(WHOLE.to_json()))) == WHOLE
    bare = Record.of("loss", "in words", "net", [1.0], seeds=[0], num_images=1, size_bytes=1)
    assert Record.from_json(json.loads(json.dumps(bare.to_json()))) == bare
    assert not {"labels", "split", "best", "cell"} & bare.to_json().keys(), "what says nothing is left out"


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"labels": "mixed"}, "labels: Input should be 'hard' or 'soft'"),
        ({"split": "train"}, "split: Input should be 'test' or 'validation'"),
        ({"augmented": 1}, "augmented: Input should be a valid boolean"),
        ({"group": 3}, "group: Input should be a valid string"),
        ({"num_judges": -1}, "num_judges: Input should be greater than or equal to 0"),
        ({"n": True}, "n: Input should be a valid integer"),
        ({"mean": float("nan")}, "mean: Input should be"),
        ({"values": [1.0, 10**70]}, "values.1: Input should be less than or equal to 1"),
        ({"values": [1.0, "2"]}, "values.1: Input should be a valid number"),
        ({"best": {"over": "steps"}}, "best.at: Field required; best.tested: Field required"),
        ({"best": {"over": "years", "at": [], "tested": []}}, "best.over: Input should be 'steps' or 'epochs'"),
        (
            {"best": {"over": "steps", "at": [], "tested": [{"at": "x", "mean": 1}]}},
            "best.tested.0.at: Input should be a valid integer",
        ),
        ({"arrival": {"step": 1, "num_steps": 5, "num_classes": 2.5}}, "arrival.num_classes: Input should be"),
        ({"cell": {**vars(WHOLE.cell), "label_noise": 40}}, "cell.label_noise: Input should be less than"),
        ({"cell": {**vars(WHOLE.cell), "colour": "red"}}, "cell.colour: Unexpected keyword argument"),
        ({"tested_on": "test split"}, "tested_on: Unexpected keyword argument"),
        ({"seeds": [0]}, "n is 2, with 2 values and 1 seeds"),
        ({"mean": 101.0}, "an accuracy is outside 0..100 percent"),
    ],
)
def test_a_field_of_another_kind_is_refused_by_name(changes: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ArtifactError, match=r"here\.json: a record could not be read") as caught:
        read_records(Path("here.json"), {"records": [WHOLE.to_json() | changes]})
    assert wrong in caught.value.found


def test_texts_for_people_are_made_of_the_fields() -> None:
    assert WHOLE.metric_name == "best_validation_accuracy"
    assert WHOLE.tested_on == "validation split, 12 images enlarged to 72 px, after the last epoch"
    assert (WHOLE.spread, WHOLE.score) == ("51.0 ± 1.4", "51.0 ± 1.4 %")
    loss = Record.of("loss", "in words", "net", [1.0], seeds=[0], num_images=1, size_bytes=1)
    assert (loss.metric_name, loss.tested_on, loss.spread) == ("loss", "", "1.0")
