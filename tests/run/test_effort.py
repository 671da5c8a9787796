"""Settings that fit a time, and what is said before a run begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import attar
from attar.artifacts.run import RunFolder
from attar.config import parse_duration
from attar.data.sources import open_source
from attar.errors import ArtifactError, ConfigError
from attar.options import Effort
from attar.recipes import recipes
from attar.run import effort, pipeline, preparing
from attar.run.effort import LEVERS, QUICK_S, Goal, capped, cost_sentence, fitted, goal, narrow_model, quick_recipe
from attar.run.planning import Plan
from attar.run.settings import resolve, with_models
from attar.runtime.engine import Engine
from attar.runtime.processes import Processes
from attar.squeeze.rehearsal import Estimate
from attar.task import Normalization, Task

ENGINE = Engine("cpu", "32-true")
MINUTES = {"squeeze": 2, "begin": 0, "recover": 30, "relabel": 4, "evaluate net": 8, "evaluate net on all": 16}


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan of an hour in place of a rehearsal."""
    found = Plan(tuple(Estimate(stage, "unit", 60, float(num), 1) for stage, num in MINUTES.items()), 10, 10)
    monkeypatch.setattr(effort, "plan", lambda *_, **__: found)
    return found


def wanted(**values: Any) -> Effort:
    return Effort(**values)


def settled(method: str = "tesla") -> Any:
    source = open_source("digits")
    return with_models(resolve({"run": {"source": "digits", "method": method}}), source.task), source


def numbers(settings: Any) -> Mapping[str, int]:
    plain = settings.plain()
    return {f"{one.section}.{one.key}": plain[one.section].get(one.key) for one in LEVERS}


def test_what_was_asked_for_decides() -> None:
    assert goal(wanted(), left_open=False, on_cpu=True) is None
    assert goal(wanted(), left_open=True, on_cpu=False) is None
    assert goal(wanted(thorough=True), left_open=True, on_cpu=True) is None
    by_itself = goal(wanted(), left_open=True, on_cpu=True)
    assert by_itself is not None
    assert (by_itself.seconds, by_itself.narrow) == (QUICK_S, True)
    assert "--thorough" in by_itself.why
    assert goal(wanted(quick=True), left_open=False, on_cpu=False) == Goal(QUICK_S, True, "--quick")
    assert goal(wanted(time="2h"), left_open=False, on_cpu=True) == Goal(7200.0, False, "--time 2h", may_narrow=True)
    assert goal(wanted(time="2h"), left_open=True, on_cpu=False) == Goal(7200.0, False, "--time 2h")
    with pytest.raises(ConfigError, match="expected: one of them"):
        preparing.prepare({"run": {"source": "a folder that is never looked at"}}, asked=wanted(quick=True, time="1h"))


def test_several_processes_are_told_to_plan_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "launched", lambda: Processes(0, 2, 0))
    with pytest.raises(ConfigError, match="attar plan"):
        goal(wanted(quick=True), left_open=True, on_cpu=True)
    assert goal(wanted(), left_open=True, on_cpu=True) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), (" 2H ", 7200), ("5min", 300)]
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "0m", "-3m", "1d", "30m1h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a time"):
        parse_duration(text)


def test_what_costs_least_accuracy_is_cut_most(rehearsed: Plan) -> None:
    """Of 60 minutes 30: experts (2) and students (12) stay, recovery (30) and all images (16) have eight each."""
    settings, source = settled()
    before = numbers(settings)
    found = fitted(settings, source, ENGINE, 1800.0, ())
    after = numbers(found.settings)
    assert found.plan.total_s == pytest.approx(1800, rel=0.1)
    assert after["train.epochs"] == before["train.epochs"]
    assert after["squeeze.num_experts"] == before["squeeze.num_experts"]
    assert after["recover.iterations"] / before["recover.iterations"] == pytest.approx(8 / 30, rel=0.02)
    assert after["evaluate.full_epochs"] / before["evaluate.full_epochs"] == pytest.approx(8 / 16, rel=0.1)
    told = found.sentence(1800.0)
    assert f"recover.iterations {before['recover.iterations']:,} -> {after['recover.iterations']:,}" in told


def test_students_are_cut_where_the_time_is_shorter_still(rehearsed: Plan) -> None:
    settings, source = settled()
    found = fitted(settings, source, ENGINE, 600.0, ())
    shares = {name: value / numbers(settings)[name] for name, value in numbers(found.settings).items() if value}
    assert found.plan.total_s == pytest.approx(600, rel=0.1)
    assert shares["recover.iterations"] < shares["train.epochs"] < 1


@pytest.mark.parametrize("seconds", [3600.0 * 3, 2400.0])
def test_numbers_that_keep_all_their_time_stay_to_the_last_one(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Whatever a unit takes: floor(300 * time / time) is 299 for one in fourteen."""
    settings, source = settled()
    before = numbers(settings)
    for k in range(60):
        unit_s = 1.0 + k / 977
        parts = (Estimate(stage, "unit", 60, float(num) * unit_s, 1) for stage, num in MINUTES.items())
        whole = Plan(tuple(parts), 10, 10)
        monkeypatch.setattr(effort, "plan", lambda *_, whole=whole, **__: whole)
        after = numbers(fitted(settings, source, ENGINE, seconds * unit_s, ()).settings)
        stay = before if seconds > 3600 else ("train.epochs", "squeeze.num_experts")
        assert {name: after[name] for name in stay} == {name: before[name] for name in stay}


def test_times_come_to_what_there_is_between_the_least_and_the_most() -> None:
    few, some, many = (effort.Lever("train", key, 1, (), worth) for key, worth in (("a", 0.5), ("b", 1.0), ("c", 3.0)))
    spans_s = {few: (1.0, 100.0), some: (20.0, 100.0), many: (5.0, 60.0)}
    found = effort._shared(90.0, spans_s)
    assert found == pytest.approx({few: 10.0, some: 20.0, many: 60.0})  # `some` has its least, `many` its most
    assert effort._shared(58.5, spans_s) == pytest.approx({few: 5.5, some: 20.0, many: 33.0})
    for too_little in (26.0, 3.0, -40.0):
        assert effort._shared(too_little, spans_s) == pytest.approx({few: 1.0, some: 20.0, many: 5.0})
    for enough in (260.0, 1e9):
        assert effort._shared(enough, spans_s) == pytest.approx({few: 100.0, some: 100.0, many: 60.0})
    assert effort._shared(10.0, {}) == {}


def test_what_is_below_its_least_or_takes_no_time_is_left(rehearsed: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, source = settled()
    few = settings.sections["recover"].model_copy(update={"iterations": 7})
    settings = replace(settings, sections={**settings.sections, "recover": few})
    parts = [one for one in rehearsed.estimates if one.part != "squeeze"]
    monkeypatch.setattr(effort, "plan", lambda *_, **__: replace(rehearsed, estimates=tuple(parts)))
    found = fitted(settings, source, ENGINE, 60.0, ())
    assert set(found.cuts) == {"train.epochs", "evaluate.full_epochs"}
    assert found.sentence(60.0).startswith("at least")


def test_what_is_set_by_hand_stays(rehearsed: Plan) -> None:
    settings, source = settled()
    found = fitted(settings, source, ENGINE, 2400.0, ("recover.iterations", "squeeze.num_experts"))
    assert numbers(found.settings)["recover.iterations"] == numbers(settings)["recover.iterations"]
    assert found.plan.total_s == pytest.approx(2400, rel=0.1)


def test_nothing_is_cut_where_it_fits_and_no_further_than_makes_sense(rehearsed: Plan) -> None:
    settings, source = settled()
    whole = fitted(settings, source, ENGINE, 3600.0, ())
    assert whole.settings == settings
    assert "as it is" in whole.sentence(3600.0)
    least = fitted(settings, source, ENGINE, 1.0, ())
    assert {name: value for name, value in numbers(least.settings).items() if value is not None} == {
        f"{one.section}.{one.key}": one.least for one in LEVERS if one.key != "epochs" or one.section == "train"
    } | {"squeeze.epochs": numbers(settings)["squeeze.epochs"]}
    assert least.sentence(1.0).startswith("at least")


def test_nothing_is_cut_where_no_number_makes_it_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Plan((Estimate("begin", "unit", 60, 60.0, 1),), 10, 10)
    monkeypatch.setattr(effort, "plan", lambda *_, **__: found)
    settings, source = settled()
    cut = fitted(settings, source, ENGINE, 600.0, (), "relabel")
    assert cut.settings == settings
    assert cut.sentence(600.0).startswith("at least 60 min")


def test_a_published_recipe_gives_way_to_a_quick_one_and_a_named_recipe_does_not(rehearsed: Plan) -> None:
    images, labels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), torch.arange(40) % 2
    given = {"run": {"source": attar.open((images, labels), name="two").name, "method": "tesla", "ipc": 1}}
    quick = preparing.prepare(given, asked=wanted(quick=True), fresh=True)
    assert quick.settings.plain()["squeeze"]["model"] == "convnet-d3-w32"
    named = preparing.prepare(given, asked=wanted(quick=True), recipe="tesla-cifar10-ipc1", fresh=True)
    assert named.settings.plain()["squeeze"]["model"] == "convnet-d3-w128"
    assert numbers(named.settings)["recover.iterations"] < 5000


@pytest.mark.parametrize(
    ("method", "squeezed", "student"),
    [
        ("kmeans", "convnet-d3-w32", "convnet-d3-w32"),
        ("rded", "convnet-d3-w32-batch", "convnet-d3-w32-batch"),
        ("random", None, "convnet-d3-w32"),
    ],
)
def test_without_a_quick_recipe_the_networks_are_narrow_too(
    rehearsed: Plan, method: str, squeezed: str | None, student: str
) -> None:
    images, labels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), torch.arange(40) % 2
    given = {"run": {"source": attar.open((images, labels), name="two").name, "method": method, "ipc": 1}}
    found = preparing.prepare(given, asked=wanted(quick=True), fresh=True).settings
    assert found.plain()["squeeze"].get("model") == squeezed
    assert found.evaluate.models == (student,)
    own = preparing.prepare(given, asked=wanted(quick=True), assignments=["evaluate.models=convnet-d3-w8"], fresh=True)
    assert own.settings.evaluate.models == ("convnet-d3-w8",)


@pytest.mark.parametrize("method", ["tesla", "mtt", "sre2l", "teddy"])
def test_quick_recipes_resolve_at_every_size(method: str) -> None:
    for size_px in (8, 32, 64, 128):
        task = Task(("a", "b"), 3, size_px, size_px, Normalization((0.5,) * 3, (0.5,) * 3))
        found = quick_recipe(method, 1, task)
        if method == "mtt":
            assert found is None
            continue
        assert found is not None
        settings = with_models(resolve({"run": {"source": "x", "method": method, "ipc": 1}}, recipe=found), task)
        name = settings.plain()["squeeze"]["model"]
        assert name == narrow_model(task, batch_norm=method != "tesla")
        assert name.removesuffix("-batch").endswith("-w32")


def test_the_network_that_a_method_names_is_narrow_too(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = {"quick": {"px": 32, "channels": 3}, "reached": "-"}
    wide = {"run": {"method": "tesla", "ipc": 1}, "method": {"network": "convnet-d3-w128"}}
    monkeypatch.setattr(effort, "recipes", lambda: {"some": effort.Recipe("some", notes, wide)})
    task = Task(("a", "b"), 3, 64, 64, Normalization((0.5,) * 3, (0.5,) * 3))
    found = quick_recipe("tesla", 1, task)
    assert found is not None
    assert found.sections["method"]["network"] == "convnet-d4-w32"


def test_the_recipe_for_the_most_similar_images_is_taken() -> None:
    def names(channels: int, size_px: int) -> list[str]:
        task = Task(("a", "b"), channels, size_px, size_px, Normalization((0.5,) * channels, (0.5,) * channels))
        return [quick_recipe("tesla", ipc, task).name for ipc in (1, 2, 10, 50)]  # type: ignore[union-attr]

    one, ten = "tesla-cifar10-ipc1-cpu", "tesla-cifar10-ipc10-soft-cpu"
    assert names(3, 32) == names(3, 48) == [one, one, ten, ten], "the nearest number of images"
    assert names(1, 8) == names(1, 28) == ["tesla-digits-ipc1"] * 4
    assert all(recipe.notes.get("reached") for recipe in recipes().values() if recipe.notes.get("quick"))


def test_students_of_a_recipe_for_another_size_suit_this_one() -> None:
    half = (0.5,) * 3
    found = quick_recipe("dm", 10, Task(("a", "b"), 3, 64, 64, Normalization(half, half)))
    assert found is not None
    assert found.sections["evaluate"]["models"] == [found.sections["method"]["network"]] == ["convnet-d4-w32"]


def test_grey_images_are_not_mirrored_by_a_recipe_for_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "dm-cifar10-ipc10-cpu"
    monkeypatch.setattr(effort, "recipes", lambda: {name: recipes()[name]})
    found = quick_recipe("dm", 10, open_source("digits").task)
    assert found is not None
    assert found.sections["method"]["augment"] == found.sections["train"]["augment"] == "dsa-noflip"


def test_large_sources_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source("digits")
    assert capped(source) is None
    monkeypatch.setattr(effort, "MOST_IMAGES", 200)
    assert capped(source) == 20
    for told, kept in ((50, 10), (100, 10), (150, 15), (900, 20)):
        monkeypatch.setattr(effort, "LEAST_PER_CLASS", 10)
        assert capped(source, effort.Recipe("x", {"quick": {"images": told}}, {})) == kept
    assert capped(source, effort.Recipe("x", {"quick": {}}, {})) == 20


def test_a_run_of_another_seed_goes_on_with_the_images_that_it_began_with(
    rehearsed: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effort, "MOST_IMAGES", 20)
    images, labels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40) % 2
    given = {"run": {"source": attar.open((images, labels), name="two").name, "method": "random", "ipc": 1, "seed": 3}}
    first = preparing.prepare(given, asked=wanted(quick=True), out=tmp_path)
    assert first.settings.source.train_per_class == 10
    with pipeline.start(first, tmp_path, quiet=True):
        pass
    with pipeline.resume(tmp_path, quiet=True) as run:
        assert run.source.fingerprint == first.source.fingerprint


def test_a_run_goes_on_by_what_was_cut(rehearsed: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40) % 2
    given = {"run": {"source": attar.open((images, labels), name="two").name, "ipc": 1}}
    first = preparing.prepare(given, asked=wanted(time="15m"), out=tmp_path)
    assert first.expected is not None
    assert "settings of tesla-cifar10-ipc1-cpu" in " ".join(first.why)
    with pipeline.start(first, tmp_path, quiet=True):
        pass
    monkeypatch.setattr(effort, "plan", lambda *_, **__: pytest.fail("it has begun"))
    again = preparing.prepare(given, asked=wanted(time="15m"), out=tmp_path)
    assert numbers(again.settings) == numbers(first.settings)
    with pipeline.start(again, tmp_path, quiet=True):
        pass
    by_hand = ["recover.iterations=3", "train.epochs=4"]
    changed = preparing.prepare(given, asked=wanted(time="15m"), out=tmp_path, assignments=by_hand)
    assert (changed.settings.recover.iterations, changed.settings.train.epochs) == (3, 4)
    (tmp_path / "squeeze").mkdir(exist_ok=True)
    (tmp_path / "squeeze" / "expert_0000.safetensors").touch()
    with pytest.raises(ArtifactError, match="other settings"):
        pipeline.start(changed, tmp_path, quiet=True).__enter__()


@pytest.mark.parametrize("assigned", [[], ["recover.chunk_size=7"]])
def test_a_narrow_run_goes_on_where_squeeze_has_no_network(
    assigned: list[str], rehearsed: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dm's network is in the section method; what the user changed since is all that is told."""
    images, labels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40) % 2
    given = {"run": {"source": attar.open((images, labels), name="two").name, "method": "dm", "ipc": 10}}
    first = preparing.prepare(given, asked=wanted(time="15m"), out=tmp_path)
    assert first.settings.plain()["method"]["network"].startswith("convnet")
    with pipeline.start(first, tmp_path, quiet=True):
        pass
    monkeypatch.setattr(effort, "plan", lambda *_, **__: pytest.fail("it has begun"))
    again = preparing.prepare(given, asked=wanted(time="15m"), out=tmp_path, assignments=assigned)
    begun = RunFolder(tmp_path, again.settings.rules)
    assert again.settings.run.precision == "32-true"
    assert [str(change.path) for change in begun.changes(again.settings.plain())] == [
        one.partition("=")[0] for one in assigned
    ]


@pytest.mark.parametrize(
    ("time", "asked"),
    [("30m", ["narrow"]), ("90m", ["narrow", "wide"])],
)
def test_a_wide_network_is_rehearsed_only_where_a_narrow_one_fits_uncut(
    time: str, asked: list[str], rehearsed: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One iteration with a wide network may take longer than the time that all may take."""
    seen = list[str]()

    def plan(settings: Any, *_: Any, **__: Any) -> Plan:
        seen.append("narrow" if str(settings.plain()["squeeze"]["model"]).endswith(f"-w{effort.NARROW}") else "wide")
        return rehearsed

    monkeypatch.setattr(effort, "plan", plan)
    images, labels = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), torch.arange(40) % 2
    given = {"run": {"source": attar.open((images, labels), name="two").name, "method": "tesla", "ipc": 1}}
    found = preparing.prepare(given, asked=wanted(time=time), fresh=True).settings
    assert seen == asked
    assert found.plain()["squeeze"]["model"].endswith("-w32" if asked == ["narrow"] else "-w128")


def test_the_cost_is_said_by_stage(rehearsed: Plan) -> None:
    assert cost_sentence(rehearsed, ("squeeze", "recover", "relabel", "evaluate")).startswith(
        "this will take about 60 min (squeeze 2 min, recover 30 min, relabel 4 min, evaluate 24 min), 10 B of memory"
    )
    assert "--quick" in cost_sentence(rehearsed, ("recover",))
    assert "--quick" not in cost_sentence(rehearsed, ("relabel",))
    assert "--quick" not in cost_sentence(rehearsed, ("recover",), cut=True), "it is quick already"


def test_a_run_says_what_it_will_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"source.train_per_class": 5, "train.epochs": 1, "evaluate.seeds": 1, "evaluate.baselines": []}
    attar.distill("digits", "random", out=tmp_path, settings=settings, quiet=False, until="relabel")
    assert "this will take about" in capsys.readouterr().err
    attar.distill("digits", "random", out=tmp_path, settings=settings, quiet=False, until="relabel")
    assert "this will take" not in capsys.readouterr().err  # nothing is left
