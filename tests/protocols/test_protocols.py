"""Protocols: their files are whole, who stands above whom, and what a record says of them."""

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from attar import catalogue, registry
from attar.api.arguments import sections
from attar.augment.views import ViewSettings
from attar.config import Config, build, dump
from attar.errors import ConfigError
from attar.evaluation.following import followed, network_of
from attar.evaluation.settings import EvaluateSettings
from attar.methods import methods
from attar.protocols import PROTOCOLS, layered, protocol
from attar.recipes import recipes
from attar.results.records import Followed
from attar.run.settings import command, resolve, restore, with_models
from attar.stages.relabel import RelabelSettings
from attar.task import Normalization, Task
from attar.training.section import TrainSection

SMALL, LARGE = (Task(("a", "b"), 3, size, size, Normalization((0.5,) * 3, (0.25,) * 3)) for size in (32, 224))
SECTIONS: dict[str, type[Config]] = {"train": TrainSection, "evaluate": EvaluateSettings, "relabel": RelabelSettings}
OWN = "version: 3\nabout: mine\ntrain: {epochs: 7, optimizer: muon}\n"


def given(**more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"run": {"source": "cifar10", "method": "rded", "ipc": 10}, **more}


@pytest.mark.parametrize("name", PROTOCOLS.own)
def test_a_file_sets_what_the_sections_take_and_says_where_it_is_from(name: str) -> None:
    found = protocol(name)
    build(SECTIONS, found.sections)
    assert found.version >= 1
    assert found.notes["about"]
    assert found.notes["source"]
    assert set(found.sections["train"]) >= {"epochs", "batch_size", "learning_rate", "augment"}
    shown = catalogue.describe(f"protocol:{name}")
    assert shown["summary"] == found.notes["about"]
    assert {field["name"] for field in shown["sections"]["train"]} == set(found.sections["train"])
    assert (name, found.notes["about"]) in catalogue.names("protocols")


def test_a_name_that_a_method_has_too_shows_the_method_and_leads_to_the_protocol() -> None:
    assert "protocol:rded" in catalogue.describe("rded")["notes"]["protocol"]
    assert catalogue.describe("rd3") == catalogue.describe("protocol:rd3")


def test_settings_without_a_protocol_are_those_of_the_one_that_they_name() -> None:
    """The defaults of the sections and the file of the default protocol say the same."""
    name = EvaluateSettings().protocol
    assert dump(TrainSection()) == dump(TrainSection(**protocol(name).sections["train"]))
    assert EvaluateSettings(**protocol(name).sections["evaluate"]) == EvaluateSettings()


@pytest.mark.parametrize("name", methods())
def test_a_method_is_judged_by_a_protocol_unchanged(name: str) -> None:
    settings = with_models(resolve(given(run={"source": "cifar10", "method": name, "ipc": 10})), SMALL)
    how = settings.evaluate
    judging = {"use_learned_rate": how.use_learned_rate, "test_resize_px": how.test_resize_px}
    views = ViewSettings(**{key: getattr(settings.relabel, key) for key in ViewSettings.model_fields})
    found = followed(how.protocol, settings.train, how.models[0], SMALL, judging, views)
    assert found == Followed(how.protocol, protocol(how.protocol).version)


def test_every_recipe_names_its_protocol() -> None:
    named = {name: recipe.sections["evaluate"]["protocol"] for name, recipe in recipes().items()}
    assert set(named.values()) <= set(PROTOCOLS.own)


def test_whoever_names_a_protocol_replaces_what_stood_below() -> None:
    below = {
        "train": {"epochs": 5, "nesterov": True},
        "evaluate": {"models": ["resnet50"], "labels": ["hard"], "seeds": 9},
        "recover": {"iterations": 4},
    }
    merged = layered(below, {"evaluate": {"protocol": "rd3"}, "train": {"epochs": 2}})
    assert merged["train"] == {**protocol("rd3").sections["train"], "epochs": 2}
    assert merged["evaluate"] == {"seeds": 9, "labels": ["stored", "hard"], "protocol": "rd3"}
    assert merged["recover"] == {"iterations": 4}
    assert layered(below, {"train": {"epochs": 2}})["train"] == {"epochs": 2, "nesterov": True}


def test_flags_stand_above_the_recipe_and_assignments_above_flags() -> None:
    recipe = recipes()["rded-cifar10-ipc50"]
    plain = resolve(given(), recipe=recipe)
    assert (plain.evaluate.protocol, plain.train.batch_size, plain.train.cosine_part) == ("rded", 100, 0.5)
    flagged = resolve(given(evaluate={"protocol": "mtt"}), ["train.epochs=9"], recipe=recipe)
    assert flagged.train == TrainSection(epochs=9)
    assert with_models(flagged, SMALL).evaluate.models == ("resnet18-small",)  # the one used for distillation
    last = resolve(given(evaluate={"protocol": "mtt"}), ["evaluate.protocol=rd3"], recipe=recipe)
    assert (last.train.epochs, last.train.optimizer, last.train.batch_size) == (400, "adam", "auto")


def test_a_run_goes_on_under_another_protocol() -> None:
    begun = with_models(resolve(given(), ["train.epochs=9"]), SMALL).plain()
    again = with_models(restore(begun, ["evaluate.protocol=rd3"]), SMALL)
    assert dump(again.train) == dump(TrainSection(**protocol("rd3").sections["train"]))
    assert again.evaluate.models == ("resnet18-small",)
    assert restore(begun).plain() == begun


def test_the_command_that_makes_a_run_again_names_the_protocol() -> None:
    settings = with_models(resolve(given(evaluate={"protocol": "mtt"}), ["train.epochs=300"]), SMALL)
    words = command(settings, SMALL).split()
    assert words[words.index("--protocol") + 1] == "mtt"
    assert "train.epochs=300" in words, "as many as the protocol of the method has, and not those of this one"
    assert not any(word.startswith("train.optimizer") for word in words)


def test_a_judged_set_keeps_its_own_settings_until_a_protocol_is_named() -> None:
    made_with = {"train": {"epochs": 5}, "evaluate": {"protocol": "soft-labels"}}
    kinds: dict[str, type[Config]] = {"train": TrainSection, "evaluate": EvaluateSettings}
    assert sections(kinds, (), made_with, {})["train"].model_dump()["epochs"] == 5
    settled = sections(kinds, ["batch_size=8"], made_with, {"evaluate": {"protocol": "rded"}})
    assert settled["train"] == TrainSection(**{**protocol("rded").sections["train"], "batch_size": 8})


def test_a_record_says_in_what_it_departs() -> None:
    training = TrainSection(**{**protocol("rd3").sections["train"], "epochs": 3, "memory_format": "contiguous"})
    judging = {"use_learned_rate": True, "test_resize_px": 40}
    found = followed("rd3", training, "convnet-d3-w8", SMALL, judging, ViewSettings(mix="mixup"))
    assert found.changed == ("train.epochs=3", "relabel.mix=mixup", "network=convnet-d3-w8")
    assert str(found) == "rd3 v1, but train.epochs=3, relabel.mix=mixup, network=convnet-d3-w8"
    found = followed("bench", TrainSection(**protocol("bench").sections["train"]), "any", SMALL, judging)
    assert found.changed == ("evaluate.use_learned_rate=true",)


def test_the_network_suits_the_resolution() -> None:
    assert network_of("rd3", SMALL) == "resnet18-small"
    assert network_of("rd3", LARGE) == "resnet18"
    assert network_of("mtt", SMALL) is None


def test_a_file_of_a_user_and_an_entry_point_serve_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    assert EvaluateSettings(protocol=str(path)).protocol == str(path)
    assert resolve(given(evaluate={"protocol": str(path)})).train == TrainSection(epochs=7, optimizer="muon")
    point = EntryPoint("theirs", f"{__name__}:THEIRS", "attar.protocols")
    monkeypatch.setattr(registry, "_points", lambda group: [point] if group == "attar.protocols" else [])
    assert protocol("theirs").sections["train"] == {"epochs": 2}


THEIRS = {"version": 1, "train": {"epochs": 2}}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {epochs: 7}", "version is a whole number"),
        ("version: 1", "train says how"),
        (OWN + "recover: {iterations: 1}", "recover is nothing"),
        (OWN + "evaluate: {seeds: 1}", "evaluate.seeds is not for a protocol"),
        (OWN + "relabel: 3", "relabel is a section"),
        ("- 1", "is not a mapping"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        protocol(str(path))


def test_a_name_that_is_not_known_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean rded"):
        protocol("rdde")
    with pytest.raises(ConfigError, match="can't be read"):
        protocol("no/such.yaml")
