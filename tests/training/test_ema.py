from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attar.data.loading import TensorSet
from attar.models.convnet import ConvNet
from attar.runtime.engine import Engine
from attar.runtime.seeding import scoped
from attar.training import loop
from attar.training.averaging import Average
from attar.training.loop import fit
from attar.training.section import TrainSection

ENGINE = Engine("cpu")


class StopError(Exception):
    pass


def make_net() -> nn.Module:
    with scoped(0, "net"):
        return ConvNet(3, 1, 8, 8, depth=1, width=4, norm="batch")


def make_data() -> TensorSet:
    rng = torch.Generator().manual_seed(1)
    return TensorSet(torch.randn(24, 1, 8, 8, generator=rng), torch.arange(24) % 3)


def train(
    ema: float, path: Path | None = None, after: Callable[[int], None] | None = None, model: nn.Module | None = None
) -> dict[str, Tensor]:
    model = model or make_net()
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 8, "learning_rate": 0.1, "augment": "none", "ema": ema}
    fit(model, make_data(), TrainSection(**settings), seed=2, engine=ENGINE, checkpoint=path, after_epoch=after)
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_the_average_is_the_recursion_that_it_states() -> None:
    model = nn.Linear(1, 1, bias=False)
    average, expected = Average(model, 0.3), model.weight.item()
    for step, value in enumerate([1.0, 5.0, -2.0, 4.0, 4.0]):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
        decay = min(0.3, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert model.weight.item() == 4.0
    average.apply()
    assert model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_training_leaves_averaged_weights_and_batch_norm_statistics() -> None:
    plain, averaged = train(0.0), train(0.9)
    for key in ("classifier.weight", "features.1.running_var"):
        assert not torch.equal(plain[key], averaged[key])
    assert int(averaged["features.1.num_batches_tracked"]) == int(plain["features.1.num_batches_tracked"]) == 12


def test_between_epochs_the_network_has_the_average_and_goes_on_with_its_own_weights() -> None:
    model = make_net()
    lent: list[dict[str, Tensor]] = []

    def look(epoch: int) -> None:
        lent.append({key: value.clone() for key, value in model.state_dict().items()})

    left = train(0.9, after=look, model=model)
    assert len(lent) == 4
    for key, value in train(0.9).items():
        assert torch.equal(left[key], value), "looking changes nothing"
        assert torch.equal(lent[-1][key], value), "the last look is at what is left"


def test_a_decay_of_almost_nothing_is_the_last_step() -> None:
    plain, averaged = train(0.0), train(1e-9)
    for key, value in plain.items():
        assert torch.allclose(averaged[key], value, atol=1e-5)


@pytest.mark.parametrize("stopped_at", [1, 3])
def test_resumed_equals_unbroken_bit_for_bit(stopped_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)

    def stop(finished: int) -> None:
        if finished == stopped_at + 1:
            raise StopError

    path = tmp_path / "broken.safetensors"
    unbroken = train(0.9, tmp_path / "unbroken.safetensors")
    with pytest.raises(StopError):
        train(0.9, path, stop)
    resumed, finished = train(0.9, path), train(0.9, path)
    for key, value in unbroken.items():
        assert torch.equal(resumed[key], value)
        assert torch.equal(finished[key], value)
    assert path.read_bytes() == (tmp_path / "unbroken.safetensors").read_bytes()
