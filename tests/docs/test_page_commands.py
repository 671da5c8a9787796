"""What the pages and the README tell to type runs, at toy size; what can't be run here is listed with the reason."""

import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from toy_commands import CANNOT, ROOT, Places, attar_itself, cannot, commands, commands_of, is_quick, toy

import attar
from attar.data.sources import SourceSettings, open_source
from attar.interop import EXPORTERS

COMMANDS = commands()
RUN_HERE = [line for line in COMMANDS if cannot(line) is None]
TOY_RUN = {
    "squeeze.model": "convnet-d2-w8-batch",
    "squeeze.epochs": 1,
    "recover.iterations": 2,
    "recover.num_snapshots": 2,
    "train.epochs": 1,
    "evaluate.full_epochs": 1,
    "evaluate.seeds": 1,
    "evaluate.models": ["convnet-d2-w8"],
    "source.train_per_class": 12,
}


STUDY = "{data: {source: digits}, models: [auto], strategies: [ce, dlb], seeds: 2}"


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Class folders of some digits."""
    path, real = tmp_path_factory.mktemp("images"), open_source("digits", SourceSettings()).train
    for label in range(10):
        (path / str(label)).mkdir()
        for index in (real.labels == label).nonzero()[:20]:
            pixels = real.pixels(index)[0, 0].numpy()
            Image.fromarray(pixels).save(path / str(label) / f"{int(index):04}.png")
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A complete run of sre2l."""
    path = tmp_path_factory.mktemp("runs") / "sre2l"
    attar.distill("digits", "sre2l", 1, out=path, settings=TOY_RUN)
    return path


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A run of random images, which is made at once."""
    path = tmp_path_factory.mktemp("runs") / "random"
    attar.distill("digits", "random", 1, out=path, until="relabel")
    return path


@pytest.fixture(scope="session")
def experts(tmp_path_factory) -> Path:
    """A run that has its experts and no more."""
    path = tmp_path_factory.mktemp("runs") / "tesla"
    settings = {"squeeze.model": "convnet-d2-w8", "squeeze.num_experts": 1, "squeeze.epochs": 7, "train_per_class": 12}
    attar.distill("digits", "tesla", 1, recipe="none", out=path, until="squeeze", settings=settings)
    return path


@pytest.fixture(scope="session")
def pooled(tmp_path_factory) -> Path:
    """A run of teddy with six networks and its images."""
    path = tmp_path_factory.mktemp("runs") / "teddy"
    attar.distill("digits", "teddy", 1, out=path, settings={**TOY_RUN, "squeeze.epochs": 6}, until="recover")
    return path


def places_in(tmp_path: Path, made: Path, folder: Path, line: str) -> Places:
    """Copies of what the words in capitals stand for."""
    found = Places(folder, tmp_path / "run", tmp_path / "exported", tmp_path / "out", tmp_path / "FILE.yaml")
    found.study.write_text(STUDY, "utf-8")
    shutil.copytree(made, found.run)
    if " compare " in line:
        shutil.copytree(made, f"{found.run}-other")
    if "PATH" in line:
        EXPORTERS["imagefolder"][0](attar.load(made), found.exported)
    if "report PATH" in line:  # of what was judged
        judge = {"train.epochs": 1, "source.train_per_class": 4}
        attar.evaluate(found.exported, "digits", models=("convnet-d1-w4",), seeds=1, baselines=(), settings=judge)
    return found


def run(words: list[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert not attar_itself().main(words, standalone_mode=False)  # a code, where a command leaves


@pytest.mark.parametrize("line", [line for line in RUN_HERE if is_quick(line)])
def test_a_quick_command_of_a_page_runs(line, small, experts, tmp_path, monkeypatch):
    places = places_in(tmp_path, experts if "--list" in line else small, tmp_path, line)
    run(toy(line, places), tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in RUN_HERE if not is_quick(line)])
def test_a_command_of_a_page_runs_at_toy_size(line, folder, made, tmp_path, monkeypatch, request):
    there = request.getfixturevalue("pooled") if ".members=" in line else made
    run(toy(line, places_in(tmp_path, there, folder, line)), tmp_path, monkeypatch)


@pytest.mark.parametrize("line", RUN_HERE, ids=str)
def test_a_command_is_one_that_attar_takes_and_has_a_toy_size(line, tmp_path):
    anywhere = Places(*[tmp_path] * 5)
    for words in (re.sub(r"^torchrun .* -m ", "", line).split()[1:], toy(line, anywhere)):
        if words[0] != "--help":
            attar_itself().commands[words[0]].make_context(words[0], words[1:])


def test_each_reason_not_to_run_a_command_is_needed():
    for pattern in CANNOT:
        assert any(re.search(pattern, line) for line in COMMANDS), f"no page has a command like {pattern}"


@pytest.mark.parametrize("line", [line for line in COMMANDS if cannot(line)])
def test_what_is_not_run_is_there(line):
    if script := re.search(r"benchmarks/\w+\.py", line):
        assert (ROOT / script[0]).is_file()
    elif line.startswith("make"):
        assert re.search(rf"^{line.split()[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    elif line.startswith("attar"):
        words = line.split()[1:]
        attar_itself().commands[words[0]].make_context(words[0], words[1:])


def test_commands_are_found_wherever_they_stand():
    text = """Type `attar show tesla`, or `attar show` alone, or `attar import PATH
--out DIR [--source SOURCE]`.

    attar distill digits  # the demo
    not a command

```sh
python benchmarks/digits.py --set a=[1,2]
```

```python
attar = 3
```
attar is a program.

```text
attar of roses
```
"""
    assert sorted(commands_of(text)) == [
        "attar distill digits",
        "attar import PATH --out DIR --source SOURCE",
        "attar show tesla",
        "python benchmarks/digits.py --set a=[1,2]",
    ]


def test_a_command_that_nobody_knows_is_noticed(tmp_path):
    anywhere = Places(*[tmp_path] * 5)
    with pytest.raises(AssertionError, match="nobody knows"):
        toy("conda install attar", anywhere)
    assert cannot("conda install attar") is None
    assert os.environ.get("HF_HUB_OFFLINE") == "1", "a command that asks the hub would hang, not fail"
