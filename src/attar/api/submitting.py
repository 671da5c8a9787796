"""A run as jobs of a cluster: an array of shards for each stage, and a last job that makes what is missing.

Jobs are queued by submitit (the extra `attar[submit]`). A task that is preempted, or runs out of its time, is queued
again as it was, and goes on from its checkpoint, as the same command does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.api.arguments import takes
from attar.api.options import RunOptions, SubmitOptions
from attar.config import parse_bytes, parse_duration
from attar.data.readers.classes import PREFIX as CLASSES
from attar.errors import AttarError, ConfigError
from attar.options import Until
from attar.registry import found_here_alone
from attar.text import one_line

if TYPE_CHECKING:
    from submitit import AutoExecutor, Job

ORDER: tuple[Until, ...] = ("squeeze", "recover", "relabel", "evaluate")
_GRACE_S = 90
"""Between the signal that a task is to end and its end: time to queue it again."""


@dataclass(frozen=True)
class Work:
    """One task: the arguments of `attar.distill`. Slurm's jobs are pickled, and this is what is in them."""

    given: dict[str, Any]
    until: Until
    shard: str | None = None

    def __call__(self) -> list[str]:
        """Do it; returns the files that other shards have yet to make."""
        from attar.api.distilling import distill

        missing = distill(**self.given, until=self.until, shard=self.shard).missing
        return [str(path) for path in missing]

    def checkpoint(self) -> Any:
        """What is queued in its place when it is to end: the same, as what it made is kept."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(replace(self))


@dataclass(frozen=True)
class Submitted:
    """Jobs that were queued.

    `path` is the run folder, `logs` where their output goes; `jobs` are the numbers of each stage's tasks, by its name,
    and `last` is the job that makes what is missing then and puts all together.
    """

    path: Path
    logs: Path
    jobs: dict[str, tuple[str, ...]]
    last: str


@takes(SubmitOptions)
def submit(asked: SubmitOptions) -> Submitted:
    """Queue a run of `distill` on a cluster: for each stage an array of shards, each after the one before.

    Raises ConfigError where submitit or Slurm is not there, or without `out`, and AttarError where the last of local
    jobs fails.
    """
    if asked.out is None:
        raise ConfigError("jobs without --out", expected="one run folder that all tasks see", fix="name it with --out")
    if asked.callbacks:
        raise ConfigError("callbacks can't follow jobs on other machines", fix="leave them out")
    _require_found_elsewhere(asked)
    out = Path(asked.out).absolute()
    given, until = _arguments(asked), _last_stage(asked)
    logs = out.with_name(f"{out.name}-jobs")
    jobs: dict[str, tuple[str, ...]] = {}
    before: Sequence[Job[list[str]]] = ()
    for stage in ORDER[: ORDER.index(until) + 1]:
        shards = (f"{number}/{asked.shards}" for number in range(1, asked.shards + 1))
        before = _queue([Work(given, stage, shard) for shard in shards], asked, logs, before)
        jobs[stage] = tuple(str(job.job_id) for job in before)
    (last,) = _queue([Work(given, until)], asked, logs, before)
    if asked.cluster == "local" and (error := last.exception()):
        raise AttarError(
            f"the last job failed: {one_line(error).splitlines()[-1]}",
            expected="a job that makes what is missing",
            fix=f"look at {last.paths.stderr}, and submit it again: it goes on",
        )
    return Submitted(out, logs, jobs, str(last.job_id))


def _require_found_elsewhere(asked: SubmitOptions) -> None:
    """Raise ConfigError for what this program handed over: in a job nothing has its name."""
    for group, name in (
        ("attar.sources", asked.source),
        ("attar.methods", asked.method),
        ("attar.models", asked.model),
    ):
        if name and found_here_alone(group, str(name)):
            raise ConfigError(
                f"{name} is what this program handed over, and jobs on other machines don't find it",
                expected="images in a folder that all machines see, methods and networks of an installed package",
                fix="write the images down, or run attar.distill in this program",
            )


def _last_stage(asked: SubmitOptions) -> Until:
    """Where the jobs end: class names alone have no images to judge by, which `distill` heeds unless it is told."""
    by_names = str(asked.source).startswith(CLASSES)
    return "relabel" if by_names and "until" not in asked.model_fields_set else asked.until


def _arguments(asked: SubmitOptions) -> dict[str, Any]:
    """What each task gives to `distill` beside its stage and its shard."""
    ours = set(RunOptions.model_fields) - {"until", "callbacks"}
    given = {name: getattr(asked, name) for name in asked.model_fields_set & ours}
    return {"workers": asked.cpus, **given}


def _queue(
    tasks: Sequence[Work], asked: SubmitOptions, logs: Path, before: Sequence[Job[list[str]]]
) -> list[Job[list[str]]]:
    """Queue tasks to begin when those of before have ended, however they ended; local ones are waited for."""
    executor = _executor(asked, logs)
    seconds = parse_duration(asked.job_time)
    executor.update_parameters(name=f"attar-{tasks[0].until}", timeout_min=ceil(seconds / 60))
    if asked.cluster == "slurm":
        memory = {"slurm_mem": f"{ceil(parse_bytes(asked.memory) / 2**20)}M"} if asked.memory else {}
        more = {key.strip(): value.strip() for key, _, value in (one.partition("=") for one in asked.slurm)}
        executor.update_parameters(
            cpus_per_task=asked.cpus,
            slurm_signal_delay_s=_GRACE_S,
            slurm_array_parallelism=asked.at_once or len(tasks),
            slurm_additional_parameters=more,
            **memory,
            **({"gpus_per_node": asked.gpus} if asked.gpus else {}),
            **({"slurm_partition": asked.partition} if asked.partition else {}),
            **({"slurm_dependency": _after(before)} if before else {}),
        )
    jobs = executor.submit_array(tasks)
    if asked.cluster == "local":
        for job in jobs:
            job.wait()
    return list(jobs)


def _after(jobs: Sequence[Job[list[str]]]) -> str:
    """Slurm's word for: once these have ended; tasks of an array have its number before their own."""
    return "afterany:" + ":".join(dict.fromkeys(str(job.job_id).partition("_")[0] for job in jobs))


def _executor(asked: SubmitOptions, logs: Path) -> AutoExecutor:
    if importlib.util.find_spec("submitit") is None:
        raise ConfigError("submitit is not installed", fix="pip install 'attar[submit]'")
    import submitit

    try:
        return submitit.AutoExecutor(folder=logs / "%j", cluster=asked.cluster)
    except RuntimeError as error:
        raise ConfigError(
            f"no Slurm on this machine: {one_line(error)}",
            expected="a machine from which jobs are queued, where there are srun and sbatch",
            fix="log in there, or try it here with --cluster local",
        ) from error
