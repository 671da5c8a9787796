import threading

import pytest
import torch
from torch import Tensor

from attar.data.loading import (
    LazySplit,
    MemorySplit,
    RealSet,
    Split,
    SubsetSplit,
    TensorSet,
    TrainingSet,
    batches,
    limit_indices,
    plainly,
    stratified_split,
)
from attar.runtime.seeding import generator
from attar.task import Normalization


def split(num: int = 20, classes: int = 4) -> MemorySplit:
    pixels = torch.randint(0, 256, (num, 3, 4, 4), generator=generator(0), dtype=torch.uint8)
    return MemorySplit(pixels, torch.arange(num) % classes)


def test_lazy_and_subset_splits_give_the_pixels_of_the_one_in_memory() -> None:
    whole = split()
    everything = whole.pixels(torch.arange(20))
    asked: list[str] = []

    def decode(index: int) -> Tensor:
        asked.append(threading.current_thread().name)
        return everything[index]

    lazy = LazySplit(whole.labels, decode, workers=2)
    indices = torch.tensor([7, 0, 7, 19])
    assert torch.equal(lazy.pixels(indices), everything[indices])
    assert all(name.startswith("decode") for name in asked)
    part: Split = SubsetSplit(lazy, torch.tensor([3, 1, 2]))
    assert len(part) == 3
    assert torch.equal(part.labels, whole.labels[[3, 1, 2]])
    assert torch.equal(part.pixels(torch.tensor([2, 0])), everything[[2, 3]])


def test_a_split_refuses_pixels_of_another_kind() -> None:
    with pytest.raises(ValueError, match="float32"):
        MemorySplit(torch.zeros(2, 1, 4, 4), torch.zeros(2))
    with pytest.raises(ValueError, match="3 labels"):
        MemorySplit(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3))


def test_real_set_normalises() -> None:
    real = RealSet(split(), Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
    indices = torch.tensor([5, 6])
    images = real.images(indices)
    assert images.dtype == torch.float32
    restored = real.normalization.pixels(images)
    torch.testing.assert_close(restored, real.split.pixels(indices).float() / 255)
    assert real.targets(indices).tolist() == [1, 2]
    assert real.indices_of(1).tolist() == [1, 5, 9, 13, 17]


def test_tensor_set_with_classes_and_with_probabilities() -> None:
    images, labels = torch.randn(6, 1, 2, 2), torch.tensor([0, 1, 2, 2, 1, 0])
    soft = torch.nn.functional.one_hot(labels, 3) * 0.7 + 0.1
    for targets in (labels, soft):
        given: TrainingSet = TensorSet(images, targets)
        assert len(given) == 6
        assert torch.equal(given.labels, labels)
        assert torch.equal(given.targets(torch.tensor([4])), targets[4:5])
        assert torch.equal(given.images(torch.tensor([4, 1])), images[[4, 1]])
    with pytest.raises(ValueError, match="5 images"):
        TensorSet(images[:5], labels)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5])
def test_stratified_split_parts_every_class(fraction: float) -> None:
    labels = torch.tensor([0] * 40 + [1] * 20 + [2] * 2 + [3])
    labels = labels[torch.randperm(len(labels), generator=generator(1))]
    kept, held = stratified_split(labels, fraction, seed=0)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(len(labels)))
    assert torch.equal(held, held.sort().values)
    counts = labels[held].bincount(minlength=4).tolist()
    assert counts == {0.0: [0, 0, 0, 0], 0.1: [4, 2, 1, 0], 0.5: [20, 10, 1, 0]}[fraction]


def test_stratified_split_is_a_function_of_its_seed() -> None:
    labels = torch.arange(200) % 5
    first, second, other = (stratified_split(labels, 0.2, seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_stratified_split_of_nothing() -> None:
    kept, held = stratified_split(torch.zeros(0, dtype=torch.int64), 0.1, 0)
    assert len(kept) == len(held) == 0


def test_a_limit_by_class_keeps_order_and_small_classes() -> None:
    labels = torch.tensor([0, 0, 1, 0, 0, 2, 2, 2, 0])
    found = limit_indices(labels, 2, seed=0)
    assert labels[found].bincount().tolist() == [2, 1, 2]
    assert found.tolist() == sorted(found.tolist())
    assert torch.equal(found, limit_indices(labels, 2, seed=0))
    assert len(limit_indices(labels, 100, seed=0)) == 9


def test_limits_are_nested() -> None:
    """More images per class are a superset: curves over the count compare like with like."""
    labels = torch.arange(100) % 2
    few, many = (set(limit_indices(labels, num, seed=3).tolist()) for num in (5, 20))
    assert few < many


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_batches_come_in_order_whatever_is_read_ahead(prefetch: int) -> None:
    real = RealSet(split(), Normalization((0.5,) * 3, (0.25,) * 3))
    order = torch.randperm(20, generator=generator(2)).split(6)
    got = list(batches(plainly(real), order, prefetch=prefetch))
    assert [len(indices) for indices, _, _ in got] == [6, 6, 6, 2]
    for indices, (seen, images, targets) in zip(order, got, strict=True):
        assert torch.equal(seen, indices)
        assert torch.equal(images, real.images(indices))
        assert torch.equal(targets, real.targets(indices))


def test_reading_ahead_passes_errors_on_and_stops_when_left() -> None:
    def decode(index: int) -> Tensor:
        if index == 3:
            raise OSError("gone")
        return torch.zeros(1, 1, 1, dtype=torch.uint8)

    real = RealSet(LazySplit(torch.zeros(8), decode), Normalization((0.5,), (0.5,)))
    with pytest.raises(OSError, match="gone"):
        list(batches(plainly(real), torch.arange(8).split(1), prefetch=2))
    iterator = batches(plainly(real), torch.arange(8).split(1), prefetch=2)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
