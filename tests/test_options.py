"""An option is stated once: commands, functions, sections and pages have it from there, and can't drift apart."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import attar
from attar import api, cli
from attar.api import options as classes
from attar.cli.app import Options
from attar.cli.flags import fields_of
from attar.config import Config
from attar.errors import ConfigError
from attar.evaluation.continual import ContinualSettings
from attar.marks import Rules, flag
from attar.methods import methods
from attar.options import given, section_of
from attar.run.settings import sections_of
from attar.squeeze.knowledge import kinds
from attar.training.section import TrainSection

COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
FUNCTIONS = {
    "report": "write_report",
    "import": "import_",
    "squeeze": "distill",
    "recover": "resume",
    "relabel": "resume",
}
"""Functions of commands that have another name."""
LEFT_OUT = {
    "distill": {"until"},
    "squeeze": {"until", "redo"},
    "recover": {"until", "redo", "label_budget"},
    "relabel": {"until", "redo"},
}
"""Arguments that a command decides itself."""
PROGRAM = {"callbacks"}
"""Arguments that programs only can give."""
OWN = {"squeeze": {"listing"}, "study": {"counting"}}
"""Flags that no function has."""
OTHERS = {"list", "show", "doctor"}
"""Commands of their own: they print what `attar.catalogue` holds."""
OPTIONS = [kind for _, kind in inspect.getmembers(classes, inspect.isclass) if kind.__module__ == classes.__name__]


def options_of(command: str) -> Options:
    found = type(COMMANDS[command]).options
    assert isinstance(found, Options)
    return found


def function_of(command: str) -> Any:
    return getattr(attar, FUNCTIONS.get(command, command))


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - OTHERS))
def test_a_command_takes_what_its_function_takes(command: str) -> None:
    flags = set(fields_of(options_of(command)))
    arguments = set(inspect.signature(function_of(command)).parameters)
    assert flags - OWN.get(command, set()) == arguments - PROGRAM - LEFT_OUT.get(command, set())


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - OTHERS))
def test_a_command_spells_an_option_as_its_field(command: str) -> None:
    context = COMMANDS[command].make_context(command, [], resilient_parsing=True)
    spelled = {param.name: param.opts for param in COMMANDS[command].get_params(context)}
    for name, info in fields_of(options_of(command)).items():
        assert (flag(info).name or f"--{name.replace('_', '-')}") in spelled[name] or spelled[name] == [name]


def test_plan_rehearses_with_every_option_that_makes_a_run() -> None:
    plan, distill = (inspect.signature(function).parameters for function in (attar.plan, attar.distill))
    kept = {"out", "fresh", "redo", "loggers", "shard", "shard_wait"}
    assert set(distill) - set(plan) == kept | {"until", "callbacks"}
    shared = set(plan) - {"hosts"}
    assert {name: str(plan[name]) for name in shared} == {name: str(distill[name]) for name in shared}
    assert set(fields_of(options_of("plan"))) == set(fields_of(options_of("distill"))) - kept | {"hosts"}


def test_every_option_is_documented_and_its_own_words_are_in_the_docstring() -> None:
    for kind in OPTIONS:
        for name, info in kind.model_fields.items():
            assert info.description, (kind, name)
    documented = " ".join((attar.distill.__doc__ or "").split())
    for info in classes.DistillOptions.model_fields.values():
        assert " ".join((info.description or "").split()) in documented


SECTIONS: dict[str, list[type[Config]]] = {
    **{name: [kind] for name, kind in sections_of(methods()["random"]).items()},
    "squeeze": [kind.Settings for kind in kinds().values()],
    "train.kd": [type(TrainSection().kd)],
    "continual": [ContinualSettings],
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_an_option_that_is_a_setting_is_the_very_field_of_its_section(kind: type[Config]) -> None:
    for name, info in kind.model_fields.items():
        if section := section_of(kind, name):
            owners = [one.model_fields[name] for one in SECTIONS[section] if name in one.model_fields]
            assert owners
            assert all(
                (one.annotation, one.description, one.metadata) == (info.annotation, info.description, info.metadata)
                for one in owners
            )


def test_only_what_was_given_goes_above_a_recipe() -> None:
    asked = classes.TrainOptions.model_validate({"data": "digits", "seed": 0, "teacher": Path("t"), "resolution": 8})
    assert given(asked) == {
        "run": {"seed": 0},
        "train": {"kd": {"teacher": "t"}},
        "source": {"resolution": 8},
    }


def test_what_is_wrong_with_arguments_is_reported_at_once() -> None:
    wrong: dict[str, Any] = {"ipc": 0, "device": "tpu", "settings": {"a": 1}}
    with pytest.raises(ConfigError) as caught:
        attar.distill("digits", **wrong)
    assert "ipc: Input should be greater than or equal to 1 (found 0)" in str(caught.value)
    assert "device: unknown device 'tpu'" in str(caught.value)
    unknown: dict[str, Any] = {"worker": 3}
    with pytest.raises(TypeError, match="worker"):
        attar.distill("digits", **unknown)


def test_marks_say_what_may_change_in_a_run_folder() -> None:
    trajectories, pool = (Rules.of(sections_of(methods()[name])) for name in ("tesla", "teddy"))
    assert {"run.device", "run.workers", "source.data_dir", "squeeze.experts_at_once"} <= trajectories.how
    assert trajectories.grows == {"squeeze.num_experts"}
    assert pool.grows == {"squeeze.member_epochs", "squeeze.ratios"}
    assert [pool.stage(name) for name in ("run.seed", "run.ipc", "relabel.labels", "train.epochs")] == [
        "squeeze",
        "recover",
        "relabel",
        "evaluation",
    ]


def test_options_need_no_torch() -> None:
    code = "import attar.api.options, attar.cli.flags, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_function_of_the_package_is_one_of_the_api() -> None:
    assert {name for name in attar.__all__ if name != "__version__"} <= set(api.__all__)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - OTHERS))
def test_out_is_a_folder_to_write_to_and_says_what_is_written(command: str) -> None:
    info = fields_of(options_of(command)).get("out")
    if info is not None:
        what, _, written = (info.description or "").partition(": ")
        assert (what, bool(written)) == ("Folder to write to", True)
