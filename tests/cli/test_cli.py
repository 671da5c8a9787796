"""The command line as a person and as a script meet it: in real processes where these may differ from one of Python."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from attar import api, catalogue, cli
from attar.cli import finding
from attar.run.planning import Plan
from attar.squeeze.rehearsal import Estimate

TOY = [
    "--recipe", "none",
    "--set", "squeeze.model=convnet-d2-w8",
    "--set", "num_experts=2",
    "--set", "squeeze.epochs=2",
    "--set", "train_per_class=10",
    "--set", "num_steps=3",
    "--set", "expert_epochs=1",
    "--set", "recover.iterations=6",
    "--set", "train.epochs=3",
    "--set", "evaluate.seeds=1",
    "--set", "evaluate.full_epochs=1",
]  # fmt: skip
COUNTED = [
    sys.executable,
    "-c",
    "import atexit, sys; atexit.register(lambda: print('compiler:', 'torch._dynamo' in sys.modules, file=sys.stderr)); "
    "from attar.__main__ import main; main()",
]
"""The program, which says at its end whether torch's compiler was imported."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("attar")), *arguments]


def attar(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=ENVIRONMENT, **options)


@pytest.fixture
def typed(monkeypatch, capfd):
    """What `attar` would do with these words, by its entry point and in this process: exit code, stdout and stderr.

    A process takes 3 s to import torch. What is the process's own, `--debug` and Ctrl-C among it, has one below.
    """

    def run(*words: str, columns: int = 100) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attar", *words])
        monkeypatch.setenv("COLUMNS", str(columns))
        try:
            cli.run()
        except SystemExit as leaving:
            return int(leaving.code or 0), *capfd.readouterr()
        return 0, *capfd.readouterr()

    return run


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    words = ["distill", "digits", "--ipc", "1", *TOY, "--out", str(out)]
    done = subprocess.run([*COUNTED, *words], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "compiler: False" in done.stderr, "torch's compiler takes two seconds to import, and nothing compiles here"
    assert "trained on" in done.stdout
    assert re.search(r"distilled +10 ", done.stdout)
    assert "report.html" in done.stdout
    assert "recover: tesla 6/6" in done.stderr
    return out


def test_help_names_an_extra_in_its_brackets(typed):
    code, out, _ = typed("submit", "--help")
    assert code == 0
    assert "pip install 'attar[submit]'" in out


@pytest.mark.parametrize("name", ["distill", "submit", "train", "study", "bench", "evaluate", "continual", "import"])
def test_help_leaves_its_sentences_room_on_a_narrow_terminal(typed, name):
    _, out, _ = typed(name, "--help", columns=80)
    begin = [re.match(r"│ {12,}", line) for line in out.splitlines()]
    assert max(found.end() for found in begin if found) < 50
    assert "Machine" in out or "Reading images" in out
    code, _, err = typed(name, "--no-such")
    assert (code, "No such option: --no-such" in " ".join(err.split())) == (2, True), "help has changed the command"


def test_help_names_the_choices_that_no_sentence_names(typed):
    _, out, _ = typed("bench", "--help")
    assert "One of test, validation." in out
    _, out, _ = typed("train", "--help")
    assert "One of" not in out, "symmetric and pairflip are explained"


def test_help_does_not_import_torch():
    code = """
import sys
sys.argv = ['attar', '--help']
try:
    from attar.cli import run
    run()
finally:
    print('torch' in sys.modules, 'pydantic' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert done.stdout.splitlines()[-1] == "False False"
    for name in [
        "distill",
        "squeeze",
        "recover",
        "relabel",
        "train",
        "evaluate",
        "continual",
        "compare",
        "report",
        "export",
        "import",
        "push",
        "plan",
        "verify",
        "list",
        "show",
    ]:
        assert f" {name} " in done.stdout


def test_json_is_alone_on_stdout(run, typed):
    _, told, _ = typed("distill", "digits", "--ipc", "1", *TOY, "--out", str(run), "--json")
    assert json.loads(told)["records"][0]["subject"] == "distilled"


def test_verify_finds_a_flipped_byte(run, typed, tmp_path):
    exported = tmp_path / "images"
    assert typed("export", str(run), "--out", str(exported))[0] == 0
    code, _, errors = typed("import", str(exported), "--out", str(tmp_path / "made"))
    assert code == 0, errors
    assert typed("verify", str(tmp_path / "made"))[0] == 0
    shard = next((tmp_path / "made" / "data").iterdir())
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    code, told, _ = typed("verify", str(tmp_path / "made"))
    assert code == 4
    assert shard.name in told


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["distill", "digits", "--method", "telsa"], 2, "did you mean tesla"),
        (["distill", "digits", "--set", "recover.iteratons=3", "--set", "gradient=exakt"], 2, "2 settings"),
        (["distill", "no/such/folder"], 3, "no/such/folder"),
        (["report", "."], 4, "not a run folder"),
        (["verify", "."], 4, ""),
        (["show", "telsa"], 2, "tesla"),
        (["distill", "digits", "--recipe", sys.executable], 2, "can't be read as a recipe"),
        (["distill", "digits", "--recipe", "./my.yaml"], 2, "there is no recipe file ./my.yaml"),
        (["distill", "digits", "--recipe", "none", "--set", "squeeze.model=resnt18"], 2, "did you mean resnet18"),
        (["distill", "digits", "--model", "resnt18"], 2, "did you mean resnet18"),
        (["plan", "digits", "--method", "sre2l", "--weights", "nowhere.pt"], 4, "nowhere.pt"),
        (["distill", "digits", "--method", "random", "--recipe", "none", "--out", "/proc/nowhere"], 6, "cannot write"),
    ],
)
def test_a_mistake_gives_one_clear_error_and_no_traceback(arguments, code, says, typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, _, errors = typed(*arguments)
    assert found == code, errors
    assert "Traceback" not in errors
    assert says in errors
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_ends_a_mistake_in_the_same_way(tmp_path):
    done = attar("report", ".", cwd=tmp_path)
    assert done.returncode == 4
    assert "not a run folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_behind_stdout_is_no_error_of_attar():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("list", "methods"), stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
    assert done.returncode == 6
    assert "No space left" in done.stderr


def test_debug_shows_the_traceback():
    assert "Traceback" in attar("report", ".", "--debug").stderr


def test_a_network_is_shown_with_its_size():
    shown = catalogue.describe("convnet-d3-w128")
    assert shown["notes"]["parameters"] == "320,010 for 10 classes at 32 px"
    assert shown["notes"]["normalisation"] == "InstanceNorm"
    assert catalogue.describe("resnet18")["notes"]["parameters"] == "11,689,512 for 1,000 classes at 224 px"
    assert catalogue.describe("convnet-d3-w128-none")["notes"]["normalisation"] == "none"


def test_show_and_list_as_json():
    shown = json.loads(attar("show", "tesla", "--json").stdout)
    fields = {field["name"] for field in shown["sections"]["method"]}
    assert {"num_steps", "gradient", "lr_images"} <= fields
    names = [row["name"] for row in json.loads(attar("list", "methods", "--json").stdout)]
    assert {"sre2l", "rded", "tesla", "mtt", "random"} <= set(names)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(run, tmp_path):
    kill_and_finish(run, tmp_path / "run", ["expert-0001 0/"], TOY)


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path):
    arguments = command("distill", "digits", *TOY, "--set", "recover.iterations=100000", "--out", str(tmp_path / "run"))
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, preexec_fn=heed)
    wait_for(process, "recover: tesla 0/")
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in rest
    assert "Traceback" not in rest


@pytest.mark.slow
def test_killed_at_many_moments(run, tmp_path):
    moments = [
        "squeeze: experts 0/",
        "expert-0000 2/2",
        "recover: tesla 0/6",
        "recover: tesla 6/6",
        "evaluate 0/",
        "random on convnet-d2-w8/seed 0 0/",
    ]
    kill_and_finish(run, tmp_path / "run", moments, TOY)
    start = [*TOY, "--out", str(tmp_path / "timed")]
    for seconds in (0.5, 3.0, 5.0, 5.5, 6.0, 6.5, 7.0):
        process = subprocess.Popen(command("distill", "digits", *start), stderr=subprocess.DEVNULL, env=ENVIRONMENT)
        time.sleep(seconds)
        process.kill()
        process.wait()
    assert attar("distill", "digits", *start).returncode == 0
    assert bytes_of(tmp_path / "timed" / "distilled") == bytes_of(run / "distilled")


@pytest.mark.slow
def test_killed_in_the_middle_of_recover_goes_on_from_the_checkpoint(tmp_path):
    arguments = ["distill", "digits", "--ipc", "1", *TOY, "--set", "recover.iterations=1500"]
    assert attar(*arguments, "--out", str(tmp_path / "unbroken")).returncode == 0
    broken = [*arguments, "--out", str(tmp_path / "broken")]
    process = subprocess.Popen(command(*broken), stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    while not (tmp_path / "broken" / "recover" / "checkpoint-00000.safetensors").exists():
        assert process.poll() is None, "the run ended before its first checkpoint: give it more iterations"
        time.sleep(0.1)
    process.kill()
    process.wait()
    done = attar(*broken)
    assert re.search(r"going on at step [1-9]\d* of 1500", done.stderr), done.stderr
    assert bytes_of(tmp_path / "broken" / "distilled") == bytes_of(tmp_path / "unbroken" / "distilled")


def kill_and_finish(unbroken: Path, out: Path, moments: list[str], settings: list[str]) -> None:
    """Kill -9 a run when it prints each of `moments`, start it again each time, and compare the end."""
    arguments = ["distill", "digits", "--ipc", "1", *settings, "--out", str(out)]
    for moment in moments:
        process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        wait_for(process, moment)
        process.kill()
        process.communicate()
    done = attar(*arguments)
    assert done.returncode == 0, done.stderr
    assert bytes_of(out / "distilled") == bytes_of(unbroken / "distilled")
    assert (
        json.loads((out / "evaluation.json").read_text())["records"]
        == json.loads((unbroken / "evaluation.json").read_text())["records"]
    )
    assert attar("verify", str(out)).returncode == 0


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read stderr until a line begins with `text`."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if line.startswith(text):
            return
    raise AssertionError(f"{text!r} did not come: {''.join(seen)}")


def test_a_plan_counts_units_where_there_are_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Plan((Estimate("recover", "iterations", 30, 0.1, 9), Estimate("report", "pages", 1, 2.0, 9)), 9, 9)
    monkeypatch.setattr(api, "plan", lambda **_: found)
    finding.plan({}, False)
    recover, report, *_ = capsys.readouterr().out.splitlines()
    assert recover.endswith("30 iterations at 100.0 ms")
    assert report.split() == ["report", "2", "s"]
