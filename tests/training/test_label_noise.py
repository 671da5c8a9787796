"""Wrong labels: how many, which, and that they are the seed's alone."""

from pathlib import Path

import pytest
import torch

from attar.data.loading import TensorSet
from attar.errors import ConfigError, DataError
from attar.models.convnet import ConvNet
from attar.options import NoiseKind
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.training.label_noise import corrupt
from attar.training.loop import fit
from attar.training.section import TrainSection

LABELS = torch.arange(1000) % 7


@pytest.mark.parametrize("kind", ["symmetric", "pairflip"])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.45])
def test_exactly_that_part_is_wrong_and_every_flip_is_a_wrong_class(kind: NoiseKind, fraction: float) -> None:
    noise = corrupt(LABELS, fraction, kind, 0)
    wrong = noise.labels != LABELS
    assert int(wrong.sum()) == round(1000 * fraction)
    assert torch.equal(wrong.nonzero().squeeze(1), noise.flipped)
    if kind == "pairflip":
        assert torch.equal(noise.labels[wrong], (LABELS[wrong] + 1) % 7)


def test_symmetric_noise_goes_to_all_other_classes_alike() -> None:
    labels = torch.zeros(60_000, dtype=torch.int64)
    labels[:6] = torch.arange(1, 7)
    counts = corrupt(labels, 0.5, "symmetric", 0).labels.bincount()[1:]
    assert (counts / 5000 - 1).abs().max() < 0.05


def test_which_are_wrong_is_a_function_of_the_seed() -> None:
    first, again, other = (corrupt(LABELS, 0.4, "symmetric", seed) for seed in (1, 1, 2))
    assert first.to_json() == again.to_json()
    assert first.to_json()["digest"] != other.to_json()["digest"]
    assert not torch.equal(first.flipped, other.flipped)


def test_classes_that_do_not_occur_are_not_taken() -> None:
    labels = torch.tensor([2, 5, 9] * 20)
    assert set(corrupt(labels, 0.9, "symmetric", 0).labels.tolist()) == {2, 5, 9}
    assert corrupt(labels, 0.99, "pairflip", 0).labels[labels == 9].unique().tolist()[0] == 2


def test_one_class_has_no_wrong_one() -> None:
    with pytest.raises(DataError, match="another class"):
        corrupt(torch.zeros(4, dtype=torch.int64), 0.5, "symmetric", 0)


def make_data() -> TensorSet:
    return TensorSet(torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3)


def test_a_training_learns_the_wrong_labels_records_them_and_leaves_the_set_clean(tmp_path: Path) -> None:
    data, settings = make_data(), TrainSection(epochs=60, learning_rate=0.1, augment="none", label_noise=0.25)
    noise = corrupt(data.labels, 0.25, "symmetric", 9)
    model, events = ConvNet(3, 1, 8, 8, depth=1, width=8), Events(tmp_path / "events.jsonl", quiet=True)
    result = fit(model, data, settings, seed=9, engine=Engine("cpu"), events=events, name="net")
    assert torch.equal(model(data.images(torch.arange(24))).argmax(1), noise.labels)
    assert result.label_noise == noise.to_json()
    (event,) = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "label_noise"]
    assert {key: event[key] for key in noise.to_json()} == noise.to_json()
    assert torch.equal(data.targets(torch.arange(24)), torch.arange(24) % 3)


def test_soft_labels_have_no_wrong_classes() -> None:
    soft = TensorSet(make_data().images(torch.arange(24)), torch.full((24, 3), 1 / 3))
    with pytest.raises(ConfigError, match="soft labels"):
        fit(ConvNet(3, 1, 8, 8, depth=1), soft, TrainSection(label_noise=0.1), seed=0, engine=Engine("cpu"))
