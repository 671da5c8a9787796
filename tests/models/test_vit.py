import pytest
import torch
from torch import nn

from attar.errors import ConfigError
from attar.models import factory
from attar.models.norms import batch_norms, require_batch_norm
from attar.models.vit import TokenBatchNorm, default_patch_px
from attar.task import Normalization, Task


def make_task(channels: int = 1, height_px: int = 16, width_px: int = 16) -> Task:
    names = tuple(f"class {i}" for i in range(5))
    return Task(names, channels, height_px, width_px, Normalization((0.5,) * channels, (0.25,) * channels))


@pytest.mark.parametrize(
    ("size_px", "patch_px"),
    [(8, 2), (16, 4), (28, 4), (32, 4), (48, 8), (64, 8), (100, 4), (112, 8), (128, 16), (224, 16)],
)
def test_the_patch_follows_the_resolution(size_px: int, patch_px: int) -> None:
    assert default_patch_px(size_px, size_px) == patch_px


def test_the_tiny_ones_are_deit_tiny() -> None:
    task = make_task(3, 224, 224)
    vit, bnvit = factory.build("vit-tiny", task), factory.build("bnvit-tiny", task)
    named = Task(tuple(f"{i}" for i in range(1000)), 3, 224, 224, task.normalization)
    assert factory.num_parameters(factory.build("vit-tiny", named)) == 5_717_416  # Touvron et al. 2021: 5.7 M
    assert factory.num_parameters(bnvit) == factory.num_parameters(vit) + 12 * 2 * 4 * 192
    assert not batch_norms(vit)
    assert len(batch_norms(bnvit)) == 12 * 3 + 1
    assert not any(isinstance(module, nn.LayerNorm) for module in bnvit.modules())


def test_every_batch_norm_sees_rows_of_channels_and_stands_where_it_is_published() -> None:
    model = factory.build("bnvit-d2-w48-p8", make_task())
    seen: list[tuple[int, ...]] = []
    for norm in batch_norms(model):
        norm.register_forward_hook(lambda _, args, __: seen.append(tuple(args[0].shape)))
    model(torch.zeros(3, 1, 16, 16))
    tokens = 3 * (2 * 2 + 1)
    assert seen == [(tokens, 48), (tokens, 48), (tokens, 4 * 48)] * 2 + [(tokens, 48)]
    mlp = model.get_submodule("blocks.0.mlp")
    assert [type(module) for module in mlp.act] == [TokenBatchNorm, nn.GELU]


def test_token_batch_norm_is_batch_norm_over_images_and_tokens() -> None:
    tokens = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    normalised = TokenBatchNorm(3)(tokens)
    mean, var = tokens.mean((0, 1)), tokens.var((0, 1), unbiased=False)
    assert torch.allclose(normalised, (tokens - mean) / (var + 1e-5).sqrt(), atol=1e-5)


@pytest.mark.parametrize("name", ["vit-d1-w48", "bnvit-d2-w64-p4", "resnet18-small", "convnet-d3-w8-batch"])
def test_grey_28_px_in_float32_and_bfloat16(name: str) -> None:
    task = make_task(1, 28, 28)
    model = factory.build(name, task).eval()
    images = torch.randn(2, *task.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    plain = model(images).detach()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(images).float()
    assert mixed.shape == plain.shape == (2, 5)
    assert torch.allclose(mixed, plain, atol=0.1 * float(plain.std()) + 0.02)
    (gradient,) = torch.autograd.grad(mixed.square().sum(), images)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "size_px", "fix"),
    [
        ("vit-tiny-p16", (40, 64), "vit-tiny-p8"),
        ("bnvit-tiny", (27, 27), "vit-tiny-p3"),
        ("vit-tiny", (29, 31), "--resolution"),
        ("timm:test_vit", (40, 40), "vit-tiny-p20"),
        ("timm:vit_tiny_patch16_224", (100, 100), "vit-tiny-p20"),
    ],
)
def test_an_image_that_is_no_whole_number_of_patches_is_refused(name: str, size_px: tuple[int, int], fix: str) -> None:
    with pytest.raises(ConfigError, match="no whole number of them") as caught:
        factory.build(name, make_task(3, *size_px))
    assert fix in caught.value.fix


@pytest.mark.parametrize("name", ["vit-d0-w48", "bnvit-d1-w0", "vit-tiny-p0"])
def test_a_transformer_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"has no layers|no whole number"):
        factory.build(name, make_task())


def test_images_need_not_be_square_and_any_width_has_heads() -> None:
    model = factory.build("bnvit-d1-w200-p8", make_task(3, 16, 24)).eval()
    assert model(torch.zeros(2, 3, 16, 24)).shape == (2, 5)
    assert model.get_submodule("blocks.0.attn").num_heads == 2


def test_batch_norms_come_in_the_order_in_which_they_run() -> None:
    for name in ("resnet18-small", "bnvit-d2-w48", "convnet-d3-w4-batch", "timm:test_resnet", "resnet18"):
        model = factory.build(name, make_task(1, 32, 32)).eval()
        norms, ran = batch_norms(model), list[nn.Module]()
        for norm in norms:
            norm.register_forward_hook(lambda module, *_, ran=ran: ran.append(module))
        model(torch.zeros(1, 1, 32, 32))
        assert len(norms) > 2
        assert [norms.index(norm) for norm in ran] == list(range(len(norms))), name


@pytest.mark.parametrize("name", ["convnet-d2-w4", "vit-d1-w48", "timm:test_vit"])
def test_a_network_without_batch_norm_is_refused_with_what_to_use(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} has no BatchNorm") as caught:
        require_batch_norm(factory.build(name, make_task(1, 32, 32)), name)
    for good in ("resnet18-small", "convnet-d3-w128-batch", "bnvit-tiny"):
        assert good in caught.value.fix
        require_batch_norm(factory.build(good, make_task(1, 32, 32)), good)


def test_batch_norm_without_running_statistics_does_not_count() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False))
    assert batch_norms(model) == []
