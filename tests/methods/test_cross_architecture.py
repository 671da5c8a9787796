"""One command judges a distilled set by networks of other kinds than the one that made it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import attar
from attar.cli import app
from attar.models.factory import build
from attar.task import Normalization, Task

PUBLISHED = ["resnet18-small", "resnet50-small", "resnet101-small", "densenet121", "mobilenet_v2", "shufflenet_v2_x1_0"]
QUICK = ["mobilenet_v2", "shufflenet_v2_x1_0", "efficientnet_b0"]


@pytest.mark.slow
def test_other_networks_judge_by_one_command(tmp_path: Path) -> None:
    toy = {
        "source.train_per_class": 8,
        "source.resolution": 32,
        "squeeze.model": "convnet-d1-w4-batch",
        "squeeze.epochs": 2,
        "squeeze.num_members": 2,
        "recover.iterations": 1,
        "train.epochs": 1,
        "train.batch_size": 10,
        "run.workers": 1,
    }
    made = attar.distill("digits", "teddy", 1, out=tmp_path / "run", settings=toy, until="relabel")
    given = ["evaluate", str(made.path), "--source", "digits", "--resolution", "32", "--models", ",".join(QUICK)]
    few = [
        "--set",
        "source.train_per_class=8",
        "--set",
        "evaluate.labels=[stored]",
        "--set",
        "evaluate.split=validation",
    ]
    done = CliRunner().invoke(app, [*given, "--seeds", "1", "--baselines", "", *few, "--quiet", "--json"])
    assert done.exit_code == 0, done.output
    records = json.loads(done.output)["records"]
    assert [(record["model"], record["subject"]) for record in records] == [(model, "distilled") for model in QUICK]
    assert all(0 <= record["mean"] <= 100 for record in records)


@pytest.mark.parametrize("name", [*PUBLISHED, *QUICK[-1:]])
def test_the_networks_of_the_papers_table_take_images_of_32_px(name: str) -> None:
    build(name, Task(("a", "b"), 3, 32, 32, Normalization((0.5,) * 3, (0.25,) * 3)))
