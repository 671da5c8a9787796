import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as TF

from attar.augment import crops, views
from attar.augment.views import Views, ViewSettings
from attar.errors import ArtifactError
from attar.runtime.seeding import generator

NUM = 50
MIXES = ["none", "cutmix", "mixup"]
SHAPES = [(3, 32, 32), (1, 28, 28), (3, 17, 40)]


def images(shape: tuple[int, int, int] = (3, 32, 32)) -> Tensor:
    return torch.randn(NUM, *shape, generator=generator(0, "images"))


def reader(pixels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda indices: pixels[indices]


def make(shape: tuple[int, int, int] = (3, 32, 32), seed: int = 7, num: int = NUM, **settings: object) -> Views:
    return Views(ViewSettings.model_validate(settings), seed, num, shape)


def keys(num: int, epoch: int | None = None) -> tuple[Tensor, Tensor]:
    """Epochs and indices in no order, some of them twice."""
    rng = generator(1, num)
    epochs = torch.randint(300, (num,), generator=rng) if epoch is None else torch.full((num,), epoch)
    return epochs, torch.randint(NUM, (num,), generator=rng)


def alike(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> bool:
    return float(stats.ks_2samp(ours, theirs).pvalue) > 0.01


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_has_the_same_bits_alone_and_in_any_batch(mix: str, shape: tuple[int, int, int]) -> None:
    these, read, (epochs, indices) = make(shape, mix=mix), reader(images(shape)), keys(37)
    batch = these.apply(read, epochs, indices)
    assert batch.shape == (37, *shape)
    alone = [these.apply(read, epochs[i : i + 1], indices[i : i + 1]) for i in range(37)]
    assert torch.equal(batch, torch.cat(alone))
    order = torch.randperm(37, generator=generator(3))
    assert torch.equal(batch[order], these.apply(read, epochs[order], indices[order]))
    assert torch.equal(batch, make(shape, mix=mix).apply(read, epochs, indices))


def test_seed_epoch_and_image_each_make_other_views() -> None:
    epochs, indices = torch.arange(40) % 8, torch.arange(40) // 8
    drawn = make().draw(epochs, indices)
    assert len({tuple(row) for row in drawn.crop.tolist()}) == 40
    assert not torch.equal(drawn.crop, make(seed=8).draw(epochs, indices).crop)
    assert not torch.equal(drawn.crop, make().draw(indices, epochs).crop)


def test_crop_and_mirror_do_not_depend_on_the_mix() -> None:
    first, second, third = (make(mix=mix).draw(*keys(30)) for mix in MIXES)
    for other in (second, third):
        assert torch.equal(first.crop, other.crop)
        assert torch.equal(first.flip, other.flip)
    assert torch.equal(second.partner, third.partner)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_view_without_a_mix_is_torchvisions_crop_and_mirror(shape: tuple[int, int, int]) -> None:
    these, pixels, (epochs, indices) = make(shape, mix="none"), images(shape), keys(40)
    drawn, shown = these.draw(epochs, indices), these.apply(reader(pixels), epochs, indices)
    assert drawn.flip.any()
    assert not drawn.flip.all()
    for row, index in enumerate(indices):
        theirs = TF.resized_crop(pixels[index], *drawn.crop[row].tolist(), list(shape[1:]), antialias=False)
        theirs = TF.hflip(theirs) if drawn.flip[row] else theirs
        torch.testing.assert_close(shown[row], theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mix", ["cutmix", "mixup"])
def test_a_mix_is_made_of_the_views_of_the_image_and_of_its_partner(mix: str, shape: tuple[int, int, int]) -> None:
    these, plain, read, (epochs, indices) = (
        make(shape, mix=mix),
        make(shape, mix="none"),
        reader(images(shape)),
        keys(40),
    )
    drawn = these.draw(epochs, indices)
    own, partner = plain.apply(read, epochs, indices), plain.apply(read, epochs, drawn.partner)
    expected = own.clone()
    for row, (top, left, bottom, right) in enumerate(drawn.box.tolist()):
        share = float(drawn.share[row])
        if mix == "mixup":
            expected[row] = share * own[row] + (1 - share) * partner[row]
        else:
            expected[row, :, top:bottom, left:right] = partner[row, :, top:bottom, left:right]
            assert share == pytest.approx(1 - (bottom - top) * (right - left) / (shape[1] * shape[2]))
    torch.testing.assert_close(these.apply(read, epochs, indices), expected, rtol=0, atol=1e-4)


def test_images_are_asked_for_once_with_their_partners() -> None:
    asked: list[Tensor] = []

    def read(indices: Tensor) -> Tensor:
        asked.append(indices)
        return torch.zeros(len(indices), 3, 32, 32)

    epochs, indices = keys(9)
    make().apply(read, epochs, indices)
    make(mix="none").apply(read, epochs, indices)
    assert [len(one) for one in asked] == [18, 9]
    assert torch.equal(asked[0][::2], indices)
    assert torch.equal(asked[1], indices)


def test_the_whole_image_unmixed_is_the_image() -> None:
    these, pixels, (epochs, indices) = make(min_scale=1, flip=False, mix="none"), images(), keys(20)
    assert these.draw(epochs, indices).crop.unique(dim=0).tolist() == [[0, 0, 32, 32]]
    torch.testing.assert_close(these.apply(reader(pixels), epochs, indices), pixels[indices], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width", "min_scale"), [(32, 32, 0.08), (24, 40, 0.3), (64, 16, 0.08)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int, min_scale: float) -> None:
    num = 4000
    drawn = make((3, height, width), min_scale=min_scale).draw(torch.arange(num), torch.zeros(num))
    ours, blank = drawn.crop.double().numpy(), torch.zeros(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        params = RandomResizedCrop.get_params
        theirs = np.array([params(blank, [min_scale, 1.0], list(crops.RATIO)) for _ in range(num)], np.float64)
    for measure in (lambda c: c[:, 2] * c[:, 3], lambda c: c[:, 2] / c[:, 3], lambda c: c[:, 0], lambda c: c[:, 1]):
        assert alike(measure(ours), measure(theirs))
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= [height, width]).all()


def test_what_is_left_when_no_crop_fits_is_as_in_torchvision() -> None:
    uniforms = np.full((1, crops.NUM_UNIFORMS), 0.999)
    for height, width in ((4, 64), (64, 4), (30, 40), (33, 33)):
        with torch.random.fork_rng():  # a scale that never fits
            theirs = RandomResizedCrop.get_params(torch.zeros(1, height, width), [9.0, 9.0], list(crops.RATIO))
        assert crops.choose(uniforms, 9.0, height, width).tolist() == [list(theirs)]


def test_mirrors_partners_and_mixup_weights_are_distributed_as_they_should() -> None:
    epochs, indices = torch.arange(8000), torch.arange(8000) % NUM
    for alpha in (1.0, 0.8):
        drawn = make(mix="mixup", mix_alpha=alpha).draw(epochs, indices)
        assert float(stats.kstest(drawn.share.numpy(), stats.beta(alpha, alpha).cdf).pvalue) > 0.01
    assert float(stats.binomtest(int(drawn.flip.sum()), 8000).pvalue) > 0.01
    assert float(stats.chisquare(drawn.partner.bincount(minlength=NUM).numpy()).pvalue) > 0.01
    assert float(stats.pearsonr(drawn.flip.numpy(), drawn.partner_flip.numpy()).pvalue) > 0.01
    assert not make(flip=False).draw(epochs, indices).flip.any()


def test_a_partner_shows_its_own_view_of_the_epoch() -> None:
    epochs, indices = keys(60)
    drawn = make().draw(epochs, indices)
    partners = make().draw(epochs, drawn.partner)
    assert torch.equal(drawn.partner_crop, partners.crop)
    assert torch.equal(drawn.partner_flip, partners.flip)


def test_boxes_are_distributed_as_in_the_published_code() -> None:
    height, width, num = 32, 48, 4000
    box = make((3, height, width)).draw(torch.arange(num), torch.zeros(num)).box.double().numpy()
    rng, theirs = np.random.default_rng(0), np.empty((num, 4))
    for row in theirs:  # CutMix's `rand_bbox`, rows first
        cut = math.sqrt(1 - rng.beta(1, 1))
        tall, wide = int(height * cut), int(width * cut)
        y, x = rng.integers(height), rng.integers(width)
        row[:2] = max(y - tall // 2, 0), max(x - wide // 2, 0)
        row[2:] = min(y + tall // 2, height), min(x + wide // 2, width)
    for measure in (lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]), *(lambda b, i=i: b[:, i] for i in range(4))):
        assert alike(measure(box), measure(theirs))


def test_the_generator_is_splitmix64() -> None:
    """The first numbers of seed 1234567, as its published C code prints them."""
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * views._GAMMA
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert views._mix(states).tolist() == [*published, 16408922859458223821]


def test_what_a_seed_draws_never_changes() -> None:
    """As first released: a dataset that is out there must replay. Another draw needs another `ALGORITHM`."""
    these = make((3, 32, 48), seed=2024, num=1000)
    drawn = these.draw(torch.tensor([0, 1, 299]), torch.tensor([0, 999, 5]))
    assert views.ALGORITHM == 1
    assert drawn.crop.tolist() == [[0, 27, 25, 19], [8, 22, 22, 26], [4, 29, 18, 18]]
    assert drawn.flip.tolist() == [False, True, True]
    assert drawn.partner.tolist() == [927, 733, 210]
    assert drawn.box.tolist() == [[0, 29, 22, 48], [0, 4, 19, 48], [0, 8, 13, 48]]
    share = make(seed=2024, mix="mixup", mix_alpha=0.8).draw(torch.tensor([3]), torch.tensor([4])).share
    assert float(share) == pytest.approx(0.1884148, rel=1e-6)


class Relabelling(ViewSettings):
    """Settings of a stage that shows views, among others."""

    epochs: int = 300


def test_views_are_replayed_from_their_description() -> None:
    first = Views(Relabelling(min_scale=0.2, mix="mixup", mix_alpha=0.8), 3, NUM, (3, 32, 32))
    description = first.to_json()
    assert set(description["settings"]) == {"min_scale", "flip", "mix", "mix_alpha", "shuffle_patches"}
    second, read = Views.from_json(description), reader(images())
    assert torch.equal(first.apply(read, *keys(5)), second.apply(read, *keys(5)))
    assert second.to_json() == description


def test_a_description_that_can_not_be_replayed_is_refused() -> None:
    description = make().to_json()
    with pytest.raises(ArtifactError, match=r"algorithm 2\n(.|\n)*algorithm 1, the only one(.|\n)*relabel"):
        Views.from_json(description | {"algorithm": 2})
    for wrong in ({"shape": [3, 32]}, {"seed": None}, {"settings": {"min_scale": 7}}, {"num_images": 0}):
        with pytest.raises(ArtifactError, match="could not be read"):
            Views.from_json(description | wrong)
    del description["settings"]
    with pytest.raises(ArtifactError, match="could not be read"):
        Views.from_json(description)


def test_settings_are_checked() -> None:
    for wrong in ({"min_scale": 0}, {"min_scale": 1.1}, {"mix_alpha": 0}, {"mix": "cut"}):
        with pytest.raises(ValueError, match="Input should be"):
            ViewSettings.model_validate(wrong)
    assert all(info.description for info in ViewSettings.model_fields.values())


@pytest.mark.parametrize("mix", MIXES)
def test_a_view_of_an_image_that_holds_others_is_of_one_of_them(mix: str) -> None:
    settings, shape = ViewSettings.model_validate({"mix": mix, "min_scale": 0.3}), (1, 9, 12)
    these = Views(settings, 7, NUM, shape, tiles=2)
    epochs, indices = keys(400)
    crop = these.draw(epochs, indices).crop
    top, left, height, width = crop.unbind(1)
    places = 2 * (top >= 5) + (left >= 6)
    assert set(places.tolist()) == {0, 1, 2, 3}, "each of them comes"
    inside = crops.tiles(places, 2, *shape[1:])
    assert ((inside[:, :2] <= crop[:, :2]) & (crop[:, :2] + crop[:, 2:] <= inside[:, :2] + inside[:, 2:])).all()
    assert (height * width >= 0.2 * 4 * 6).all()
    flat = torch.arange(4.0).view(1, 1, 2, 2).repeat_interleave(5, 2).repeat_interleave(6, 3)[:, :, :9]
    shown = these.apply(lambda i: flat.expand(len(i), -1, -1, -1), epochs, indices)
    if mix == "none":
        assert torch.allclose(shown, places.view(-1, 1, 1, 1).expand_as(shown).float())
    alone = these.apply(lambda i: flat.expand(len(i), -1, -1, -1), epochs[9:10], indices[9:10])
    assert torch.equal(alone, shown[9:10])
    again = Views.from_json(these.to_json())
    assert torch.equal(again.draw(epochs, indices).crop, crop)
    assert "tiles" not in Views(settings, 7, NUM, shape).to_json()
    for tiles in (0, 10, "x"):
        with pytest.raises(ArtifactError, match="views"):
            Views.from_json({**these.to_json(), "tiles": tiles})


def test_patches_of_images_that_hold_others_stay_so_that_a_view_is_of_one() -> None:
    flat = torch.arange(4.0).view(1, 1, 2, 2).repeat_interleave(5, 2).repeat_interleave(6, 3)[:, :, :9]
    for num in (2, 3):
        these = Views(ViewSettings(mix="none", shuffle_patches=num), 7, NUM, (1, 9, 12), tiles=2)
        shown = these.apply(lambda i: flat.expand(len(i), -1, -1, -1), *keys(100))
        assert (shown.amax((1, 2, 3)) - shown.amin((1, 2, 3)) < 1e-6).all()
        assert len(shown[:, 0, 0, 0].round().unique()) == 4
