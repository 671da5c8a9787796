"""Distil a source, stage by stage or as a whole; rehearse it; list what was squeezed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from attar import pipeline
from attar.api.arguments import PathLike, Settings, assignments, given
from attar.artifacts.distilled import Distilled, load_distilled
from attar.config import build, place
from attar.data.sources import SourceSettings, open_source
from attar.methods import method as method_named
from attar.records import Record
from attar.runtime.engine import Engine
from attar.settings import sections_of
from attar.squeeze.expert_files import list_experts

if TYPE_CHECKING:
    from attar.planning import Plan


@dataclass(frozen=True)
class Distillation:
    """What `distill` made.

    `path` is the run folder, `distilled` the dataset in it, `report` the page; `records` and `verdict` are those of
    the evaluation, empty where it was left out.
    """

    path: Path
    distilled: Path
    report: Path | None
    records: tuple[Record, ...]
    verdict: str

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


def distill(
    source: PathLike,
    method: str = "auto",
    ipc: int | None = None,
    *,
    recipe: str = "auto",
    model: str | None = None,
    weights: PathLike | None = None,
    pool: Literal["prior", "post"] | None = None,
    out: PathLike | None = None,
    seed: int | None = None,
    settings: Settings = (),
    data_dir: PathLike | None = None,
    download: bool | None = None,
    resolution: int | None = None,
    skip_corrupt: bool | None = None,
    device: str | None = None,
    precision: str | None = None,
    workers: int | None = None,
    until: pipeline.Until = "evaluate",
    fresh: bool = False,
    redo: pipeline.Redo | None = None,
    quiet: bool = True,
) -> Distillation:
    """Distil a source of images into `ipc` synthetic images per class, judge the result, and write its report.

    The same call again resumes an interrupted run and skips what is complete.

    Args:
        source: a name from `attar list datasets` (`digits`, `cifar10`, `cifar100`, `tiny-imagenet`, `imagenet-1k`), a
            folder of class folders, parquet shards, `wds:PATTERN` or `hf:owner/name`.
        method: a name from `attar list methods`, or auto.
        ipc: images per class; None takes the recipe's, or 1.
        recipe: auto, none, a bundled recipe's name, or a YAML file.
        model: the network that is squeezed (`squeeze.model`); None takes the recipe's or the method's.
        weights: its weights (`squeeze.weights`): `released`, a name of released weights, or your own checkpoint's
            path; None trains it.
        pool: of teddy, where its weak networks come from (`squeeze.pool`): prior, early epochs of a training, or post,
            pruned copies of a trained network; None takes the recipe's, or prior.
        out: run folder; None makes one under `runs/`.
        seed: every random choice follows from it; None takes the recipe's, or 0.
        settings: `{"recover.iterations": 300}` or `["recover.iterations=300"]`; see `attar show NAME`.
        data_dir: folder of a source that goes by its name, such as cifar10 or imagenet-1k.
        download: let torchvision fetch cifar10 or cifar100.
        resolution: bring images to this many pixels.
        skip_corrupt: leave out images that cannot be read, and list them.
        device: auto, cpu, cuda or mps.
        precision: 32-true, bf16-mixed or 16-mixed.
        workers: CPU threads.
        until: the last stage to do: squeeze, recover, relabel or evaluate.
        fresh: start over in `out`.
        redo: recover or relabel: start over from that stage on, with other settings if need be, and keep what the
            stages before it made.
        quiet: show no progress.

    Raises:
        AttarError: one of its kinds, before any long work starts where it can be known then.
    """
    prepared = pipeline.prepare(
        str(source),
        method=method,
        ipc=ipc,
        recipe=recipe,
        assignments=assignments(settings),
        given={
            "source": given(data_dir=data_dir, download=download, resolution=resolution, skip_corrupt=skip_corrupt),
            "squeeze": given(model=model, weights=str(weights) if weights else None, pool=pool),
            "run": given(seed=seed, device=device, precision=precision, workers=workers),
        },
        quiet=quiet,
    )
    if until == "evaluate":
        pipeline.require_judged(prepared)
    with pipeline.start(prepared, Path(out) if out else None, fresh=fresh, redo=redo, quiet=quiet) as run:
        return advance(run, until)


def resume(
    run: PathLike,
    until: pipeline.Until = "evaluate",
    *,
    settings: Settings = (),
    redo: pipeline.Redo | None = None,
    quiet: bool = True,
) -> Distillation:
    """Go on with an existing run folder, up to the stage `until`.

    Args:
        run: the folder.
        until: the last stage to do.
        settings: other settings of a stage that is done again, such as `{"relabel.label_budget": "50MB"}`.
        redo: recover or relabel: start over from that stage on.
        quiet: show no progress.
    """
    with pipeline.resume(Path(run), assignments=assignments(settings), redo=redo, quiet=quiet) as opened:
        return advance(opened, until)


def advance(run: pipeline.Run, until: pipeline.Until) -> Distillation:
    """Do the stages of an open run up to `until`, then write the report."""
    from attar.report.page import write_report

    evaluation = run.advance(until)
    return Distillation(
        path=run.folder.path,
        distilled=run.folder.distilled,
        report=write_report(run.folder.path) if until == "evaluate" and run.engine.leads else None,
        records=evaluation.records if evaluation else (),
        verdict=evaluation.verdict if evaluation else "",
    )


def plan(
    source: PathLike,
    method: str = "auto",
    ipc: int | None = None,
    *,
    recipe: str = "auto",
    model: str | None = None,
    weights: PathLike | None = None,
    seed: int | None = None,
    settings: Settings = (),
    data_dir: PathLike | None = None,
    download: bool | None = None,
    resolution: int | None = None,
    skip_corrupt: bool | None = None,
    device: str | None = None,
    precision: str | None = None,
    workers: int | None = None,
    quiet: bool = True,
) -> Plan:
    """Rehearse what `distill` would do with these arguments: time of each stage, memory, disk."""
    from attar.planning import plan as rehearse

    prepared = pipeline.prepare(
        str(source),
        method=method,
        ipc=ipc,
        recipe=recipe,
        assignments=assignments(settings),
        given={
            "source": given(data_dir=data_dir, download=download, resolution=resolution, skip_corrupt=skip_corrupt),
            "squeeze": given(model=model, weights=str(weights) if weights else None),
            "run": given(seed=seed, device=device, precision=precision, workers=workers),
        },
        quiet=quiet,
    )
    run = prepared.settings.run
    return rehearse(prepared.settings, prepared.source, Engine(run.device, run.precision))


def experts(
    folder: PathLike,
    source: PathLike | None = None,
    *,
    settings: Settings = (),
    data_dir: PathLike | None = None,
    resolution: int | None = None,
) -> tuple[ListedExpert, ...]:
    """List the experts of trajectory matching in a run folder, and say whether they can be used for a source.

    Args:
        folder: a run folder, or its `squeeze` folder.
        source: what they are wanted for; None does not ask.
        settings: as for `distill`; those of the section `source` say how it is read.
        data_dir: folder of a source that goes by its name, such as cifar10 or imagenet-1k.
        resolution: bring images to this many pixels.

    Raises ArtifactError where there is none.
    """
    found, task = list_experts(Path(folder)), None
    if source is not None:
        placed, problems = place(sections_of(method_named("tesla")), assignments(settings))
        values = {**placed.get("source", {}), **given(data_dir=data_dir, resolution=resolution)}
        reading = build({"source": SourceSettings}, {"source": values}, problems)["source"]
        assert isinstance(reading, SourceSettings)
        task = open_source(str(source), reading).task
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
