"""The command that makes a run again: short where a recipe made it, and always complete."""

import shlex

import pytest
import typer

from attar import cli
from attar.api.options import DistillOptions
from attar.cli.flags import typed
from attar.options import given
from attar.recipes import fitting_recipe, load_recipe, recipes
from attar.run.settings import command, resolve, with_models
from attar.task import Normalization, Task

TASK = Task(tuple("abcdefghij"), 3, 64, 64, Normalization((0.5,) * 3, (0.25,) * 3))
NAMES = ("tesla-cifar10-ipc10-soft-cpu", "tesla-digits-ipc1", "rded-cifar10-ipc10", "tesla-cifar10-ipc1-cpu")


def made_by(source, name, *changed):
    recipe = load_recipe(name)
    run = {"source": source, "method": recipe.sections["run"]["method"]}
    return with_models(resolve({"run": run}, changed, recipe=recipe), TASK)


def again(line):
    """The settings that the command line gives, as `attar distill` would resolve them."""
    context = typer.main.get_command(cli.app).commands["distill"].make_context("distill", shlex.split(line)[2:])
    asked = DistillOptions.model_validate(typed(context))
    sections = given(asked)
    recipe = load_recipe(asked.recipe) if asked.recipe != "auto" else None
    sections["run"].setdefault("method", recipe.sections["run"]["method"] if recipe else "auto")
    run = sections["run"]
    recipe = recipe or fitting_recipe(run["source"], run["method"], run.get("ipc"))
    return with_models(resolve(sections, asked.assigned, recipe=recipe), TASK)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_on_another_source_is_named_in_place_of_its_settings(name):
    assert command(made_by("flowers", name), TASK) == f"attar distill flowers --recipe {name}"


def test_a_recipe_that_fits_by_itself_is_not_named():
    assert command(made_by("digits", "tesla-digits-ipc1"), TASK) == "attar distill digits --method tesla --ipc 1"


@pytest.mark.parametrize("name", NAMES)
def test_what_was_changed_of_a_recipe_is_set_and_the_line_gives_the_same_settings(name):
    made = made_by("flowers", name, "evaluate.seeds=7", "run.seed=3", "train.epochs=77")
    line = command(made, TASK)
    assert line.startswith(f"attar distill flowers --recipe {name} --seed 3")
    assert again(line).plain() == made.plain()


def test_settings_that_resemble_no_recipe_are_set_one_by_one():
    changes = [f"squeeze.{key}" for key in ("epochs=3", "batch_size=7", "model=convnet-d2-w8", "num_experts=2")]
    made = with_models(resolve({"run": {"source": "flowers", "method": "tesla", "ipc": 1}}, changes), TASK)
    line = command(made, TASK)
    assert "--recipe" not in line
    assert again(line).plain() == made.plain()
    assert set(NAMES) <= set(recipes())
