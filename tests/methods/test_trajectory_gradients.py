"""The exact gradient is the unrolled one; the published formula is the unrolled one with cut parameters."""

import shutil
from dataclasses import replace

import pytest
import torch

from attar.augment.operations import Augmentation
from attar.errors import ConfigError
from attar.losses.compiled import CompiledStep
from attar.losses.trajectory import Matching, MatchingGradient, soft_cross_entropy
from attar.methods.mtt import unrolled
from attar.methods.tesla import Tesla, TeslaSettings, adjoint, graph_bytes
from attar.models.convnet import ConvNet
from attar.models.flat import FlatModel
from attar.runtime import seeding
from attar.task import Normalization, Task


def matching_problem(num_steps: int, batch_size: int, augment: str = "dsa", depth: int = 2):
    with seeding.scoped(0, "test"):
        flat = FlatModel(ConvNet(3, 2, 8, 8, depth=depth, width=4, norm="instance").double())
    rng = seeding.generator(1, "problem")
    images = torch.randn(6, 2, 8, 8, generator=rng, dtype=torch.float64)
    targets = torch.rand(6, 3, generator=rng, dtype=torch.float64).softmax(dim=1)
    start = flat.vector()
    target = start + 0.1 * torch.randn(flat.size, generator=rng, dtype=torch.float64)
    augmentation = Augmentation(augment)
    draws = [augmentation.draw(rng, 1, (2, 8, 8), "batch") for _ in range(num_steps)]
    batches = [torch.randperm(6, generator=rng)[:batch_size] for _ in range(num_steps)]

    def loss(theta, x, y):
        return soft_cross_entropy(flat(theta, x), y)

    problem = Matching(start, target, batches, loss, lambda i, x: augmentation.apply(x, draws[i]))
    return problem, images, targets, torch.tensor(0.3, dtype=torch.float64)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def assert_same(found: MatchingGradient, wanted: MatchingGradient, tolerance: float = 1e-9) -> None:
    for name in ("loss", "images", "targets", "rate"):
        assert relative(getattr(found, name), getattr(wanted, name)) < tolerance, name


@pytest.mark.parametrize(("num_steps", "batch_size"), [(1, 6), (4, 6), (7, 2)])
@pytest.mark.parametrize("augment", ["", "dsa"])
def test_exact_equals_unrolled(num_steps, batch_size, augment):
    problem = matching_problem(num_steps, batch_size, augment)
    assert_same(adjoint(*problem, exact=True), unrolled(*problem))


@pytest.mark.parametrize(("num_steps", "batch_size"), [(1, 6), (4, 6), (7, 2)])
def test_published_equals_unrolled_with_detached_parameters(num_steps, batch_size):
    problem = matching_problem(num_steps, batch_size)
    assert_same(adjoint(*problem, exact=False), unrolled(*problem, detach=True))


def test_published_is_not_the_gradient():
    problem = matching_problem(6, 6)
    assert relative(adjoint(*problem, exact=False).images, unrolled(*problem).images) > 0.05


def test_exact_agrees_with_finite_differences():
    problem, images, targets, rate = matching_problem(3, 6, augment="")
    found = adjoint(problem, images, targets, rate)
    direction = torch.randn(images.shape, generator=seeding.generator(2, "direction"), dtype=torch.float64)
    step = 1e-5
    up = adjoint(problem, images + step * direction, targets, rate).loss
    down = adjoint(problem, images - step * direction, targets, rate).loss
    slope = float((up - down) / (2 * step))
    assert float((found.images * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_images_left_out_of_every_batch_get_no_gradient():
    problem, images, targets, rate = matching_problem(2, 2)
    used = set(torch.cat(list(problem.batches)).tolist())
    found = adjoint(problem, images, targets, rate)
    for index in set(range(6)) - used:
        assert not found.images[index].any()
    assert all(found.images[index].any() for index in used)


@pytest.mark.parametrize("every", [2, 3, 7, 50])
def test_recomputing_from_checkpoints_changes_no_bit(every):
    problem = matching_problem(7, 2)
    wanted, found = adjoint(*problem), adjoint(*problem, checkpoint_every=every)
    for name in ("loss", "images", "targets", "rate"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(("keep", "every"), [(1, 1), (3, 2), (7, 1), (99, 3)])
def test_graphs_that_are_kept_need_not_be_made_again(exact, keep, every):
    problem, *rest = matching_problem(7, 2)
    calls = []

    def counted(i, x):
        calls.append(i)
        return problem.augment(i, x)

    found = adjoint(replace(problem, augment=counted), *rest, exact=exact, keep_graphs=keep, checkpoint_every=every)
    assert_same(found, adjoint(problem, *rest, exact=exact))
    assert [calls.count(i) for i in range(7 - keep, 7) if i >= 0] == [1] * min(keep, 7)
    assert all(calls.count(i) >= 2 for i in range(7 - keep))


def test_all_graphs_kept_is_the_unrolled_way_to_the_last_digits():
    """θ_N is summed from θ₀ on here and from the last step's end there, which rounds as the processor has it."""
    problem = matching_problem(5, 6)
    assert_same(adjoint(*problem, keep_graphs=5), unrolled(*problem), 1e-13)


@pytest.mark.parametrize(("exact", "augment", "every"), [(True, "dsa", 1), (False, "", 3)])
def test_traced_steps_give_the_same_gradient(exact, augment, every, monkeypatch):
    """What is compiled: the graph is run by torch here, as compiling takes a minute."""
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    problem = matching_problem(5, 4, augment)  # the last batches of a pass have two images, so there are two shapes
    traced = CompiledStep(problem[0].loss)
    found = adjoint(*problem, exact=exact, checkpoint_every=every, compiled=traced)
    assert_same(found, adjoint(*problem, exact=exact), 1e-12)
    again = matching_problem(5, 4, augment)
    elsewhere = (replace(again[0], start=again[0].start / 2), *again[1:])
    assert_same(adjoint(*elsewhere, compiled=traced), adjoint(*elsewhere), 1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="compiles by g++, which is not here")
def test_compiled_steps_give_the_same_gradient():
    problem = matching_problem(3, 6, depth=1)
    compiled = CompiledStep(problem[0].loss)
    assert_same(adjoint(*problem, compiled=compiled), adjoint(*problem))


def test_without_a_compiler_compiling_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"method\.compile=true, but there is no C\+\+ compiler"):
        Tesla.require_machine(TeslaSettings(compile=True))
    monkeypatch.setenv("CXX", "/no/such/program")
    with pytest.raises(ConfigError, match="CXX=/no/such/program names no program"):
        Tesla.require_machine(TeslaSettings(compile=True))
    Tesla.require_machine(TeslaSettings())


def test_kept_graphs_take_the_bytes_that_are_reckoned_with():
    problem = matching_problem(8, 6, augment="")
    one = graph_bytes(*problem[:3])
    peaks = [peak_bytes(problem, keep) for keep in (1, 4, 7)]
    assert peaks[0] == pytest.approx(one, rel=0.1)
    assert peaks[1] - peaks[0] == pytest.approx(3 * one, rel=0.1)
    assert peaks[2] - peaks[1] == pytest.approx(3 * one, rel=0.1)


@pytest.mark.parametrize("keep", [0, 2])
def test_what_autograd_keeps_does_not_grow_with_the_steps(keep):
    few, many = (peak_bytes(matching_problem(num_steps, 6), keep) for num_steps in (3, 12))
    assert many <= 1.1 * few


def peak_bytes(problem, keep: int) -> int:
    """The most that autograd holds at once for its backward passes, of distinct storages."""
    meter = Meter()
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, lambda kept: kept.tensor):
        adjoint(*problem, keep_graphs=keep)
    assert not meter.held, "and nothing stays"
    return meter.peak


class Meter:
    """Counts the bytes of storages that are saved for a backward pass and have not been let go."""

    def __init__(self):
        self.held, self.now, self.peak = {}, 0, 0

    def pack(self, tensor):
        return Kept(self, tensor)

    def add(self, storage, sign):
        key = storage.data_ptr()
        before = self.held.pop(key, 0)
        if before + sign:
            self.held[key] = before + sign
        if not before or not before + sign:
            self.now += sign * storage.nbytes()
        self.peak = max(self.peak, self.now)


class Kept:
    def __init__(self, meter, tensor):
        self.meter, self.tensor = meter, tensor
        meter.add(tensor.untyped_storage(), 1)

    def __del__(self):
        self.meter.add(self.tensor.untyped_storage(), -1)


def test_compiling_is_said_and_a_plan_does_without():
    method = Tesla(TeslaSettings(compile=True), Task(("a", "b"), 3, 8, 8, Normalization((0.5,) * 3, (0.5,) * 3)), 1)
    assert "compiling" in method.slow_start()
    assert method.rehearsed().settings == TeslaSettings()
    assert not method.rehearsed().slow_start()
