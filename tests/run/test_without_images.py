"""Runs from class names and a teacher that others trained: no real image until the result is judged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import attar
from attar.data.sources import of_classes
from attar.errors import AttarError, ConfigError, DataError
from attar.models.checkpoints import read_state
from attar.runtime.checkpoint import read_note, read_tensors
from attar.runtime.engine import Engine
from attar.squeeze.teacher_files import OTHER_CLASSES, TrainedTeacher, open_network
from attar.task import Task

TOY = {"recover.iterations": 4, "recover.num_snapshots": 2, "train.epochs": 2, "evaluate.full_epochs": 1}
MODEL = "convnet-d2-w8-batch"


@pytest.fixture(scope="module")
def real() -> attar.Source:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(20)
    images = 0.5 * torch.rand(3, 3, 8, 8, generator=rng)[labels] + 0.5 * torch.rand(60, 3, 8, 8, generator=rng)
    return attar.open((images, labels), class_names=["pike", "newt", "crow"])


@pytest.fixture(scope="module")
def teacher(real: attar.Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    settings = {"squeeze.epochs": 1, "squeeze.warmup_epochs": 0}
    attar.distill(real, "sre2l", 1, recipe="none", model=MODEL, out=out, until="squeeze", settings=settings)
    return out / "squeeze" / "teacher.safetensors"


def distill(teacher: Path | None, out: Path, method: str = "sre2l", classes: str = "pike,newt,crow", **more):
    settings = {**TOY, **more.pop("settings", {})}
    given = {"recipe": "none", "resolution": 8, "model": MODEL, **more}
    return attar.distill(f"classes:{classes}", method, 2, weights=teacher, out=out, settings=settings, **given)


@pytest.fixture(scope="module")
def made(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> attar.Distillation:
    return distill(teacher, tmp_path_factory.mktemp("made"))


def test_a_teacher_and_names_are_enough(made: attar.Distillation) -> None:
    tiny = made.load()
    assert tiny.images.shape == (6, 3, 8, 8)
    assert tiny.task.class_names == ("pike", "newt", "crow")
    assert tiny.label_kind == "epochs"
    assert not made.records
    assert made.report is None
    assert not (made.path / "real.safetensors").exists()
    assert tiny.info["command"].startswith("attar distill classes:pike,newt,crow --method sre2l --ipc 2")


def test_the_same_again_and_resuming_do_nothing_anew(made: attar.Distillation, teacher: Path) -> None:
    before = (made.path / "recover" / "manifest.json").stat().st_mtime_ns
    assert distill(teacher, made.path).distilled == made.distilled
    assert attar.resume(made.path).distilled == made.distilled
    assert (made.path / "recover" / "manifest.json").stat().st_mtime_ns == before


def test_real_images_judge_it_in_its_own_folder(made: attar.Distillation, real: attar.Source) -> None:
    training = {"train.epochs": 2, "evaluate.full_epochs": 1}
    found = attar.evaluate(made.distilled, real, seeds=1, settings=training)
    assert {record.subject for record in found.records} == {
        *("distilled", "distilled, hard labels", "random", "random, hard labels", "full")
    }
    assert found.report == made.path / "report.html"


def test_a_source_with_more_classes_in_another_order_judges_it(
    teacher: Path, real: attar.Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = distill(teacher, tmp_path / "run", classes="crow,pike")
    training = {"train.epochs": 2, "evaluate.full_epochs": 1}
    found = attar.evaluate(run.distilled, real, seeds=1, baselines=["random"], settings=training, quiet=False)
    assert "judges by its images of 2 of 3 classes" in " ".join("".join(capsys.readouterr()).split())
    assert {record.num_images for record in found.records} == {4}
    assert {record.num_judges for record in found.records} == {int((real.test.labels != 1).sum())}


def test_the_images_of_some_classes_are_numbered_as_these_are(real: attar.Source) -> None:
    some = of_classes(real, ["crow", "pike"])
    assert some.task.class_names == ("crow", "pike")
    for part, whole in ((some.train, real.train), (some.validation, real.validation), (some.test, real.test)):
        kept = (whole.labels != 1).nonzero().squeeze(1)
        assert len(part) == len(kept) > 0
        assert torch.equal(part.labels, (whole.labels[kept] == 0).long())
        assert torch.equal(part.pixels(torch.arange(len(part))), whole.pixels(kept))
    assert some.num_test == len(some.test)
    assert some.fingerprint != of_classes(real, ["pike", "crow"]).fingerprint != real.fingerprint
    assert some.content("test") != real.content("test")


@pytest.mark.parametrize("names", [["pike", "newt", "crow"], ["pike", "eel"], ["pike", "pike"]])
def test_a_source_without_these_classes_stays_as_it_is(real: attar.Source, names: list[str]) -> None:
    assert of_classes(real, names) is real


def test_some_of_the_teachers_classes_take_their_rows(teacher: Path, tmp_path: Path) -> None:
    run = distill(teacher, tmp_path, classes="crow,pike", until="squeeze")
    ours, _ = read_state(run.path / "squeeze" / "teacher.safetensors")
    theirs, _ = read_state(teacher)
    (last,) = [name for name, value in theirs.items() if value.ndim == 2]
    assert torch.equal(ours[last], theirs[last][[2, 0]])


@pytest.mark.parametrize(
    ("method", "more", "says"),
    [
        ("sre2l", {"weights": None}, "squeeze trains convnet-d2-w8-batch on real images"),
        ("sre2l", {"settings": {"squeeze.more_models": [MODEL]}}, "squeeze trains convnet-d2-w8-batch"),
        ("sre2l", {"settings": {"method.start": "real"}}, "method.start=noise"),
        ("rded", {"settings": {"recover.iterations": 0}}, "rded needs some"),
        ("sre2l", {"until": "evaluate"}, "attar evaluate RUN --source"),
        ("sre2l", {"classes": "pike,eel"}, "no class of theirs is called 'eel'"),
        ("sre2l", {"classes": "crow,newt,eel"}, "'crow', which is class 2 of the weights, and no .* called 'eel'"),
    ],
)
def test_what_needs_real_images_says_so_at_once(
    teacher: Path, tmp_path: Path, method: str, more: dict, says: str
) -> None:
    given = {"teacher": teacher, **more}
    if "weights" in given:
        given["teacher"] = given.pop("weights")
    with pytest.raises(AttarError, match=says):
        distill(given.pop("teacher"), tmp_path / "run", method, **given)
    assert not (tmp_path / "run" / "recover").exists()


def test_nothing_else_takes_class_names_for_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no images"):
        attar.train("classes:a,b", "convnet-d2-w8", resolution=8, out=tmp_path)
    with pytest.raises(DataError, match="has no images"):
        attar.open("classes:a,b", resolution=8)


def test_weights_that_say_nothing_of_their_normalisation_ask_for_it(teacher: Path, tmp_path: Path) -> None:
    state, _ = read_state(teacher)
    save_file(state, tmp_path / "plain.safetensors")
    with pytest.raises(ConfigError, match="weights_normalization=imagenet"):
        distill(tmp_path / "plain.safetensors", tmp_path / "run", until="squeeze")
    stated = {"squeeze.weights_normalization": "half"}
    run = distill(tmp_path / "plain.safetensors", tmp_path / "other", until="squeeze", settings=stated)
    assert (run.path / "squeeze" / "teacher.safetensors").is_file()


def test_a_plan_ends_where_the_run_does(teacher: Path) -> None:
    plan = attar.plan(
        "classes:pike,newt,crow", "sre2l", 2, recipe="none", model=MODEL, weights=teacher, resolution=8, settings=TOY
    )
    assert {estimate.part for estimate in plan.estimates} == {"start", "squeeze", "recover", "relabel"}


def test_what_a_network_knows_besides_the_names_is_kept(teacher: Path, tmp_path: Path) -> None:
    """Two of three classes are named, in another order: the third is told behind them, or left out."""
    first, second = (
        distill(teacher, tmp_path / rivals, classes="newt,pike", settings={"method.rivals": rivals}, until="recover")
        for rivals in ("named", "known")
    )
    ours, theirs = (
        Task.from_json(read_note(path)["task"]) for path in (first.path / "squeeze" / "teacher.safetensors", teacher)
    )
    opened, whole = TrainedTeacher(first.path / "squeeze", ours, Engine("cpu")), open_network(teacher, theirs).whole
    pixels = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images, known = ours.normalization.normalize(pixels), whole(theirs.normalization.normalize(pixels))
    torch.testing.assert_close(opened.all_classes()(images), known[:, [1, 0, 2]])
    torch.testing.assert_close(opened.model(images), known[:, [1, 0]])
    a, b = (read_tensors(run.path / "recover" / "synthetic-00000.safetensors")[0] for run in (first, second))
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_what_it_knows_besides_is_made_again_where_the_file_is_gone(teacher: Path, tmp_path: Path) -> None:
    """Without it, images would be told from the named classes only, and nobody would know."""
    asked = {"classes": "newt,pike", "settings": {"method.rivals": "known"}}
    run = distill(teacher, tmp_path / "run", until="squeeze", **asked)
    others = run.path / "squeeze" / OTHER_CLASSES
    before = others.read_bytes()
    others.unlink()
    distill(teacher, run.path, until="recover", **asked)
    assert others.read_bytes() == before


def test_a_network_that_knows_no_more_than_the_names_is_taken_as_it_is(made: attar.Distillation) -> None:
    assert not (made.path / "squeeze" / OTHER_CLASSES).exists()
    opened = TrainedTeacher(made.path / "squeeze", made.load().task, Engine("cpu"))
    assert opened.all_classes() is opened.model
