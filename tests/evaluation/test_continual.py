import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.artifacts.distilled import Distilled
from attar.augment.replayed import ReplayedSet
from attar.augment.views import Views, ViewSettings
from attar.config import options
from attar.data.loading import Content, MemorySplit, RealSet, TensorSet
from attar.errors import ConfigError, DataError
from attar.evaluation import trials
from attar.evaluation.continual import ContinualSettings, SeenClasses, continual, part_of, seen_classes
from attar.evaluation.evaluate import evaluate
from attar.evaluation.settings import EvaluateSettings
from attar.evaluation.side_by_side import Open, SideBySide, Trainings, train
from attar.models.factory import NETWORKS
from attar.results.records import Record
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.runtime.together import Job, Make, make_all
from attar.task import Normalization, Task
from attar.training.section import TrainSection

TASK = Task(tuple("abcde"), 1, 4, 4, Normalization((0.5,), (0.25,)))


@dataclass
class MadeSource:
    task: Task
    train: MemorySplit
    validation: MemorySplit
    test: MemorySplit
    fingerprint: str

    def content(self, split: str) -> Content:
        return Content(f"images of {split}", "every byte")


def make_split(num: int) -> MemorySplit:
    pixels = torch.randint(0, 256, (num, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(num))
    return MemorySplit(pixels, torch.arange(num) % 5)


def made(soft: bool = False, kind: str = "hard") -> Distilled:
    images = torch.randn(10, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(10) % 5
    soft_labels = torch.full((10, 5), 0.2) if soft else None
    sizes = {"images": 900, "labels": 100, "teacher": 0, "total": 1000}
    info = {"pixels": "float32", "labels": {"kind": "soft" if soft else kind}}
    return Distilled(Path(), TASK, images, labels, soft_labels, None, info, sizes)


def run(folder: Path, soft: bool = False, kind: str = "hard", **settings: Any) -> tuple[Record, ...]:
    test, events = settings.pop("test", make_split(15)), settings.pop("events", Events(quiet=True))
    return continual(
        made(soft, kind),
        MadeSource(TASK, make_split(20), make_split(5), test, "f"),
        ContinualSettings(**{"model": "convnet-d1-w4", "steps": 2} | settings),
        TrainSection(epochs=2, augment="none"),
        engine=Engine("cpu"),
        events=events,
        folder=folder,
    )


def test_classes_arrive_step_by_step_in_an_order_of_the_seed() -> None:
    first, last = (seen_classes(5, 2, step, seed=0) for step in (0, 1))
    assert len(first) == 3
    assert sorted(last.tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(last[:3], first)
    assert any(not torch.equal(last, seen_classes(5, 2, 1, seed=seed)) for seed in (1, 2))


def test_what_is_seen_is_renumbered_and_soft_labels_sum_to_one_again() -> None:
    labels = torch.tensor([0, 1, 2, 3, 2])
    images = torch.arange(5.0).view(5, 1, 1, 1)
    seen = torch.tensor([2, 0])
    hard = SeenClasses(TensorSet(images, labels), seen)
    assert len(hard) == 3
    every = torch.arange(3)
    assert hard.images(every).flatten().tolist() == [0, 2, 4]
    assert hard.targets(every).tolist() == hard.labels.tolist() == [1, 0, 0]
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).repeat(5, 1)
    soft = TensorSet(images, probabilities)
    soft.labels = labels
    targets = SeenClasses(soft, seen).targets(every)
    assert torch.allclose(targets, torch.tensor([[0.75, 0.25]]).repeat(3, 1))


def test_real_images_are_restricted_too() -> None:
    real = RealSet(make_split(15), TASK.normalization)
    seen = SeenClasses(real, torch.tensor([4]))
    assert torch.equal(seen.images(torch.arange(3)), real.images(torch.tensor([4, 9, 14])))


@pytest.mark.parametrize("soft", [False, True])
def test_records_of_every_step_and_subject(soft: bool, tmp_path: Path) -> None:
    records = run(tmp_path, soft)
    assert [(r.subject, r.arrival.step, r.arrival.num_classes) for r in records if r.arrival] == [
        ("distilled", 1, 3),
        ("random", 1, 3),
        ("distilled", 2, 5),
        ("random", 2, 5),
    ]
    assert [(r.num_images, r.size_bytes) for r in records if r.subject == "distilled"] == [(6, 600), (10, 1000)]
    assert records[0].labels == ("soft" if soft else "hard")
    assert {record.metric_name for record in records} == {"test_accuracy"}
    written = json.loads((tmp_path / "continual.json").read_text())
    assert [Record.from_json(values) for values in written["records"]] == list(records)
    before = (tmp_path / "continual.json").read_bytes()
    assert run(tmp_path, soft) == records
    assert (tmp_path / "continual.json").read_bytes() == before


def test_the_result_is_the_same_bytes_for_any_number_of_processes(tmp_path: Path) -> None:
    for processes in (1, 2):
        run(tmp_path / str(processes), processes=processes)
    assert (tmp_path / "1/continual.json").read_bytes() == (tmp_path / "2/continual.json").read_bytes()


def test_a_network_that_this_program_gave_is_trained_by_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = list[int]()

    def counting(job: Job, make: Make, made: Callable[[int], None], num: int, say: Callable[[str], None]) -> None:
        helpers.append(num)
        make_all(job, make, made, 0, say)

    def own(task: Task) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, task.num_classes))

    monkeypatch.setattr(NETWORKS, "_added", {})
    monkeypatch.setattr("attar.evaluation.side_by_side.make_all", counting)
    run(tmp_path / "ours", processes=2)
    run(tmp_path / "own", processes=2, model=NETWORKS.add(own))
    assert helpers == [1, 0]


@pytest.mark.parametrize("soft", [False, True])
def test_what_a_helper_is_handed_trains_the_same_students(
    soft: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed = list[bytes]()

    def share(students: Trainings, again: Open, *rest: Any, **more: Any) -> SideBySide:
        handed.append(pickle.dumps(again))
        return train(students, again, *rest, **more)

    monkeypatch.setattr("attar.evaluation.continual.train", share)
    run(tmp_path, soft)
    files = sorted((tmp_path / "evaluation" / "continual").iterdir())
    before = [path.read_bytes() for path in files]
    shutil.rmtree(tmp_path / "evaluation")
    students = pickle.loads(handed[0])(Engine("cpu"), Events(quiet=True))
    for number in reversed(range(len(files))):
        students.reached(number)
    assert sorted(students.files) == files
    assert [path.read_bytes() for path in files] == before


def test_an_evaluation_leaves_what_is_half_trained_and_a_finished_run_does_not(tmp_path: Path) -> None:
    half = tmp_path / "evaluation" / "continual" / "half.safetensors"
    half.parent.mkdir(parents=True)
    half.touch()
    evaluate(
        made(),
        MadeSource(TASK, make_split(20), make_split(5), make_split(15), "f"),
        EvaluateSettings(models=("convnet-d1-w4",), seeds=1, baselines=()),
        TrainSection(epochs=1, augment="none"),
        engine=Engine("cpu"),
        events=Events(quiet=True),
        folder=tmp_path,
    )
    assert half.exists()
    run(tmp_path)
    assert not half.exists()


def test_without_the_baseline(tmp_path: Path) -> None:
    assert {record.subject for record in run(tmp_path, baseline=False, seeds=2)} == {"distilled"}


def test_more_steps_than_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="6 steps for 5 classes"):
        run(tmp_path, steps=6)


def test_a_stopped_one_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, stopped_at: Callable[..., list[str]]
) -> None:
    run(tmp_path / "unbroken", seeds=2)
    trained = stopped_at(4, lambda: run(tmp_path / "broken", seeds=2))
    assert not (tmp_path / "broken" / "continual.json").exists()
    run(tmp_path / "broken", seeds=2)
    names = [
        f"{who}, step {step} on convnet-d1-w4/seed {seed}"
        for step in (1, 2)
        for who in ("distilled", "random")
        for seed in (0, 1)
    ]
    assert trained == [*names[:4], *names[3:]]
    assert (tmp_path / "broken/continual.json").read_bytes() == (tmp_path / "unbroken/continual.json").read_bytes()


def test_the_orders_of_the_classes_and_each_accuracy_are_kept(tmp_path: Path) -> None:
    log = Events(tmp_path / "events.jsonl", quiet=True)
    records = run(tmp_path, seeds=2, events=log)
    orders = json.loads((tmp_path / "continual.json").read_text())["orders"]
    assert orders == {
        str(seed): [TASK.class_names[label] for label in seen_classes(5, 2, 1, seed).tolist()] for seed in (0, 1)
    }
    logged = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "accuracy"]
    assert [(event["item"], event["step"], event["accuracy"]) for event in logged] == [
        (record.subject, record.arrival.step, record.mean) for record in records if record.arrival
    ]


def test_one_class_at_a_time(tmp_path: Path) -> None:
    records = run(tmp_path, steps=5, baseline=False)
    assert [record.arrival.num_classes for record in records if record.arrival] == [1, 2, 3, 4, 5]
    assert records[0].mean == 100, "of one class, every guess is right"


def test_both_kinds_of_labels(tmp_path: Path) -> None:
    records = run(tmp_path, soft=True, labels=["stored", "hard"], baseline=False, steps=1)
    assert [(record.subject, record.labels) for record in records] == [
        ("distilled", "soft"),
        ("distilled, hard labels", "hard"),
    ]
    assert {record.subject for record in run(tmp_path, labels=["hard", "stored"], baseline=False)} == {"distilled"}


def test_first_classes_without_images_to_judge_by_are_told_before_training(tmp_path: Path) -> None:
    judged_by = int(seen_classes(5, 5, 4, seed=0)[-1])
    test = MemorySplit(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.full((3,), judged_by))
    with pytest.raises(DataError, match="no test image is of the classes that come first by seed 0"):
        run(tmp_path, steps=5, test=test)
    assert not (tmp_path / "evaluation").exists()


def test_views_are_made_anew_of_what_has_arrived_and_labelled_by_the_teacher() -> None:
    class Knowing:
        def logits(self, images: torch.Tensor) -> torch.Tensor:
            return torch.arange(5.0).repeat(len(images), 1)

        def soft_labels(self, images: torch.Tensor) -> torch.Tensor:
            return self.logits(images).softmax(1)

    views = Views(ViewSettings(min_scale=1, flip=False), 0, 10, TASK.shape)
    images, labels, teacher = torch.randn(10, 1, 4, 4), torch.arange(10) % 5, Knowing()
    whole = ReplayedSet(lambda indices: images[indices], labels, views, teacher.logits)
    subject = trials.Subject("distilled", "distilled", "soft", lambda seed: whole, TrainSection(), 10, 1000, "x")
    seen = torch.tensor([4, 1])
    part = part_of(subject, seen, TASK, teacher)
    assert (part.num_images, part.size_bytes) == (4, 400)
    made = part.make(0)
    assert isinstance(made, ReplayedSet)
    assert made.labels.tolist() == [1, 0, 1, 0]
    shown, logits = made.batch(3, torch.arange(4))
    assert shown.shape == (4, 1, 4, 4)
    assert torch.equal(logits, torch.tensor([[4.0, 1.0]]).repeat(4, 1))
    assert torch.equal(made.images(torch.arange(4)), images[[1, 4, 6, 9]]), "views mix only what has arrived"


def test_views_without_a_teacher_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no teacher") as told:
        run(tmp_path, kind="epochs")
    assert told.value.fix == "--labels hard"
    assert len(run(tmp_path, kind="epochs", labels=["hard"], steps=1)) == 2


def test_settings_are_described() -> None:
    assert all(option.meaning for option in options(ContinualSettings))
