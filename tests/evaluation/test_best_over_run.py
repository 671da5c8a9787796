"""The best over a run, beside the last: over states of the images, and over the epochs of students."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.artifacts.card import update_card
from attar.artifacts.distilled import Distilled, write_distilled
from attar.artifacts.recovered import state_name, write_chunk
from attar.data.loading import Content, MemorySplit
from attar.errors import ConfigError
from attar.evaluation import trials
from attar.evaluation.best_over_run import best_epochs, best_state, states_of
from attar.evaluation.evaluate import Evaluation, evaluate
from attar.evaluation.settings import EvaluateSettings
from attar.methods.base import Distillate
from attar.report.headline import accuracies, comparisons, facts
from attar.results.records import Best, Measurement, Record
from attar.results.verdict import Words, best_lines, pairs, verdict
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.task import Normalization, Task
from attar.training.loop import fit
from attar.training.section import TrainSection

TASK = Task(("dark", "bright"), 1, 4, 4, Normalization((0.5,), (0.25,)))
LABELS = torch.tensor([0, 1])
TRAINING = TrainSection(epochs=6, batch_size=2, learning_rate=0.05, augment="none")
MODEL = "convnet-d1-w4"


def images(contrast: float) -> Tensor:
    """A dark and a bright image, or with a contrast below 0 the other way round."""
    return (contrast * (2.0 * LABELS - 1)).view(2, 1, 1, 1).expand(2, 1, 4, 4).contiguous()


class MadeSource:
    task, fingerprint = TASK, "f"
    train = MemorySplit(
        torch.tensor([60, 190] * 4, dtype=torch.uint8).view(8, 1, 1, 1).repeat(1, 1, 4, 4), LABELS.repeat(4)
    )
    validation = test = train

    def content(self, split: str) -> Content:
        return Content("the same", "every byte")


def make_run(folder: Path, contrasts: dict[int, float], last: float, soft: bool = False) -> Distilled:
    """A distilled dataset in its run folder, with states on the way."""
    for step, contrast in contrasts.items():
        path = folder / "recover" / state_name(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_chunk(path, Distillate(images(contrast), LABELS, None, 0.01 * step))
    probabilities = torch.eye(2) if soft else None
    return write_distilled(folder / "distilled", Distillate(images(last), LABELS, probabilities, 0.05), TASK)


def judge(distilled: Distilled, folder: Path, training: TrainSection = TRAINING, **settings: Any) -> Evaluation:
    chosen = {"models": [MODEL], "seeds": 2, "baselines": ["random"], **settings}
    engine, events = Engine("cpu"), Events(quiet=True)
    return evaluate(
        distilled, MadeSource(), EvaluateSettings(**chosen), training, engine=engine, events=events, folder=folder
    )


def record(group: str, mean: float, **fields: Any) -> Record:
    fields = {"subject": group, "group": group, "labels": "hard", "split": "test", **fields}
    return Record.of("accuracy", model=MODEL, values=[mean], seeds=[0], num_images=2, size_bytes=3, **fields)


BEST = record(
    "distilled",
    90,
    subject="distilled, best over the run",
    best=Best("steps", (4,), (Measurement(4, 90.0), Measurement(None, 40.0))),
)


def test_the_state_with_the_best_mean_is_a_record_of_its_own_and_changes_no_other(tmp_path: Path) -> None:
    distilled = make_run(tmp_path, {2: -1.0, 4: 1.0}, last=-1.0)
    plain = judge(distilled, tmp_path / "plain")
    result = judge(distilled, tmp_path / "best", best_over_run=True)
    best = result.records[-1]
    assert result.records[:-1] == plain.records
    assert result.verdict == plain.verdict
    assert result.records[0].mean < 50 < best.mean, "images whose classes are the wrong way round teach them so"
    assert (best.subject, best.metric_name, best.n) == ("distilled, best over the run", "best_test_accuracy", 2)
    assert best.best is not None
    assert (best.best.over, best.best.at, best.protocol["learning_rate"]) == ("steps", (4,), 0.04)
    assert [one.at for one in best.best.tested] == [2, 4, None]
    assert best.best.tested[-1].mean == result.records[0].mean
    written = json.loads((tmp_path / "best" / "evaluation.json").read_text())["records"]
    assert [Record.from_json(values) for values in written] == list(result.records)


def test_the_last_images_may_be_the_best_and_a_tie_is_the_earliest() -> None:
    last = record("distilled", 40)
    at_last = best_state(last, {3: record("distilled", 30)})
    tied = best_state(last, {9: record("distilled", 41), 10: record("distilled", 41)})
    assert [one.best.at for one in (at_last, tied) if one.best] == [(), (9,)]
    assert "the last step of 2 tested" in best_lines([at_last])[0]
    assert "step 9 of 3 tested" in best_lines([tied])[0]


def test_without_states_it_is_said_and_all_else_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distilled = make_run(tmp_path, {}, last=1.0)
    settings = EvaluateSettings(models=(MODEL,), seeds=1, baselines=(), best_over_run=True)
    engine, events = Engine("cpu"), Events()
    found = evaluate(distilled, MadeSource(), settings, TRAINING, engine=engine, events=events, folder=tmp_path)
    assert [one.subject for one in found.records] == ["distilled"]
    assert "recover.num_states" in capsys.readouterr().err
    soft = make_run(tmp_path / "soft", {2: 1.0}, last=1.0, soft=True)
    with pytest.raises(ConfigError, match="no soft labels of their own"):
        states_of(soft, "soft")
    assert list(states_of(soft, "hard")) == [2]


def test_the_best_epoch_of_each_training_is_the_highest_that_was_tested(tmp_path: Path) -> None:
    distilled = make_run(tmp_path, {}, last=1.0)
    result = judge(distilled, tmp_path, test_every=2)
    assert [one.subject for one in result.records] == [
        "distilled", "random", "distilled, best epoch", "random, best epoch",
    ]  # fmt: skip
    assert [[tested.at for tested in one.best.tested] for one in result.records if one.best] == [[2, 4, 6]] * 2
    for last, best in zip(result.records[:2], result.records[2:], strict=True):
        assert all(one <= other for one, other in zip(last.values, best.values, strict=True))
    plain = judge(distilled, tmp_path / "plain")
    assert result.records[:2] == plain.records, "tests on the way leave the training alone"
    assert len(judge(distilled, tmp_path / "once", test_every=6).records) == 2, "of one there is no best"


def test_the_epochs_are_those_of_each_seed() -> None:
    best = best_epochs(record("distilled", 1), [{2: 5.0, 4: 7.0}])
    assert best.best is not None
    assert (best.values, best.best.at, best.mean) == ((7.0,), (4,), 7.0)
    assert "epoch 4 of 2 tested" in best_lines([best])[0]
    two = replace(record("distilled", 1), n=2, values=(3.0, 6.0), seeds=(0, 1))
    found = best_epochs(two, [{2: 5.0, 4: 3.0}, {2: 4.0, 4: 6.0}])
    assert (found.values, found.best) == (
        (5.0, 6.0),
        Best("epochs", (2, 4), (Measurement(2, 4.5), Measurement(4, 4.5))),
    )
    assert (found.mean, found.std) == (5.5, pytest.approx(0.5**0.5))
    assert "epochs 2, 4 of 2 tested" in best_lines([found])[0]


def test_a_stopped_training_remembers_its_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distilled = make_run(tmp_path, {}, last=1.0)
    settings = {"test_every": 1, "seeds": 1, "baselines": []}
    whole = judge(distilled, tmp_path / "whole", **settings)
    monkeypatch.setattr("attar.training.loop.CHECKPOINT_EVERY_S", 0.0)
    calls: list[int] = []

    def stopping(*args: Any, after_epoch: Callable[[int], None], **options: Any) -> Any:
        def stop(epoch: int) -> None:
            after_epoch(epoch)
            calls.append(epoch)
            if epoch == 4:
                raise KeyboardInterrupt

        return fit(*args, after_epoch=stop, **options)

    monkeypatch.setattr(trials, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        judge(distilled, tmp_path / "broken", **settings)
    monkeypatch.setattr(trials, "fit", fit)
    assert calls == [1, 2, 3, 4]
    again = judge(distilled, tmp_path / "broken", **settings)
    assert again.records == whole.records
    assert not list((tmp_path / "broken" / "evaluation").glob("*.tested.json"))


def test_no_headline_verdict_or_comparison_takes_a_best() -> None:
    records = [record("distilled", 40), record("random", 30)]
    best = BEST
    assert verdict([*records, best]) == verdict(records)
    assert accuracies([*records, best]) == records
    assert (facts([*records, best]), comparisons([*records, best])) == (facts(records), comparisons(records))
    assert [pair.distilled.mean for pair in pairs([*records, best])] == [40]
    (line,) = best_lines([*records, best])
    assert line.startswith(f"distilled, best over the run, on {MODEL}: 90.0 %")


def test_the_card_has_the_best_under_its_own_name(tmp_path: Path) -> None:
    distilled = make_run(tmp_path, {}, last=1.0)
    update_card(distilled.path, [record("distilled", 40), BEST], Words())
    card = (distilled.path / "README.md").read_text()
    assert "best test accuracy (%)" in card
    assert "what published tables report" in card
    update_card(distilled.path, [record("distilled", 40)], Words())
    assert "published tables" not in (distilled.path / "README.md").read_text()
