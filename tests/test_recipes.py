"""Every bundled recipe can be followed; the demo's keeps its promise."""

import os
import re
import statistics
from pathlib import Path

import pytest

import attar
from attar.settings import NOTES, recipes, resolve

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_resolves_and_says_what_is_known_of_it(name):
    recipe = recipes()[name]
    assert set(NOTES) - {"when"} <= set(recipe.notes), "about, published, reached and cost belong in the header"
    settings = resolve({"run": {"source": "digits"}}, recipe=recipe)
    assert settings.run.method == recipe.sections["run"]["method"]
    assert settings.run.ipc == recipe.sections["run"]["ipc"]


def test_the_recipe_of_the_demo_is_found_by_itself():
    assert recipes()["tesla-digits-ipc1"].suits("digits", "auto", 1)
    assert recipes()["tesla-digits-ipc1"].suits("digits", "tesla", None)
    assert not recipes()["tesla-digits-ipc1"].suits("digits", "mtt", 1)
    assert not recipes()["tesla-digits-ipc1"].suits("digits", "auto", 2)


@pytest.mark.slow
def test_the_python_example_of_the_readme_reaches_what_is_promised(tmp_path, monkeypatch):
    example = re.search(r"```python\n(import attar\n.*?)```", README, re.DOTALL)
    assert example
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(example.group(1), names)
    by_subject = {record.subject: record for record in names["result"].records}
    assert by_subject["distilled"].n == 3
    assert by_subject["distilled"].mean >= 91
    assert by_subject["distilled"].mean - by_subject["random"].mean > 10
    assert by_subject["full"].mean > 95


@pytest.mark.slow
def test_the_recipe_for_photographs_runs_and_beats_random_even_when_cut_short(tmp_path):
    if not os.environ.get("ATTAR_DATA"):
        pytest.skip("ATTAR_DATA names no folder with cifar10/: real photographs are not tested")
    done = attar.distill(
        Path(os.environ["ATTAR_DATA"]) / "cifar10",
        recipe="tesla-cifar10-ipc1-cpu",
        out=tmp_path / "run",
        settings={
            "source.train_per_class": 200,
            "squeeze.num_experts": 2,
            "recover.iterations": 60,
            "train.epochs": 200,
            "evaluate.baselines": ["random"],
            "evaluate.split": "validation",
        },
    )
    distilled, random = (statistics.fmean(record.values) for record in done.records)
    assert distilled > random + 3
