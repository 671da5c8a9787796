"""Pools: what is kept of a training, what is cut, the real images' statistics, and what is never made again."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.artifacts.run import RunFolder
from attar.augment.views import Views, ViewSettings
from attar.data.loading import MemorySplit, RealSet
from attar.errors import ArtifactError, ConfigError, DivergedError
from attar.marks import Rules
from attar.models.norms import batch_norms
from attar.runtime.checkpoint import read_note, read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.runtime.processes import Processes
from attar.runtime.seeding import derive
from attar.squeeze import pool, real_statistics
from attar.squeeze.pool import PoolSettings, TrainedPool, make_pool, members
from attar.squeeze.real_statistics import Measuring, measure, read_statistics, statistics_paths
from attar.squeeze.teacher_files import open_network
from attar.squeeze.teachers import TeacherSettings, make_teacher
from attar.task import Normalization, Task

ENGINE, NET = Engine("cpu"), "convnet-d1-w4-batch"
TASK = Task(tuple("abc"), 1, 8, 8, Normalization((0.5,), (0.25,)))


def make_set(num: int = 33, seed: int = 0) -> RealSet:
    labels = torch.arange(num) % 3
    noise = torch.randint(0, 60, (num, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    return RealSet(MemorySplit((noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels), TASK.normalization)


def make_settings(**changes: Any) -> PoolSettings:
    plain = {"model": NET, "epochs": 4, "num_members": 2, "batch_size": 16, "augment": "none", "tune_epochs": 1}
    return PoolSettings(**plain | changes)


def squeeze(folder: Path, settings: PoolSettings, events: Events | None = None, engine: Engine = ENGINE) -> list[str]:
    events = events or Events(quiet=True)
    return make_pool(make_set(), make_set(9, 1), TASK, settings, seed=3, folder=folder, engine=engine, events=events)


def names(**changes: Any) -> list[str]:
    return [place.name for place in members(make_settings(**changes))]


def test_members_count_from_the_weakest() -> None:
    assert names() == ["member-00-epoch-0002", "member-00-epoch-0004"]
    assert names(member_epochs=[1, 3]) == ["member-00-epoch-0001", "member-00-epoch-0003"]
    assert names(num_members=1, more_models=[NET]) == ["member-00-epoch-0004", "member-01-epoch-0004"]
    cut = ["member-00-pruned-6000", "member-00-pruned-2500", "member-00-pruned-0000"]
    assert names(pool="post", ratios=[0.25, 0.6]) == cut
    assert [place.epoch for place in members(make_settings(epochs=30, num_members=6))] == [5, 10, 15, 20, 25, 30]
    assert make_settings(more_models=[NET]).num_networks == 4


def test_a_prior_member_is_what_the_training_was_then(tmp_path: Path) -> None:
    files = squeeze(tmp_path / "pool", make_settings(epochs=3, member_epochs=[1, 3]))
    assert sorted(files) == sorted(path.name for path in (tmp_path / "pool").iterdir())
    teacher = TeacherSettings(**make_settings(epochs=3).model_dump(include=set(TeacherSettings.model_fields)))
    given = {"seed": 3, "folder": tmp_path / "teacher", "engine": ENGINE, "events": Events(quiet=True)}
    make_teacher(make_set(), make_set(9, 1), TASK, teacher, **given)
    last, note = read_tensors(tmp_path / "pool" / "member-00-epoch-0003.safetensors")
    trained, known = read_tensors(tmp_path / "teacher" / "teacher.safetensors")
    assert all(torch.equal(last[key], value) for key, value in trained.items()), "the same training as a teacher's"
    assert note["validation_accuracy"] == known["validation_accuracy"]
    first = read_tensors(tmp_path / "pool" / "member-00-epoch-0001.safetensors")[0]
    assert not torch.equal(first["classifier.weight"], last["classifier.weight"])
    assert int(first["features.1.num_batches_tracked"]) * 3 == int(last["features.1.num_batches_tracked"])


def reference(folder: Path, name: str, images: torch.Tensor, labels: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Statistics at each BatchNorm, of all images at once in float64."""
    found: list[tuple[torch.Tensor, ...]] = []
    model = open_network(folder / f"{name}.safetensors", TASK).whole

    def look(_: object, args: tuple[torch.Tensor, ...]) -> None:
        x, each = args[0].double(), labels.repeat_interleave(len(args[0]) // len(labels))
        rows = [part.transpose(0, 1).flatten(1) for part in (x, *(x[each == label] for label in range(3)))]
        mean, var = [part.mean(1) for part in rows], [part.var(1, correction=0) for part in rows]
        found.append((mean[0], var[0], torch.stack(mean[1:]), torch.stack(var[1:])))

    for norm in batch_norms(model):
        norm.register_forward_pre_hook(look)
    with torch.no_grad():
        model(images)
    return found


@pytest.mark.parametrize(
    ("batch", "min_scale", "model"),
    [(4, 1.0, NET), (256, 1.0, "bnvit-d1-w8-p4"), (256, 0.3, NET), (7, 0.3, "bnvit-d1-w8-p4")],
)
def test_statistics_are_those_of_all_real_images(
    batch: int, min_scale: float, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_statistics, "BATCH", batch)
    settings = make_settings(num_members=1, epochs=1, model=model, statistics_min_scale=min_scale)
    squeeze(tmp_path, settings)
    data = make_set()
    shown = data.images(torch.arange(33))
    if min_scale < 1:
        views = Views(
            ViewSettings(min_scale=min_scale, flip=False, mix="none"), derive(3, "statistics"), 33, TASK.shape
        )
        shown = views.apply(data.images, torch.zeros(33).long(), torch.arange(33))
    expected = reference(tmp_path, "member-00-epoch-0001", shown, data.labels)
    member = TrainedPool(tmp_path, TASK, settings, ENGINE).member(0, classes=True)
    assert len(member.statistics) == len(expected) == (1 if model == NET else 4)
    for layer, (mean, var, class_mean, class_var) in zip(member.statistics, expected, strict=True):
        assert layer.class_mean is not None
        assert layer.class_var is not None
        pairs = ((layer.mean, mean), (layer.var, var), (layer.class_mean, class_mean), (layer.class_var, class_var))
        for mine, exact in pairs:
            assert mine.dtype == torch.float32
            torch.testing.assert_close(mine.double(), exact, rtol=2e-6, atol=2e-6)


def test_another_member_leaves_those_that_are_there_alone(tmp_path: Path) -> None:
    settings = make_settings(epochs=3, member_epochs=[1, 3])
    squeeze(tmp_path / "grown", settings)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "grown").iterdir()}
    assert squeeze(tmp_path / "grown", settings)
    more = make_settings(epochs=3, member_epochs=[1, 2, 3])
    events = Events(tmp_path / "events.jsonl", quiet=True)
    squeeze(tmp_path / "grown", more, events)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    measured = [event["item"] for event in read_events(tmp_path / "events.jsonl") if event["event"] == "statistics"]
    assert measured == ["member-00-epoch-0002"]
    squeeze(tmp_path / "whole", more)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "grown" / path.name).read_bytes()


class OneAfterTheOther(Processes):
    """Processes that do not wait: each finds what those before it have left."""

    def barrier(self, needs: Iterable[Path] = ()) -> None:
        pass


def test_several_processes_leave_what_one_leaves(tmp_path: Path) -> None:
    settings = make_settings(more_models=["bnvit-d1-w8-p4"])
    alone = sorted(squeeze(tmp_path / "1", settings))
    shared = [Engine("cpu", processes=OneAfterTheOther(rank, 2)) for rank in range(2)]
    assert [sorted(squeeze(tmp_path / "2", settings, engine=engine)) for engine in shared] == [alone, alone]
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes() for name in alone)


def test_a_run_folder_takes_more_members_and_no_fewer(tmp_path: Path) -> None:
    before = {"squeeze": {"ratios": [0.2, 0.5], "member_epochs": [], "tune_epochs": 1}}
    folder = RunFolder(tmp_path / "run", Rules.of({"squeeze": PoolSettings}))
    folder.open(before)
    folder.open({"squeeze": before["squeeze"] | {"ratios": [0.2, 0.35, 0.5]}})
    for changed in ({"ratios": [0.2]}, {"ratios": [0.2, 0.4, 0.6]}, {"member_epochs": [1]}, {"tune_epochs": 2}):
        with pytest.raises(ArtifactError, match="other settings"):
            folder.open({"squeeze": before["squeeze"] | {"ratios": [0.2, 0.35, 0.5]} | changed})


def test_a_pass_that_was_stopped_goes_on_for_each_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings()
    squeeze(tmp_path, settings)
    monkeypatch.setattr(real_statistics, "BATCH", 5)
    monkeypatch.setattr(real_statistics, "CHECKPOINT_EVERY_S", 0.0)
    opened = {name: open_network(tmp_path / f"{name}.safetensors", TASK).whole for name in names()}
    shown = list[int]()
    add = Measuring.add

    def counted(self: Measuring, images: torch.Tensor, labels: torch.Tensor) -> None:
        shown.append(len(images))
        if len(shown) == stop_at:
            raise KeyboardInterrupt
        add(self, images, labels)

    monkeypatch.setattr(Measuring, "add", counted)

    def run(folder: Path, only: list[str]) -> dict[str, bytes]:
        shown.clear()
        models = {name: opened[name] for name in only}
        given = {"min_scale": 1.0, "seed": 0, "folder": folder, "engine": ENGINE, "events": Events(quiet=True)}
        measure(make_set(), models, 3, **given)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    stop_at = -1
    whole = run(tmp_path / "whole", names())
    assert len(shown) == 2 * 7
    stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", names()[:1])
    stop_at = -1
    assert run(tmp_path / "broken", names()) == whole
    assert len(shown) == 2 * 7 - 3, "the first network goes on after three batches, the second begins"


def test_a_member_opens_as_it_was_and_a_pool_answers_as_all_of_them(tmp_path: Path) -> None:
    settings = make_settings(more_models=["bnvit-d1-w8-p4"])
    squeeze(tmp_path, settings)
    opened, images = TrainedPool(tmp_path, TASK, settings, ENGINE), make_set().images(torch.arange(6))
    assert (opened.num_members, opened.num_in_memory) == (4, 4)
    each = [opened.member(k) for k in range(4)]
    assert all(layer.class_mean is None for member in each for layer in member.statistics)
    assert [len(batch_norms(member.model)) for member in each] == [1, 4, 1, 4]
    logits = torch.stack([member.model(images) for member in each])
    assert torch.allclose(opened.logits(images), logits.mean(0), atol=1e-6)
    assert torch.allclose(opened.only([0, -1]).logits(images), logits[[0, 3]].mean(0), atol=1e-6)
    assert torch.equal(opened.soft_labels(images), opened.logits(images).softmax(1))
    right = [read_note(path)["validation_accuracy"] for path in opened.paths]
    best = max(range(4), key=lambda k: (right[k], k))
    assert torch.equal(opened.only("strongest").logits(images), logits[best])
    assert torch.equal(opened.model(images), logits[best])
    assert opened.features(images).shape[0] == 6
    assert sorted(opened.save_to(tmp_path / "copy")) == sorted(path.name for path in (tmp_path / "copy").iterdir())
    with pytest.raises(ConfigError, match="no network 4"):
        opened.only([4])


def test_a_training_that_fails_leaves_the_members_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings()
    squeeze(tmp_path / "unbroken", settings)
    monkeypatch.setattr("attar.training.loop.CHECKPOINT_EVERY_S", 0.0)
    write = pool.Making.write

    def last_fails(self: pool.Making, name: str, *given: Any) -> None:
        if name == "member-00-epoch-0004.safetensors":
            raise DivergedError("stopped")
        write(self, name, *given)

    with monkeypatch.context() as patched:
        patched.setattr(pool.Making, "write", last_fails)
        with pytest.raises(DivergedError):
            squeeze(tmp_path / "broken", settings)
    assert (tmp_path / "broken" / "member-00-epoch-0002.safetensors").exists()
    (tmp_path / "broken" / "member-00-epoch-0002.safetensors").unlink()  # and now its training is past it
    squeeze(tmp_path / "broken", settings)
    for path in (tmp_path / "unbroken").iterdir():
        assert path.read_bytes() == (tmp_path / "broken" / path.name).read_bytes()


def test_missing_or_foreign_files_are_told(tmp_path: Path) -> None:
    settings = make_settings(num_members=1, epochs=1)
    squeeze(tmp_path, settings)
    (name,) = names(num_members=1, epochs=1)
    opened = TrainedPool(tmp_path, TASK, settings, ENGINE)
    whole, by_class = statistics_paths(tmp_path, name)
    model = opened.member(0).model
    by_class.unlink()
    assert read_statistics(tmp_path, name, model, ENGINE.device)
    with pytest.raises(ArtifactError, match="is missing"):
        opened.member(0, classes=True)
    write_tensors(whole, {"mean-00": torch.zeros(3), "var-00": torch.zeros(3)})
    with pytest.raises(ArtifactError, match="does not hold the statistics"):
        opened.member(0)
    with pytest.raises(ArtifactError, match=r"epoch-0002.* is missing"):
        TrainedPool(tmp_path, TASK, make_settings(epochs=2, member_epochs=[1, 2]), ENGINE)
