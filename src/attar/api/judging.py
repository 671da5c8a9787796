"""Judge a distilled dataset, ours or another program's; put several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.api.arguments import PathLike, Settings, assignments, given, sections
from attar.artifacts.distilled import Distilled, load_distilled
from attar.artifacts.run import CONFIG
from attar.config import Config, build, merge
from attar.data.sources import Source, SourceSettings, open_source
from attar.evaluation import EvaluateSettings, Evaluation
from attar.evaluation import evaluate as evaluate_set
from attar.pipeline import teacher_of
from attar.records import Record
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.settings import default_model
from attar.training.loop import TrainSettings

if TYPE_CHECKING:
    from attar.interop.opening import Opened
    from attar.report.several import Group


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
    settings: Settings = (),
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

    flags = given(models=list(models) or None, seeds=seeds, baselines=baselines, scores=scores)
    kinds: dict[str, type[Config]] = {"evaluate": EvaluateSettings, "train": TrainSettings, "source": SourceSettings}
    judged = _open(distilled, source, kinds, {"evaluate": flags}, settings, out, data_dir, resolution, quiet)
    judging, training = judged.sections["evaluate"], judged.sections["train"]
    assert isinstance(judging, EvaluateSettings)
    assert isinstance(training, TrainSettings)
    names = tuple(judged.network(name) for name in judging.models)
    engine = Engine(device, precision)
    evaluation = evaluate_set(
        judged.distilled,
        judged.real,
        judging.model_copy(update={"models": names}),
        training,
        seed=seed,
        engine=engine,
        events=judged.events,
        folder=judged.folder,
        teacher=teacher_of(judged.distilled, engine),
    )
    if not engine.leads:
        return evaluation
    if judged.ours:
        update_card(judged.distilled.path, evaluation.records, evaluation.verdict)
    return replace(evaluation, report=judged.write_report())


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
    settings: Settings = (),
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

    arriving = {"steps": steps, "seeds": seeds, "random": baseline, "labels": list(labels)}
    kinds: dict[str, type[Config]] = {"train": TrainSettings, "source": SourceSettings}
    judged = _open(distilled, source, kinds, {}, settings, out, data_dir, resolution, quiet)
    training = judged.sections["train"]
    assert isinstance(training, TrainSettings)
    if model == "auto":
        model = (judged.made_with("evaluate").get("models") or ["auto"])[0]
    arriving["model"] = judged.network(model)
    settled = build({"continual": ContinualSettings}, {"continual": arriving})["continual"]
    assert isinstance(settled, ContinualSettings)
    engine = Engine(device, precision)
    records = learn_continually(
        judged.distilled,
        judged.real,
        settled,
        training,
        seed=seed,
        engine=engine,
        events=judged.events,
        folder=judged.folder,
        teacher=teacher_of(judged.distilled, engine),
    )
    if engine.leads:
        judged.events.say(f"report: {judged.write_report()}")
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


@dataclass(frozen=True)
class _Judged:
    """A set that is to be judged, as its caller named it; the real images; the settings of both; where it is kept."""

    named: tuple[str, str, tuple[str, ...]]
    """Its path, its source, and assignments."""
    distilled: Distilled
    real: Source
    ours: bool
    sections: Mapping[str, Config]
    folder: Path
    events: Events

    def made_with(self, section: str) -> dict[str, Any]:
        """The fields of a section that it was made with."""
        return _made_with(self.distilled, section)

    def network(self, name: str) -> str:
        """The name of a network, of auto the one for the resolution."""
        return default_model(self.distilled.task) if name == "auto" else name

    def write_report(self) -> Path:
        """Draw the page of its run; or of what was judged outside one, which is told beside its records."""
        from attar.report.outside import Outside, chosen_pictures, keep_judged
        from attar.report.page import write_report
        from attar.report.pictures import choose_images

        if not (self.folder / CONFIG).is_file():
            labels: list[int] = self.distilled.labels.tolist()
            chosen = choose_images(labels)
            pixels = self.distilled.pixels(torch.tensor(chosen)).clamp(0, 1).mul(255).round().byte()
            reading = self.sections["source"]
            assert isinstance(reading, SourceSettings)
            where = str(reading.data_dir) if reading.data_dir else None
            outside = Outside(*self.named, where, self.ours, self._description())
            keep_judged(self.folder, outside, chosen_pictures(pixels.permute(0, 2, 3, 1).numpy(), chosen, labels))
        return write_report(self.folder)

    def _description(self) -> dict[str, Any]:
        from attar.report.outside import FOREIGN

        judged = self.distilled
        about = {**judged.info, "task": judged.task.to_json(), "sizes": dict(judged.sizes)}
        if judged.label_store is not None:
            about["labels"] = {**about["labels"], "num_epochs": judged.label_store.num_epochs}
        return about if self.ours else {"method": FOREIGN, **about}


def _open(
    distilled: PathLike,
    source: PathLike,
    kinds: Mapping[str, type[Config]],
    flags: Mapping[str, Mapping[str, Any]],
    settings: Settings,
    out: PathLike | None,
    data_dir: PathLike | None,
    resolution: int | None,
    quiet: bool,
) -> _Judged:
    """Open what is judged with its source; settings are those it was made with, under flags, under assignments."""
    asked = assignments(settings)
    reading = given(data_dir=data_dir, resolution=resolution)
    foreign = _foreign(distilled, source, asked, reading, quiet)
    opened = foreign.distilled if foreign else load_distilled(Path(distilled))
    defaults = merge({name: _made_with(opened, name) for name in kinds}, {**flags, "source": reading})
    settled = sections(kinds, foreign.assignments if foreign else asked, defaults)
    folder = Path(out) if out else _judged_in(opened)
    events = Events(folder / "events.jsonl", quiet=quiet)
    how = settled["source"]
    assert isinstance(how, SourceSettings)
    real = foreign.source if foreign else open_source(str(source), how, events=events)
    named = (str(distilled), str(source), tuple(asked))
    return _Judged(named, opened, real, foreign is None, settled, folder, events)


def _foreign(
    distilled: PathLike, source: PathLike, asked: Sequence[str], reading: Mapping[str, Any], quiet: bool
) -> Opened | None:
    """Other people's images, opened with their source; None where it is a distilled dataset or a run."""
    from attar.interop.foreign import is_ours, recognise
    from attar.interop.opening import open_foreign

    path = Path(distilled)
    if recognise(path) is None and (is_ours(path) or (path / CONFIG).is_file()):
        return None
    return open_foreign(path, str(source), asked, given=reading, events=Events(quiet=quiet))


def _made_with(distilled: Distilled, section: str) -> dict[str, Any]:
    return dict(distilled.info.get("settings", {}).get(section, {}))


def _judged_in(distilled: Distilled) -> Path:
    folder = distilled.path if distilled.path.name not in ("", "..") else distilled.path.resolve()
    inside = (folder.resolve().parent / CONFIG).is_file()
    return folder.resolve().parent if inside else folder.with_name(f"{folder.name}-evaluation")
