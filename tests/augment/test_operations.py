import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from attar.augment.operations import NAMED, OPERATIONS, Augmentation, Draw, Mode, MultiCrop, Per
from attar.errors import ConfigError
from attar.runtime.seeding import generator

SPECS: list[tuple[str, Mode]] = [
    *((name, "all") for name in OPERATIONS),
    ("dsa", "one"),
    ("dsa", "all"),
    ("dsa-noflip", "one"),
    ("flip_crop", "all"),
    ("rrc0.25_flip_roll", "all"),
]
SHAPE = (3, 8, 10)


def images(num: int = 12, *, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num, *SHAPE, generator=generator(0, "images"), dtype=dtype)


def of_image(draw: Draw, place: int) -> Draw:
    return {name: drawn[place : place + 1] for name, drawn in draw.items()}


@pytest.mark.parametrize(("spec", "mode"), SPECS)
def test_a_batch_is_augmented_as_its_images_are_one_by_one(spec: str, mode: Mode) -> None:
    augmentation, batch = Augmentation(spec, mode), images()
    draw = augmentation.draw(generator(1), len(batch), SHAPE)
    single = [augmentation.apply(batch[i : i + 1], of_image(draw, i)) for i in range(len(batch))]
    torch.testing.assert_close(augmentation.apply(batch, draw), torch.cat(single), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("spec", "mode"), SPECS)
def test_one_draw_is_shared_by_the_batch(spec: str, mode: Mode) -> None:
    augmentation, batch = Augmentation(spec, mode), images()
    draw = augmentation.draw(generator(2), len(batch), SHAPE, "batch")
    own = {augmentation.tile}  # which of the images that an image holds is each one's own
    assert all(len(drawn) == (len(batch) if name in own else 1) for name, drawn in draw.items())
    if augmentation.tile:
        return
    out = augmentation.apply(batch, draw)
    single = torch.cat([augmentation.apply(batch[i : i + 1], draw) for i in range(len(batch))])
    assert out.shape == batch.shape
    torch.testing.assert_close(out, single, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("spec", "mode"), SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_draw_gives_the_same_pixels_and_keeps_the_type(spec: str, mode: Mode, dtype: torch.dtype) -> None:
    augmentation, batch = Augmentation(spec, mode), images(dtype=dtype)
    first, second = (
        augmentation.apply(batch, augmentation.draw(generator(3, "x"), len(batch), SHAPE)) for _ in range(2)
    )
    assert first.dtype == dtype
    assert torch.equal(first, second)


@pytest.mark.parametrize(("spec", "mode"), SPECS)
@pytest.mark.parametrize("per", ["batch", "operation", "image"])
def test_gradient_of_a_gradient_reaches_the_images(spec: str, mode: Mode, per: Per) -> None:
    """d/dx of <dl/dtheta, v> agrees with finite differences: what trajectory matching differentiates."""
    augmentation, batch = Augmentation(spec, mode), images(4)
    draw = augmentation.draw(generator(5), 4, SHAPE, per)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Softplus(), nn.Flatten(), nn.Linear(96, 3)).double()
    parameters = {name: value.detach().requires_grad_() for name, value in network.named_parameters()}
    direction = [torch.randn_like(value) for value in parameters.values()]

    def product(x: Tensor) -> Tensor:
        logits = functional_call(network, parameters, (augmentation.apply(x, draw),))
        loss = F.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        return torch.stack([(g * v).sum() for g, v in zip(gradients, direction, strict=True)]).sum()

    assert torch.autograd.gradcheck(product, (batch.requires_grad_(),), fast_mode=True)


def test_crop_shifts_by_whole_pixels_and_brings_in_zeros() -> None:
    batch = images(2)
    out = OPERATIONS["crop"].apply(batch, torch.tensor([[1, -2], [0, 0]]))
    expected = torch.zeros_like(batch[0])
    expected[:, 1:, :-2] = batch[0, :, :-1, 2:]
    assert torch.equal(out, torch.stack([expected, batch[1]]))


def test_cutout_zeroes_half_of_width_and_height() -> None:
    out = OPERATIONS["cutout"].apply(torch.ones(2, 1, 8, 8), torch.tensor([[4, 4], [0, 8]]))
    assert torch.equal(out[0, 0] == 0, F.pad(torch.ones(4, 4), (2, 2, 2, 2)) == 1)
    assert int((out[1] == 0).sum()) == 4  # a corner: most of the square lies outside


def test_turning_and_scaling_by_nothing_changes_nothing() -> None:
    batch = images(2)
    torch.testing.assert_close(OPERATIONS["rotate"].apply(batch, torch.zeros(2)), batch)
    torch.testing.assert_close(OPERATIONS["scale"].apply(batch, torch.ones(1, 2)), batch)


def test_colour_of_mean_and_factors() -> None:
    batch = images(3)
    out = OPERATIONS["color"].apply(batch, torch.tensor([[0.25, 0.0, 1.0]]))
    torch.testing.assert_close(out, (batch + 0.25).mean(1, keepdim=True).expand_as(batch))
    out = OPERATIONS["color"].apply(batch, torch.tensor([[0.0, 1.0, 0.5]]))
    torch.testing.assert_close(out.mean((1, 2, 3)), batch.mean((1, 2, 3)))
    torch.testing.assert_close(out.std((1, 2, 3)), batch.std((1, 2, 3)) / 2)


def test_saturation_leaves_grey_images_alone() -> None:
    grey = images(2)[:, :1]
    out = OPERATIONS["color"].apply(grey, torch.tensor([[0.0, 1.7, 1.0]]))
    torch.testing.assert_close(out, grey)


def test_ranges_of_draws() -> None:
    drawn = Augmentation("dsa", "all").draw(generator(7), 4000, (3, 32, 48))
    crop, cutout, color = drawn["crop"], drawn["cutout"], drawn["color"]
    assert (crop.amin(0).tolist(), crop.amax(0).tolist()) == ([-4, -6], [4, 6])
    assert (cutout.amin(0).tolist(), cutout.amax(0).tolist()) == ([0, 0], [32, 48])
    assert float(drawn["scale"].min()) >= 1 / 1.2
    assert float(drawn["scale"].max()) <= 1.2
    assert 14.5 < float(drawn["rotate"].abs().max().rad2deg()) <= 15
    assert 0.45 < float(drawn["flip"].float().mean()) < 0.55
    torch.testing.assert_close(color.mean(0), torch.tensor([0.0, 1.0, 1.0]), atol=0.04, rtol=0)
    torch.testing.assert_close(color.amax(0), torch.tensor([0.5, 2.0, 1.5]), atol=0.01, rtol=0)


def test_one_mode_uses_every_operation_and_one_for_each_image() -> None:
    augmentation = Augmentation("dsa")
    draw = augmentation.draw(generator(8), 300, SHAPE)
    assert set(draw["operation"].tolist()) == set(range(6))
    flips = draw["operation"] == augmentation.names.index("flip")
    batch = images(300)
    out = augmentation.apply(batch, draw)
    mirrored = torch.where(draw["flip"].view(-1, 1, 1, 1), batch.flip(-1), batch)
    assert torch.equal(out[flips], mirrored[flips])


@pytest.mark.parametrize("spec", ["", "none"])
def test_no_augmentation(spec: str) -> None:
    augmentation, batch = Augmentation(spec), images()
    assert augmentation.apply(batch, augmentation.draw(generator(0), 1, SHAPE)) is batch


def test_modes_by_name() -> None:
    assert [Augmentation(spec).mode for spec in ("dsa", "dsa-noflip", "flip_crop")] == ["one", "one", "all"]
    assert "flip" not in Augmentation("dsa-noflip").names
    assert set(NAMED) == {"none", "dsa", "dsa-noflip"}


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean rotate"):
        Augmentation("flip_rotat")
    with pytest.raises(ConfigError, match="did you mean dsa-noflip"):
        Augmentation("dsa-noflp")
    for spec in ("rrc0", "rrc1.5", "rrcnan", "rrcx_flip"):
        with pytest.raises(ConfigError, match=r"did you mean rrc"):
            Augmentation(spec)
    with pytest.raises(ConfigError, match="mode 'some'"):
        Augmentation("flip", "some")  # type: ignore[arg-type]


@pytest.mark.parametrize("num", [1, 12])
def test_resized_crops_are_torchvisions(num: int) -> None:
    batch, operation = images(), OPERATIONS["rrc"]
    drawn = operation.draw(generator(9), num, SHAPE)
    out = operation.apply(batch, drawn)
    for row, image in enumerate(batch):
        theirs = TF.resized_crop(image, *drawn[row % num].tolist(), list(SHAPE[1:]), antialias=False)
        torch.testing.assert_close(out[row], theirs, rtol=0, atol=1e-6)


def test_the_smallest_part_of_a_crop_stands_in_its_name() -> None:
    for spec, least in (("rrc", 0.08), ("rrc0.25", 0.25), ("rrc0.9", 0.9)):
        crop = Augmentation(spec).draw(generator(10), 3000, (3, 64, 64))[spec]
        part = (crop[:, 2] * crop[:, 3]).double() / 64**2
        assert least - 0.02 < float(part.min()) < least + 0.02
    whole = Augmentation("rrc1").draw(generator(10), 5, (3, 64, 64))["rrc1"]
    assert whole.tolist() == [[0, 0, 64, 64]] * 5


def test_rolls_go_round_and_reach_32_pixels_or_half_the_size() -> None:
    batch, operation = images(2), OPERATIONS["roll"]
    out = operation.apply(batch, torch.tensor([[1, -2], [0, 5]]))
    assert torch.equal(out, torch.stack([batch[0].roll((1, -2), (1, 2)), batch[1].roll(5, 2)]))
    assert torch.equal(operation.apply(batch, torch.tensor([[3, 4]])), batch.roll((3, 4), (2, 3)))
    drawn = operation.draw(generator(11), 4000, (3, 28, 224))
    assert (drawn.amin(0).tolist(), drawn.amax(0).tolist()) == ([-14, -32], [14, 32])


def test_recovery_looks_at_a_chunk_through_one_crop_mirror_and_roll() -> None:
    look, batch = MultiCrop(roll_px=3), images(4, dtype=torch.float32)
    draw = look.draw(generator(12), SHAPE, 0.3)
    expected = batch
    for name in ("rrc", "flip", "roll"):
        assert len(draw[name]) == 1
        expected = OPERATIONS[name].apply(expected, draw[name])
    assert torch.equal(look.apply(batch, draw), expected)
    assert torch.equal(look.draw(generator(12), SHAPE, 0.3)["rrc"], draw["rrc"])
    assert int(draw["roll"].abs().max()) <= 3


def test_a_look_without_crop_mirror_and_roll_is_the_image() -> None:
    look, batch = MultiCrop(crop=False, flip=False, roll_px=0), images(2)
    assert look.apply(batch, look.draw(generator(13), SHAPE)) is batch
    whole = MultiCrop(flip=False, roll_px=0)
    assert whole.apply(batch, whole.draw(generator(13), (3, 9, 9), min_scale=1)).shape == batch.shape


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_look_keeps_the_memory_format_and_lets_gradients_through(memory_format: torch.memory_format) -> None:
    batch = images(3).contiguous(memory_format=memory_format).requires_grad_()
    look = MultiCrop()
    for step in range(4):
        draw = look.draw(generator(14, step), SHAPE)
        looked = look.apply(batch, draw)
        assert looked.is_contiguous(memory_format=memory_format)
        (gradient,) = torch.autograd.grad(looked.sum(), batch)
        top, left, height, width = draw["rrc"][0].tolist()
        assert float(gradient.sum()) == pytest.approx(batch.numel())
        assert torch.count_nonzero(gradient) == torch.count_nonzero(
            gradient[:, :, top : top + height, left : left + width]
        )


def test_images_too_small_for_so_many_tiles_are_refused() -> None:
    with pytest.raises(ConfigError, match="images of 8x10 px into 9 by 9 tiles"):
        Augmentation("tile9_flip").draw(generator(0, "draw"), 2, SHAPE, per="image")
