"""Jobs of a cluster: what is queued, in which order, and that tasks on this machine end with the bytes of one run."""

import importlib.util
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import attar
from attar.api import submitting
from attar.api.submitting import Work
from attar.errors import ConfigError
from attar.methods.coreset import Random

INSTALLED = importlib.util.find_spec("submitit") is not None
needs_submitit = pytest.mark.skipif(not INSTALLED, reason="submitit is not installed: pip install 'attar[submit]'")


class Jobs:
    """In place of submitit's executor: keeps what is queued."""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}
        self.arrays: list[tuple[dict[str, Any], list[Work]]] = []

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters.update(parameters)

    def submit_array(self, tasks: list[Work]) -> list[Any]:
        self.arrays.append((dict(self.parameters), tasks))
        self.parameters.clear()
        number = 100 + len(self.arrays)
        single = len(tasks) == 1
        ids = [str(number) if single else f"{number}_{task}" for task in range(len(tasks))]
        return [type("Job", (), {"job_id": one})() for one in ids]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    jobs = Jobs()
    monkeypatch.setattr(submitting, "_executor", lambda asked, logs: jobs)
    return jobs


def test_each_stage_is_an_array_that_begins_when_the_one_before_has_ended(jobs: Jobs, tmp_path: Path) -> None:
    queued = attar.submit(
        "digits", "sre2l", 2, out=tmp_path / "run", shards=3, cpus=4, gpus=1, at_once=2, memory="1GiB"
    )
    assert [[(work.until, work.shard) for work in tasks] for _, tasks in jobs.arrays] == [
        *([(stage, f"{k}/3") for k in (1, 2, 3)] for stage in ("squeeze", "recover", "relabel", "evaluate")),
        [("evaluate", None)],
    ]
    assert [how.get("slurm_dependency") for how, _ in jobs.arrays] == [
        None,
        *(f"afterany:{before}" for before in (101, 102, 103, 104)),
    ]
    first = jobs.arrays[0][0]
    assert (first["timeout_min"], first["cpus_per_task"], first["gpus_per_node"]) == (240, 4, 1)
    assert (first["slurm_mem"], first["slurm_array_parallelism"]) == ("1024M", 2)
    assert jobs.arrays[0][1][0].given == {
        "source": "digits",
        "method": "sre2l",
        "ipc": 2,
        "out": str(tmp_path / "run"),
        "workers": 4,
    }
    assert (queued.jobs["recover"], queued.last) == (("102_0", "102_1", "102_2"), "105")
    assert not (tmp_path / "run").exists(), "the first task begins it, where the images and the devices are"


def test_class_names_alone_have_no_images_to_judge_by(jobs: Jobs, tmp_path: Path) -> None:
    attar.submit("classes:ant,bee", "sre2l", out=tmp_path / "run", shards=1)
    assert [tasks[0].until for _, tasks in jobs.arrays] == ["squeeze", "recover", "relabel", "relabel"]


def test_what_the_program_handed_over_is_found_in_no_job(jobs: Jobs, tmp_path: Path) -> None:
    class Mine(Random):
        name = "mine"
        source = "this test"

    images = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    for given in ({"source": (images, [0, 1, 0, 1])}, {"source": "digits", "method": Mine}):
        with pytest.raises(ConfigError, match="is what this program handed over"):
            attar.submit(**given, out=tmp_path / "run")
    assert not jobs.arrays


def test_a_run_that_ends_earlier_has_fewer_stages_and_options_of_sbatch_pass(jobs: Jobs, tmp_path: Path) -> None:
    attar.submit(
        "digits", out=tmp_path, until="recover", shards=1, slurm=["account=vision", "qos = low"], job_time="90s"
    )
    assert [tasks[0].until for _, tasks in jobs.arrays] == ["squeeze", "recover", "recover"]
    assert jobs.arrays[0][0]["slurm_additional_parameters"] == {"account": "vision", "qos": "low"}
    assert jobs.arrays[0][0]["timeout_min"] == 2


def test_jobs_need_a_folder_and_take_no_callbacks(jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs without --out"):
        attar.submit("digits")
    with pytest.raises(ConfigError, match="callbacks can't follow jobs"):
        attar.submit("digits", out=tmp_path, callbacks=print)
    with pytest.raises(ConfigError, match="'account' is not KEY=VALUE"):
        attar.submit("digits", out=tmp_path, slurm=["account"])
    assert not jobs.arrays


def test_what_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = "no Slurm on this machine" if INSTALLED else "submitit is not installed"
    with pytest.raises(ConfigError, match=found):
        attar.submit("digits", out=tmp_path / "run")


@needs_submitit
def test_a_task_that_is_to_end_is_queued_again_as_it_was() -> None:
    work = Work({"source": "digits"}, "recover", "2/3")
    again = pickle.loads(pickle.dumps(work)).checkpoint()
    assert (again.function, again.args, again.kwargs) == (work, (), {})


@needs_submitit
def test_slurm_is_given_scripts_that_it_understands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("srun", "exit 0"), ("sbatch", 'cat "$1" >> "$SCRIPTS"; echo Submitted batch job 77')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SCRIPTS", str(tmp_path / "scripts"))
    attar.submit("digits", out=tmp_path / "run", until="squeeze", shards=2, memory="16GB", slurm=["account=vision"])
    first, last = (tmp_path / "scripts").read_text().split("#!/bin/bash")[1:]
    for line in ("array=0-1%2", "mem=15259M", "cpus-per-task=1", "time=240", "account=vision", "signal=USR2@90"):
        assert f"#SBATCH --{line}\n" in first
    assert "#SBATCH --dependency=afterany:77\n" in last
    assert "array" not in last
    assert "dependency" not in first


@needs_submitit
@pytest.mark.slow
def test_tasks_on_this_machine_end_with_the_bytes_of_one_run(tmp_path: Path) -> None:
    settings = {
        "squeeze.model": "convnet-d1-w4-batch",
        "squeeze.epochs": 1,
        "recover.iterations": 4,
        "recover.chunk_size": 7,
        "source.train_per_class": 6,
    }
    given: dict[str, Any] = {"source": "digits", "method": "sre2l", "recipe": "none", "thorough": True}
    given |= {"ipc": 2, "settings": settings, "until": "relabel"}
    attar.distill(**given, workers=1, out=tmp_path / "whole")
    queued = attar.submit(**given, out=tmp_path / "run", shards=2, cluster="local", job_time="30m")
    assert {stage: len(tasks) for stage, tasks in queued.jobs.items()} == {"squeeze": 2, "recover": 2, "relabel": 2}
    one, two = (sorted((tmp_path / name / "distilled").iterdir()) for name in ("whole", "run"))
    assert [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True) if a.is_file())
