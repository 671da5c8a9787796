"""Train one network on real or distilled images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from attar.api.arguments import sections, takes
from attar.api.options import TrainOptions
from attar.api.sharing import is_distilled
from attar.artifacts.card import README
from attar.artifacts.checksums import read_sums
from attar.artifacts.distilled import Apart, load_distilled
from attar.artifacts.run import CONFIG
from attar.config import Config, differences, dump
from attar.data.loading import RealSet, TrainingSet
from attar.data.sources import SourceSettings, open_source, whitened
from attar.data.whitening import measure_whitening
from attar.errors import ArtifactError
from attar.evaluation.students import at_learnt_rate
from attar.items import Item
from attar.options import PathLike, given
from attar.run.pipeline import teacher_of
from attar.run.settings import default_model, source_name
from attar.run.sharing import held_by_one, sharing_engine
from attar.runtime.checkpoint import read_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.files import digest, sha256
from attar.squeeze.teacher_files import TrainedTeacher
from attar.training.loop import TrainSettings
from attar.training.section import TrainSection
from attar.training.soft import soft_set
from attar.training.strategies import identity

MODEL = "model.safetensors"

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


@takes(TrainOptions)
def train(asked: TrainOptions) -> Training:
    """Train one network on a source or on a distilled dataset.

    Accuracy is that of the last epoch on the validation split; the test split is left to `evaluate`. The network is
    kept in a folder, from which the same call again reads it. Several processes started by torchrun share every batch;
    the first one writes. Settings are those of the section `train`, such as
    `{"epochs": 200, "cutmix": 0.5, "dlb.tau": 4}`, and of `source`.
    """
    from attar.models.factory import require_known
    from attar.runtime.trackers import tracked
    from attar.training.strategies.kd import teacher_file

    kinds: dict[str, type[Config]] = {"train": TrainSection, "source": SourceSettings}
    settled = sections(kinds, asked.assigned, given(asked))
    training, opening = settled["train"], settled["source"]
    assert isinstance(training, TrainSettings)
    assert isinstance(opening, SourceSettings)
    taught_by = teacher_file(training)
    if asked.model != "auto":
        require_known(asked.model)
    out = _folder(asked, training, opening)
    opened = sharing_engine(asked.device, asked.precision, asked.workers, asked.peer_timeout, out)
    with opened as engine, held_by_one(out, engine) if out else nullcontext():
        events = Events(out / "events.jsonl" if out and engine.leads else None, quiet=asked.quiet or not engine.leads)
        engine.warn(events.say)
        title = f"{source_name(str(asked.data))} {asked.model} {training.strategy} seed {asked.seed}"
        with tracked(asked.loggers, out, title, dump(training), asked.callbacks):
            return _train(asked, training, taught_by, opening, out, engine, events)


def _train(
    asked: TrainOptions,
    training: TrainSettings,
    taught_by: Path | None,
    opening: SourceSettings,
    out: Path | None,
    engine: Engine,
    events: Events,
) -> Training:
    from attar.models.factory import build as build_model
    from attar.runtime.team import Team, team
    from attar.training.loop import accuracy, fit

    together = team(engine.processes, engine.processes.num, engine.device)
    task, images, tiles, real, training, fingerprint = _training_images(
        asked.data, asked.source, training, opening, engine, events
    )
    name = default_model(task) if asked.model == "auto" else asked.model
    network = build_model(name, task, seed=asked.seed)
    made_by = {
        "images": fingerprint,
        "judge": real.fingerprint if real else None,
        "model": name,
        "network": digest(str(network)),
        "teacher": sha256(taught_by) if taught_by else None,
        "train": identity(training),
        "seed": asked.seed,
        "precision": engine.precision,
    }
    if out and (together or Team()).tell((out / MODEL).exists()):
        return _finished(network, out, made_by, events)
    fitted = fit(
        network,
        images,
        training,
        seed=asked.seed,
        engine=engine,
        events=events,
        name=name,
        checkpoint=out / "checkpoint.safetensors" if out else None,
        teacher=TrainedTeacher([taught_by], task, engine) if taught_by else None,
        team=together,
    )
    seen = Apart(images, tiles) if tiles > 1 else images
    accuracies = {"train": accuracy(network, seen, engine, team=together)}
    if real and len(real.validation):
        judge = RealSet(real.validation, task.normalization)
        accuracies["validation"] = accuracy(network, judge, engine, team=together)
    events.emit("train", "accuracy", **Item(name).fields(), step=training.epochs, **accuracies)
    made = Training(network, tuple(fitted.losses), accuracies, out, fitted.label_noise)
    if out and engine.leads:
        note = {"model": name, "task": task.to_json(), "seed": asked.seed, "losses": made.losses}
        _store(made, out, note | {"made_by": made_by}, task)
    engine.barrier()
    return made


def _training_images(
    data: PathLike,
    source: PathLike | None,
    training: TrainSettings,
    opening: SourceSettings,
    engine: Engine,
    events: Events,
) -> tuple[Task, TrainingSet, int, Source | None, TrainSettings, str]:
    """What is trained on, how many others a side each image holds, who judges, how it is trained, and a hash.

    The source, where there is one, judges by its validation split. A distilled dataset that carries a learnt rate is
    trained on at it, unless another was given.
    """
    if is_distilled(data):
        distilled = load_distilled(Path(data))
        if "learning_rate" not in training.model_fields_set:
            training = at_learnt_rate(distilled, training, events)
        images = soft_set(distilled, teacher_of(distilled, engine), engine.device)
        real = open_source(str(source), opening, events=events) if source else None
        if real:
            real.task.require_same(distilled.task, "the source", "the distilled dataset")
        tiles, sums = distilled.tiles, digest(_data_sums(distilled.path))
        return distilled.task, images, tiles, real, training.on(tiles), sums
    real = open_source(str(data), opening, events=events)
    if opening.zca:
        real = whitened(real, measure_whitening(real.train, real.task.shape, opening.zca_epsilon, events))
    return real.task, RealSet(real.train, real.task.normalization), 1, real, training, real.fingerprint


def _data_sums(folder: Path) -> dict[str, str]:
    """Sums of a distilled dataset's files but of the card, which has measured numbers in it."""
    return {name: found for name, found in read_sums(folder).items() if name != README}


def _folder(asked: TrainOptions, training: TrainSettings, opening: SourceSettings) -> Path | None:
    """Where the network is kept: a folder of its own for these settings, unless one is named; None: nowhere."""
    if asked.out is not None:
        out = Path(asked.out)
        if (out / CONFIG).exists():
            raise ArtifactError(
                f"{out} is a run folder", expected="a folder of its own", fix="choose another --out, or leave it out"
            )
        return out if asked.keep else None
    if not asked.keep:
        return None
    what = [str(asked.data), str(asked.source), asked.model, asked.seed, asked.precision]
    own = digest([*what, identity(training), dump(opening)])[:8]
    words = ("train", source_name(str(asked.data)), asked.model, training.strategy, own)
    return Path("runs") / re.sub(r"[^\w.]+", "-", "-".join(words))


def _finished(network: nn.Module, out: Path, made_by: Mapping[str, Any], events: Events) -> Training:
    """The network that was trained in this folder before; raises ArtifactError where it was otherwise."""
    state, note = read_tensors(out / MODEL)
    before = note.get("made_by")
    if changed := differences(before if isinstance(before, dict) else {}, made_by):
        raise ArtifactError(
            f"{out} holds a network that was trained otherwise:\n" + "\n".join(f"  - {one}" for one in changed),
            fix="choose another --out, or delete it to train again",
        )
    network.load_state_dict(state)
    events.say(f"{out / MODEL} was trained with these settings before")
    if events.path is not None:  # the first process, which writes: one that was killed in its last moment left it
        (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return Training(network.eval(), tuple(note["losses"]), note["accuracies"], out, note.get("label_noise"))


def _store(made: Training, out: Path, note: dict[str, Any], task: Task) -> None:
    """Write the trained network into its folder, and remove the checkpoint."""
    from attar.artifacts.whitening import write_whitening
    from attar.runtime.checkpoint import write_tensors

    note |= {"accuracies": made.accuracies} | ({"label_noise": made.label_noise} if made.label_noise else {})
    write_tensors(out / MODEL, made.model.state_dict(), note)
    if task.normalization.whitening:
        write_whitening(out, task.normalization.whitening)
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
