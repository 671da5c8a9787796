"""ZCA whitening: what it does to the images that it was measured on, and that it is undone."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attar.data import loading
from attar.data.loading import LazySplit, MemorySplit, RealSet
from attar.data.sources import SourceSettings, open_source, whitened
from attar.data.whitening import measure_whitening, require_whitenable
from attar.errors import ArtifactError, ConfigError
from attar.runtime.events import Events
from attar.runtime.seeding import generator
from attar.task import Normalization, Task, Whitening, upper_triangle

SHAPE = (3, 4, 5)
D = 60


def pixels(num: int = 400) -> Tensor:
    """Smooth noise: neighbours are alike, and so are colours."""
    rng = generator(0, "whitening")
    coarse = torch.rand(num, 1, 2, 2, generator=rng) + 0.3 * torch.rand(num, 3, 2, 2, generator=rng)
    smooth = torch.nn.functional.interpolate(coarse, SHAPE[1:], mode="bilinear", align_corners=True) / 1.3
    return (0.9 * smooth + 0.1 * torch.rand(num, *SHAPE, generator=rng)).mul(255).round().byte()


def measure(values: Tensor, epsilon: float = 0.1) -> Whitening:
    return measure_whitening(MemorySplit(values, torch.zeros(len(values))), SHAPE, epsilon, Events(quiet=True))


def scale(epsilon: float = 0.1) -> Normalization:
    return Normalization((0.5,) * 3, (0.25,) * 3, measure(pixels(), epsilon))


def test_whitened_images_have_identity_covariance_but_for_epsilon() -> None:
    values = pixels()
    plain = values.flatten(1).double().div(255)
    for epsilon in (1e-7, 0.1):
        images = scale(epsilon).normalize(values).flatten(1).double()
        torch.testing.assert_close(images.mean(0), torch.zeros(D).double(), rtol=0, atol=1e-4)
        variances, directions = torch.linalg.eigh(plain.T.cov())
        expected = directions @ torch.diag(variances / (variances + epsilon)) @ directions.T
        torch.testing.assert_close(images.T.cov(), expected, rtol=0, atol=1e-4)
    assert float((scale(1e-7).normalize(values).flatten(1).T.cov() - torch.eye(D)).abs().max()) < 1e-3


def test_it_is_the_zero_phase_one() -> None:
    """Of all matrices that decorrelate, ZCA's is symmetric: whitened images resemble the images."""
    matrix = scale().whitening.matrix  # type: ignore[union-attr]
    assert torch.equal(matrix, matrix.T)
    assert float(torch.linalg.eigvalsh(matrix.double()).min()) > 0
    values = pixels()
    flat = [images.flatten(1) for images in (values.float() - values.float().mean(0), scale().normalize(values))]
    assert float(torch.nn.functional.cosine_similarity(*flat).min()) > 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_come_back(dtype: torch.dtype) -> None:
    norm, values = scale(), pixels(20).to(dtype) / 255
    images = norm.normalize(values)
    assert images.dtype == dtype
    assert images.shape == values.shape
    torch.testing.assert_close(norm.pixels(images), values, rtol=0, atol=1e-5)
    assert torch.equal(norm.pixels(norm.normalize(pixels(20))).mul(255).round().byte(), pixels(20))


def test_gradients_pass_through() -> None:
    norm = scale()
    values = (pixels(2).double() / 255).requires_grad_()
    assert torch.autograd.gradcheck(norm.normalize, (values,), fast_mode=True)
    assert torch.autograd.gradcheck(norm.pixels, (values,), fast_mode=True)


def test_lower_precision_around_it_is_not_taken() -> None:
    norm, values = scale(), pixels(4)
    images = norm.normalize(values)
    back = norm.pixels(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(norm.normalize(values), images)
        assert torch.equal(norm.pixels(images), back)


def test_the_order_and_the_batches_of_images_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = pixels()
    first = measure(values)
    monkeypatch.setattr("attar.data.whitening.BATCH", 7)
    lazy = LazySplit(torch.zeros(400), lambda i: values.flip(0)[i])
    second = measure_whitening(lazy, SHAPE, 0.1, Events(quiet=True))
    assert second == first
    assert torch.equal(first.triangle, second.triangle)
    assert measure(values, 0.2) != first
    assert measure(values[1:]) != first


def test_a_direction_without_variance_is_no_obstacle() -> None:
    values = pixels()
    values[:, 0] = 17
    norm = Normalization((0.5,) * 3, (0.25,) * 3, measure(values))
    assert bool(norm.normalize(values).isfinite().all())
    torch.testing.assert_close(norm.pixels(norm.normalize(values)), values / 255, rtol=0, atol=1e-5)


def test_whitened_images_are_kept_and_the_same_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    values, norm = pixels(), scale()
    split = MemorySplit(values, torch.zeros(400))
    monkeypatch.setattr(loading, "KEPT_BLOCK", 32)
    forwards, backwards = RealSet(split, norm), RealSet(split, norm)
    monkeypatch.setattr(split, "pixels", counted := Counted(split))
    whole = forwards.images(torch.arange(400))
    assert counted.num == 400
    assert torch.equal(forwards.images(torch.tensor([[3, 399], [3, 0]])[0]), whole[[3, 399]])
    assert counted.num == 400
    assert torch.equal(backwards.images(torch.arange(399, -1, -7)), whole.flip(0)[::7])
    torch.testing.assert_close(whole, norm.normalize(values), rtol=0, atol=1e-5)
    monkeypatch.setattr(loading, "WHITENED_BYTES", 400 * D * 4 - 1)
    counted.num = 0
    unkept = RealSet(split, norm)
    for _ in range(2):
        torch.testing.assert_close(unkept.images(torch.arange(10)), whole[:10], rtol=0, atol=1e-5)
    assert counted.num == 20


class Counted:
    """Counts the pixels that are read of a split."""

    def __init__(self, split: MemorySplit) -> None:
        self.read, self.num = split.pixels, 0

    def __call__(self, indices: Tensor) -> Tensor:
        self.num += len(indices)
        return self.read(indices)


def test_there_is_no_valid_range() -> None:
    with pytest.raises(ConfigError, match=r"source\.zca=false"):
        scale().valid_range(torch.zeros(1))


def test_a_note_names_the_matrix_and_does_not_hold_it() -> None:
    task = Task(("a", "b"), *SHAPE, Normalization((0.5,) * 3, (0.25,) * 3))
    assert "whitening" not in task.to_json()["normalization"]
    whole = task.whitened(measure(pixels()))
    named = Task.from_json(whole.to_json())
    assert named == whole != task
    assert hash(named) == hash(whole)
    assert named.normalization != task.whitened(measure(pixels(), 0.2)).normalization
    for use in (named.normalization.normalize, named.normalization.pixels):
        with pytest.raises(ArtifactError, match="only the name is known"):
            use(torch.zeros(1, *SHAPE))
    assert len(repr(whole)) < 400
    assert copy.deepcopy(whole) == whole


def test_a_matrix_that_cannot_be_undone_is_told() -> None:
    singular = Whitening.of(torch.zeros(3), upper_triangle(torch.ones(3, 3)), 0.1)
    with pytest.raises(ArtifactError, match="not positive definite"):
        singular.unwhiten(torch.zeros(1, 3, 1, 1))


def test_too_large_images_are_refused_before_they_are_read(tmp_path: Path) -> None:
    require_whitenable((3, 36, 37))
    require_whitenable((1, 64, 64))
    with pytest.raises(ConfigError, match=r"224x224 px with 3 channels have 150,528 values(.|\n)*36x36 px"):
        require_whitenable((3, 224, 224))
    with pytest.raises(ConfigError, match=r"source\.zca: images of 65x65 px with 1 channel have"):
        open_source("digits", SourceSettings(zca=True, resolution=65))


def test_a_source_is_whitened_by_its_training_split() -> None:
    source = open_source("digits", SourceSettings(zca=True, train_per_class=30))
    assert source.task.normalization.whitening is None
    found = measure_whitening(source.train, source.task.shape, 0.1, Events(quiet=True))
    white = whitened(source, found)
    assert white.fingerprint == source.fingerprint
    train, test = (RealSet(split, white.task.normalization) for split in (white.train, white.test))
    covariance = train.images(torch.arange(300)).flatten(1).double().T.cov()
    assert 0.5 < float(torch.linalg.eigvalsh(covariance).max()) < 1.0001
    flat = test.split.pixels(torch.arange(5)).flatten(1) / 255 - found.mean
    torch.testing.assert_close(test.images(torch.arange(5)).flatten(1), flat @ found.matrix, rtol=0, atol=1e-5)
