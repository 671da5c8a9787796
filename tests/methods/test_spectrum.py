"""Images by their spectrum: its inverse, its gradient, what its units are, and sre2l on it."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from attar.methods import spectrum
from attar.methods.sre2l import Sre2l, Sre2lSettings
from attar.models.convnet import ConvNet
from attar.runtime import seeding
from attar.runtime.engine import Engine
from attar.runtime.events import Events
from attar.runtime.seeding import generator
from attar.stages import recover as stage
from attar.stages.recover import RecoverSettings, recover
from attar.task import Normalization, Task

SHAPES = [(3, 8, 8), (3, 9, 7), (1, 12, 5), (1, 7, 10), (2, 6, 9)]


def task_of(channels, height, width):
    normalization = Normalization((0.4, 0.5, 0.3)[:channels], (0.3, 0.2, 0.25)[:channels])
    return Task(("a", "b", "c"), channels, height, width, normalization)


def unit_noise(task, num=1, dtype=torch.float64):
    channels, height, width = task.shape
    return torch.randn(num, channels, height, width // 2 + 1, 2, generator=generator(0), dtype=dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
def test_decode_is_the_inverse_of_encode(shape, dtype, close):
    task = task_of(*shape)
    pixels = 0.01 + 0.98 * torch.rand(4, *shape, generator=generator(1), dtype=dtype)
    images = task.normalization.normalize(pixels)
    found = spectrum.decode(spectrum.encode(images, task), task)
    assert found.dtype == dtype
    assert float((found - images).abs().max()) < close


@pytest.mark.parametrize("shape", SHAPES)
def test_whole_pixels_come_back_to_the_bit_the_darkest_and_lightest_too(shape):
    task = task_of(*shape)
    bytes_ = torch.randint(0, 256, (4, *shape), generator=generator(1), dtype=torch.uint8)
    bytes_[0], bytes_[1] = 0, 255
    images = spectrum.decode(spectrum.encode(task.normalization.normalize(bytes_), task), task)
    assert torch.equal(task.normalization.pixels(images).mul(255).round().to(torch.uint8), bytes_)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_has_the_gradient_of_its_differences(shape):
    task = task_of(*shape)
    begun = unit_noise(task).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: spectrum.decode(v, task), (begun,))


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_agrees_with_float64(shape):
    task = task_of(*shape)
    exact = unit_noise(task, num=4)
    apart = spectrum.decode(exact.float(), task).double() - spectrum.decode(exact, task)
    assert 0 < float(apart.abs().max()) < 1e-5


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 64, 40), (3, 33, 51)])
def test_unit_noise_has_unit_variance_at_any_size(shape):
    task = task_of(*shape)
    pixels = task.normalization.pixels(spectrum.decode(unit_noise(task, num=256), task))
    assert float(pixels.logit().square().mean()) == pytest.approx(1, abs=0.06)


def test_amplitudes_fall_as_one_over_the_frequency_whatever_the_colours():
    task = task_of(3, 64, 64)
    pixels = task.normalization.pixels(spectrum.decode(unit_noise(task, num=256), task))
    found = torch.fft.fft2(pixels.logit(), norm="ortho")[:, :, 0, 1:32].abs().square().mean((0, 1)).sqrt()
    flat = found * torch.arange(1, 32)
    assert torch.allclose(flat / flat.mean(), torch.ones_like(flat), atol=0.15)
    between = torch.corrcoef(pixels.logit().transpose(0, 1).flatten(1))
    assert float(between[0, 1]) > 0.8, "red and green go together, as in photographs"


def test_pixels_are_valid_however_far_it_goes():
    task = task_of(3, 8, 8)
    low, high = task.normalization.valid_range(torch.zeros(1))
    images = spectrum.decode(1e4 * unit_noise(task, num=4, dtype=torch.float32), task)
    assert bool(((images >= low - 1e-6) & (images <= high + 1e-6)).all())


def test_a_lower_precision_leaves_it_alone():
    task = task_of(3, 8, 8)
    begun = unit_noise(task, dtype=torch.float32)
    wanted = spectrum.decode(begun, task)
    with torch.autocast("cpu", torch.bfloat16):
        found = spectrum.decode(begun, task)
    assert torch.equal(found, wanted)


TASK = task_of(3, 9, 8)
STEPS = 30


class Real:
    labels = torch.arange(3).repeat_interleave(4)

    def images(self, indices):
        pixels = torch.rand(12, *TASK.shape, generator=generator(0, "real"))
        return TASK.normalization.normalize(pixels)[indices]


@pytest.fixture(scope="module")
def teacher():
    with seeding.scoped(0, "teacher"):
        net = ConvNet(3, *TASK.shape, depth=1, width=8, norm="batch").train()
        for _ in range(20):
            net(torch.randn(32, *TASK.shape))
    model = net.eval().requires_grad_(False)
    return SimpleNamespace(model=model, models=(model,))


def method(**settings):
    return Sre2l(Sre2lSettings(**{"parametrisation": "spectrum", "roll_px": 1, **settings}), TASK, 2)


def recovered(folder, teacher, **settings):
    folder.mkdir(exist_ok=True)
    chosen = RecoverSettings(
        iterations=STEPS, optimizer="adam", momentum=0.9, chunk_size=4, num_snapshots=2, **settings
    )
    events = Events(quiet=True)
    recover(method(), Real(), teacher, chosen, seed=0, folder=folder, engine=Engine("cpu"), events=events)
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_noise_begins_nearly_grey_each_image_its_own():
    begun = method().init(torch.arange(6), Real(), None, partial(generator, 0))
    images = TASK.normalization.pixels(method().decode(begun))
    assert set(begun.variables) == {"spectrum"}
    assert float((images - 0.5).abs().max()) < 0.05
    assert not torch.equal(images[0], images[1])


def test_a_real_start_is_the_real_images(teacher):
    settings = {"start": "real"}
    plain = method(parametrisation="pixels", **settings).init(torch.arange(6), Real(), teacher, partial(generator, 0))
    ours = method(**settings)
    found = ours.decode(ours.init(torch.arange(6), Real(), teacher, partial(generator, 0)))
    assert float((found - plain.variables["images"]).abs().max()) < 0.01


def test_the_objective_is_that_of_the_images_that_it_stands_for(teacher):
    ours, plain = method(), method(parametrisation="pixels")
    state = ours.init(torch.arange(6), Real(), teacher, partial(generator, 0))
    images = type(state)(state.labels, {"images": ours.decode(state)})
    gradients, metrics = ours.gradient(state, torch.arange(6), Real(), teacher, generator(1))
    by_pixels, wanted = plain.gradient(images, torch.arange(6), Real(), teacher, generator(1))
    assert float(metrics["loss"]) == float(wanted["loss"])
    begun = state.variables["spectrum"].clone().requires_grad_()
    through = torch.autograd.grad(spectrum.decode(begun, TASK), begun, by_pixels["images"])[0]
    assert torch.allclose(gradients["spectrum"], through, rtol=1e-4, atol=1e-7)


def test_its_loss_falls(teacher):
    ours = method(crop=False, flip=False, roll_px=0)
    state = ours.init(torch.arange(6), Real(), teacher, partial(generator, 0))
    optimizer = torch.optim.Adam([state.variables["spectrum"]], lr=ours.learning_rates()["spectrum"])
    losses = []
    for step in range(STEPS):
        gradients, metrics = ours.gradient(state, torch.arange(6), Real(), teacher, generator(step))
        losses.append(float(metrics["loss"]))
        state.variables["spectrum"].grad = gradients["spectrum"]
        optimizer.step()
        ours.project(state)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(ema, teacher, tmp_path, monkeypatch):
    unbroken = recovered(tmp_path / "unbroken", teacher, ema=ema)
    monkeypatch.setattr(stage, "CHECKPOINT_EVERY_S", 0.0)
    take = stage._Loop._step

    def interrupted(loop, step):
        if (loop.chunk, step) == (1, STEPS // 2):
            raise KeyboardInterrupt
        return take(loop, step)

    with monkeypatch.context() as patched:
        patched.setattr(stage._Loop, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            recovered(tmp_path / "broken", teacher, ema=ema)
    assert (tmp_path / "broken" / "checkpoint-00001.safetensors").exists()
    assert recovered(tmp_path / "broken", teacher, ema=ema) == unbroken
