"""Judge a distilled dataset, ours or another program's; put several side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from attar.api.arguments import sections, takes
from attar.api.options import CompareOptions, ContinualOptions, EvaluateOptions, JudgedOptions
from attar.api.sharing import page_folder
from attar.artifacts.claims import require_no_other
from attar.artifacts.distilled import Distilled, load_distilled
from attar.artifacts.run import CONFIG
from attar.config import Config, build, dump
from attar.data.sources import Source, SourceSettings, of_classes, open_source
from attar.errors import ArtifactError
from attar.evaluation.evaluate import Evaluation
from attar.evaluation.evaluate import evaluate as evaluate_set
from attar.evaluation.following import network_of
from attar.evaluation.settings import EvaluateSettings
from attar.evaluation.students import at_learnt_rate
from attar.options import given
from attar.results.records import Record
from attar.run.origin import differs_from, made_of_names
from attar.run.pipeline import teacher_of
from attar.run.preparing import slug
from attar.run.settings import default_model
from attar.run.sharing import held_by_one, sharing_engine
from attar.run.strips import keep_strips
from attar.runtime.events import Events
from attar.runtime.processes import launched
from attar.runtime.trackers import tracked
from attar.training.loop import TrainSettings
from attar.training.section import TrainSection

if TYPE_CHECKING:
    from attar.interop.opening import Opened
    from attar.report.several import Group


@takes(EvaluateOptions)
def evaluate(asked: EvaluateOptions) -> Evaluation:
    """Train networks on a distilled dataset and on its baselines alike, and test them on the real test split.

    The settings are those of the sections `evaluate`, `train` and `source`; and `foreign` for another program's images.
    """
    from attar.artifacts.card import update_card

    kinds: dict[str, type[Config]] = {"evaluate": EvaluateSettings, "train": TrainSection, "source": SourceSettings}
    judged = _open(asked, kinds)
    judging, training = judged.sections["evaluate"], judged.sections["train"]
    assert isinstance(judging, EvaluateSettings)
    assert isinstance(training, TrainSettings)
    judge = network_of(judging.protocol, judged.distilled.task)
    names = tuple(judge or judged.network(name) if name == "auto" else name for name in judging.models)
    following = tracked(asked.loggers, judged.folder, judged.folder.name, dump(training), asked.callbacks)
    shared = sharing_engine(asked.device, asked.precision, asked.workers, asked.peer_timeout, judged.folder)
    with shared as engine, held_by_one(judged.folder, engine), following:
        engine.warn(judged.events.say)
        evaluation = evaluate_set(
            judged.distilled,
            judged.real,
            judging.model_copy(update={"models": names}),
            training,
            seed=asked.seed,
            engine=engine,
            events=judged.events,
            folder=judged.folder,
            teacher=teacher_of(judged.distilled, engine),
        )
        if not engine.leads:
            return evaluation
        if judged.ours and judged.at_home:
            update_card(judged.distilled.path, evaluation.records, evaluation.verdict)
        return replace(evaluation, report=judged.write_report())


@takes(ContinualOptions)
def continual(asked: ContinualOptions) -> tuple[Record, ...]:
    """Class-incremental learning: at each step train from scratch on the distilled images of all classes seen.

    The settings are those of the sections `train` and `source`; and `foreign` for another program's images. Images that
    carry a learnt rate are trained on at it, and real ones too, where they are judged so.
    """
    from attar.evaluation.continual import ContinualSettings
    from attar.evaluation.continual import continual as learn_continually

    kinds: dict[str, type[Config]] = {"train": TrainSection, "source": SourceSettings}
    judged = _open(asked, kinds)
    training = judged.sections["train"]
    assert isinstance(training, TrainSettings)
    model = asked.model if asked.model != "auto" else (judged.made_with("evaluate").get("models") or ["auto"])[0]
    arriving = {**given(asked).get("continual", {}), "model": judged.network(model), "processes": asked.processes}
    settled = build({"continual": ContinualSettings}, {"continual": arriving})["continual"]
    assert isinstance(settled, ContinualSettings)
    following = tracked(asked.loggers, judged.folder, judged.folder.name, dump(training), asked.callbacks)
    shared = sharing_engine(asked.device, asked.precision, asked.workers, asked.peer_timeout, judged.folder)
    with shared as engine, held_by_one(judged.folder, engine), following:
        engine.warn(judged.events.say)
        if judged.made_with("evaluate").get("use_learned_rate", True):
            training = at_learnt_rate(judged.distilled, training, judged.events)
        records = learn_continually(
            judged.distilled,
            judged.real,
            settled,
            training,
            seed=asked.seed,
            engine=engine,
            events=judged.events,
            folder=judged.folder,
            teacher=teacher_of(judged.distilled, engine),
        )
        if engine.leads:
            judged.events.say(f"report: {judged.write_report()}")
        return records


@takes(CompareOptions)
def compare(asked: CompareOptions) -> tuple[Group, ...]:
    """Put the evaluations of several runs side by side; those that may not be compared stand in groups of their own.

    Raises ConfigError for fewer than two, ArtifactError where one was not evaluated.
    """
    from attar.report.compare import PAGE, write_comparison
    from attar.report.several import grouped, read_judged

    out = page_folder(asked.out, PAGE)
    judged = read_judged([Path(run) for run in asked.runs], TrainSection().model_dump(mode="json"))
    if out is not None:
        write_comparison(judged, out / PAGE)
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
    at_home: bool
    """Whether its folder is that of its run, or the one beside it, and no other."""
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

        reading = self.sections["source"]
        assert isinstance(reading, SourceSettings)
        keep_strips(self.folder, self.real, reading.strip)
        if not (self.folder / CONFIG).is_file():
            labels: list[int] = self.distilled.labels.tolist()
            chosen = choose_images(labels)
            pixels = self.distilled.pixels(torch.tensor(chosen)).clamp(0, 1).mul(255).round().byte()
            where = str(reading.data_dir) if reading.data_dir else None
            out = None if self.at_home else str(self.folder)
            outside = Outside(*self.named, where, self.ours, self._description(), out)
            keep_judged(self.folder, outside, chosen_pictures(pixels.permute(0, 2, 3, 1).numpy(), chosen, labels))
        return write_report(self.folder)

    def _description(self) -> dict[str, Any]:
        from attar.report.outside import FOREIGN

        judged = self.distilled
        about = {**judged.info, "task": judged.task.to_json(), "sizes": dict(judged.sizes)}
        if judged.label_store is not None:
            about["labels"] = {**about["labels"], "num_epochs": judged.label_store.num_epochs}
        return about if self.ours else {"method": FOREIGN, **about}


def _open(asked: JudgedOptions, kinds: Mapping[str, type[Config]]) -> _Judged:
    """Open what is judged with its source; settings are those it was made with, under flags, under assignments."""
    flags = given(asked)
    foreign = _foreign(asked, flags.get("source", {}))
    opened = foreign.distilled if foreign else load_distilled(Path(asked.distilled))
    made_with = {name: _made_with(opened, name) for name in kinds}
    settled = sections(kinds, foreign.assignments if foreign else asked.assigned, made_with, flags)
    how, quiet = settled["source"], asked.quiet or launched().rank > 0
    assert isinstance(how, SourceSettings)
    real = foreign.source if foreign else open_source(str(asked.source), how, events=Events(quiet=quiet))
    every = real.task.class_names
    if not foreign and made_of_names(opened):  # any images of its classes may judge it
        real = of_classes(real, opened.task.class_names)
    real.task.require_same(opened.task, "the source", "the distilled dataset")
    home, other = _judged_in(opened), () if foreign else differs_from(opened, real)
    folder = Path(asked.out) if asked.out else home
    if other and folder.resolve() == home.resolve():
        folder = home.with_name(f"{home.name}-on-{slug(real.name)}")
        if asked.out:
            raise ArtifactError(
                f"{asked.source} is another source than {opened.path} was made from: {'; '.join(other)}",
                expected=f"that source, for what is kept in {home}",
                fix=f"leave --out away: what is found goes to {folder}",
            )
    if folder.resolve() != home.resolve():
        require_no_other(folder, "an evaluation")
    events = Events(folder / "events.jsonl", quiet=quiet)
    if other:
        events.say(f"another source than the set was made from: {'; '.join(other)}")
        events.say(f"its page and card are left alone; what is found goes to {folder}")
    if (mine := real.task.class_names) != every:
        events.say(f"{asked.source} judges by its images of {len(mine)} of {len(every)} classes, in the set's order")
    named = (str(opened.path if foreign is None else asked.distilled), str(asked.source), asked.assigned)
    at_home = folder.resolve() == home.resolve()
    return _Judged(named, opened, real, foreign is None, settled, folder, at_home, events)


def _foreign(asked: JudgedOptions, reading: Mapping[str, Any]) -> Opened | None:
    """Other people's images, opened with their source; None where it is a distilled dataset or a run."""
    from attar.interop.foreign import is_ours, recognise
    from attar.interop.opening import open_foreign

    path = Path(asked.distilled)
    if recognise(path) is None and (is_ours(path) or (path / CONFIG).is_file()):
        return None
    events = Events(quiet=asked.quiet)
    return open_foreign(path, str(asked.source), asked.assigned, given=reading, events=events)


def _made_with(distilled: Distilled, section: str) -> dict[str, Any]:
    return dict(distilled.info.get("settings", {}).get(section, {}))


def _judged_in(distilled: Distilled) -> Path:
    folder = distilled.path if distilled.path.name not in ("", "..") else distilled.path.resolve()
    inside = (folder.resolve().parent / CONFIG).is_file()
    return folder.resolve().parent if inside else folder.with_name(f"{folder.name}-evaluation")
