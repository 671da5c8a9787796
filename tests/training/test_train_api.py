"""`attar.train` and `attar train`: teacher, wrong labels, loggers, strategies explained, and early refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import attar
from attar import catalogue
from attar.artifacts.distilled import write_distilled
from attar.artifacts.run import RunFolder
from attar.cli import app
from attar.errors import ArtifactError, ConfigError
from attar.methods.base import Distillate
from attar.runtime.checkpoint import read_tensors
from attar.runtime.events import read_events
from attar.runtime.seeding import generator
from attar.training.strategies import STRATEGIES

SMALL: dict[str, Any] = {"epochs": 1, "source.train_per_class": 5, "batch_size": 16}
MODEL = "convnet-d1-w4"


def test_a_network_teaches_another_under_wrong_labels(tmp_path: Path) -> None:
    attar.train("digits", MODEL, out=tmp_path / "a", settings=SMALL)
    taught = attar.train(
        "digits",
        MODEL,
        strategy="dlb+kd",
        teacher=tmp_path / "a" / "model.safetensors",
        label_noise=0.4,
        noise_kind="pairflip",
        out=tmp_path / "b",
        settings=SMALL | {"dlb.tau": 2.5, "kd.alpha": 0.3},
    )
    assert taught.label_noise is not None
    assert (taught.label_noise["flipped"], taught.label_noise["of"]) == (20, 50)
    assert read_tensors(tmp_path / "b" / "model.safetensors")[1]["label_noise"] == taught.label_noise
    assert "label_noise" not in read_tensors(tmp_path / "a" / "model.safetensors")[1]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"strategy": "kd"}, "no teacher"),
        ({"strategy": "kd", "teacher": "nowhere.safetensors"}, "not a file"),
        ({"strategy": "dlb", "teacher": "nowhere.safetensors"}, "no use for it"),
        ({"strategy": "dbl"}, "did you mean dlb"),
        ({"model": "convnet-d3"}, "unknown model"),
        ({"loggers": ["tensorboard"], "keep": False}, "nowhere to write"),
        ({"label_noise": 1.2}, "label_noise"),
        ({"settings": {"dlb.taw": 3}}, r"train\.dlb\.taw: no such field; .*did you mean tau"),
        ({"settings": {"optimizer": "sdg"}}, "did you mean sgd"),
    ],
)
def test_what_cannot_be_is_told_before_the_source_is_opened(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        attar.train("/no/such/source", **given)


def test_randaugment_is_for_pixels(tmp_path: Path) -> None:
    how = SMALL | {"randaugment": 2, "randaugment_magnitude": 5}
    trained = attar.train("digits", MODEL, settings=how, keep=False)
    assert trained.losses[0] > 0
    with pytest.raises(ConfigError, match="changes pixels"):
        attar.train("digits", MODEL, settings=SMALL | {"randaugment": 2, "source.zca": True}, keep=False)


def test_the_command_line_trains_with_wrong_labels_and_says_so(tmp_path: Path) -> None:
    command = ["train", "digits", "--model", MODEL, "--strategy", "dlb", "--label-noise", "0.2", "-q", "--no-keep"]
    command += [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    assert "wrong labels 10 of 50 (symmetric, digest" in told.output
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert found["label_noise"]["flipped"] == 10


def test_what_is_trained_is_kept_under_runs_and_not_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first = attar.train("digits", MODEL, settings=SMALL)
    assert first.path is not None
    assert first.path.parent == Path("runs")
    assert first.path.name.startswith(f"train-digits-{MODEL}-ce-")
    written = (first.path / "model.safetensors").read_bytes()
    again = attar.train("digits", MODEL, settings=SMALL, quiet=False)
    assert "trained with these settings before" in " ".join(capsys.readouterr().err.split())
    assert (again.path, again.losses, again.accuracies) == (first.path, first.losses, first.accuracies)
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(again.model(images), first.model(images))
    assert (first.path / "model.safetensors").read_bytes() == written
    other = attar.train("digits", MODEL, seed=1, settings=SMALL)
    assert other.path not in (None, first.path)
    assert len(list(Path("runs").iterdir())) == 2


def test_of_images_that_hold_others_accuracy_is_on_those(tmp_path: Path) -> None:
    task = attar.open("digits", quiet=True).task
    images = torch.randn(10, *task.shape, generator=generator(0))
    made = write_distilled(tmp_path / "set", Distillate(images, torch.arange(10), tiles=2), task)
    found = attar.train(made.path, MODEL, settings={"epochs": 30}, keep=False)
    seen, classes = zip(*made.dataset(), strict=True)
    right = found.model(torch.stack(seen)).argmax(1) == torch.stack(classes)
    assert found.accuracies["train"] == pytest.approx(100 * float(right.float().mean()))


def test_a_finished_training_is_read_again_in_a_folder_of_its_own_alone(tmp_path: Path) -> None:
    first = attar.train("digits", MODEL, out=tmp_path, settings=SMALL)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"of a process that was killed in its last moment")
    again = attar.train("digits", MODEL, out=tmp_path, settings=SMALL)
    assert (again.losses, again.accuracies) == (first.losses, first.accuracies)
    assert not (tmp_path / "checkpoint.safetensors").exists()
    with RunFolder(tmp_path).locked(), pytest.raises(ArtifactError, match="another attar is at work"):
        attar.train("digits", MODEL, out=tmp_path, settings=SMALL)


def test_nothing_is_written_where_nothing_is_to_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert attar.train("digits", MODEL, settings=SMALL, keep=False).path is None
    assert list(tmp_path.iterdir()) == []


def test_another_network_in_the_folder_is_told_by_what_differs(tmp_path: Path) -> None:
    attar.train("digits", MODEL, out=tmp_path, settings=SMALL)
    with pytest.raises(ArtifactError, match=r"trained otherwise:\n  - train\.epochs"):
        attar.train("digits", MODEL, out=tmp_path, settings=SMALL | {"epochs": 2})


def test_a_run_folder_is_no_place_for_a_network(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ArtifactError, match="is a run folder"):
        attar.train("digits", MODEL, out=tmp_path, settings=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("name", list(STRATEGIES.all()))
def test_every_strategy_is_explained(name: str) -> None:
    shown = catalogue.describe(name)
    kind = STRATEGIES.all()[name]
    assert shown["summary"] == kind.summary
    assert "L " in shown["objective"]
    fields = [field["name"] for section in shown["sections"].values() for field in section]
    assert all(field.startswith(f"{kind.group()}.") for field in fields)
    assert bool(fields) == (kind.Settings is not None)
    assert (kind.source == "") == (name == "ce")
    told = CliRunner().invoke(app, ["show", name])
    assert told.exit_code == 0
    assert kind.summary in told.output


def test_images_that_carry_a_learnt_rate_are_trained_on_at_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    few = {"squeeze.epochs": 3, "squeeze.num_experts": 1, "squeeze.model": "convnet-d1-w4", "method.num_steps": 2}
    how = {"recipe": "none", "out": run, "until": "relabel"}
    attar.distill("digits", "tesla", 1, settings={**few, "recover.iterations": 1, "method.initial_rate": 0.05}, **how)
    learnt = attar.load(run).learning_rate
    assert learnt is not None

    def rate(**settings: float) -> float:
        out = tmp_path / f"trained-{len(settings)}"
        attar.train(run, "convnet-d1-w4", out=out, settings={"epochs": 1, **settings}, quiet=False)
        return next(e["learning_rate"] for e in read_events(out / "events.jsonl") if e["event"] == "epoch")

    assert rate() == pytest.approx(learnt)
    assert f"the learnt rate {learnt:.4g}" in capsys.readouterr().err.replace("\n", " ")
    assert rate(learning_rate=0.02) == pytest.approx(0.02)
    said = attar.continual(run, "digits", model="convnet-d1-w4", steps=2, settings={"epochs": 1})
    assert {record.protocol["learning_rate"] for record in said} == {learnt}
