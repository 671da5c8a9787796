"""Images matched under the labels of experts are compared with real ones that the same experts label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attar
from attar.artifacts.distilled import Distilled, load_distilled
from attar.data.sources import Source, SourceSettings, open_source
from attar.evaluation.continual import part_of
from attar.evaluation.subjects import Subjects
from attar.evaluation.trials import Subject
from attar.models.factory import build
from attar.models.flat import FlatModel
from attar.run.pipeline import teacher_of
from attar.runtime.checkpoint import read_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.training.section import TrainSection
from attar.training.soft import Teacher

NET = "convnet-d2-w8"
TARGETS = (1, 2)
"""Epochs that a step may aim at: M = 1 behind starts 0 and 1, of experts that have three."""
TOY: dict[str, Any] = {
    "source.train_per_class": 10,
    "squeeze.model": NET,
    "squeeze.num_experts": 2,
    "squeeze.epochs": 3,
    "squeeze.learning_rate": 0.1,
    "method.labels": "expert",
    "method.num_steps": 2,
    "method.expert_epochs": 1,
    "method.max_start_epoch": 2,
    "recover.iterations": 3,
    "train.epochs": 2,
    "evaluate.models": [NET],
    "evaluate.seeds": 1,
    "evaluate.full_epochs": 1,
}
ENGINE = Engine("cpu")


def distill(out: Path, **changes: Any) -> Distilled:
    settings = {**TOY, **changes}
    attar.distill("digits", "tesla", 1, recipe="none", out=out, settings=settings, until="relabel")
    return load_distilled(out / "distilled")


@pytest.fixture(scope="module", params=["tesla", "mtt"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    out = tmp_path_factory.mktemp(request.param) / "run"
    attar.distill("digits", request.param, 1, recipe="none", out=out, settings=TOY, until="relabel")
    return load_distilled(out / "distilled")


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source("digits", SourceSettings(train_per_class=10))


def by_hand(run: Path, images: Tensor, epochs: tuple[int, ...], distilled: Distilled) -> Tensor:
    flat = FlatModel(build(NET, distilled.task).eval())
    files = sorted((run / "squeeze").glob("expert-*.safetensors"))
    assert len(files) == 2
    rows = [read_tensors(path)[0]["parameters"] for path in files]
    return torch.stack([flat(one[epoch], images).softmax(1) for one in rows for epoch in epochs]).mean(0).detach()


def subjects(distilled: Distilled, source: Source) -> Subjects:
    teacher = asked(distilled)
    return Subjects(distilled, source, TrainSection(epochs=1), ENGINE, Events(quiet=True), teacher)


def asked(distilled: Distilled) -> Teacher:
    teacher = teacher_of(distilled, ENGINE)
    assert teacher is not None
    return teacher


def test_what_is_stored_is_what_all_targets_say_of_the_images(made: Distilled) -> None:
    run, images = made.path.parent, made.images
    assert made.soft_labels is not None
    assert torch.allclose(made.soft_labels, by_hand(run, images, TARGETS, made), atol=1e-3), "in float16"
    assert not torch.allclose(made.soft_labels, by_hand(run, images, (3,), made), atol=1e-2)
    assert torch.allclose(asked(made).soft_labels(images), by_hand(run, images, TARGETS, made), atol=1e-6)


@pytest.mark.parametrize("name", ["random", "herding"])
def test_real_images_that_it_is_compared_with_have_labels_of_the_same(
    made: Distilled, source: Source, name: str
) -> None:
    (subject,) = subjects(made, source).real(name, ["soft"])
    check(subject, made)


def check(subject: Subject, made: Distilled) -> None:
    data = subject.make(3)
    everything = torch.arange(len(data.labels))
    images, targets = data.images(everything), data.targets(everything)
    assert data.labels.bincount().tolist() == [1] * 10
    assert torch.allclose(targets, by_hand(made.path.parent, images, TARGETS, made), atol=1e-6)


def test_so_have_those_of_classes_that_arrive_step_by_step(made: Distilled, source: Source) -> None:
    (random,) = subjects(made, source).real("random", ["soft"])
    seen = torch.tensor([7, 2, 5])
    data = part_of(random, seen, made.task, asked(made)).make(0)
    everything = torch.arange(len(data.labels))
    wanted = by_hand(made.path.parent, data.images(everything), TARGETS, made)[:, seen]
    assert torch.allclose(data.targets(everything), wanted / wanted.sum(1, keepdim=True), atol=1e-5)


def test_labels_of_every_epoch_are_theirs_too_and_other_labels_those_of_finished_experts(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"relabel.labels": "epochs", "relabel.codec": "fp16", "relabel.flip": False}
    plain |= {"relabel.min_scale": 1.0, "relabel.mix": "none"}
    for labels, epochs in (("expert", TARGETS), ("hard", (3,))):
        done = distill(tmp_path / labels, **plain, **{"method.labels": labels})
        wanted = by_hand(tmp_path / labels, done.images, epochs, done)
        assert torch.allclose(asked(done).soft_labels(done.images), wanted, atol=1e-6)
        assert done.label_store is not None
        stored = done.label_store.read(torch.zeros(10, dtype=torch.int64), torch.arange(10))
        assert torch.allclose(stored.softmax(1), wanted, atol=2e-3), labels


def test_a_plan_asks_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from attar.squeeze.trajectories import Experts

    given: list[tuple[int, ...]] = []
    real = Experts.labeller
    monkeypatch.setattr(Experts, "labeller", lambda self, epochs: (given.append(tuple(epochs)), real(self, epochs))[1])
    attar.plan("digits", "tesla", 1, recipe="none", settings={**TOY, "relabel.labels": "epochs"})
    assert set(given) == {TARGETS}
