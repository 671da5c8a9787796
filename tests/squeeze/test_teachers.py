"""Teachers: trained or taken from elsewhere, stored, opened again, asked for labels."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attar.config import build as build_sections
from attar.data.loading import MemorySplit, RealSet
from attar.errors import ArtifactError, ConfigError, DataError, DivergedError
from attar.models import factory
from attar.models.norms import batch_norms
from attar.runtime.checkpoint import read_tensors, write_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.runtime.processes import Processes
from attar.squeeze import teachers
from attar.squeeze.teacher_files import TrainedTeacher, teacher_paths
from attar.squeeze.teachers import TeacherSettings, make_teacher
from attar.task import Normalization, Task

ENGINE = Engine("cpu")
NET = "convnet-d1-w4-batch"
NORM = Normalization((0.5,), (0.25,))
NUM_CLASSES = 4


def make_task(channels: int = 1, norm: Normalization = NORM, names: str = "abcd") -> Task:
    return Task(tuple(names), channels, 8, 8, norm)


def make_pixels(num: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grey images whose class is the quarter that is bright."""
    labels = torch.arange(num) % NUM_CLASSES
    pixels = torch.randint(0, 60, (num, 1, 8, 8), generator=torch.Generator().manual_seed(seed))
    for i, label in enumerate(labels.tolist()):
        y, x = 4 * (label // 2), 4 * (label % 2)
        pixels[i, :, y : y + 4, x : x + 4] += 180
    return pixels.to(torch.uint8), labels


def make_set(num: int = 64, seed: int = 0, norm: Normalization = NORM) -> RealSet:
    return RealSet(MemorySplit(*make_pixels(num, seed)), norm)


def make_settings(**changes: Any) -> TeacherSettings:
    return TeacherSettings(
        **{"model": NET, "epochs": 4, "batch_size": 16, "augment": "none", "learning_rate": 0.05} | changes
    )


def squeeze(folder: Path, settings: TeacherSettings, task: Task | None = None, **changes: Any) -> list[str]:
    task = task or make_task()
    given: dict[str, Any] = {"seed": 3, "engine": ENGINE, "events": Events(quiet=True)} | changes
    validation = given.pop("validation", make_set(80, 1, task.normalization))
    data = make_set(norm=task.normalization)
    return make_teacher(data, validation, task, settings, folder=folder, **given)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher that knows its classes."""
    folder = tmp_path_factory.mktemp("good")
    squeeze(folder, make_settings(epochs=10))
    return folder


def test_a_teacher_is_stored_with_what_it_was_made_for(good: Path) -> None:
    state, note = read_tensors(good / "teacher.safetensors")
    assert note["model"] == NET
    assert note["weights"] is None
    assert note["validation_accuracy"] > 95
    assert Task.from_json(note["task"]) == make_task()
    assert "features.1.running_var" in state
    assert sorted(path.name for path in good.iterdir()) == ["teacher.safetensors"]


def test_an_opened_teacher_is_frozen_and_in_evaluation_mode(good: Path) -> None:
    teacher = TrainedTeacher(good, make_task(), ENGINE)
    assert teacher.model is teacher.models[0]
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    images = make_set().images(torch.arange(8)).requires_grad_()
    assert teacher.features(images).shape == (8, 64)
    assert torch.equal(teacher.soft_labels(images), teacher.logits(images).softmax(1))
    assert not teacher.logits(images).requires_grad
    teacher.model(images).sum().backward()
    assert images.grad is not None


def test_several_networks_give_the_mean_of_their_logits(tmp_path: Path) -> None:
    names = squeeze(tmp_path, make_settings(epochs=1, more_models=(NET, "bnvit-d1-w8-p4")))
    assert names == ["teacher.safetensors", "teacher-01.safetensors", "teacher-02.safetensors"]
    teacher, images = TrainedTeacher(tmp_path, make_task(), ENGINE), make_set().images(torch.arange(6))
    assert [len(batch_norms(model)) for model in teacher.models] == [1, 1, 4]
    each = torch.stack([model(images) for model in teacher.models])
    assert not torch.equal(each[0], each[1])  # alike, but from another start
    assert torch.allclose(teacher.logits(images), each.mean(0), atol=1e-6)
    copied = TrainedTeacher(
        [tmp_path / "copy" / name for name in teacher.save_to(tmp_path / "copy")], make_task(), ENGINE
    )
    assert torch.equal(copied.logits(images), teacher.logits(images))
    assert teacher_paths(tmp_path / "copy") == copied.paths


def test_what_is_finished_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(epochs=1, more_models=(NET,))
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    squeeze(unbroken, settings)
    fit, trained = teachers.fit, list[str]()

    def second_fails(*given: Any, **named: Any) -> Any:
        trained.append(named["item"].name)
        if len(trained) == 2:
            raise DivergedError("stopped")
        return fit(*given, **named)

    monkeypatch.setattr(teachers, "fit", second_fails)
    with pytest.raises(DivergedError):
        squeeze(broken, settings)
    squeeze(broken, settings)
    squeeze(broken, settings)
    assert trained == ["teacher", "teacher-01", "teacher-01"]
    for name in ("teacher.safetensors", "teacher-01.safetensors"):
        assert (broken / name).read_bytes() == (unbroken / name).read_bytes()


def test_two_processes_share_the_networks_and_make_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "barrier", lambda *_: None)
    settings, names = make_settings(epochs=1, more_models=(NET, NET)), list[str]()
    for rank in (1, 0):
        names = squeeze(tmp_path / "two", settings, engine=Engine("cpu", processes=Processes(rank, 2)))
        assert len(list((tmp_path / "two").iterdir())) == (1 if rank else 3)
    assert squeeze(tmp_path / "one", settings) == names
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_without_validation_images_no_accuracy_is_claimed(tmp_path: Path) -> None:
    nothing = RealSet(MemorySplit(torch.zeros(0, 1, 8, 8, dtype=torch.uint8), torch.zeros(0)), NORM)
    squeeze(tmp_path, make_settings(epochs=1), validation=nothing)
    assert read_tensors(tmp_path / "teacher.safetensors")[1]["validation_accuracy"] is None


def test_a_network_that_cannot_take_the_images_fails_before_any_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="halves a 8x8 px image away"):
        squeeze(tmp_path, make_settings(more_models=("convnet-d5-w4",)))
    assert not list(tmp_path.iterdir())


def test_an_own_checkpoint_is_taken_as_it_is(good: Path, tmp_path: Path) -> None:
    state, note = read_tensors(good / "teacher.safetensors")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "mine.pth")
    squeeze(tmp_path / "run", make_settings(weights=str(tmp_path / "mine.pth")))
    taken, known = read_tensors(tmp_path / "run" / "teacher.safetensors")
    assert all(torch.equal(taken[key], value) for key, value in state.items())
    told = known.pop("normalization")
    assert known == note | {"weights": "checkpoint"}
    assert (told["name"], told["by"], told["mean"]) == ("source", "statistics", list(NORM.mean))
    assert told["fits"]["source"] < told["fits"]["unit"]
    assert str(tmp_path).encode() not in (tmp_path / "run" / "teacher.safetensors").read_bytes()


@pytest.mark.parametrize("say", [True, False])
def test_weights_trained_under_another_normalisation_give_the_same_answers(
    good: Path, tmp_path: Path, say: bool
) -> None:
    state, _ = read_tensors(good / "teacher.safetensors")
    ours = make_task(norm=Normalization((0.2,), (0.5,)))
    stated: dict[str, Any] = {"weights_mean": NORM.mean, "weights_std": NORM.std} if say else {}
    if say:
        path = tmp_path / "mine.pt"
        torch.save(state, path)
    else:
        path = good / "teacher.safetensors"  # which tells its normalisation itself
    squeeze(tmp_path / "run", make_settings(weights=str(path), **stated), ours)
    note = read_tensors(tmp_path / "run" / "teacher.safetensors")[1]
    assert note["renormalization"] == {"mean": [0.5], "std": [0.25]}
    pixels, _ = make_pixels(8, 5)
    expected = TrainedTeacher(good, make_task(), ENGINE).logits(NORM.normalize(pixels))
    found = TrainedTeacher(tmp_path / "run", ours, ENGINE).logits(ours.normalization.normalize(pixels))
    assert torch.allclose(found, expected, atol=1e-4)


def test_released_weights_make_a_teacher_on_grey_images_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights

    colours = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    thousand = Task(tuple(map(str, range(1000))), 3, 8, 8, colours)
    network = factory.build("resnet18", thousand, seed=1)
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: network.state_dict())
    task = Task(("tench", "parachute", "church", "gas pump"), 1, 8, 8, NORM)
    squeeze(tmp_path, make_settings(model="resnet18", weights="released"), task)
    teacher, (pixels, _) = TrainedTeacher(tmp_path, task, ENGINE), make_pixels(5, 2)
    expected = network.eval()(colours.normalize(pixels.expand(-1, 3, -1, -1)))[:, [0, 701, 497, 571]]
    assert torch.allclose(teacher.logits(NORM.normalize(pixels)), expected, atol=1e-4)
    assert len(batch_norms(teacher.model)) == 20


@pytest.mark.parametrize("order", [[1, 2, 3, 0], [0, 2, 1, 3]])
def test_classes_in_another_order_are_told(good: Path, tmp_path: Path, order: list[int]) -> None:
    state, _ = read_tensors(good / "teacher.safetensors")
    for key in ("classifier.weight", "classifier.bias"):
        state[key] = state[key][order]
    torch.save(state, tmp_path / "mine.pt")
    first = next(i for i, j in enumerate(order) if i != j)
    with pytest.raises(DataError, match=rf"images of class {first} \('{'abcd'[first]}'\) are given to class") as caught:
        squeeze(tmp_path / "run", make_settings(weights=str(tmp_path / "mine.pt")))
    assert f"to class {order.index(first)}" in caught.value.found
    assert not (tmp_path / "run" / "teacher.safetensors").exists()


def test_a_weak_teacher_is_said_to_be_weak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(factory.build(NET, make_task(), seed=9).state_dict(), tmp_path / "mine.pt")
    events = Events(tmp_path / "events.jsonl", quiet=False)
    squeeze(tmp_path / "run", make_settings(weights=str(tmp_path / "mine.pt")), events=events)
    said = " ".join(capsys.readouterr().err.split())
    assert f"warning: {NET} gets" in said
    assert "the weights' images are taken to be normalised by" in said
    (event,) = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "teacher"]
    assert event["item"] == "teacher"
    assert event["validation_accuracy"] < 62.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"more_models": ["resnet18-smal"]}, "unknown model 'resnet18-smal'"),
        ({"weights": "released", "weights_mean": [0.5]}, "go together"),
        ({"weights": "released", "weights_mean": [0.5], "weights_std": [0.5, 0.5]}, "go together"),
        ({"weights": "released", "weights_mean": [0.5], "weights_std": [0.0]}, "weights_std must be above 0"),
        ({"weights_mean": [0.5], "weights_std": [0.5]}, "without `weights`"),
    ],
)
def test_settings_that_cannot_be_are_told(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_sections({"squeeze": TeacherSettings}, {"squeeze": changes})


def test_a_file_that_is_no_teacher_of_this_source_is_refused(good: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="class 0 is"):
        TrainedTeacher(good, make_task(names="bacd"), ENGINE)
    with pytest.raises(ArtifactError, match=r"teacher.safetensors is missing"):
        TrainedTeacher(tmp_path, make_task(), ENGINE)
    state, note = read_tensors(good / "teacher.safetensors")
    write_tensors(tmp_path / "teacher.safetensors", state)
    with pytest.raises(ArtifactError, match="says nothing of its task"):
        TrainedTeacher(tmp_path, make_task(), ENGINE)
    write_tensors(tmp_path / "teacher.safetensors", state, note | {"model": "convnet-d1-w8-batch"})
    with pytest.raises(ArtifactError, match="is not the state of convnet-d1-w8-batch"):
        TrainedTeacher(tmp_path, make_task(), ENGINE)
