"""`attar list` and `attar show` answer without torch from a file that is in step with the classes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources

import pytest
import timm
from torchvision import models

from attar import catalogue, described
from attar.cli.completion import completer
from attar.cli.finding import list_
from attar.config import options, value_text
from attar.errors import ConfigError
from attar.methods import methods
from attar.models import factory
from attar.models.names import FAMILIES, library_names
from attar.protocols import layered


def test_the_file_is_what_the_classes_say():
    kept = json.loads(resources.files("attar").joinpath(catalogue.FILE).read_text("utf-8"))
    assert kept == json.loads(json.dumps(described.contents())), "to fix: python tools/docs.py"


@pytest.mark.parametrize("name", methods())
def test_a_method_is_shown_with_the_defaults_that_it_changes(name):
    kind, shown = methods()[name], catalogue.describe(name)["sections"]
    for section, values in layered(kind.defaults).items():
        fields = {field["name"]: field["default"] for field in shown[section]}
        for field in values:
            assert fields[field] == str(value_text(values[field]))
    assert [field["name"] for field in shown["method"]] == [option.name for option in options(kind.Settings)]


def test_names_of_networks_are_those_that_the_libraries_list():
    assert set(library_names("timm")) == set(timm.list_models())
    assert set(library_names("torchvision")) == set(models.list_models(module=models))
    assert library_names("no_such_library") == ()


@pytest.mark.parametrize(
    "name",
    [
        *("convnet-d3-w128", "convnet-d1-w4-group", "resnet18", "torchvision:resnet18", "timm:vit_tiny_patch16_224"),
        *("vit-d2-w8-p4", "vit_tiny_patch16_224", "resnt18", "attar:resnet18", "timm:nothing", "other:resnet18"),
    ],
)
def test_a_name_is_a_networks_where_one_can_be_made_of_it(name):
    try:
        factory.find(name)
        known = True
    except ConfigError:
        known = False
    assert catalogue.is_model(name) == known


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("tesl", "did you mean tesla"),
        ("resnt18", "did you mean resnet18"),
        ("trian", "did you mean train"),
        ("timm:resnt18", "did you mean timm:resnet18 or timm:"),
        ("attar:vit-tny", "did you mean attar:vit-tiny"),
        ("convnet", "did you mean convnet-d"),
        ("resnet20", "did you mean resnet20-cifar"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(name, near):
    with pytest.raises(ConfigError, match=near) as caught:
        catalogue.describe(name)
    assert "or resnet18?" not in str(caught.value)


@pytest.mark.parametrize(("name", "shown"), [("convnet-d5-w8", "at 32 px"), ("convnet-d6-w8", "at 64 px")])
def test_a_network_is_shown_for_the_smallest_images_that_it_takes(name, shown):
    assert catalogue.describe(name)["notes"]["parameters"].endswith(shown)


def test_a_network_that_takes_no_images_says_what_would():
    with pytest.raises(ConfigError, match="depth 99") as caught:
        catalogue.describe("convnet-d99-w8")
    assert "convnet-d5-w8" in str(caught.value)


def test_list_and_show_import_neither_torch_nor_the_libraries_of_networks():
    typed = [["list", kind] for kind in ("methods", "models", "recipes", "datasets", "strategies", "studies")]
    shown = (
        "tesla",
        "dlb",
        "train",
        "study",
        "cifar10",
        "sre2l-cifar10-ipc10",
        "wrn-40-4",
        "regnet_y_400mf",
        "resnet18",
        "resnt18",
        "timm:resnt18",
    )
    typed += [["show", name] for name in shown] + [["--help"], ["show", "--help"], ["distill", "--help"]]
    code = f"""
import sys
from attar.cli import run
for words in {typed!r}:
    sys.argv = ['attar', *words]
    try:
        run()
    except SystemExit as leaving:
        print(leaving.code, file=sys.stderr)
    print(words, [name for name in ('torch', 'timm', 'torchvision') if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = done.stderr.splitlines()
    assert [line for line in said if line.startswith("[")] == [f"{words!r} []" for words in typed]
    assert "did you mean" in done.stderr
    assert "a network of torchvision's (resnet18)" in done.stdout


def test_sizes_of_networks_are_those_of_the_networks():
    """To fix: python tools/networks.py."""
    kept = json.loads(resources.files("attar.models").joinpath(catalogue.SIZES).read_text("utf-8"))
    for family in FAMILIES:
        assert set(kept[family]) == set(library_names(family))
    for name in ("convnet-d3-w128", "convnet-d5-w24-none", "torchvision:squeezenet1_1", "timm:test_vit.r160_in1k"):
        built = described.network(name)
        assert catalogue.describe(name) == built
        assert built["notes"]["parameters"].startswith(tuple("123456789"))


def test_networks_are_listed_by_their_library_with_their_parameters(capsys):
    list_("models", "resnet18*")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "attar: 2, parameters for 10 classes at 32 px"
    assert said[1].split() == ["resnet18-small", "11,173,962"]
    assert "torchvision: 1, parameters for 1,000 classes at 224 px" in said
    list_("models", "resnet18", json_=True)
    assert {"name": "resnet18", "summary": "torchvision", "parameters": 11689512} in json.loads(capsys.readouterr().out)


def test_the_whole_list_says_that_networks_have_other_sizes_too(capsys):
    list_("models")
    said = capsys.readouterr().out
    assert said.splitlines()[1].startswith("  and any other of convnet-dDEPTH-wWIDTH[-NORM], resnetDEPTH-small[-NORM],")


def test_a_long_list_is_paged_on_a_terminal(monkeypatch, capsys):
    paged = []
    monkeypatch.setattr("pydoc.pager", paged.append)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    list_("models", "resnet18")
    assert "resnet18-small" in capsys.readouterr().out
    list_("models", "")
    assert not capsys.readouterr().out
    assert "\n\ntimm: " in paged[0]


@pytest.mark.parametrize(
    ("kind", "typed", "offered"),
    [
        ("methods", "te", ["teddy", "tesla"]),
        ("strategies", "dl", ["dlb"]),
        ("models", "resnet18,resnet1", ["resnet18,resnet18"]),
        ("recipes", "tesla-digits", ["tesla-digits-ipc1"]),
        ("datasets", "dig", ["digits"]),
        ("names", "evalu", ["evaluate"]),
        ("settings", "method.num_st", ["method.num_steps="]),
        ("", "x", []),
    ],
)
def test_the_shell_is_offered_names(kind, typed, offered):
    found = completer(kind)(typed)
    assert set(offered) <= set(found)
    assert all(name.startswith(typed) for name in found)


def test_the_shell_completes_a_command_line(tmp_path):
    code = "import sys; sys.argv = ['attar']; from attar.cli import app; app(prog_name='attar')"
    words = {"_ATTAR_COMPLETE": "complete_bash", "COMP_WORDS": "attar distill digits --method te", "COMP_CWORD": "4"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **words})
    assert {"teddy", "tesla"} <= set(done.stdout.split())


@pytest.mark.parametrize("kind", ["methods", "strategies", "recipes", "datasets", "studies"])
def test_every_listed_name_is_shown(kind: catalogue.Kind):
    for name, _ in catalogue.names(kind):
        if name.isupper() or ":" in name:  # the kinds of places, in place of a name
            continue
        assert catalogue.describe(name)["summary"], name
