"""The loop of recover, with a method of a line: averages, draws, resume, and what is caught."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from attar.artifacts.recovered import read_chunks, state_name
from attar.config import Config
from attar.errors import ConfigError, DivergedError
from attar.methods.base import Optimised, RealImages, Selector, Synthetic
from attar.runtime.checkpoint import read_tensors
from attar.runtime.engine import Engine
from attar.runtime.events import Events, read_events
from attar.runtime.seeding import generator
from attar.stages.recover import DOUBT_AFTER, RecoverSettings, _Loop, recover
from attar.task import Normalization, Task

TASK = Task(("a", "b"), 1, 4, 4, Normalization((0.5,), (0.25,)))
STEPS = 12


class NoisySettings(Config):
    lr_images: float = 0.1
    lr_rate: float = 0.05


class Noisy(Optimised[NoisySettings, None]):
    """Pulls images and a step size towards 0, with noise."""

    name, summary, source, Settings, knowledge, separable = "noisy", "", "", NoisySettings, "none", False

    def init(self, picked: Any, real: Any, knowledge: Any, rngs: Any) -> Synthetic:
        images = torch.randn(len(picked), *TASK.shape, generator=rngs())
        return Synthetic(self.labels()[picked], {"images": images, "log_rate": torch.tensor(-1.0)})

    def gradient(
        self, synthetic: Synthetic, picked: Any, real: Any, knowledge: Any, rng: Any, done: float = 0.0
    ) -> Any:
        noise = torch.randn(synthetic.variables["images"].shape, generator=rng)
        gradients = {"images": synthetic.variables["images"] + noise, "log_rate": -noise.mean().abs()}
        return gradients, {"loss": float(noise.square().mean()), "learning_rate": 0.1}

    def learning_rates(self) -> dict[str, float]:
        return {"images": self.settings.lr_images, "log_rate": self.settings.lr_rate}

    def limits(self) -> dict[str, tuple[float, float]]:
        return {"log_rate": (-5.0, 2.0)}

    def doubts(self, metrics: Any) -> str:
        return "far too noisy" if metrics["loss"] > 0.1 else ""


def run(
    folder: Path, seed: int = 0, events: Events | None = None, method: Any = None, real: Any = None, **settings: Any
) -> Any:
    method = method or Noisy(NoisySettings(), TASK, 2)
    chosen = RecoverSettings(**{"iterations": STEPS, "num_snapshots": 3, **settings})
    quiet = events or Events(quiet=True)
    recover(method, real, None, chosen, seed=seed, folder=folder, engine=Engine("cpu"), events=quiet)
    return read_chunks(folder)


def iterates(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> list[dict[str, torch.Tensor]]:
    """The variables after every step."""
    seen: list[dict[str, torch.Tensor]] = []
    take = _Loop._step

    def watched(loop: _Loop, step: int) -> Any:
        found = take(loop, step)
        seen.append({name: value.clone() for name, value in loop.synthetic.variables.items()})
        return found

    with monkeypatch.context() as patched:
        patched.setattr(_Loop, "_step", watched)
        run(folder, **settings)
    return seen


def test_the_average_is_that_of_the_steps_and_is_what_is_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = iterates(tmp_path / "plain", monkeypatch)
    averaged = iterates(tmp_path / "ema", monkeypatch, ema=0.5)
    assert all(torch.equal(a["images"], b["images"]) for a, b in zip(plain, averaged, strict=True))
    expected = torch.randn(4, *TASK.shape, generator=generator(0, "recover", "init"))
    for t, after in enumerate(plain):
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * after["images"]
    found = read_chunks(tmp_path / "ema").images
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, plain[-1]["images"], atol=1e-3)


def test_all_that_is_learnt_is_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Synthetic] = []
    finish = Noisy.finish

    def watched(self: Noisy, synthetic: Synthetic, knowledge: Any) -> Any:
        handed.append(synthetic)
        return finish(self, synthetic, knowledge)

    monkeypatch.setattr(Noisy, "finish", watched)
    run(tmp_path / "plain")
    run(tmp_path / "ema", ema=0.9)
    rates = [float(state.variables["log_rate"]) for state in handed]
    assert -1 < rates[1] < rates[0], "a rate that only grows has an average behind it"


def test_the_last_picture_is_what_is_handed_over(tmp_path: Path) -> None:
    images = run(tmp_path, ema=0.9).images
    pixels, _ = read_tensors(tmp_path / "snapshots" / f"step-{STEPS:08d}.safetensors")
    wanted = TASK.normalization.pixels(images).clamp(0, 1).mul(255).round().byte()
    assert torch.equal(pixels["pixels"].permute(0, 3, 1, 2), wanted)


@pytest.mark.parametrize("settings", [{"ema": 0.9}, {"draws_per_step": 3}, {"ema": 0.9, "optimizer": "adam"}])
@pytest.mark.parametrize("stop_at", [0, 5])
def test_stopped_and_gone_on_gives_the_same_bytes(
    settings: dict[str, Any], stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "unbroken", **settings)
    monkeypatch.setattr("attar.stages.recover.CHECKPOINT_EVERY_S", 0.0)
    take = _Loop._step

    def interrupted(loop: _Loop, step: int) -> Any:
        if step == stop_at:
            raise KeyboardInterrupt
        return take(loop, step)

    with monkeypatch.context() as patched:
        patched.setattr(_Loop, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", **settings)
    run(tmp_path / "broken", **settings)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.safetensors")}
        for name in ("unbroken", "broken")
    )
    assert one == two


class Growing(Noisy):
    """Images are 2 px in the first third and 4 px later, with something added to them at each turn."""

    def init(self, picked: Any, real: Any, knowledge: Any, rngs: Any) -> Synthetic:
        images = torch.randn(len(picked), 1, 2, 2, generator=rngs())
        fixed = {"added": torch.randn(len(picked), *TASK.shape, generator=rngs("added"))}
        return Synthetic(self.labels()[picked], {"images": images, "log_rate": torch.tensor(-1.0)}, fixed)

    def turns(self) -> tuple[float, ...]:
        return (1 / 3, 2 / 3)

    def turn(self, synthetic: Synthetic, k: int) -> None:
        synthetic.variables["images"] = (k + 1) * synthetic.fixed["added"] + self.decode(synthetic)

    def decode(self, synthetic: Synthetic) -> torch.Tensor:
        images = synthetic.variables["images"]
        return images.repeat_interleave(2, 2).repeat_interleave(2, 3) if images.shape[2] == 2 else images


@pytest.mark.parametrize("stop_at", [3, 4, 5, 9])
def test_a_turn_changes_shapes_once_and_a_run_goes_on_around_it(
    stop_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"optimizer": "adam", "ema": 0.8}
    monkeypatch.setattr("attar.stages.recover.CHECKPOINT_EVERY_S", -1.0)
    growing, take, began = Growing(NoisySettings(), TASK, 2), _Loop._step, list[int]()
    monkeypatch.setattr(_Loop, "_begin_anew", _counted(_Loop._begin_anew, began))
    run(tmp_path / "unbroken", method=growing, **settings)
    assert len(began) == 3, "at the start and at each turn"

    def interrupted(loop: _Loop, step: int) -> Any:
        if step == stop_at:
            raise KeyboardInterrupt
        return take(loop, step)

    with monkeypatch.context() as patched:
        patched.setattr(_Loop, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", method=growing, **settings)
    run(tmp_path / "broken", method=growing, **settings)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.safetensors")}
        for name in ("unbroken", "broken")
    )
    assert one == two


def _counted(method: Any, calls: list[int]) -> Any:
    def counted(loop: _Loop) -> None:
        calls.append(1)
        method(loop)

    return counted


def test_a_step_takes_the_mean_of_its_draws_and_the_first_is_the_only_one_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[torch.Tensor] = []
    gradient = Noisy.gradient

    def watched(self: Noisy, *args: Any) -> Any:
        found = gradient(self, *args)
        drawn.append(found[0]["images"])
        return found

    monkeypatch.setattr(Noisy, "gradient", watched)
    before = torch.randn(4, *TASK.shape, generator=generator(0, "recover", "init"))
    run(tmp_path / "one", iterations=1)
    images = run(tmp_path / "three", iterations=1, draws_per_step=3).images
    one, *three = drawn
    assert torch.equal(one, three[0])
    assert not torch.equal(three[0], three[1])
    assert torch.allclose(images, before - 0.1 * torch.stack(three).mean(0), atol=1e-6)


def test_values_that_leave_their_range_stop_the_run_and_the_state_before_is_kept(tmp_path: Path) -> None:
    wild = Noisy(NoisySettings(lr_rate=1e5), TASK, 2)
    with pytest.raises(DivergedError, match=r"log_rate reaches .* at step 0 of 12") as caught:
        run(tmp_path / "wild", method=wild)
    assert "within -5..2" in caught.value.expected
    assert "--set method.lr_rate=33333.3" in caught.value.fix
    assert "checkpoint-00000.safetensors" in caught.value.fix
    kept, note = read_tensors(tmp_path / "wild" / "checkpoint-00000.safetensors")
    assert note["step"] == 0
    assert float(kept["variable.log_rate"]) == -1.0


def test_images_that_leave_their_range_later_keep_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient = Noisy.gradient

    def wild(self: Noisy, synthetic: Synthetic, *args: Any) -> Any:
        gradients, metrics = gradient(self, synthetic, *args)
        done = args[-1]
        return {**gradients, "images": gradients["images"] * (1e9 if done >= 0.5 else 1)}, metrics

    states = iterates(tmp_path / "calm", monkeypatch, ema=0.9)
    monkeypatch.setattr(Noisy, "gradient", wild)
    with pytest.raises(DivergedError, match="at step 6 of 12"):
        run(tmp_path / "wild", ema=0.9)
    kept, note = read_tensors(tmp_path / "wild" / "checkpoint-00000.safetensors")
    assert note["step"] == 6
    assert torch.equal(kept["variable.images"], states[5]["images"])
    assert kept["average.images"].isfinite().all()


def test_one_draw_that_is_not_finite_stops_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient, calls = Noisy.gradient, iter(range(100))

    def sometimes(self: Noisy, *args: Any) -> Any:
        gradients, metrics = gradient(self, *args)
        return gradients, {**metrics, "loss": math.nan if next(calls) == 7 else metrics["loss"]}

    monkeypatch.setattr(Noisy, "gradient", sometimes)
    with pytest.raises(DivergedError, match="loss is no longer a finite number at step 2 of 12"):
        run(tmp_path, draws_per_step=3)
    assert read_tensors(tmp_path / "checkpoint-00000.safetensors")[1]["step"] == 2


def test_doubts_are_told_once_after_many_steps_in_a_row(tmp_path: Path) -> None:
    events = Events(tmp_path / "events.jsonl", quiet=True)
    run(tmp_path / "short", events=events, iterations=DOUBT_AFTER - 1)
    assert not [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "warning"]
    run(tmp_path / "long", events=events, iterations=3 * DOUBT_AFTER)
    told = [event for event in read_events(tmp_path / "events.jsonl") if event["event"] == "warning"]
    assert [(event["step"], event["message"]) for event in told] == [(DOUBT_AFTER, "far too noisy")]


class Factors(Noisy):
    """Images that are weights of four shared ones: neither variable has the shape of an image."""

    def init(self, picked: Any, real: Any, knowledge: Any, rngs: Any) -> Synthetic:
        state = super().init(picked, real, knowledge, rngs)
        weights = torch.randn(len(picked), 4, generator=rngs("weights"))
        rest = {"log_rate": state.variables["log_rate"]}
        return Synthetic(state.labels, {"weights": weights, "shared": state.variables["images"], **rest})

    def decode(self, synthetic: Synthetic) -> torch.Tensor:
        return torch.einsum("nk,kchw->nchw", synthetic.variables["weights"], synthetic.variables["shared"])

    def gradient(
        self, synthetic: Synthetic, picked: Any, real: Any, knowledge: Any, rng: Any, done: float = 0.0
    ) -> Any:
        names = ["weights", "shared"]
        leaves = {name: synthetic.variables[name].detach().requires_grad_() for name in names}
        loss = self.decode(Synthetic(synthetic.labels, leaves)).square().mean()
        found = torch.autograd.grad(loss, [leaves[name] for name in names])
        return dict(zip(names, found, strict=True)), {"loss": loss.detach()}

    def learning_rates(self) -> dict[str, float]:
        return {"weights": self.settings.lr_images, "shared": self.settings.lr_images}

    def doubts(self, metrics: Any) -> str:
        return ""


def test_what_is_pictured_kept_and_handed_over_is_decoded(tmp_path: Path) -> None:
    method = Factors(NoisySettings(), TASK, 2)
    begun = method.init(torch.arange(4), None, None, partial(generator, 0, "recover", "init"))
    images = run(tmp_path, method=method, num_states=1, ema=0.5).images
    assert images.shape == (4, *TASK.shape)
    assert 0 < float(images.square().mean()) < float(method.decode(begun).square().mean())
    for step, wanted in ((0, method.decode(begun)), (STEPS, images)):
        pixels, _ = read_tensors(tmp_path / "snapshots" / f"step-{step:08d}.safetensors")
        shown = TASK.normalization.pixels(wanted).clamp(0, 1).mul(255).round().byte()
        assert torch.equal(pixels["pixels"].permute(0, 3, 1, 2), shown)
    kept, _ = read_tensors(tmp_path / state_name(STEPS // 2))
    assert kept["images"].shape == images.shape
    assert not torch.equal(kept["images"], images)


def test_decoded_images_that_leave_their_range_stop_the_run(tmp_path: Path) -> None:
    method = Factors(NoisySettings(lr_images=1e6), TASK, 2)
    with pytest.raises(DivergedError, match="image values reach"):
        run(tmp_path, method=method)


class Shades:
    """Real images of two shades, one for each class."""

    labels = torch.arange(2).repeat(3)

    def images(self, indices: torch.Tensor) -> torch.Tensor:
        return (self.labels[indices].float() - 0.5).view(-1, 1, 1, 1).expand(-1, *TASK.shape)


class Means(Optimised[NoisySettings, None]):
    """Draws each image to a real one of its class, another in each step."""

    name, summary, source, Settings, knowledge, separable = "means", "", "", NoisySettings, "none", True

    def init(self, picked: torch.Tensor, real: RealImages, knowledge: None, rngs: Any) -> Synthetic:
        return Synthetic(self.labels()[picked], {"images": torch.zeros(len(picked), *TASK.shape)})

    def gradient(
        self, synthetic: Synthetic, picked: Any, real: RealImages, knowledge: None, rng: Any, done: float = 0.0
    ) -> Any:
        of_class = [(real.labels == label).nonzero().squeeze(1) for label in synthetic.labels.tolist()]
        chosen = [int(some[torch.randint(len(some), (), generator=rng)]) for some in of_class]
        away = synthetic.variables["images"] - real.images(torch.tensor(chosen))
        return {"images": away}, {"loss": away.square().mean()}

    def learning_rates(self) -> dict[str, float]:
        return {"images": 1.0}


@pytest.mark.parametrize("chunk_size", [100, 3])
def test_a_step_sees_the_real_images(chunk_size: int, tmp_path: Path) -> None:
    method = Means(NoisySettings(), TASK, 2)
    found = run(tmp_path, method=method, real=Shades(), momentum=0.0, chunk_size=chunk_size)
    wanted = (found.labels.float() - 0.5).view(-1, 1, 1, 1).expand(-1, *TASK.shape)
    assert torch.allclose(found.images, wanted)


class Blank(Selector[NoisySettings, None]):
    """Grey images."""

    name, summary, source, Settings, knowledge, separable = "blank", "", "", NoisySettings, "none", False

    def init(self, picked: torch.Tensor, real: RealImages, knowledge: None, rngs: Any) -> Synthetic:
        return Synthetic(self.labels()[picked], {"images": torch.zeros(len(picked), *TASK.shape)})


def test_a_method_of_two_verbs_is_made_at_once_and_pictured(tmp_path: Path) -> None:
    method = Blank(NoisySettings(), TASK, 2)
    assert torch.equal(run(tmp_path, method=method, iterations=0).images, torch.zeros(4, *TASK.shape))
    pixels, note = read_tensors(tmp_path / "snapshots" / "step-00000000.safetensors")
    assert pixels["pixels"].unique().tolist() == [128]
    assert note["labels"] == [0, 1, 0, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["snapshots", "synthetic-00000.safetensors"]
    assert "recover.iterations must be 0" in Blank.problems(method.settings, {"recover": RecoverSettings()})[0]


def test_iterations_of_a_method_that_has_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="blank does not optimise its images"):
        run(tmp_path, method=Blank(NoisySettings(), TASK, 2))
    assert not list(tmp_path.iterdir())
