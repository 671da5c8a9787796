"""The commands that a page offers; of images that a program handed over, the calls."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import Any

from attar.report.collect import ReportData
from attar.report.commands import commands, evaluate_command
from attar.report.outside import Outside
from attar.results.records import Followed, Record

RUN: dict[str, dict[str, Any]] = {
    "run": {"source": "digits", "method": "random", "ipc": 1, "resolution": None, "seed": 3}
}
MEMORY = {"run": {**RUN["run"], "source": "memory-0123456789"}}
RECORD = Record.of(
    "accuracy",
    "distilled",
    "net",
    [50.0, 52.0],
    seeds=[0, 1],
    num_images=10,
    size_bytes=9,
    group="distilled",
    labels="hard",
    split="test",
)


def lines(settings: dict[str, dict[str, Any]]) -> dict[str, str]:
    data = ReportData("runs/x", settings=settings, records=(RECORD,), description={"task": {}})
    return {one.purpose: one.line for one in commands(data)}


def test_a_source_with_a_name_gives_commands() -> None:
    found = lines(RUN)
    assert found["Distill"] == "attar distill digits --method random --ipc 1 --seed 3 --out runs/x"
    assert found["Evaluate"].startswith("attar evaluate runs/x/distilled --source digits --models net --seeds 2")


def test_images_in_memory_give_calls() -> None:
    found = lines(MEMORY)
    assert found["Distill"] == "attar.distill((images, labels), method='random', ipc=1, seed=3, out='runs/x')"
    assert found["Evaluate"] == "attar.evaluate('runs/x', (images, labels), models=['net'], seeds=2, baselines=[])"
    assert found["Draw this page"] == "attar report runs/x"
    assert all(ast.parse(found[purpose]) for purpose in ("Distill", "Evaluate"))
    outside = Outside("set", "memory-0123456789", ("train.epochs=2",), out="elsewhere")
    line = evaluate_command(ReportData("elsewhere", outside=outside, records=(RECORD,)))
    assert line.endswith("out='elsewhere', settings=['train.epochs=2'])")


def test_scores_are_asked_for_again() -> None:
    records = (RECORD, replace(RECORD, augmented=False))
    data = ReportData("runs/x", settings=RUN, records=records, description={"task": {}})
    assert evaluate_command(data).endswith(" --baselines none --scores")
    assert ", scores=True)" in evaluate_command(replace(data, settings=MEMORY))


def test_the_evaluation_is_told_as_it_was_done() -> None:
    record = replace(
        RECORD,
        seeds=(6, 7),
        split="validation",
        protocol={"epochs": 4, "dlb": {"tau": 3.0, "weight": 1.0}, "precision": "bf16-mixed", "dropped": 1},
    )
    settings = {**RUN, "source": {"data_dir": "my data"}}
    made = {"train": {"epochs": 9, "dlb": {"tau": 4.0, "weight": 1.0}}, "evaluate": {"protocol": "rded"}}
    data = ReportData("runs/x", settings=settings, records=(record,), description={"settings": made})
    assert evaluate_command(data) == (
        "attar evaluate runs/x/distilled --source digits --data-dir 'my data' --models net --seeds 2 --seed 6 "
        "--baselines none --precision bf16-mixed --set train.epochs=4 --set train.dlb.tau=3.0 "
        "--set evaluate.split=validation"
    )
    on_gpu = replace(data, judged_on={"device": "cuda"}, records=(replace(record, seeds=(0, 1)),))
    assert " --seeds 2 --baselines" in evaluate_command(on_gpu)
    assert "--precision" not in evaluate_command(on_gpu), "a GPU's own"


def test_another_protocol_is_told_with_what_is_not_its_own() -> None:
    followed = Followed("rd3", 1, ("train.epochs=4", "network=net"))
    record = replace(RECORD, followed=followed, protocol={"epochs": 4, "batch_size": 100})
    made = {"train": {"epochs": 9, "batch_size": 10}, "evaluate": {"protocol": "rded"}}
    data = ReportData("runs/x", settings=RUN, records=(record,), description={"settings": made})
    assert evaluate_command(data).endswith("--baselines none --protocol rd3 --set train.epochs=4")
    held_back = replace(data, records=(replace(record, split="validation"),))
    assert evaluate_command(held_back).endswith("--set train.epochs=4 --set evaluate.split=validation")
