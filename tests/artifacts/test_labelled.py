from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attar.artifacts.checksums import write_sums
from attar.artifacts.distilled import load_distilled, write_distilled
from attar.artifacts.labelling import Labelling
from attar.artifacts.verify import verify
from attar.augment.views import Views, ViewSettings
from attar.errors import ArtifactError, AttarError
from attar.labels.plan import LabelPlan
from attar.labels.store import LabelStore
from attar.labels.writing import write_labels
from attar.methods.base import Distillate
from attar.runtime.checkpoint import write_tensors
from attar.runtime.seeding import generator
from attar.task import Normalization, Task


def views_of(task: Task, num_images: int) -> dict[str, Any]:
    """What views of these images are replayed by."""
    return Views(ViewSettings(), 3, num_images, task.shape).to_json()


@pytest.fixture
def folder(tmp_path: Path, task: Task, exact: Distillate, stored: Labelling) -> Path:
    write_distilled(tmp_path / "d", exact, task, labelling=stored)
    return tmp_path / "d"


@pytest.fixture
def online(tmp_path: Path, task: Task, exact: Distillate) -> Labelling:
    (tmp_path / "weights").write_bytes(b"weights of a teacher")
    (tmp_path / "config").write_bytes(b"its shape")
    teacher = {"1/config.json": tmp_path / "config", "0.bin": tmp_path / "weights"}
    return Labelling("online", views=views_of(task, len(exact.labels)), teacher=teacher)


def every_label(store: LabelStore) -> torch.Tensor:
    epochs = torch.arange(store.num_epochs).repeat_interleave(store.plan.num_images)
    return store.read(epochs, torch.arange(store.plan.num_images).repeat(store.num_epochs))


def test_stored_labels_come_along_unchanged_with_their_views(folder: Path, stored: Labelling) -> None:
    assert stored.folder is not None
    assert stored.plan is not None
    loaded = load_distilled(folder)
    assert loaded.label_kind == "epochs"
    assert loaded.label_store is not None
    assert torch.equal(every_label(loaded.label_store), every_label(LabelStore(stored.folder, stored.plan)))
    assert loaded.views == stored.views
    assert torch.equal(loaded.targets, loaded.labels)
    for shard in stored.plan.shards:
        assert (folder / shard.name).samefile(stored.folder / shard.name)  # linked, not copied
    assert verify(folder).ok


def test_attar_json_and_the_card_say_what_the_labels_are(folder: Path, stored: Labelling) -> None:
    store = load_distilled(folder).label_store
    assert store is not None
    assert stored.plan is not None
    said = json.loads((folder / "attar.json").read_text())
    assert said["labels"] == {
        "kind": "epochs",
        "stored": stored.plan.to_json(),
        "error": store.error.to_json(),
        "views": stored.views,
    }
    assert said["sizes"]["labels"] > store.size_bytes > stored.plan.total_bytes
    card = (folder / "README.md").read_text("utf-8")
    assert "5 augmented views of each image: 9 bytes per image and epoch (codec `q8`)" in card
    assert f"{store.error.kl_20:.2g} at 20" in card


def test_a_teacher_comes_along_and_counts(tmp_path: Path, task: Task, exact: Distillate, online: Labelling) -> None:
    loaded = write_distilled(tmp_path / "d", exact, task, labelling=online)
    assert loaded.label_kind == "online"
    assert loaded.label_store is None
    assert loaded.views == online.views
    assert [path.relative_to(loaded.path).as_posix() for path in loaded.teacher_files] == [
        "teacher/0.bin",
        "teacher/1/config.json",
    ]
    assert loaded.teacher_files[0].read_bytes() == b"weights of a teacher"
    assert loaded.sizes["teacher"] == 29
    assert "of teachers" in (tmp_path / "d/README.md").read_text("utf-8")
    assert verify(tmp_path / "d").ok


def test_files_are_copied_where_they_cannot_be_linked(
    tmp_path: Path, task: Task, exact: Distillate, online: Labelling, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("not on this file system")

    monkeypatch.setattr(os, "link", refuse)
    loaded = write_distilled(tmp_path / "d", exact, task, labelling=online)
    assert loaded.teacher_files[0].read_bytes() == b"weights of a teacher"
    assert not loaded.teacher_files[0].samefile(tmp_path / "weights")


def test_damage_is_told_by_the_name_of_the_file(folder: Path) -> None:
    file = folder / "labels-00001-of-00003.safetensors"
    good = file.read_bytes()
    file.unlink()  # the bytes are relabel's too
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"damaged: labels-00001-of-00003\.safetensors"):
        load_distilled(folder)
    assert verify(folder).problems == [f"{file.name} is damaged: its bytes are not those that SHA256SUMS lists"]


def edit(folder: Path, **changes: Any) -> None:
    values = json.loads((folder / "attar.json").read_text())
    values["labels"] |= changes
    (folder / "attar.json").write_text(json.dumps(values))
    write_sums(folder)


def plan_of(folder: Path, **changes: Any) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((folder / "attar.json").read_text())["labels"]["stored"]
    return plan | changes


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "codec": ({"codec": "q4"}, "of other labels"),
    "no codec": ({"codec": "zip"}, "unknown label codec 'zip'"),
    "fewer epochs": ({"num_epochs": 2}, "3 label shards that are not those of its own plan"),
    "more epochs": ({"num_epochs": 6}, "of other labels"),
    "images": ({"num_images": 8}, "another number of images"),
    "classes": ({"num_classes": 9}, "another number of images or classes"),
    "keep": ({"codec": "topk", "keep": 7}, "cannot keep 7 logits of 7"),
}


@pytest.mark.parametrize("case", LIES)
def test_a_lie_about_the_plan_is_found_though_the_sums_hold(folder: Path, case: str) -> None:
    changes, message = LIES[case]
    edit(folder, stored=plan_of(folder, **changes))
    problems = verify(folder).problems
    assert any(re.search(message, problem) for problem in problems), problems
    with pytest.raises(ArtifactError):
        load_distilled(folder)


def test_an_error_that_the_files_do_not_state_is_found(folder: Path) -> None:
    edit(folder, error={"max_abs": 0.0, "kl_1": 0.0, "kl_20": 0.0, "num": 35})
    assert verify(folder).problems == ["attar.json states another error of the labels than their files do"]


def set_labels(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda said: said["labels"]["views"].update(changes)


def made_with(**settings: Any) -> Callable[[dict[str, Any]], object]:
    return lambda said: said["settings"].update(settings)


DISAGREEMENTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "views of fewer images": (set_labels(num_images=6), "views are of 6 images, there are 7"),
    "views of tiles": (set_labels(tiles=2), "views are of images that hold 2 a side, these hold 1"),
    "views of another shape": (set_labels(shape=[3, 5, 6]), r"of the shape \[3, 5, 6\]"),
    "views of another algorithm": (set_labels(algorithm=2), "drawn by algorithm 2"),
    "views of no seed": (set_labels(seed="3"), "the seed of the views is '3'"),
    "a crop of nothing": (set_labels(settings={"min_scale": 0.0}), "settings of the views are none"),
    "other views than asked for": (made_with(relabel={"mix": "mixup"}), "mix = cutmix, settings say .* = mixup"),
    "another kind than asked for": (made_with(relabel={"labels": "online"}), "of the kind epochs, .* = online"),
    "more epochs than asked for": (
        made_with(relabel={"labels": "epochs"}, train={"epochs": 3}),
        "labels of 5 epochs are stored, settings say 3",
    ),
    "fewer epochs than asked for": (
        made_with(relabel={"labels": "epochs", "epochs": 8}, train={"epochs": 9}),
        "labels of 5 epochs are stored, settings say 8",
    ),
    "images of a class": (lambda said: said.update(ipc=2), "7 of 7 classes .* ipc = 2, the first is 'yes' with 1"),
    "error of fewer labels": (lambda said: said["labels"]["error"].update(num=7), "measured on 7 of them"),
    "error below zero": (lambda said: said["labels"]["error"].update(kl_1=-1.0), "greater than or equal to 0"),
}


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_parts_that_disagree_are_found_though_the_sums_hold(folder: Path, case: str) -> None:
    change, message = DISAGREEMENTS[case]
    said = json.loads((folder / "attar.json").read_text())
    said.setdefault("settings", {})
    change(said)
    (folder / "attar.json").write_text(json.dumps(said))
    write_sums(folder)
    problems = verify(folder).problems
    assert any(re.search(message, problem) for problem in problems), problems


def test_settings_that_agree_are_no_problem(folder: Path) -> None:
    said = json.loads((folder / "attar.json").read_text())
    said |= {"ipc": 1, "settings": {"relabel": {"labels": "epochs", "mix": "cutmix"}, "train": {"epochs": 5}}}
    (folder / "attar.json").write_text(json.dumps(said))
    write_sums(folder)
    assert verify(folder).problems == []


def test_stored_labels_that_are_no_numbers_are_found_though_the_sums_hold(
    tmp_path: Path, task: Task, exact: Distillate
) -> None:
    plan = LabelPlan("fp16", task.num_classes, len(exact.labels), 3, epochs_per_shard=2)
    shards = tmp_path / "shards"
    write_labels(shards, plan, lambda epoch: [(torch.arange(7), torch.randn(7, 7, generator=generator(epoch, "x")))])
    folder = tmp_path / "d"
    write_distilled(folder, exact, task, labelling=Labelling("epochs", plan, shards, views_of(task, 7)))
    assert verify(folder).ok
    last = folder / plan.shards[-1].name
    data = bytearray(last.read_bytes())
    last.unlink()
    data[-2:] = b"\xff\x7f"
    last.write_bytes(data)
    write_sums(folder)
    assert verify(folder).problems == [
        f"{last.name}: logits that are not finite or beyond 20000, the first of image 6 in stored epoch 2"
    ]


def test_a_teacher_that_fits_not_is_found_though_the_sums_hold(tmp_path: Path, task: Task, exact: Distillate) -> None:
    def problems(task_of: Task, weight: torch.Tensor) -> list[str]:
        path = tmp_path / "teacher.safetensors"
        write_tensors(path, {"fc.weight": weight}, {"model": "convnet", "task": task_of.to_json()})
        carried = Labelling("online", views=views_of(task, 7), teacher={path.name: path})
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(tmp_path / "d")
        write_distilled(tmp_path / "d", exact, task, labelling=carried)
        return verify(tmp_path / "d").problems

    assert problems(task, torch.zeros(7, 4)) == []
    assert problems(task, torch.full((7, 4), torch.nan)) == [
        "teacher/teacher.safetensors: fc.weight holds values that are not finite"
    ]
    assert problems(task, torch.zeros(8, 4)) == ["teacher/teacher.safetensors has no output of 7 classes"]
    assert problems(replace(task, class_names=tuple("abcdefg")), torch.zeros(7, 4)) == [
        "teacher/teacher.safetensors is of other classes"
    ]
    assert problems(replace(task, width_px=9), torch.zeros(7, 4)) == [
        "teacher/teacher.safetensors is of images of another shape"
    ]


@pytest.mark.parametrize("changes", [{"kind": "online"}, {"kind": "hard"}, {"views": None}, {"error": None}])
def test_a_kind_without_what_it_needs_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    edit(folder, **changes)
    with pytest.raises(ArtifactError, match="does not describe"):
        load_distilled(folder)


def test_names_outside_the_teachers_folder_are_refused(tmp_path: Path, task: Task, exact: Distillate) -> None:
    (tmp_path / "weights").touch()
    for name in ("../attar.json", "/etc/passwd", ".hidden", "a//b", "a/../../b"):
        with pytest.raises(ArtifactError, match="no name of a teacher's file"):
            Labelling("online", views={}, teacher={name: tmp_path / "weights"})
    good = Labelling("online", views={}, teacher={"a": tmp_path / "weights"})
    write_distilled(tmp_path / "d", exact, task, labelling=good)
    text = (tmp_path / "d/attar.json").read_text().replace("teacher/a", "teacher/../../weights")
    (tmp_path / "d/attar.json").write_text(text)
    write_sums(tmp_path / "d")
    with pytest.raises(ArtifactError, match=r"files\.teacher\.0"):
        load_distilled(tmp_path / "d")


def test_parts_that_do_not_go_together_are_refused(
    tmp_path: Path, task: Task, exact: Distillate, floats: Distillate, stored: Labelling
) -> None:
    plan = LabelPlan("q8", 7, 7, 5)
    with pytest.raises(ArtifactError, match="a plan and a folder"):
        Labelling("epochs", plan, views={})
    with pytest.raises(ArtifactError, match="views"):
        Labelling("hard", views={})
    with pytest.raises(ArtifactError, match="a teacher"):
        Labelling("online", views={})
    with pytest.raises(ArtifactError, match="soft labels of their own"):
        write_distilled(tmp_path / "d", floats, task, labelling=stored)
    with pytest.raises(ArtifactError, match="soft labels of their own"):
        write_distilled(tmp_path / "d", exact, task, labelling=Labelling("soft"))
    with pytest.raises(ArtifactError, match="another number of images"):
        write_distilled(tmp_path / "d", replace(floats, soft_labels=None), task, labelling=stored)
    assert not (tmp_path / "d").exists()


def test_missing_shards_are_told_before_anything_is_written(
    tmp_path: Path, task: Task, exact: Distillate, stored: Labelling
) -> None:
    assert stored.folder is not None
    (stored.folder / "labels-00002-of-00003.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"labels-00002-of-00003\.safetensors is missing"):
        write_distilled(tmp_path / "d", exact, task, labelling=stored)
    assert not (tmp_path / "d").exists()


def test_8_bit_images_stay_8_bit_and_agree_however_they_are_asked_for(folder: Path, exact: Distillate) -> None:
    loaded = load_distilled(folder)
    assert loaded.stored.dtype == torch.uint8
    picked = torch.tensor([4, 0, 4])
    assert torch.equal(loaded.images, exact.images)
    assert torch.equal(loaded.images_at(picked), exact.images[picked])
    assert torch.equal(loaded.training_set().images(picked), exact.images[picked])
    assert torch.equal(loaded.pixels(picked), loaded.stored[picked] / 255)
    assert torch.equal(torch.stack([image for image, _ in loaded.dataset()]), exact.images)  # ends at its length


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_random_damage_with_fresh_sums_is_told_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "labelled"
    if not folder.exists():
        _write_small(folder)
    copy = folder.with_name("labelled-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    name = data.draw(st.sampled_from(["attar.json", *(path.name for path in folder.glob("labels-*"))]))
    content = bytearray((copy / name).read_bytes())
    changes = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(changes, min_size=1, max_size=4)):
        content[place] = value
    (copy / name).write_bytes(content)
    write_sums(copy)
    report = verify(copy)
    try:
        store = load_distilled(copy).label_store
        assert store is None or every_label(store).isfinite().all()
    except AttarError:
        assert not report.ok


def _write_small(folder: Path) -> None:
    task = Task(("a", "b", "c"), 1, 2, 2, Normalization((0.5,), (0.5,)))
    plan = LabelPlan("pca", 3, 3, 4, keep=1, epochs_per_shard=2)
    logits = torch.randn(4, 3, 3, generator=generator(0, "small"))
    shards = folder.with_name("labelled-shards")
    write_labels(shards, plan, lambda epoch: [(torch.arange(3), logits[epoch])])
    distillate = Distillate(torch.zeros(3, 1, 2, 2), torch.arange(3))
    write_distilled(folder, distillate, task, labelling=Labelling("epochs", plan, shards, views_of(task, 3)))
