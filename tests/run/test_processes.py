"""The same bits from one process, from two, and from one that was stopped."""

import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer

import attar
from attar import cli
from attar.api import distilling
from attar.errors import AttarError, ConfigError
from attar.runtime.checkpoint import read_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import read_events
from attar.runtime.files import read_json
from attar.runtime.processes import Processes, launched
from attar.runtime.team import Team
from launching import free_port, start

SETTINGS = [
    "squeeze.model=convnet-d1-w4-batch",
    "squeeze.epochs=1",
    "recover.iterations=4",
    "recover.chunk_size=7",
    "recover.num_snapshots=2",
    "relabel.codec=q4",
    "train.epochs=3",
    "evaluate.full_epochs=1",
    "evaluate.seeds=2",
    "evaluate.labels=[stored]",
    "source.train_per_class=10",
]
COMMAND = ["distill", "digits", "--method", "sre2l", "--ipc", "2", "--workers", "1", "--quiet"]
MATCH = {
    "source": "digits",
    "method": "tesla",
    "recipe": "none",
    "until": "recover",
    "quiet": True,
    "settings": {
        "run.workers": 1,
        "squeeze.model": "convnet-d1-w4",
        "squeeze.num_experts": 3,
        "squeeze.epochs": 2,
        "method.num_steps": 3,
        "method.expert_epochs": 1,
        "recover.iterations": 5,
        "recover.num_snapshots": 2,
        "recover.ema": 0.5,
        "recover.draws_per_step": 3,
        "source.train_per_class": 10,
    },
}
TEAM = f"""
sys.path.insert(0, {str(Path(__file__).parents[1] / "stages")!r})
import test_recover_loop as loop
from attar.errors import AttarError
from attar.stages.recover import RecoverSettings, recover
from attar.runtime.checkpoint import read_tensors
from attar.runtime.engine import Engine
from attar.runtime.processes import launched
from attar.runtime.team import team

os.environ["MASTER_PORT"] = ports.pop()
processes = launched()
processes.join()
members = team(processes, 2)


def draw(scene, k):
    if scene == "fails" and k == 2:
        raise ValueError("draw 2 is no good, ä")
    value = float("nan") if scene == "nan" and k == 1 else 0.1 * (k + 1)
    return {{"a": torch.full((3,), value), "b": torch.tensor(k, dtype=torch.float64)}}


def mean(scene):
    found = members.mean(lambda k: draw(scene, k), 5)
    return f"{{found['a'].tolist()}} {{float(found['b'])}}"


def disagree(scene):
    members.require_same(processes.rank, "the step")


class Lost(loop.Noisy):
    def gradient(self, synthetic, picked, real, knowledge, rng, done=0.0):
        gradients, metrics = super().gradient(synthetic, picked, real, knowledge, rng, done)
        return gradients, metrics | {{"loss": float("nan")}} if processes.rank == 1 and done >= 0.25 else metrics


class Heard(loop.Events):
    def say(self, message):
        if processes.rank == 0:
            print("idle:", message)


def run(scene):
    kind = Lost if scene == "diverges" else loop.Noisy
    method = kind(loop.NoisySettings(), loop.TASK, 2)
    settings = RecoverSettings(iterations=12, num_snapshots=0, draws_per_step=2 - (scene == "idle"))
    engine, there = Engine("cpu", processes=processes), folder / scene
    recover(method, None, None, settings, seed=0, folder=there, engine=engine, events=Heard(quiet=True))


scenes = {{"well": mean, "nan": mean, "fails": mean, "disagree": disagree, "idle": run, "diverges": run}}
for scene, play in scenes.items():
    try:
        if (said := play(scene)) is not None:
            print(f"{{scene}}: {{said}}")
    except (AttarError, ValueError) as error:
        print(f"{{scene}}: {{type(error).__name__}} {{str(error).splitlines()[0]}}", flush=True)
processes.leave()
"""


def command(out: Path) -> list[str]:
    return [*COMMAND, "--out", str(out), *(word for setting in SETTINGS for word in ("--set", setting))]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    assert not typer.main.get_command(cli.app).main(command(tmp_path / "1"), standalone_mode=False)
    ended = start(["-m", "attar", *command(tmp_path / "2")], 2)
    assert [code for code, _ in ended] == [0, 0], ended
    assert ended[1] == (0, ""), "only the first process speaks"
    one, two = (bytes_of(tmp_path / num / "distilled") for num in ("1", "2"))
    assert one == two
    assert len(list((tmp_path / "2" / "recover").glob("synthetic-*.safetensors"))) == 3
    evaluations = [(tmp_path / num / "evaluation.json").read_text() for num in ("1", "2")]
    assert evaluations[0] == evaluations[1]


STUDENT = {
    "source": "digits",
    "method": "random",
    "ipc": 3,
    "recipe": "none",
    "quiet": True,
    "settings": {
        "run.workers": 1,
        "evaluate.models": ["convnet-d1-w4"],
        "evaluate.seeds": 1,
        "evaluate.baselines": [],
        "train.epochs": 6,
        "train.batch_size": 14,
        "train.strategy": "dlb",
        "source.train_per_class": 10,
    },
}
TOGETHER = f"""
import os
import sys
from pathlib import Path

import torch
import attar
from attar.evaluation import trials

folder, ports = Path(sys.argv[1]), sys.argv[2:]
fit = trials.fit


def saying(*args, team, **options):
    print(f"{{team.rank}} of {{team.num}}", flush=True)
    return fit(*args, team=team, **options)


def distill(name, given):
    os.environ["MASTER_PORT"] = ports.pop()  # that of before may not be free yet
    print(f"== {{name}}", flush=True)
    attar.distill(**given, out=folder / name)


trials.fit = saying
distill("student", {STUDENT!r})
trials.fit = fit
distill("match", {MATCH!r})
print("== team", flush=True)
{TEAM}"""
"""All that two processes do here, one after the other, as each of them takes seconds to import torch."""


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """The folder that two processes worked in, and what each said in each part."""
    folder = tmp_path_factory.mktemp("together")
    ended = start(["-c", TOGETHER, str(folder), *(str(free_port()) for _ in range(3))], 2)
    assert [code for code, _ in ended] == [0, 0], ended
    parts = [[part.partition("\n") for part in said.split("== ")] for _, said in ended]
    return folder, [{name: text for name, _, text in found} for found in parts]


@pytest.mark.slow
def test_two_processes_share_one_student_and_it_learns_what_that_of_one_learns(
    together: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    folder, said = together
    attar.distill(**STUDENT, out=tmp_path / "1")
    assert [words["student"] for words in said] == ["0 of 2\n", "1 of 2\n"]
    one, two = (read_json(next((run / "evaluation").glob("*.json"))) for run in (tmp_path / "1", folder / "student"))
    assert two["train_loss"] == pytest.approx(one["train_loss"], abs=1e-4)
    assert two["accuracy"] == pytest.approx(one["accuracy"], abs=0.5)
    assert two["made_by"] == one["made_by"]
    assert [path.suffix for path in (folder / "student" / "evaluation").iterdir()] == [".json"]


@pytest.mark.slow
def test_processes_that_share_the_draws_of_a_step_make_what_one_makes(
    together: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    folder, said = together
    attar.distill(**MATCH, out=tmp_path / "1")
    assert [words["match"] for words in said] == ["", ""]
    runs = tmp_path / "1", folder / "match"
    one, two = (bytes_of(run / "recover") for run in runs)
    del one["manifest.json"], two["manifest.json"]  # they say when
    assert one == two
    assert len(one) == 3
    steps = [[e for e in read_events(run / "events.jsonl") if e["stage"] == "recover"] for run in runs]
    one_by_one, shared = ([(e["step"], e["loss"]) for e in found] for found in steps)
    assert one_by_one == shared


@pytest.fixture(scope="module")
def scenes(together: tuple[Path, list[dict[str, str]]]) -> dict[str, list[str]]:
    """What each of two processes said in each scene of TEAM."""
    folder, said = together
    told = [dict(line.split(": ", 1) for line in words["team"].splitlines() if ": " in line) for words in said]
    return {scene: [words.get(scene, "") for words in told] for scene in told[0]} | {"folder": [str(folder)]}


@pytest.mark.slow
def test_a_team_sums_in_the_order_of_the_draws(scenes: dict[str, list[str]]) -> None:
    total = torch.zeros(3)
    for k in range(5):
        total += torch.full((3,), 0.1 * (k + 1))
    expected = f"{(total / 5).tolist()} 2.0"
    assert scenes["well"] == [expected] * 2


@pytest.mark.slow
def test_a_number_that_is_not_finite_in_one_reaches_all(scenes: dict[str, list[str]]) -> None:
    assert scenes["nan"] == ["[nan, nan, nan] 2.0"] * 2


@pytest.mark.slow
def test_a_draw_that_fails_in_one_stops_all_with_its_words(scenes: dict[str, list[str]]) -> None:
    said, other = scenes["fails"]
    assert said == "ValueError draw 2 is no good, ä"
    assert other.startswith("AttarError process 0 stopped: draw 2 is no good, ä")


@pytest.mark.slow
def test_processes_that_disagree_say_on_what(scenes: dict[str, list[str]]) -> None:
    assert scenes["disagree"] == ["AttarError the processes disagree on the step: 0, 1"] * 2


def test_a_process_that_is_gone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*args: object, **options: object) -> None:
        raise RuntimeError("Connection closed by peer. Check the logs")

    waits = {
        "all_gather": lambda: Team(0, 2).mean(lambda k: {"a": torch.zeros(1)}, 2),
        "all_reduce": lambda: Team(0, 2).total(torch.zeros(1)),
        "barrier": Processes(0, 2).barrier,
    }
    for call, wait in waits.items():
        monkeypatch.setattr(torch.distributed, call, closed)
        with pytest.raises(AttarError, match=r"another process is gone: Connection closed by peer\n"):
            wait()


@pytest.mark.slow
def test_a_run_that_diverges_stops_in_all_processes_at_the_same_step(scenes: dict[str, list[str]]) -> None:
    assert scenes["diverges"] == ["DivergedError loss is no longer a finite number at step 3 of 12"] * 2
    kept = Path(scenes["folder"][0]) / "diverges" / "checkpoint-00000.safetensors"
    assert read_tensors(kept)[1]["step"] == 3


@pytest.mark.slow
def test_processes_without_a_draw_wait_and_the_first_says_so(scenes: dict[str, list[str]]) -> None:
    assert scenes["idle"][0].startswith("1 of 2 processes wait while images are recovered: a step of noisy has 1 draw")
    assert scenes["idle"][1] == ""
    assert (Path(scenes["folder"][0]) / "idle" / "synthetic-00000.safetensors").is_file()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Processes()),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Processes(1, 4, 1)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}, Processes(5, 8, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Processes()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Processes()),
    ],
)
def test_what_a_launcher_says(environment: dict[str, str], expected: Processes) -> None:
    assert launched(environment) == expected


def test_commands_that_do_not_share_their_work_refuse_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 were started"):
        Engine("cpu")
    assert Engine("cpu", processes=launched()).processes.num == 2


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # a script of sbatch with --ntasks=4, and no srun
        {"WORLD_SIZE": "2"},
        {"RANK": "one", "WORLD_SIZE": "2"},
    ],
)
def test_what_is_to_be_unset_for_one_process_leaves_one(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in environment.items():
        monkeypatch.setenv(name, text)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="in the environment") as refused:
        launched().join()
    told = re.search(r"`unset ([^`]*)`", refused.value.fix or "")
    assert told
    for name in told[1].split():
        monkeypatch.delenv(name, raising=False)
    assert launched() == Processes()


def test_of_several_processes_none_tells_what_one_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said: list[str] = []
    run: Any = SimpleNamespace(
        events=SimpleNamespace(quiet=False, say=said.append),
        engine=Engine("cpu", processes=launched()),
        settings=SimpleNamespace(run=SimpleNamespace(device="cpu")),
        source=None,
        left=lambda until: ("recover",),
    )
    distilling._tell_cost(run, "recover", None)
    assert said == []


def test_what_others_have_made_is_seen_behind_a_barrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared disk may show it a while after it was made."""
    made = tmp_path / "synthetic-00001.safetensors"
    monkeypatch.setattr(torch.distributed, "barrier", lambda **_: SimpleNamespace(wait=lambda: None))
    shown = threading.Timer(0.3, made.touch)
    shown.start()
    Processes(0, 2).barrier([made])
    there = made.exists()
    shown.join()
    assert there
