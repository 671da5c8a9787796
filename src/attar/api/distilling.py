"""Distill a source, stage by stage or as a whole; rehearse it; list what was squeezed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attar.api.arguments import takes
from attar.api.options import DistillOptions, ExpertsOptions, MadeOptions, PlanOptions, ResumeOptions
from attar.artifacts.distilled import Distilled, load_distilled
from attar.artifacts.run import require_run
from attar.config import build, parse_duration, place
from attar.data.sources import SourceSettings, open_source
from attar.errors import AttarError, ConfigError
from attar.methods import method as method_named
from attar.options import Followed, Sharded, Until, given
from attar.results.records import Record
from attar.results.verdict import Words
from attar.run import pipeline, preparing, sharding
from attar.run.effort import cost_sentence
from attar.run.hosts import with_hosts
from attar.run.settings import sections_of
from attar.run.without_images import how_to_judge, last_stage, require_judges_if
from attar.runtime.engine import Engine
from attar.runtime.processes import launched
from attar.runtime.shards import OthersMissingError, Shard, make_shard
from attar.squeeze.expert_files import list_experts

if TYPE_CHECKING:
    from attar.run.planning import Plan


@dataclass(frozen=True)
class Distillation:
    """What `distill` made.

    `path` is the run folder, `distilled` the dataset in it, `report` the page; `records` and `verdict` are those of
    the evaluation, empty where it was left out. `missing` are files that other shards have yet to make (see `shard`),
    without which nothing could be put together, and `at_work` the shards that were at work then.
    """

    path: Path
    distilled: Path
    report: Path | None
    records: tuple[Record, ...]
    verdict: Words
    missing: tuple[Path, ...] = ()
    at_work: tuple[int, ...] = ()

    def load(self) -> Distilled:
        """The distilled dataset."""
        return load_distilled(self.distilled)


@dataclass(frozen=True)
class ListedExpert:
    """A finished expert on disk.

    `expert` is its number, `loss` the mean training loss of the last epoch (None where the file is of before that was
    kept), `bytes` its size; `problem` says why it cannot be used for the source that was asked about, None otherwise.
    """

    expert: int
    model: str
    epochs: int
    loss: float | None
    bytes: int
    path: Path
    problem: str | None


@takes(DistillOptions)
def distill(asked: DistillOptions) -> Distillation:
    """Distill a source of images into synthetic ones, judge the result, and write its report.

    The same call again resumes an interrupted run and skips what is complete.

    Raises:
        AttarError: one of its kinds, before any long work starts where it can be known then.
    """
    out = Path(asked.out) if asked.out else None
    shard = _shard(asked, out)
    if shard and (asked.fresh or asked.redo):
        raise _deletes("--fresh" if asked.fresh else f"--redo {asked.redo}")
    with sharding.at_work(shard):
        with sharding.settling(shard):
            prepared = _prepared(asked, out, asked.until, fresh=asked.fresh)
            until = last_stage(prepared.source, asked.until)
            require_judges_if(prepared.source, asked.until == "evaluate" and "until" in asked.model_fields_set)
            if shard:
                sharding.claim(prepared, shard)
        opened = pipeline.start(prepared, out, fresh=asked.fresh, redo=asked.redo, quiet=asked.quiet, shard=shard)
        with opened as run:
            _tell_cost(run, until, prepared.expected)
            with _tracked(run, asked):
                return advance(run, asked.until)


@takes(ResumeOptions)
def resume(asked: ResumeOptions) -> Distillation:
    """Go on with an existing run folder, with the settings that made it."""
    budget = [f"relabel.label_budget={asked.label_budget}"] if asked.label_budget else []
    changed = [*asked.assigned, *budget]
    shard = _shard(asked, Path(asked.run))
    if shard and (changed or asked.redo):
        raise _deletes("another setting" if changed else f"--redo {asked.redo}")
    opened = pipeline.resume(
        require_run(Path(asked.run)),
        assignments=changed,
        redo=asked.redo,
        workers=asked.workers,
        quiet=asked.quiet,
        shard=shard,
    )
    with sharding.at_work(shard), opened as run, _tracked(run, asked):
        return advance(run, asked.until)


def advance(run: pipeline.Run, until: Until) -> Distillation:
    """Do the stages of an open run up to `until`, then write the report.

    A shard ends where files of others are missing.
    """
    from attar.report.page import write_report

    if until != (until := last_stage(run.source, until)):
        run.events.say(how_to_judge(run.source, str(run.folder.path)))
    try:
        evaluation = run.advance(until)
    except OthersMissingError as others:
        path, missing = run.folder.path, others.missing
        return Distillation(path, run.folder.distilled, None, (), Words(), missing=missing, at_work=others.at_work)
    report = None
    if until == "evaluate" and run.engine.leads:
        with run.engine.turn():
            report = write_report(run.folder.path)
    return Distillation(
        path=run.folder.path,
        distilled=run.folder.distilled,
        report=report,
        records=evaluation.records if evaluation else (),
        verdict=evaluation.verdict if evaluation else Words(),
    )


@takes(PlanOptions)
def plan(asked: PlanOptions) -> Plan:
    """Rehearse what `distill` would do with these arguments: time of each stage, memory, disk, what hosts bring."""
    from attar.run.planning import plan as rehearse

    prepared = _prepared(asked, None, "evaluate", fresh=True)
    settled = preparing.with_precision(prepared.settings, prepared.source.task)
    run = settled.run
    until = last_stage(prepared.source, "evaluate")
    found = rehearse(settled, prepared.source, Engine(run.device, run.precision), until=until)
    hosts = None if asked.hosts is None else with_hosts(found.estimates, asked.hosts)
    return replace(found, why=prepared.why, hosts=hosts)


@takes(ExpertsOptions)
def experts(asked: ExpertsOptions) -> tuple[ListedExpert, ...]:
    """List the experts of trajectory matching in a run folder, and say whether they can be used for a source.

    Raises ArtifactError where there is none.
    """
    found, task = list_experts(Path(asked.folder)), None
    if asked.source is not None:
        placed, problems = place(sections_of(method_named("tesla")), asked.assigned)
        values = {**placed.get("source", {}), **given(asked).get("source", {})}
        reading = build({"source": SourceSettings}, {"source": values}, problems)["source"]
        assert isinstance(reading, SourceSettings)
        task = open_source(str(asked.source), reading).task
    return tuple(
        ListedExpert(
            expert=file.expert,
            model=file.model,
            epochs=file.epochs,
            loss=file.loss,
            bytes=file.num_bytes,
            path=file.path,
            problem=file.problem(task) if task else None,
        )
        for file in found
    )


def _prepared(asked: MadeOptions, out: Path | None, until: Until, *, fresh: bool) -> preparing.Prepared:
    """Settings and source of a run, checked; what was cut to fit a time is as the run in the folder has it."""
    how: dict[str, Any] = {"recipe": asked.recipe, "assignments": asked.assigned, "asked": asked}
    return preparing.prepare(given(asked), **how, out=out, fresh=fresh, until=until, quiet=asked.quiet)


def _shard(asked: Sharded, folder: Path | None) -> Shard | None:
    """The shard that is asked for; raises ConfigError where it is one of several processes that meet."""
    if asked.shard is None:
        if asked.shard_wait is not None:
            raise ConfigError("--shard-wait without --shard", fix="add --shard K/N, or leave it out")
        return None
    if (num := launched().num) > 1:
        raise ConfigError(
            f"--shard {asked.shard}, and {num} processes were started that share the work by themselves",
            expected="one process for each shard",
            fix="start it without torchrun, or leave --shard out",
        )
    return make_shard(asked.shard, folder, parse_duration(asked.shard_wait) if asked.shard_wait else 0.0)


def _deletes(what: str) -> ConfigError:
    return ConfigError(
        f"{what} with --shard would delete what other shards make",
        expected="all shards to go on with one run folder as it is",
        fix=f"run it once with {what} and without --shard, such as up to squeeze, and then the shards",
    )


def _tracked(run: pipeline.Run, asked: Followed) -> AbstractContextManager[None]:
    """Loggers and callbacks follow the run."""
    from attar.runtime.trackers import tracked

    path = run.folder.path
    return tracked(asked.loggers, path, path.name, run.settings.plain(), asked.callbacks)


def _tell_cost(run: pipeline.Run, until: Until, expected: Plan | None) -> None:
    """Say what the stages that are left will take on this machine, before the first of them begins."""
    from attar.run.planning import plan as rehearse

    left, processes = run.left(until), run.engine.processes
    if run.events.quiet or not run.engine.leads or processes.num > 1 or processes.apart or not left:
        return  # of several each does some of it, in a time of its own
    try:
        found = expected or rehearse(
            run.settings, run.source, Engine(run.settings.run.device, run.engine.precision), until=until, brief=True
        )
    except (AttarError, RuntimeError, MemoryError) as error:  # what is wrong is told by the stage itself
        run.events.say(f"no estimate of what this will take: {error}")
        return
    run.events.say(cost_sentence(found, left, cut=expected is not None))
    run.events.emit("distill", "expected", seconds={one.stage: round(one.total_s, 1) for one in found.estimates})
