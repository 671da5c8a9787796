from __future__ import annotations

import json
import multiprocessing
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from attar.errors import ArtifactError, DivergedError
from attar.labels.plan import LabelPlan
from attar.labels.store import LabelStore
from attar.labels.writing import write_labels

NUM_IMAGES, NUM_CLASSES, NUM_EPOCHS = 23, 12, 7
LOGITS = torch.randn(NUM_EPOCHS, NUM_IMAGES, NUM_CLASSES, generator=torch.Generator().manual_seed(0)) * 4 + 2
CODECS = {"fp16": 0, "q8": 0, "q4": 0, "topk": 4, "pca": 5}


def plan_of(codec: str = "q8", epochs_per_shard: int = 3) -> LabelPlan:
    return LabelPlan(codec, NUM_CLASSES, NUM_IMAGES, NUM_EPOCHS, CODECS[codec], epochs_per_shard)


def in_order(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    for indices in torch.arange(NUM_IMAGES).split(10):
        yield indices, LOGITS[epoch, indices]


def shuffled(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    for indices in torch.randperm(NUM_IMAGES, generator=torch.Generator().manual_seed(epoch)).split(4):
        yield indices, LOGITS[epoch, indices] + 3  # softmax does not see a constant


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def every_place() -> tuple[Tensor, Tensor]:
    places = torch.randperm(NUM_EPOCHS * NUM_IMAGES, generator=torch.Generator().manual_seed(1))
    return places // NUM_IMAGES, places % NUM_IMAGES


@pytest.mark.parametrize("codec", CODECS)
def test_a_label_read_back_is_the_teachers_within_the_stated_error(tmp_path: Path, codec: str) -> None:
    plan = plan_of(codec)
    assert write_labels(tmp_path, plan, in_order) == sorted(bytes_of(tmp_path))
    store = LabelStore(tmp_path, plan)
    epochs, indices = every_place()
    read, due = store.read(epochs, indices), LOGITS[epochs, indices]
    off = (read - (due - due.mean(1, keepdim=True))).abs().max().item()
    assert off == pytest.approx(store.error.max_abs, rel=1e-3)
    assert off <= store.error.max_abs + 1e-5
    for temperature, stated in ((1, store.error.kl_1), (20, store.error.kl_20)):
        p, q = (torch.log_softmax(z.double() / temperature, 1) for z in (due, read))
        assert (p.exp() * (p - q)).sum(1).mean().item() == pytest.approx(stated, rel=1e-3, abs=1e-9)
    assert store.error.num == NUM_EPOCHS * NUM_IMAGES


def test_bytes_on_disk_are_those_of_the_plan_and_some_headers(tmp_path: Path) -> None:
    write_labels(tmp_path, plan_of(), in_order)
    store = LabelStore(tmp_path, plan_of())
    headers = store.size_bytes - store.plan.total_bytes
    assert 0 < headers < 1000 * len(store.plan.shards)


def test_anyone_reads_the_file_as_safetensors(tmp_path: Path) -> None:
    plan = plan_of()
    write_labels(tmp_path, plan, in_order)
    tensors = safetensors.torch.load_file(tmp_path / plan.shards[0].name)
    assert tensors["labels"].shape == (3, NUM_IMAGES, plan.bytes_per_label)


def test_order_and_batches_of_the_teacher_do_not_matter_beyond_rounding(tmp_path: Path) -> None:
    write_labels(tmp_path / "a", plan_of("fp16"), in_order)
    write_labels(tmp_path / "b", plan_of("fp16"), shuffled)
    places = every_place()
    first, second = (LabelStore(tmp_path / name, plan_of("fp16")).read(*places) for name in "ab")
    assert torch.allclose(first, second, atol=0.02)


def test_a_stopped_run_goes_on_and_several_processes_share_to_the_same_bytes(tmp_path: Path) -> None:
    plan = plan_of()
    done: list[int] = []

    def stopped(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        if epoch == 4:
            raise KeyboardInterrupt
        return in_order(epoch)

    write_labels(tmp_path / "whole", plan, in_order)
    with pytest.raises(KeyboardInterrupt):
        write_labels(tmp_path / "resumed", plan, stopped, after_epoch=done.append)
    assert done == [0, 1, 2, 3]
    asked: list[int] = []

    def asking(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        asked.append(epoch)
        return in_order(epoch)

    done.clear()
    write_labels(tmp_path / "resumed", plan, asking, after_epoch=done.append)
    assert asked == [3, 4, 5, 6]
    assert done == [0, 1, 2, 3, 4, 5, 6]
    for rank in (1, 0):
        names = write_labels(tmp_path / "shared", plan, in_order, rank=rank, world_size=2)
    assert names == [shard.name for shard in plan.shards]
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "resumed") == bytes_of(tmp_path / "shared")


class Labelled(Dataset[Tensor]):
    """What a user writes around a store."""

    def __init__(self, store: LabelStore) -> None:
        self.store = store

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int) -> Tensor:
        return self.store.read(torch.tensor([5]), torch.tensor([index]))[0]


@pytest.mark.parametrize("batch_size", [1, 6, 23])
def test_any_loader_and_batch_size_reads_the_same(tmp_path: Path, batch_size: int) -> None:
    write_labels(tmp_path, plan_of(), in_order)
    store = LabelStore(tmp_path, plan_of())
    whole = store.read(torch.full((NUM_IMAGES,), 5), torch.arange(NUM_IMAGES))
    assert torch.equal(torch.cat(list(DataLoader(Labelled(store), batch_size))), whole)


def test_forked_and_pickled_readers_read_the_same(tmp_path: Path) -> None:
    write_labels(tmp_path, plan_of(), in_order)
    store = LabelStore(tmp_path, plan_of())
    due = store.read(*every_place())
    again = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 10_000
    assert torch.equal(again.read(*every_place()), due)
    receiver, sender = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=lambda: sender.send(store.read(*every_place()).numpy()))
    worker.start()
    assert torch.equal(torch.from_numpy(receiver.recv()), due)
    worker.join()


@pytest.mark.parametrize(("epoch", "image"), [(-1, 0), (NUM_EPOCHS, 0), (0, -1), (0, NUM_IMAGES)])
def test_a_place_that_is_not_there_is_an_error(tmp_path: Path, epoch: int, image: int) -> None:
    write_labels(tmp_path, plan_of(), in_order)
    store = LabelStore(tmp_path, plan_of())
    with pytest.raises(IndexError):
        store.read(torch.tensor([0, epoch]), torch.tensor([0, image]))
    assert store.read(torch.zeros(0).long(), torch.zeros(0).long()).shape == (0, NUM_CLASSES)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e5])
def test_a_diverged_teacher_is_told_and_nothing_is_written(tmp_path: Path, value: float) -> None:
    bad = LOGITS[0].clone()
    bad[3, 4] = value
    with pytest.raises(DivergedError, match="stored epoch 0"):
        write_labels(tmp_path, plan_of(), lambda _: [(torch.arange(NUM_IMAGES), bad)])
    assert not list(tmp_path.iterdir())


def test_each_image_is_labelled_once(tmp_path: Path) -> None:
    everything = torch.arange(NUM_IMAGES)
    cases = {
        "image 22 was labelled 0 times": everything[:-1],
        "image 0 was labelled 2 times": torch.cat([everything, everything[:1]]),
    }
    for message, indices in cases.items():
        with pytest.raises(ValueError, match=message):
            write_labels(tmp_path, plan_of(), lambda epoch, i=indices: [(i, LOGITS[epoch, i])])  # type: ignore[misc]
    with pytest.raises(ValueError, match="classes"):
        write_labels(tmp_path, plan_of(), lambda epoch: [(everything, LOGITS[epoch, :, :3])])


def header(data: bytes, **changes: object) -> bytes:
    end = 8 + int.from_bytes(data[:8], "little")
    values = json.loads(data[8:end])
    values["labels"] |= changes
    text = json.dumps(values).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


DAMAGE = {
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "empty": lambda _: b"",
    "text": lambda _: b"not a tensor at all",
    "huge header": lambda data: (2**60).to_bytes(8, "little") + data[8:],
    "nested": lambda _: (90_000).to_bytes(8, "little") + b"[" * 90_000,
    "dtype": lambda data: header(data, dtype="F16"),
    "shape": lambda data: header(data, shape=[1, 2, 3]),
    "outside": lambda data: header(data, data_offsets=[8, 10**9]),
    "no metadata": lambda data: safetensors.torch.save({"labels": torch.zeros(3, 23, 14, dtype=torch.uint8)}),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_shard_is_told_by_readers_and_by_a_resumed_run(tmp_path: Path, case: str) -> None:
    write_labels(tmp_path, plan_of(), in_order)
    file = tmp_path / plan_of().shards[1].name
    file.write_bytes(DAMAGE[case](file.read_bytes()))
    with pytest.raises(ArtifactError, match=f"{file.name} is damaged"):
        LabelStore(tmp_path, plan_of())
    with pytest.raises(ArtifactError, match=f"{file.name} is damaged"):
        write_labels(tmp_path, plan_of(), in_order)


def test_missing_shards_and_those_of_another_plan_are_told(tmp_path: Path) -> None:
    write_labels(tmp_path, plan_of(), in_order)
    with pytest.raises(ArtifactError, match="of other labels"):
        LabelStore(tmp_path, plan_of("q4"))
    (tmp_path / plan_of().shards[2].name).unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        LabelStore(tmp_path, plan_of())
