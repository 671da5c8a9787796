from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from attar.artifacts import arrays, card, parquet
from attar.artifacts.description import read_description
from attar.artifacts.distilled import load_distilled, write_distilled
from attar.errors import ArtifactError, AttarError, DivergedError, ResourceError
from attar.methods.base import Distillate
from attar.task import Normalization, Task

LOAD_WITHOUT_ATTAR = """
import json, sys
from datasets import load_dataset
rows = load_dataset(sys.argv[1], split="train")
print(json.dumps({
    "names": rows.features["label"].names,
    "labels": rows["label"][:],
    "ids": rows["image_id"][:],
    "modes": sorted({image.mode for image in rows["image"]}),
    "corner": [image.getpixel((0, 0)) for image in rows["image"]],
    "attar": "attar" in sys.modules,
}))
"""


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_float_images_labels_and_rate_come_back_as_they_were(tmp_path: Path, task: Task, floats: Distillate) -> None:
    write_distilled(tmp_path / "d", floats, task)
    loaded = load_distilled(tmp_path / "d")
    assert torch.equal(loaded.images, floats.images)
    assert torch.equal(loaded.labels, floats.labels)
    assert loaded.learning_rate == floats.learning_rate
    assert loaded.task == task
    assert loaded.soft_labels is not None
    assert floats.soft_labels is not None
    assert torch.equal(loaded.soft_labels, floats.soft_labels.half().float())
    assert torch.equal(loaded.pixels(), task.normalization.pixels(floats.images))
    assert not loaded.exact_8bit


statistics = st.tuples(st.floats(0, 1, width=32), st.floats(1e-3, 1))


@settings(max_examples=15, deadline=None)
@given(st.lists(statistics, min_size=3, max_size=3), st.integers(0, 2**32))
def test_real_pixels_come_back_bit_identical(
    tmp_path_factory: pytest.TempPathFactory, scale: list[tuple[float, float]], seed: int
) -> None:
    means, stds = zip(*scale, strict=True)
    task = Task(("a", "b"), 3, 4, 4, Normalization(means, stds))
    pixels = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, 3, 4, 4), np.uint8))
    images = task.normalization.normalize(pixels)
    folder = tmp_path_factory.mktemp("exact") / "d"
    loaded = write_distilled(folder, Distillate(images, torch.tensor([0, 1]), exact_8bit=True), task)
    assert torch.equal(loaded.images, images)
    assert loaded.task == task
    assert loaded.exact_8bit
    assert not list(folder.glob("*.safetensors"))


def test_grey_images_come_back(tmp_path: Path) -> None:
    task = Task(("a",), 1, 2, 3, Normalization((0.5,), (0.25,)))
    images = task.normalization.normalize(torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3))
    assert torch.equal(
        write_distilled(tmp_path / "d", Distillate(images, torch.tensor([0]), exact_8bit=True), task).images, images
    )


def test_the_same_run_gives_the_same_bytes(
    tmp_path: Path, task: Task, floats: Distillate, provenance: dict[str, Any]
) -> None:
    write_distilled(tmp_path / "one", floats, task, provenance)
    write_distilled(tmp_path / "two" / "deep", floats, task, provenance)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two" / "deep")


def test_many_shards_hold_what_one_does(
    tmp_path: Path, task: Task, floats: Distillate, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = write_distilled(tmp_path / "one", floats, task)
    monkeypatch.setattr(parquet, "SHARD_BYTES", 500)
    monkeypatch.setattr(arrays, "SHARD_BYTES", 1000)
    many = write_distilled(tmp_path / "many", floats, task)
    assert len(list((tmp_path / "many/data").iterdir())) > 2
    assert len(list((tmp_path / "many").glob("pixels-*"))) > 2
    assert torch.equal(one.images, many.images)
    assert torch.equal(one.labels, many.labels)
    assert torch.equal(one.targets, many.targets)


@pytest.mark.slow
def test_it_opens_with_datasets_and_without_attar(
    tmp_path: Path, task: Task, floats: Distillate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "SHARD_BYTES", 500)
    written = write_distilled(tmp_path / "d", floats, task)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_ATTAR, str(tmp_path / "d")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = json.loads(done.stdout)
    corner = (written.pixels().clamp(0, 1) * 255).round()[:, :, 0, 0].int().tolist()
    assert seen == {
        "names": list(task.class_names),
        "labels": floats.labels.tolist(),
        "ids": list(range(len(floats.labels))),
        "modes": ["RGB"],
        "corner": corner,
        "attar": False,
    }


def test_attar_json_says_how_it_was_made(
    tmp_path: Path, task: Task, exact: Distillate, provenance: dict[str, Any]
) -> None:
    info = write_distilled(tmp_path / "d", exact, task, {**provenance, "anything": [1]}).info
    assert info == json.loads((tmp_path / "d/attar.json").read_text())
    assert {name: info[name] for name in provenance} == provenance
    assert info["anything"] == [1]
    assert Task.from_json(info["task"]) == task


def test_provenance_cannot_rewrite_the_facts(tmp_path: Path, task: Task, exact: Distillate) -> None:
    assert write_distilled(tmp_path / "d", exact, task, {"num_images": 99}).info["num_images"] == len(exact.labels)


def test_sizes_count_what_training_needs(tmp_path: Path, task: Task, floats: Distillate, exact: Distillate) -> None:
    sizes = write_distilled(tmp_path / "floats", floats, task).sizes
    assert sizes["images"] == (tmp_path / "floats/pixels-00000.safetensors").stat().st_size
    assert sizes["labels"] > (tmp_path / "floats/labels-00000.safetensors").stat().st_size
    eight = write_distilled(tmp_path / "exact", exact, task).sizes
    pngs = sum(
        len(parquet.encode_png(p)) for p in task.normalization.pixels(exact.images).mul(255).round().byte().numpy()
    )
    assert pngs <= eight["images"] < pngs + 200
    for found in (sizes, eight):
        assert found["total"] == found["images"] + found["labels"] + found["teacher"]


def test_loader_gives_all_images_in_an_order_of_the_seed(tmp_path: Path, task: Task, floats: Distillate) -> None:
    distilled = write_distilled(tmp_path / "d", floats, task)
    first, again = distilled.loader(batch_size=4, seed=3), distilled.loader(batch_size=4, seed=3)
    epochs = [torch.cat([images for images, _ in loader]) for loader in (first, first, again)]
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0].flatten(1).sum(1).sort().values, epochs[1].flatten(1).sum(1).sort().values)
    images, targets = next(iter(distilled.loader(batch_size=len(distilled), shuffle=False)))
    assert torch.equal(images, distilled.images)
    assert torch.equal(targets, distilled.targets)


def test_dataset_and_training_set_give_the_targets(
    tmp_path: Path, task: Task, floats: Distillate, exact: Distillate
) -> None:
    for name, distillate in {"soft": floats, "hard": exact}.items():
        distilled = write_distilled(tmp_path / name, distillate, task)
        expected = distilled.labels if distilled.soft_labels is None else distilled.soft_labels
        image, target = distilled.dataset()[1]
        assert torch.equal(image, distilled.images[1])
        assert torch.equal(target, expected[1])
        picked = torch.tensor([2, 0])
        assert torch.equal(distilled.training_set().images(picked), distilled.images[picked])
        assert torch.equal(distilled.training_set().targets(picked), expected[picked])


def test_a_run_folder_opens_as_the_dataset_in_it(tmp_path: Path, task: Task, exact: Distillate) -> None:
    write_distilled(tmp_path / "run/distilled", exact, task)
    assert load_distilled(tmp_path / "run").path == tmp_path / "run/distilled"


def test_what_is_no_distilled_dataset_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, message in {"none": "no folder", "file": "not a folder", "empty": "not a distilled dataset"}.items():
        with pytest.raises(ArtifactError, match=message):
            load_distilled(tmp_path / name)


def test_damage_is_told_by_the_name_of_the_file(tmp_path: Path, task: Task, floats: Distillate) -> None:
    write_distilled(tmp_path / "d", floats, task)
    for name in ("data/train-00000-of-00001.parquet", "pixels-00000.safetensors", "labels-00000.safetensors"):
        file = tmp_path / "d" / name
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=f"damaged: {name}"):
            load_distilled(tmp_path / "d")
        file.unlink()
        with pytest.raises(ArtifactError, match=f"{name} is missing"):
            load_distilled(tmp_path / "d")
        file.write_bytes(good)
    load_distilled(tmp_path / "d")


def test_a_newer_format_asks_for_a_newer_attar(tmp_path: Path, task: Task, exact: Distillate) -> None:
    write_distilled(tmp_path / "d", exact, task)
    file = tmp_path / "d/attar.json"
    file.write_text(file.read_text().replace('"format_version": 2', '"format_version": 6'))
    with pytest.raises(ArtifactError, match="newer attar"):
        load_distilled(tmp_path / "d")


BROKEN: dict[str, tuple[type[AttarError], str, dict[str, Any]]] = {
    "shape": (ArtifactError, "images", {"images": torch.zeros(7, 3, 5, 6)}),
    "dtype": (ArtifactError, "float64", {"images": torch.zeros(7, 3, 6, 5, dtype=torch.float64)}),
    "empty": (ArtifactError, "at least one", {"images": torch.zeros(0, 3, 6, 5), "labels": torch.zeros(0).long()}),
    "label": (ArtifactError, r"outside 0\.\.6", {"labels": torch.arange(1, 8)}),
    "nan": (DivergedError, "not finite", {"images": torch.full((7, 3, 6, 5), torch.nan)}),
    "huge": (DivergedError, "outside", {"images": torch.full((7, 3, 6, 5), 1e5)}),
    "not pixels": (ArtifactError, "levels away", {"images": torch.full((7, 3, 6, 5), 0.001), "exact_8bit": True}),
    "soft shape": (ArtifactError, "soft labels", {"soft_labels": torch.ones(7, 6) / 6}),
    "soft sum": (ArtifactError, "sum to 1.99", {"soft_labels": torch.full((7, 7), 2 / 7)}),
    "soft nan": (ArtifactError, "not finite", {"soft_labels": torch.full((7, 7), torch.nan)}),
    "soft negative": (ArtifactError, "negative", {"soft_labels": torch.eye(7) * 2 - torch.eye(7).roll(1, 0)}),
    "rate": (ArtifactError, "learning_rate", {"learning_rate": -1.0}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_nothing_broken_is_written(tmp_path: Path, task: Task, exact: Distillate, case: str) -> None:
    kind, message, changes = BROKEN[case]
    with pytest.raises(kind, match=message):
        write_distilled(tmp_path / "d", dataclasses.replace(exact, **{"exact_8bit": False, **changes}), task)
    assert not list(tmp_path.iterdir())


def test_classes_of_one_name_are_refused(tmp_path: Path, task: Task, exact: Distillate) -> None:
    twins = dataclasses.replace(task, class_names=("same",) * 7)
    with pytest.raises(ArtifactError, match="differ from each other"):
        write_distilled(tmp_path / "d", exact, twins)


def test_a_dataset_is_replaced_whole(tmp_path: Path, task: Task, floats: Distillate, exact: Distillate) -> None:
    write_distilled(tmp_path / "d", floats, task)
    write_distilled(tmp_path / "d", exact, task)
    assert not list((tmp_path / "d").glob("*.safetensors"))
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, task: Task, floats: Distillate, exact: Distillate, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_distilled(tmp_path / "d", floats, task)
    before = bytes_of(tmp_path)

    def fail(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(card, "render", fail)
    with pytest.raises(KeyboardInterrupt):
        write_distilled(tmp_path / "d", exact, task)
    assert bytes_of(tmp_path) == before


def test_a_half_made_folder_of_a_killed_process_is_cleared(tmp_path: Path, task: Task, exact: Distillate) -> None:
    write_distilled(tmp_path / "d", exact, task)
    (tmp_path / "d").rename(tmp_path / ".d.old.tmp")  # killed between the two renames
    (tmp_path / ".d.new.tmp").mkdir()
    (tmp_path / ".d.new.tmp/part").touch()
    write_distilled(tmp_path / "d", exact, task)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_folder_of_other_files_is_refused_and_kept(tmp_path: Path, task: Task, exact: Distillate) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ResourceError, match="not empty"):
        write_distilled(tmp_path, exact, task)
    with pytest.raises(ResourceError, match="is a file"):
        write_distilled(tmp_path / "thesis.tex", exact, task)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_images_that_hold_others_say_so_and_are_given_one_by_one(tmp_path: Path, task: Task) -> None:
    labels = torch.arange(task.num_classes)
    images = torch.randn(len(labels), *task.shape)
    plain = write_distilled(tmp_path / "plain", Distillate(images, labels), task)
    made = write_distilled(tmp_path / "tiled", Distillate(images, labels, tiles=2), task)
    assert (plain.tiles, made.tiles, load_distilled(made.path).tiles) == (1, 2, 2)
    assert "tiles" not in json.loads((plain.path / "attar.json").read_text())
    assert json.loads((made.path / "attar.json").read_text())["format_version"] == 5
    assert "2×2 others" in (made.path / "README.md").read_text()
    assert "×2 others" not in (plain.path / "README.md").read_text()
    given, (height, width) = made.dataset(), task.shape[1:]
    assert len(given) == 4 * len(plain.dataset())
    rows, columns = (height + 1) // 2, (width + 1) // 2
    for place in range(4):
        image, label = given[4 + place]
        down = slice(rows, None) if place // 2 else slice(rows)
        across = slice(columns, None) if place % 2 else slice(columns)
        enlarged = F.interpolate(images[1:2, :, down, across], (height, width), mode="bilinear")
        assert torch.allclose(image, enlarged[0], atol=1e-5)
        assert int(label) == 1
    assert sum(len(batch) for batch, _ in made.loader(3)) == len(given)
    sound = json.loads((made.path / "attar.json").read_text())
    for change, told in (
        ({"format_version": 4}, "format_version"),
        ({"tiles": min(height, width) + 1}, "fewer pixels"),
        ({"tiles": 0}, "greater than or equal to 1"),
        ({"tiles": 100}, "less than or equal to 9"),
        ({"tiles": "2"}, "valid integer"),
    ):
        (made.path / "attar.json").write_text(json.dumps(sound | change))
        with pytest.raises(ArtifactError, match=told):
            read_description(made.path)
