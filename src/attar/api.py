"""attar from Python: the same commands as the command line, with typed results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from attar import pipeline
from attar.artifacts.distilled import Distilled, load_distilled
from attar.artifacts.run import CONFIG
from attar.config import Config, build, dump, merge, place
from attar.data.loading import RealSet, TrainingSet
from attar.data.sources import SourceSettings, open_source, whitened
from attar.data.whitening import measure_whitening
from attar.errors import ArtifactError, ConfigError
from attar.evaluation import EvaluateSettings, Evaluation
from attar.evaluation import evaluate as evaluate_set
from attar.methods import method as method_named
from attar.pipeline import teacher_of
from attar.records import Record
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.settings import default_model, sections_of, source_name
from attar.squeeze.expert_files import list_experts
from attar.squeeze.teachers import load_teacher
from attar.training.loop import TrainSettings
from attar.training.soft import soft_set

if TYPE_CHECKING:
    from attar.data.sources import Source as OpenSource
    from attar.interop.opening import Opened
    from attar.planning import Plan
    from attar.report.several import Group
    from attar.studies.result import StudyResult
    from attar.studies.running import StudyPlan
    from attar.studies.settings import StudySettings
    from attar.task import Task

PathLike = str | Path


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
class Training:
    """What `train` made: the network, its losses by epoch, and accuracies in percent by split.

    `label_noise` says how many training labels were wrong, of which kind, and a hash of which; None where none was.
    Accuracies are against the true labels.
    """

    model: nn.Module
    losses: tuple[float, ...]
    accuracies: Mapping[str, float]
    path: Path | None
    label_noise: Mapping[str, Any] | None = None


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
    settings: Mapping[str, Any] | Iterable[str] = (),
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
            folder of class folders, parquet shards, or `hf:owner/name`.
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
            "source": _given(data_dir=data_dir, download=download, resolution=resolution, skip_corrupt=skip_corrupt),
            "squeeze": _given(model=model, weights=str(weights) if weights else None, pool=pool),
            "run": _given(seed=seed, device=device, precision=precision, workers=workers),
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
    settings: Mapping[str, Any] | Iterable[str] = (),
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
    settings: Mapping[str, Any] | Iterable[str] = (),
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
            "source": _given(data_dir=data_dir, download=download, resolution=resolution, skip_corrupt=skip_corrupt),
            "squeeze": _given(model=model, weights=str(weights) if weights else None),
            "run": _given(seed=seed, device=device, precision=precision, workers=workers),
        },
        quiet=quiet,
    )
    run = prepared.settings.run
    return rehearse(prepared.settings, prepared.source, Engine(run.device, run.precision))


def experts(
    folder: PathLike,
    source: PathLike | None = None,
    *,
    settings: Mapping[str, Any] | Iterable[str] = (),
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
        values = {**placed.get("source", {}), **_given(data_dir=data_dir, resolution=resolution)}
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


def load(path: PathLike) -> Distilled:
    """Open a distilled dataset, or the one in a run folder: images, labels, a torch Dataset, a DataLoader."""
    return load_distilled(Path(path))


def train(
    data: PathLike,
    model: str = "auto",
    *,
    strategy: str = "ce",
    teacher: PathLike | None = None,
    label_noise: float | None = None,
    noise_kind: str | None = None,
    source: PathLike | None = None,
    out: PathLike | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | Iterable[str] = (),
    loggers: Sequence[str] = (),
    data_dir: PathLike | None = None,
    resolution: int | None = None,
    device: str = "auto",
    precision: str = "32-true",
    quiet: bool = True,
) -> Training:
    """Train one network on a source or on a distilled dataset.

    Accuracy is that of the last epoch on the validation split; the test split is left to `evaluate`. Several processes
    started by torchrun share every batch; the first one writes.

    Args:
        data: a source, a distilled dataset, or a run folder that holds one.
        model: a name from `attar list models`; auto takes a ConvNet for the resolution.
        strategy: a name from `attar list strategies`, or several joined by '+', such as dlb+ddgsd.
        teacher: for the strategy kd, the model.safetensors of another training, or a run's squeeze/teacher.safetensors.
        label_noise: part of the training labels that are made wrong, 0..1; a function of the seed.
        noise_kind: symmetric (any other class) or pairflip (the next class).
        source: for distilled data, the real images whose validation split judges the network.
        out: folder for `model.safetensors`; a training that was interrupted there is resumed.
        seed: initialisation, order and augmentation follow from it.
        settings: of the section `train`, such as `{"epochs": 200, "cutmix": 0.5, "dlb.tau": 4}`.
        loggers: of tensorboard and wandb, which need packages of their own; they follow the events of the training and
            write beside them in `out`.
        data_dir: folder of a source that goes by its name, such as cifar10 or imagenet-1k.
        resolution: bring images to this many pixels.
        device: auto, cpu, cuda or mps.
        precision: 32-true, bf16-mixed or 16-mixed.
        quiet: show no progress.
    """
    from attar.models.catalog import require_known
    from attar.runtime.processes import launched
    from attar.runtime.trackers import tracked
    from attar.training.strategies.kd import require_teacher

    given = {"strategy": strategy, **_given(label_noise=label_noise, noise_kind=noise_kind)}
    if teacher is not None:
        given["kd"] = {"teacher": str(teacher)}
    reading = _given(data_dir=data_dir, resolution=resolution)
    sections = _sections(
        {"train": TrainSettings, "source": SourceSettings}, settings, {"train": given, "source": reading}
    )
    training, opening = sections["train"], sections["source"]
    assert isinstance(training, TrainSettings)
    assert isinstance(opening, SourceSettings)
    require_teacher(training)
    if model != "auto":
        require_known(model)
    if out and (Path(out) / "model.safetensors").exists():
        raise ArtifactError(
            f"{out} holds a trained network already", fix="choose another --out, or delete it to train again"
        )
    if loggers and out is None:
        raise ConfigError("loggers have nowhere to write to", expected="a folder", fix="--out FOLDER")
    engine = Engine(device, precision, launched())
    log = Path(out) / "events.jsonl" if out and engine.leads else None
    events = Events(log, quiet=quiet or not engine.leads)
    title = f"{source_name(str(data))} {model} {training.strategy} seed {seed}"
    followers = loggers if engine.leads else ()
    with tracked(events, followers, Path(out or "."), title, dump(training)), engine.processes.joined():
        return _train(data, model, training, opening, source, Path(out) if out else None, seed, engine, events)


def evaluate(
    distilled: PathLike,
    source: PathLike,
    *,
    models: Sequence[str] = (),
    seeds: int | None = None,
    baselines: Sequence[str] | None = None,
    scores: bool | None = None,
    seed: int = 0,
    out: PathLike | None = None,
    settings: Mapping[str, Any] | Iterable[str] = (),
    data_dir: PathLike | None = None,
    resolution: int | None = None,
    device: str = "auto",
    precision: str = "32-true",
    quiet: bool = True,
) -> Evaluation:
    """Train networks on a distilled dataset and on its baselines alike, and test them on the real test split.

    Args:
        distilled: a distilled dataset, or a run folder that holds one (then its settings are the defaults); or
            another program's images, see `attar.interop.foreign`.
        source: the real images that it was made from.
        models: names from `attar list models`; none takes the run's, or a ConvNet for the resolution.
        seeds: trainings of each network on each set.
        baselines: of `random`, `herding`, `kcenter`, `kmeans` (real images at the same count, with the same labels) and
            `full` (the whole training split).
        scores: also run what the scores of DD-Ranking are made of; see `attar.scores`.
        seed: first seed.
        out: where `evaluation.json` is written; None takes the run folder, or NAME-evaluation beside a dataset
            that is in no run.
        settings: of the sections `evaluate`, `train` and `source`; and `foreign` for another program's images.
        data_dir: folder of a source that goes by its name, such as cifar10 or imagenet-1k.
        resolution: bring images to this many pixels; None takes the distilled dataset's.
        device: auto, cpu, cuda or mps.
        precision: 32-true, bf16-mixed or 16-mixed.
        quiet: show no progress.
    """
    from attar.artifacts.card import update_card

    given = assignments(settings)
    foreign = _foreign(distilled, source, given, data_dir, resolution, quiet)
    opened = foreign.distilled if foreign else load_distilled(Path(distilled))
    settings = foreign.assignments if foreign else given
    defaults = _settings_that_made(opened, ("evaluate", "train", "source"))
    defaults.setdefault("evaluate", {}).update(
        _given(models=list(models) or None, seeds=seeds, baselines=baselines, scores=scores)
    )
    defaults.setdefault("source", {}).update(_given(data_dir=data_dir, resolution=resolution))
    kinds: dict[str, type[Config]] = {
        "evaluate": EvaluateSettings,
        "train": TrainSettings,
        "source": SourceSettings,
    }
    sections = _sections(kinds, settings, defaults)
    judging, training, reading = sections["evaluate"], sections["train"], sections["source"]
    assert isinstance(judging, EvaluateSettings)
    assert isinstance(training, TrainSettings)
    assert isinstance(reading, SourceSettings)
    names = tuple(default_model(opened.task) if name == "auto" else name for name in judging.models)
    judging = judging.model_copy(update={"models": names})
    folder = Path(out) if out else _judged_in(opened)
    events = Events(folder / "events.jsonl", quiet=quiet)
    real = foreign.source if foreign else open_source(str(source), reading, events=events)
    engine = Engine(device, precision)
    evaluation = evaluate_set(
        opened,
        real,
        judging,
        training,
        seed=seed,
        engine=engine,
        events=events,
        folder=folder,
        teacher=teacher_of(opened, engine),
    )
    if not engine.leads:
        return evaluation
    if foreign is None:
        update_card(opened.path, evaluation.records, evaluation.verdict)
    named = _Named(str(distilled), str(source), tuple(given), reading.data_dir, foreign is None)
    return replace(evaluation, report=_report(folder, opened, named))


def continual(
    distilled: PathLike,
    source: PathLike,
    *,
    model: str = "auto",
    steps: int = 5,
    seeds: int = 1,
    baseline: bool = True,
    labels: Sequence[str] = ("stored",),
    seed: int = 0,
    out: PathLike | None = None,
    settings: Mapping[str, Any] | Iterable[str] = (),
    data_dir: PathLike | None = None,
    resolution: int | None = None,
    device: str = "auto",
    precision: str = "32-true",
    quiet: bool = True,
) -> tuple[Record, ...]:
    """Class-incremental learning: at each step train from scratch on the distilled images of all classes seen.

    Args:
        distilled: a distilled dataset, or a run folder that holds one (then its settings are the defaults); or
            another program's images, see `attar.interop.foreign`.
        source: the real images that it was made from; their test split judges.
        model: a name from `attar list models`; auto takes the run's, or a ConvNet for the resolution.
        steps: steps in which the classes arrive.
        seeds: orders of the classes.
        baseline: compare with random real images at the same count.
        labels: of `stored` (soft where the set has such, of the classes seen) and `hard`.
        seed: first seed.
        out: where `continual.json` is written; None takes the run folder, or NAME-evaluation beside a dataset
            that is in no run.
        settings: of the sections `train` and `source`; and `foreign` for another program's images.
        data_dir: folder of a source that goes by its name, such as cifar10 or imagenet-1k.
        resolution: bring images to this many pixels; None takes the distilled dataset's.
        device: auto, cpu, cuda or mps.
        precision: 32-true, bf16-mixed or 16-mixed.
        quiet: show no progress.
    """
    from attar.continual_learning import ContinualSettings
    from attar.continual_learning import continual as learn_continually

    given = assignments(settings)
    foreign = _foreign(distilled, source, given, data_dir, resolution, quiet)
    opened = foreign.distilled if foreign else load_distilled(Path(distilled))
    settings = foreign.assignments if foreign else given
    defaults = _settings_that_made(opened, ("evaluate", "train", "source"))
    models = defaults.pop("evaluate").get("models") or ["auto"]
    defaults["source"].update(_given(data_dir=data_dir, resolution=resolution))
    sections = _sections({"train": TrainSettings, "source": SourceSettings}, settings, defaults)
    training, reading = sections["train"], sections["source"]
    assert isinstance(training, TrainSettings)
    assert isinstance(reading, SourceSettings)
    name = models[0] if model == "auto" else model
    folder = Path(out) if out else _judged_in(opened)
    events, engine = Events(folder / "events.jsonl", quiet=quiet), Engine(device, precision)
    arriving = {"model": default_model(opened.task) if name == "auto" else name, "steps": steps, "seeds": seeds}
    arriving |= {"random": baseline, "labels": list(labels)}
    settled = build({"continual": ContinualSettings}, {"continual": arriving})["continual"]
    assert isinstance(settled, ContinualSettings)
    records = learn_continually(
        opened,
        foreign.source if foreign else open_source(str(source), reading, events=events),
        settled,
        training,
        seed=seed,
        engine=engine,
        events=events,
        folder=folder,
        teacher=teacher_of(opened, engine),
    )
    if engine.leads:
        named = _Named(str(distilled), str(source), tuple(given), reading.data_dir, foreign is None)
        events.say(f"report: {_report(folder, opened, named)}")
    return records


def compare(runs: Sequence[PathLike], out: PathLike | None = None) -> tuple[Group, ...]:
    """Put the evaluations of several runs side by side; those that may not be compared stand in groups of their own.

    Args:
        runs: run folders, or evaluated distilled datasets that are in none.
        out: where a page about them is written; None writes none.

    Raises ConfigError for fewer than two, ArtifactError where one was not evaluated.
    """
    from attar.report.compare import write_comparison
    from attar.report.several import grouped, read_judged

    judged = read_judged([Path(run) for run in runs], TrainSettings().model_dump(mode="json"))
    if out is not None:
        write_comparison(judged, Path(out))
    return grouped(judged)


def study(
    file: PathLike,
    *,
    out: PathLike | None = None,
    settings: Mapping[str, Any] | Iterable[str] = (),
    data_dir: PathLike | None = None,
    jobs: int = 1,
    device: str = "auto",
    precision: str = "32-true",
    workers: int | None = None,
    quiet: bool = True,
) -> StudyResult:
    """Train a grid of strategies, networks, variants, wrong labels and seeds, and compare the strategies.

    The same call again goes on where it was interrupted. A file that has changed keeps what was trained with the same
    settings, and trains the rest.

    Args:
        file: a name from `attar list studies`, or a YAML file; `attar show study` lists its fields.
        out: folder; None makes one under `runs/`.
        settings: of the file, such as `{"seeds": 5, "train.epochs": 20}`.
        data_dir: folder of a source that goes by its name, such as cifar10 or imagenet-1k.
        jobs: processes that share the trainings, each with one thread unless `workers` says otherwise.
        device: auto, cpu, cuda or mps.
        precision: 32-true, bf16-mixed or 16-mixed.
        workers: CPU threads of each process.
        quiet: show no progress.

    Raises ConfigError with all that is wrong in the file, before any training; DivergedError, after all others have
    ended, where trainings left the finite numbers.
    """
    from attar.studies.running import Machine, run_study

    given, folder = _opened_study(file, out, settings, data_dir)
    return run_study(given, folder, Machine(device, precision, jobs, workers), quiet=quiet)


def plan_study(
    file: PathLike,
    *,
    out: PathLike | None = None,
    settings: Mapping[str, Any] | Iterable[str] = (),
    data_dir: PathLike | None = None,
    device: str = "auto",
    precision: str = "32-true",
    quiet: bool = True,
) -> StudyPlan:
    """Count what `study` would train with these arguments, and train nothing."""
    from attar.studies import running

    given, folder = _opened_study(file, out, settings, data_dir)
    return running.plan_study(given, folder, running.Machine(device, precision), quiet=quiet)


def is_distilled(data: PathLike) -> bool:
    """Whether a path is a distilled dataset or a run folder with one."""
    path = Path(data)
    return (path / "attar.json").is_file() or (path / "distilled" / "attar.json").is_file()


def assignments(settings: Mapping[str, Any] | Iterable[str]) -> list[str]:
    """`{"recover.iterations": 300}` as `["recover.iterations=300"]`; texts pass as they are."""
    if isinstance(settings, Mapping):
        return [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()]
    return list(settings)


def _opened_study(
    file: PathLike, out: PathLike | None, settings: Mapping[str, Any] | Iterable[str], data_dir: PathLike | None
) -> tuple[StudySettings, Path]:
    """A study's settings and its folder."""
    from attar.studies.settings import read_study

    given = {"data_dir": str(data_dir)} if data_dir else {}
    return read_study(str(file), assignments(settings), given), Path(out or Path("runs") / f"study-{Path(file).stem}")


def _foreign(
    distilled: PathLike,
    source: PathLike,
    settings: Mapping[str, Any] | Iterable[str],
    data_dir: PathLike | None,
    resolution: int | None,
    quiet: bool,
) -> Opened | None:
    """Other people's images, opened with their source; None where it is a distilled dataset, or nothing."""
    from attar.interop.foreign import recognise
    from attar.interop.opening import open_foreign

    if recognise(Path(distilled)) is None:
        return None
    given = _given(data_dir=data_dir, resolution=resolution)
    return open_foreign(Path(distilled), str(source), assignments(settings), given=given, events=Events(quiet=quiet))


@dataclass(frozen=True)
class _Named:
    """What was judged and by what, as the caller named it."""

    path: str
    source: str
    settings: tuple[str, ...]
    data_dir: Path | None
    ours: bool


def _report(folder: Path, judged: Distilled, named: _Named) -> Path:
    """Draw the page of a run; or of what was judged outside one, which is told beside its records."""
    from attar.report.outside import FOREIGN, Outside, chosen_pictures, keep_judged
    from attar.report.page import write_report
    from attar.report.pictures import choose_images

    if not (folder / CONFIG).is_file():
        labels: list[int] = judged.labels.tolist()
        chosen = choose_images(labels)
        pixels = judged.pixels(torch.tensor(chosen)).clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1)
        about = {**judged.info, "task": judged.task.to_json(), "sizes": dict(judged.sizes)}
        if judged.label_store is not None:
            about["labels"] = {**about["labels"], "num_epochs": judged.label_store.num_epochs}
        about = about if named.ours else {"method": FOREIGN, **about}
        where = str(named.data_dir) if named.data_dir else None
        outside = Outside(named.path, named.source, named.settings, where, named.ours, about)
        keep_judged(folder, outside, chosen_pictures(pixels.numpy(), chosen, labels))
    return write_report(folder)


def _train(
    data: PathLike,
    model: str,
    training: TrainSettings,
    opening: SourceSettings,
    source: PathLike | None,
    out: Path | None,
    seed: int,
    engine: Engine,
    events: Events,
) -> Training:
    from attar.models.catalog import build as build_model
    from attar.runtime.team import team
    from attar.training.loop import accuracy, fit

    together = team(engine.processes, engine.processes.num)
    task, images, real = _training_images(data, source, opening, engine, events)
    name = default_model(task) if model == "auto" else model
    network = build_model(name, task, seed=seed)
    fitted = fit(
        network,
        images,
        training,
        seed=seed,
        engine=engine,
        events=events,
        name=name,
        checkpoint=out / "checkpoint.safetensors" if out else None,
        teacher=load_teacher([training.kd.teacher], task, engine) if training.kd.teacher else None,
        team=together,
    )
    accuracies = {"train": accuracy(network, images, engine, team=together)}
    if real and len(real.validation):
        judge = RealSet(real.validation, task.normalization)
        accuracies["validation"] = accuracy(network, judge, engine, team=together)
    events.emit("train", "accuracy", item=name, step=training.epochs, **accuracies)
    made = Training(network, tuple(fitted.losses), accuracies, out, fitted.label_noise)
    if out and engine.leads:
        _store(made, out, {"model": name, "task": task.to_json(), "seed": seed}, task)
    engine.barrier()
    return made


def _training_images(
    data: PathLike, source: PathLike | None, opening: SourceSettings, engine: Engine, events: Events
) -> tuple[Task, TrainingSet, OpenSource | None]:
    """What is trained on, and the source whose validation split judges, where there is one."""
    if is_distilled(data):
        distilled = load_distilled(Path(data))
        images = soft_set(distilled, teacher_of(distilled, engine), engine.device)
        real = open_source(str(source), opening, events=events) if source else None
        if real:
            real.task.require_same(distilled.task, "the source", "the distilled dataset")
        return distilled.task, images, real
    real = open_source(str(data), opening, events=events)
    if opening.zca:
        real = whitened(real, measure_whitening(real.train, real.task.shape, opening.zca_epsilon, events))
    return real.task, RealSet(real.train, real.task.normalization), real


def _store(made: Training, out: Path, note: dict[str, Any], task: Task) -> None:
    """Write the trained network into its folder, and remove the checkpoint."""
    from attar.artifacts.whitening import write_whitening
    from attar.runtime.checkpoint import write_tensors

    note |= {"accuracies": made.accuracies} | ({"label_noise": made.label_noise} if made.label_noise else {})
    write_tensors(out / "model.safetensors", made.model.state_dict(), note)
    if task.normalization.whitening:
        write_whitening(out, task.normalization.whitening)
    (out / "checkpoint.safetensors").unlink(missing_ok=True)


def _judged_in(distilled: Distilled) -> Path:
    folder = distilled.path if distilled.path.name not in ("", "..") else distilled.path.resolve()
    inside = (folder.resolve().parent / CONFIG).is_file()
    return folder.resolve().parent if inside else folder.with_name(f"{folder.name}-evaluation")


def _settings_that_made(distilled: Distilled, wanted: Sequence[str]) -> dict[str, dict[str, Any]]:
    made = distilled.info.get("settings", {})
    return {name: dict(made.get(name, {})) for name in wanted}


def _sections(
    kinds: Mapping[str, type[Config]],
    settings: Mapping[str, Any] | Iterable[str],
    defaults: Mapping[str, Mapping[str, Any]],
) -> dict[str, Config]:
    placed, problems = place(kinds, assignments(settings))
    values = merge({name: defaults.get(name, {}) for name in kinds}, placed)
    return build(kinds, values, problems)


def _given(**flags: Any) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


__all__ = [
    "ConfigError",
    "Distillation",
    "Distilled",
    "Evaluation",
    "ListedExpert",
    "Training",
    "compare",
    "continual",
    "distill",
    "evaluate",
    "experts",
    "load",
    "plan_study",
    "study",
    "train",
]
