import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.data.loading import MemorySplit, RealSet, TensorSet
from attar.errors import ArtifactError, ConfigError, DataError, DivergedError, ResourceError
from attar.models.convnet import ConvNet
from attar.runtime.checkpoint import read_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.runtime.seeding import scoped
from attar.task import Normalization
from attar.training import loop
from attar.training.loop import accuracy, fit
from attar.training.section import TrainSection

ENGINE = Engine("cpu")


class StopError(Exception):
    pass


def make_net(norm: Any = "instance", dropout: float = 0.0) -> nn.Module:
    with scoped(0, "net"):
        net = ConvNet(3, 1, 8, 8, depth=1, width=4, norm=norm)
    return nn.Sequential(nn.Dropout(dropout), net) if dropout else net


def make_data(num: int = 24) -> TensorSet:
    rng = torch.Generator().manual_seed(1)
    return TensorSet(torch.randn(num, 1, 8, 8, generator=rng), torch.arange(num) % 3)


def make_settings(**changes: Any) -> TrainSection:
    return TrainSection(**{"epochs": 6, "batch_size": 8, "learning_rate": 0.1, "augment": "dsa"} | changes)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def stop_after(epoch: int) -> Callable[[int], None]:
    def stop(finished: int) -> None:
        if finished == epoch:
            raise StopError

    return stop


def test_it_learns_what_can_be_learnt() -> None:
    model, data = make_net(), make_data()
    result = fit(model, data, make_settings(epochs=80, augment="none"), seed=0, engine=ENGINE)
    assert len(result.losses) == 80
    assert result.losses[-1] < 0.2 < result.losses[0]
    assert accuracy(model, data, ENGINE) == 100.0
    assert not model.training


def test_training_is_a_function_of_the_seed() -> None:
    def train(seed: int) -> Tensor:
        model = make_net(dropout=0.2)
        fit(model, make_data(), make_settings(), seed=seed, engine=ENGINE)
        return weights(model)

    state = torch.random.get_rng_state()
    assert torch.equal(train(3), train(3))
    assert not torch.equal(train(3), train(4))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 2, "learning_rate": 0.01},
        {"optimizer": "adam", "augment_per": "image", "learning_rate": 0.01},
        {"momentum": 0.0, "batch_size": 23},
        {"nesterov": True, "schedule": "constant"},
    ],
)
@pytest.mark.parametrize("stopped_at", [1, 4])
def test_resumed_equals_unbroken_bit_for_bit(
    changes: dict[str, Any], stopped_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    settings, data = make_settings(**changes), make_data()
    unbroken = make_net("batch", dropout=0.1)
    expected = fit(unbroken, data, settings, seed=5, engine=ENGINE, checkpoint=tmp_path / "a.safetensors")

    path, seen = tmp_path / "b.safetensors", list[int]()
    broken = make_net("batch", dropout=0.1)
    with pytest.raises(StopError):
        fit(
            broken,
            data,
            settings,
            seed=5,
            engine=ENGINE,
            checkpoint=path,
            after_epoch=stop_after(stopped_at),
        )
    resumed = make_net("batch", dropout=0.1)
    result = fit(resumed, data, settings, seed=5, engine=ENGINE, checkpoint=path, after_epoch=seen.append)

    assert torch.equal(weights(resumed), weights(unbroken))
    assert result == expected
    assert seen == list(range(stopped_at, 7))
    assert path.read_bytes() == (tmp_path / "a.safetensors").read_bytes()


def test_a_finished_checkpoint_is_the_result(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    first, again = make_net(), make_net()
    result = fit(first, make_data(), make_settings(), seed=0, engine=ENGINE, checkpoint=path)
    untouched = stop_after(6)
    assert result == fit(
        again, make_data(), make_settings(), seed=0, engine=ENGINE, checkpoint=path, after_epoch=untouched
    )
    assert torch.equal(weights(first), weights(again))


@pytest.mark.parametrize(
    ("changes", "seed", "says"),
    [
        ({"learning_rate": 0.2}, 0, "learning_rate: was 0.1, now 0.2"),
        ({}, 1, "seed: was 0, now 1"),
    ],
)
def test_another_trainings_checkpoint_is_refused(changes: dict[str, Any], seed: int, says: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    fit(make_net(), make_data(), make_settings(), seed=0, engine=ENGINE, checkpoint=path)
    with pytest.raises(ArtifactError, match=says):
        fit(make_net(), make_data(), make_settings(**changes), seed=seed, engine=ENGINE, checkpoint=path)


def test_another_networks_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    fit(make_net(), make_data(), make_settings(), seed=0, engine=ENGINE, checkpoint=path)
    with pytest.raises(ArtifactError, match="another network"):
        fit(make_net("none"), make_data(), make_settings(), seed=0, engine=ENGINE, checkpoint=path)


def test_divergence_is_told_and_leaves_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    path = tmp_path / "checkpoint.safetensors"

    class Poisoned(TensorSet):
        calls = 0

        def images(self, indices: Tensor) -> Tensor:
            self.calls += 1
            return super().images(indices) * (math.nan if self.calls == 8 else 1)

    data = make_data()
    poisoned = Poisoned(data.images(torch.arange(24)), data.targets(torch.arange(24)))
    with pytest.raises(DivergedError, match="loss is nan at epoch 3, step 2") as caught:
        fit(make_net(), poisoned, make_settings(), seed=0, engine=ENGINE, checkpoint=path)
    assert "lower learning_rate" in caught.value.fix
    assert read_tensors(path)[1]["epoch"] == 2


def test_weights_that_end_up_infinite_are_divergence() -> None:
    with pytest.raises(DivergedError, match="diverged"):
        fit(
            make_net(),
            make_data(),
            make_settings(epochs=1, batch_size=24, learning_rate=1e39),
            seed=0,
            engine=ENGINE,
        )


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried", "DefaultCPUAllocator: can't allocate memory"])
def test_running_out_of_memory_says_what_to_lower(message: str) -> None:
    class Hungry(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError(message)

    with pytest.raises(ResourceError, match="batches of 8") as caught:
        fit(Hungry(3, 3), make_data(), make_settings(), seed=0, engine=ENGINE)
    assert "lower batch_size" in caught.value.fix
    with pytest.raises(ResourceError):
        accuracy(Hungry(3, 3), make_data(), ENGINE)


def test_other_errors_of_the_network_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        fit(nn.Linear(3, 3), make_data(), make_settings(augment="none"), seed=0, engine=ENGINE)


def test_a_last_single_image_joins_the_batch_before() -> None:
    sizes = list[int]()

    class Counting(ConvNet):
        def forward(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return super().forward(images)

    fit(Counting(3, 1, 8, 8, depth=1, width=4), make_data(17), make_settings(epochs=1), seed=0, engine=ENGINE)
    assert sizes == [8, 9]


def test_events_are_sparse_and_progress_reaches_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = Events(tmp_path / "events.jsonl")
    result = fit(
        make_net(),
        make_data(3),
        make_settings(epochs=250),
        seed=0,
        engine=ENGINE,
        events=events,
        name="student",
    )
    emitted = read_events(tmp_path / "events.jsonl")
    assert [event["step"] for event in emitted] == [*range(3, 250, 3), 250]
    assert all((event["stage"], event["event"], event["item"]) == ("train", "epoch", "student") for event in emitted)
    assert emitted[-1]["loss"] == result.losses[-1]
    assert emitted[-1]["learning_rate"] == pytest.approx(0.01)
    assert "student 250/250" in capsys.readouterr().err


def test_real_images_are_trained_on_and_tested() -> None:
    pixels = torch.randint(0, 256, (30, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    real = RealSet(MemorySplit(pixels, torch.arange(30) % 3), Normalization((0.5,), (0.3,)))
    model = make_net()
    fit(model, real, make_settings(), seed=0, engine=ENGINE)
    predicted = model(real.images(torch.arange(30))).argmax(1)
    assert accuracy(model, real, ENGINE, batch_size=7) == pytest.approx(
        100 * (predicted == real.labels).float().mean().item()
    )


def test_bfloat16_trains() -> None:
    model = make_net()
    result = fit(model, make_data(), make_settings(), seed=0, engine=Engine("cpu", "bf16-mixed"))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert math.isfinite(result.losses[-1])


def test_no_images_are_an_error() -> None:
    with pytest.raises(DataError, match="no images"):
        fit(make_net(), make_data(0), make_settings(), seed=0, engine=ENGINE)
    with pytest.raises(DataError, match="no images"):
        accuracy(make_net(), make_data(0), ENGINE)


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown device"):
        Engine("gpu")
