"""Train one network on real or distilled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from attar.api.arguments import PathLike, Settings, given, sections
from attar.api.sharing import is_distilled
from attar.artifacts.distilled import load_distilled
from attar.config import Config, dump
from attar.data.loading import RealSet, TrainingSet
from attar.data.sources import SourceSettings, open_source, whitened
from attar.data.whitening import measure_whitening
from attar.errors import ArtifactError, ConfigError
from attar.pipeline import teacher_of
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.settings import default_model, source_name
from attar.squeeze.teachers import load_teacher
from attar.training.loop import TrainSettings
from attar.training.soft import soft_set

if TYPE_CHECKING:
    from attar.data.sources import Source
    from attar.task import Task


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
    settings: Settings = (),
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

    asked = {"strategy": strategy, **given(label_noise=label_noise, noise_kind=noise_kind)}
    if teacher is not None:
        asked["kd"] = {"teacher": str(teacher)}
    reading = given(data_dir=data_dir, resolution=resolution)
    kinds: dict[str, type[Config]] = {"train": TrainSettings, "source": SourceSettings}
    settled = sections(kinds, settings, {"train": asked, "source": reading})
    training, opening = settled["train"], settled["source"]
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

    together = team(engine.processes, engine.processes.num, engine.device)
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
) -> tuple[Task, TrainingSet, Source | None]:
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
