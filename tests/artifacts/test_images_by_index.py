"""Images that lie on disk are written, labelled, read back and trained on as those in memory are, to the same bits."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import Tensor

from attar.artifacts import arrays, parquet
from attar.artifacts.arrays import StoredRows, spans, write_rows
from attar.artifacts.checksums import write_sums
from attar.artifacts.distilled import load_distilled, write_distilled
from attar.artifacts.images import NormalizedPixels, StoredImages, StoredPixels
from attar.artifacts.recovered import chunk_name, read_chunks, write_chunk
from attar.artifacts.verify import verify
from attar.data import loading
from attar.errors import ArtifactError
from attar.evaluation.trials import distilled_subject
from attar.methods.base import Distillate
from attar.models.factory import build
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.seeding import generator
from attar.stages.relabel import RelabelSettings, relabel
from attar.task import Task
from attar.training.section import TrainSection

CHUNK = 3


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any set count as one that is too large for memory."""
    monkeypatch.setattr(loading, "KEPT_BYTES", 0)


@pytest.fixture(params=["floats", "exact"])
def made(request: pytest.FixtureRequest) -> Distillate:
    distillate: Distillate = request.getfixturevalue(request.param)
    return distillate


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def recovered(folder: Path, made: Distillate) -> Distillate:
    """The same distillate from recover's chunks."""
    for k, places in enumerate(torch.arange(len(made.labels)).split(CHUNK)):
        soft = None if made.soft_labels is None else made.soft_labels[places]
        part = replace(made, images=made.images[places], labels=made.labels[places], soft_labels=soft)
        write_chunk(folder / chunk_name(k), part)
    return read_chunks(folder)


@dataclass
class Counting:
    """Images that remember how many were asked for at once."""

    images: Tensor
    most: int = 0

    @property
    def shape(self) -> torch.Size:
        return self.images.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.images.dtype

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: Any, /) -> Tensor:
        found = self.images[indices]
        self.most = max(self.most, len(found))
        return found


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize("shard_bytes", [400_000_000, 700])
def test_chunks_on_disk_and_a_tensor_write_the_same_bytes(
    tmp_path: Path, task: Task, made: Distillate, shard_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (arrays, parquet):
        monkeypatch.setattr(module, "SHARD_BYTES", shard_bytes)
    stored = recovered(tmp_path / "recover", made)
    assert isinstance(stored.images, StoredImages)
    write_distilled(tmp_path / "memory", made, task)
    monkeypatch.setattr(arrays, "PART_ROWS", 2)
    write_distilled(tmp_path / "disk", stored, task)
    assert bytes_of(tmp_path / "disk") == bytes_of(tmp_path / "memory")
    assert verify(tmp_path / "disk").problems == []


def test_whoever_writes_asks_for_a_part_at_a_time(
    tmp_path: Path, task: Task, made: Distillate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "PART_ROWS", 2)
    images = Counting(made.images[:])
    write_distilled(tmp_path / "d", replace(made, images=images), task)
    assert images.most == 2


@pytest.mark.usefixtures("many")
def test_what_is_read_back_is_what_a_small_set_holds(
    tmp_path: Path, task: Task, made: Distillate, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy = write_distilled(tmp_path / "d", made, task)
    assert isinstance(lazy.stored, StoredImages if not made.exact_8bit else StoredPixels)
    monkeypatch.setattr(loading, "KEPT_BYTES", 1 << 20)
    eager = load_distilled(tmp_path / "d")
    assert isinstance(eager.stored, Tensor)
    picked = torch.tensor([4, 0, 0, len(eager) - 1, -2])
    for found, expected in (
        (lazy.images, eager.images),
        (lazy.images_at(picked), eager.images_at(picked)),
        (lazy.pixels(picked), eager.pixels(picked)),
        (lazy.pixels_8bit(), eager.pixels_8bit()),
        (lazy.pixels_8bit(picked), eager.pixels_8bit()[picked]),
        (lazy.targets, eager.targets),
    ):
        assert torch.equal(found, expected)
    picked = picked % len(eager)
    for labels in ("soft", "hard"):
        small, large = (distilled_subject(d, TrainSection(), labels, Engine("cpu")) for d in (eager, lazy))
        assert small.identity == large.identity
        monkeypatch.setattr(loading, "KEPT_BYTES", 1 << 20)
        expected_set = small.make(0)
        monkeypatch.setattr(loading, "KEPT_BYTES", 0)
        found_set = large.make(0)
        assert torch.equal(found_set.images(picked), expected_set.images(picked))
        assert torch.equal(found_set.targets(picked), expected_set.targets(picked))
        assert torch.equal(found_set.labels, expected_set.labels)


@pytest.mark.usefixtures("many")
def test_workers_of_a_loader_get_the_images(tmp_path: Path, task: Task, made: Distillate) -> None:
    distilled = write_distilled(tmp_path / "d", made, task)
    batches = torch.utils.data.DataLoader(distilled.dataset(), batch_size=4, num_workers=2)
    assert torch.equal(torch.cat([images for images, _ in batches]), distilled.images)
    assert torch.equal(pickle.loads(pickle.dumps(distilled)).images, distilled.images)


@pytest.mark.usefixtures("many")
def test_labels_are_the_same_whether_images_lie_on_disk_or_in_memory(
    tmp_path: Path, task: Task, exact: Distillate
) -> None:
    network = build("convnet-d1-w4", task, seed=0).eval()

    class Teacher:
        @torch.no_grad()
        def logits(self, images: Tensor) -> Tensor:
            logits: Tensor = network(images)
            return logits

        def soft_labels(self, images: Tensor) -> Tensor:
            return self.logits(images).softmax(1)

    def labelled(kind: str, name: str, distillate: Distillate) -> Distillate:
        settings, folder = RelabelSettings(labels=kind, epochs=2), tmp_path / name  # type: ignore[arg-type]
        shared: dict[str, Any] = {"train_epochs": 2, "seed": 0, "engine": Engine("cpu"), "events": Events(quiet=True)}
        return relabel(distillate, Teacher(), settings, task=task, folder=folder, **shared)[0]

    stored = recovered(tmp_path / "recover", exact)
    labelled("epochs", "memory", exact)
    labelled("epochs", "disk", stored)
    assert bytes_of(tmp_path / "disk") == bytes_of(tmp_path / "memory")
    soft = [labelled("teacher", "none", one).soft_labels for one in (exact, stored)]
    assert soft[0] is not None
    assert soft[1] is not None
    assert torch.equal(soft[0], soft[1])


@pytest.mark.usefixtures("many")
def test_a_damaged_image_among_many_is_told_when_it_is_decoded(tmp_path: Path, task: Task, exact: Distillate) -> None:
    write_distilled(tmp_path / "d", exact, task)
    shard = tmp_path / "d/data/train-00000-of-00001.parquet"
    place = shard.read_bytes().index(b"IDAT")
    data = bytearray(shard.read_bytes())
    data[place + 8] ^= 255
    shard.write_bytes(data)
    write_sums(tmp_path / "d")
    opened = load_distilled(tmp_path / "d")
    with pytest.raises(ArtifactError, match="the image of row 0"):
        opened.images_at(torch.tensor([5]))


def test_rows_are_written_as_safetensors_writes_them_and_read_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).normal(size=(23, 2, 3)).astype(np.float32)
    monkeypatch.setattr(arrays, "SHARD_BYTES", 7 * rows[0].nbytes)
    monkeypatch.setattr(arrays, "PART_ROWS", 3)
    names = write_rows(tmp_path, "rows", "x", rows, "F32")
    assert len(names) == 4
    for name, piece in zip(names, np.split(rows, [7, 14, 21]), strict=True):
        assert (tmp_path / name).read_bytes() == safetensors.numpy.save({"x": piece})
    stored = StoredRows([tmp_path / name for name in names], "x", "F32")
    assert stored.shape == rows.shape
    for picked in (slice(None), slice(5, 16), slice(3, 3), slice(-2, None)):
        assert np.array_equal(stored[picked], rows[picked])
    mixed = np.array([22, 0, 6, 7, 7, 8, 3, -1])
    assert np.array_equal(stored[mixed], rows[mixed])
    with pytest.raises(IndexError):
        stored[np.array([23])]


def test_a_file_that_takes_the_place_of_an_opened_one_is_not_read(tmp_path: Path) -> None:
    (name,) = write_rows(tmp_path, "rows", "x", np.zeros((4, 2), np.float32), "F32")
    stored = StoredRows([tmp_path / name], "x", "F32")
    assert not stored[:].any()
    write_rows(tmp_path, "rows", "x", np.ones((4, 2), np.float32), "F32")
    os.utime(tmp_path / name, ns=(0, 0))
    with pytest.raises(ArtifactError, match="no longer the file"):
        stored[:]
    (tmp_path / name).unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        stored[:]


def test_parts_follow_each_other_and_cover_all() -> None:
    for shape in ((0, 3), (1, 3), (2500, 3), (70, 3, 512, 512), (3, 3, 4000, 4000)):
        parts = list(spans(shape))
        assert [row for part in parts for row in range(part.start, part.stop)] == list(range(shape[0]))
        assert all(part.stop - part.start <= arrays.PART_ROWS for part in parts)


def test_pixels_as_normalised_images_are_those_of_all_at_once(task: Task) -> None:
    pixels = torch.randint(256, (9, *task.shape), generator=generator(0, "pixels"), dtype=torch.uint8)
    images = NormalizedPixels(pixels, task.normalization)
    assert (images.shape, images.dtype, len(images)) == (pixels.shape, torch.float32, 9)
    assert torch.equal(images[2:5], task.normalization.normalize(pixels)[2:5])
