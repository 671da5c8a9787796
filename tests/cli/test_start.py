"""The first moments of the program: interruptions, other encodings, names that are no text, launchers' variables."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import attar
from attar.__main__ import GO_ON, INTERRUPTED

ENTRY = [sys.executable, "-c", "from attar.__main__ import main; main()"]
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
UNDECODABLE = os.fsdecode(b"caf\xe9")


def begin(
    *words: str, entry: list[str] = ENTRY, interrupted: signal.Handlers = signal.SIG_DFL, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """What the program says; interruptions are not ignored, as they are where tests run in a shell's background."""

    def heed() -> None:
        signal.signal(signal.SIGINT, interrupted)

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    kept |= {"PYTHONPATH": str(Path(attar.__file__).parents[1])} | environment
    return subprocess.run([*entry, *words], capture_output=True, env=kept, check=False, timeout=120, preexec_fn=heed)


def test_the_program_that_is_installed_begins_there():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    assert 'attar = "attar.__main__:main"' in text


@pytest.mark.parametrize("module", ["typer", "attar_first"])
def test_an_interruption_while_modules_are_imported_is_no_traceback(tmp_path, module):
    """Each module interrupts the program that imports it; the last one comes before all of attar's command line."""
    file = tmp_path / f"{module}.py"
    file.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n")
    entry = ENTRY
    if module == "attar_first":
        entry = [
            sys.executable,
            "-c",
            "import attar.__main__ as m; m._speak_utf8 = lambda: __import__('attar_first'); m.main()",
        ]
    source = Path(attar.__file__).parents[1]
    done = begin("list", "datasets", entry=entry, PYTHONPATH=os.pathsep.join([str(tmp_path), str(source)]))
    assert (done.returncode, done.stdout, done.stderr.decode().strip()) == (INTERRUPTED, b"", GO_ON)


def test_an_interruption_in_a_command_is_no_traceback(tmp_path):
    """While it imports torch, which is the longest of all."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n")
    source = Path(attar.__file__).parents[1]
    done = begin("distill", "digits", PYTHONPATH=os.pathsep.join([str(tmp_path), str(source)]))
    assert done.returncode == INTERRUPTED
    assert b"Traceback" not in done.stderr
    assert GO_ON.encode() in done.stderr


def test_who_has_interruptions_ignored_keeps_it_so():
    told = "import attar.cli, signal; attar.cli.run = lambda: print(int(signal.getsignal(signal.SIGINT))); "
    entry = [sys.executable, "-c", told + "import attar.__main__ as m; m.main()"]
    done = begin(entry=entry, interrupted=signal.SIG_IGN)
    assert int(done.stdout) == signal.SIG_IGN


@pytest.mark.parametrize("place", ["del", "generator"])
def test_an_interruption_where_python_lets_none_pass_comes_again(tmp_path, place):
    """A finaliser drops what it is interrupted by, and the work would go on to its end."""
    (tmp_path / "started.py").write_text(f"""
import os, signal, sys, time
from attar import __main__, cli

def interrupted():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)

class Kept:
    __del__ = lambda self: interrupted()

def values():
    try:
        yield 1
    finally:
        interrupted()

def run():
    try:
        if {place!r} == "del":
            Kept()
        else:
            next(values())
        time.sleep(10)
    except KeyboardInterrupt:
        sys.exit(130)

cli.run = run
__main__.main()
""")
    path = os.pathsep.join([str(tmp_path), str(Path(attar.__file__).parents[1])])
    done = begin(entry=[sys.executable, "-m", "started"], PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (INTERRUPTED, b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--help"], ["list", "methods"], ["show", "tesla"], ["train", "--help"], ["--version"]]
)
def test_every_word_is_shown_where_texts_are_no_utf8(words):
    done = begin(*words, **PLAIN)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_paths_are_escaped_where_texts_are_no_utf8(tmp_path):
    done = begin("verify", str(tmp_path / "café"), **PLAIN)
    assert done.returncode == 4
    assert rb"caf\xe9" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_file_with_another_name_than_ascii_is_read_there(tmp_path):
    (tmp_path / "café").mkdir()
    (tmp_path / "café" / "attar.json").write_text('{"é": ', "utf-8")
    done = begin("verify", str(tmp_path / "café"), **PLAIN)
    assert done.returncode == 4, done.stderr
    assert rb"caf\xe9/attar.json does not describe a distilled dataset" in done.stdout


@pytest.mark.slow
def test_a_recipe_with_another_name_than_ascii_is_read_there(tmp_path):
    recipe = tmp_path / "café.yaml"
    recipe.write_text("run: {ipc: 0}\n", "utf-8")
    done = begin("plan", "digits", "--recipe", str(recipe), **PLAIN)
    assert done.returncode == 2, done.stderr
    assert b"run.ipc" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "environment"),
    [
        (["distill", "digits", "--out", UNDECODABLE], {}),
        (["distill", "digits", "--out", UNDECODABLE], PLAIN),
        (["plan", "digits", "--recipe", UNDECODABLE], {}),
        (["verify", UNDECODABLE], {}),
        (["plan", "digits", "--set", f"recover.iterations={UNDECODABLE}"], {}),
    ],
    ids=["out", "out where texts are ASCII", "recipe", "set", "value"],
)
def test_names_that_are_no_text_are_told_as_such(words, environment):
    done = begin(*words, **environment)
    assert 2 <= done.returncode <= 6, done.stderr
    assert rb"caf\xe9" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "node[01-04]"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "2(x3)"},
    ],
    ids=lambda found: " ".join(found.values()),
)
def test_wrong_variables_of_a_launcher_are_one_error_and_leave_help_alone(variables):
    told = begin("list", "methods", **variables)
    assert told.returncode == 2
    assert b"to fix: " in told.stderr
    assert b"Traceback" not in told.stderr
    for words in (["--version"], ["--help"], ["train", "--help"]):
        assert begin(*words, **variables).returncode == 0


def test_a_wrong_variable_of_a_launcher_is_one_error_and_help_is_left_alone():
    variables = {"RANK": "2", "WORLD_SIZE": "2"}
    assert b"to fix: " in begin("list", "methods", **variables).stderr
    assert begin("--help", **variables).returncode == 0


def test_an_interruption_of_a_class_that_is_being_made_has_the_code_of_any_other(tmp_path):
    """An exec of a text that is interrupted, as dataclasses have them, let Python end by the signal."""
    (tmp_path / "started.py").write_text("""
import sys
from attar import __main__, cli

def run():
    try:
        exec("raise KeyboardInterrupt")
    except KeyboardInterrupt:
        sys.exit(130)

cli.run = run
__main__.main()
""")
    assert subprocess.run([sys.executable, "-m", "started"], cwd=tmp_path).returncode == INTERRUPTED
