"""Every bundled recipe can be followed; the demo's keeps its promise."""

import os
import re
import statistics
from pathlib import Path

import pytest

import attar
from attar.data.named import NAMED
from attar.models.factory import require_known
from attar.recipes import NOTES, fitting_recipe, recipes
from attar.run.settings import resolve

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")


RECIPES = recipes()
PUBLISHED = [
    *(f"sre2l-imagenet-1k-ipc{ipc}" for ipc in (10, 50, 200)),
    *(f"sre2l-tiny-imagenet-ipc{ipc}" for ipc in (50, 100)),
    *(f"sre2l-{source}-ipc{ipc}" for source in ("cifar100", "cifar10") for ipc in (10, 50)),
    *(f"rded-{source}-ipc{ipc}" for source in ("imagenet-1k", "tiny-imagenet", "cifar10") for ipc in (10, 50)),
    *(f"teddy-{source}-ipc{ipc}" for source in ("imagenet-1k", "cifar10", "cifar100") for ipc in (10, 50)),
    "teddy-tiny-imagenet-ipc50",
]
TRAJECTORIES = [
    f"tesla-{source}-ipc{ipc}"
    for source in ("cifar10", "cifar100", "tiny-imagenet", "imagenet-1k")
    for ipc in (1, 10, 50)
]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_resolves_and_says_what_is_known_of_it(name):
    recipe = recipes()[name]
    assert set(NOTES) - {"when", "quick"} <= set(recipe.notes), (
        "about, published, reached and cost belong in the header"
    )
    settings = resolve({"run": {"source": "digits"}}, recipe=recipe)
    assert settings.run.method == recipe.sections["run"]["method"]
    assert settings.run.ipc == recipe.sections["run"]["ipc"]
    known = [*settings.evaluate.models, getattr(settings.sections["squeeze"], "model", "auto")]
    for model in set(known) - {"auto"}:
        require_known(model)


@pytest.mark.parametrize("name", RECIPES)
def test_the_name_of_a_recipe_says_what_it_is_for(name):
    run, when = RECIPES[name].sections["run"], RECIPES[name].notes.get("when", {})
    assert name.startswith(f"{run['method']}-")
    if number := re.search(r"-ipc(\d+)", name):
        assert run["ipc"] == int(number[1])
    if when:
        assert f"-{when['source']}-" in f"{name}-"
        assert when.get("method", run["method"]) == run["method"]


@pytest.mark.parametrize("name", PUBLISHED + TRAJECTORIES)
def test_a_published_row_is_taken_only_when_its_method_is_named(name):
    recipe = RECIPES[name]
    source, method, ipc = (
        recipe.notes["when"]["source"],
        recipe.sections["run"]["method"],
        recipe.sections["run"]["ipc"],
    )
    assert source in NAMED
    assert fitting_recipe(source, method, ipc) == recipe
    assert fitting_recipe(source, "auto", ipc) is None, "a laptop must not begin a day's work of a GPU by itself"
    assert fitting_recipe(source, method, ipc + 1) is None
    assert name in recipe.notes["reached"] or "±" in recipe.notes["reached"]
    assert "estimate" in recipe.notes["cost"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_row_is_kept_apart_from_those_that_judge(name):
    settings = resolve({"run": {"source": "digits"}}, recipe=RECIPES[name])
    assert settings.source.validation_fraction > 0, "validation images measure the teacher and check its class order"
    assert settings.train.temperature >= 20
    assert "random" in settings.evaluate.baselines
    assert settings.evaluate.labels == ("stored", "hard")


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_a_published_row_of_trajectories_is_judged_as_published(name):
    settings = resolve({"run": {"source": "digits"}}, recipe=RECIPES[name])
    squeeze, method = settings.sections["squeeze"], settings.sections["method"]
    assert method.gradient == "exact"
    assert method.max_start_epoch + method.expert_epochs - 1 <= squeeze.epochs, (
        "later starts would be cut off in silence"
    )
    assert settings.source.validation_fraction > 0
    assert (settings.train.epochs, settings.train.augment, settings.evaluate.seeds) == (1000, "dsa", 5)
    assert settings.evaluate.models == (squeeze.model,)


@pytest.mark.parametrize(
    "name",
    [pytest.param("tesla-cifar10-ipc1", marks=pytest.mark.slow), "tesla-cifar100-ipc50", "tesla-imagenet-1k-ipc10"],
)
def test_a_published_row_of_trajectories_goes_through_at_toy_size(name, tmp_path):
    done = attar.distill(
        "digits",
        ipc=2,
        recipe=name,
        out=tmp_path / "run",
        settings={
            "source.train_per_class": 10,
            "source.validation_fraction": 0.1,
            "source.resolution": 8,
            "squeeze.model": "convnet-d2-w8",
            "squeeze.num_experts": 2,
            "squeeze.epochs": 3,
            "method.max_start_epoch": 2,
            "method.expert_epochs": 2,
            "method.num_steps": 3,
            "method.lr_images": 1,
            "recover.iterations": 3,
            "recover.num_snapshots": 2,
            "train.epochs": 6,
            "evaluate.models": ["convnet-d2-w8"],
            "evaluate.seeds": 1,
            "evaluate.full_epochs": 6,
        },
    )
    loaded = done.load()
    assert (loaded.task.normalization.whitening is not None) == (name != "tesla-imagenet-1k-ipc10")
    assert loaded.label_kind == ("soft" if name == "tesla-imagenet-1k-ipc10" else "hard")
    assert [record.subject for record in done.records] == [
        *("distilled", "random", "full", "distilled, best over the run")
    ]


@pytest.mark.parametrize(
    "name", ["sre2l-cifar10-ipc10", "sre2l-tiny-imagenet-ipc50", "rded-cifar10-ipc50", "teddy-cifar10-ipc10"]
)
def test_a_published_row_goes_through_at_toy_size(name, tmp_path):
    method = RECIPES[name].sections["run"]["method"]
    done = attar.distill(
        "digits",
        ipc=1,
        recipe=name,
        out=tmp_path / "run",
        settings={
            "source.train_per_class": 10,
            "source.validation_fraction": 0.1,
            "squeeze.model": "convnet-d2-w8-batch",
            "squeeze.epochs": 6,
            **({"squeeze.member_epochs": [2, 6]} if method == "teddy" else {}),
            **({"recover.iterations": 3, "recover.num_snapshots": 2} if method != "rded" else {}),
            "train.epochs": 6,
            "evaluate.models": ["convnet-d2-w8-batch"],
            "evaluate.seeds": 1,
            "evaluate.full_epochs": 6,
        },
    )
    kind = RECIPES[name].sections["relabel"]["labels"]
    assert done.load().label_kind == kind
    assert [record.subject for record in done.records if record.best is None] == [
        *("distilled", "distilled, hard labels", "random", "random, hard labels", "full")
    ]


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


def photographs(name: str) -> Path:
    """A folder of real photographs where the machine has them; else the test is skipped."""
    if not os.environ.get("ATTAR_DATA"):
        pytest.skip(f"ATTAR_DATA names no folder with {name}/: real photographs are not tested")
    return Path(os.environ["ATTAR_DATA"]) / name


@pytest.mark.slow
def test_the_recipe_for_photographs_runs_and_beats_random_even_when_cut_short(tmp_path):
    done = attar.distill(
        photographs("cifar10"),
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


@pytest.mark.slow
def test_sre2l_on_photographs_of_imagenet_goes_all_the_way_when_cut_short(tmp_path):
    done = attar.distill(
        photographs("imagenette"),
        recipe="sre2l-imagenette-cpu",
        out=tmp_path / "run",
        settings={
            "run.ipc": 2,
            "source.train_per_class": 30,
            "squeeze.epochs": 4,
            "recover.iterations": 40,
            "train.epochs": 40,
            "relabel.label_budget": "12KB",
            "evaluate.seeds": 1,
            "evaluate.full_epochs": 2,
            "evaluate.split": "validation",
        },
    )
    found = {record.subject: record for record in done.records}
    assert list(found) == ["distilled", "distilled, hard labels", "random", "random, hard labels", "full"]
    loaded = done.load()
    assert loaded.task.shape == (3, 64, 64)
    assert loaded.label_store is not None
    assert loaded.label_store.size_bytes < 15_000
