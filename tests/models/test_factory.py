import pytest
import torch
from torch import nn

from attar.errors import ConfigError
from attar.models import factory
from attar.models.convnet import NORMS, ConvNet
from attar.task import Normalization, Task


def make_task(channels: int = 1, size_px: int = 16, num_classes: int = 5) -> Task:
    names = tuple(f"class {i}" for i in range(num_classes))
    return Task(names, channels, size_px, size_px, Normalization((0.5,) * channels, (0.25,) * channels))


@pytest.mark.parametrize("norm", ["", *(f"-{norm}" for norm in NORMS)])
def test_convnet_by_name(norm: str) -> None:
    task = make_task()
    model = factory.build(f"convnet-d2-w8{norm}", task)
    assert isinstance(model, ConvNet)
    assert model(torch.zeros(3, *task.shape)).shape == (3, 5)


def test_weights_are_a_function_of_seed_and_name() -> None:
    def weights(name: str, seed: int) -> torch.Tensor:
        return nn.utils.parameters_to_vector(factory.build(name, make_task(), seed=seed).parameters())

    before = torch.random.get_rng_state()
    assert torch.equal(weights("convnet-d1-w4", 3), weights("convnet-d1-w4", 3))
    assert not torch.equal(weights("convnet-d1-w4", 3), weights("convnet-d1-w4", 4))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "name",
    ["resnet18-small", "torchvision:mobilenet_v3_small", "timm:test_resnet", "test_vit", "squeezenet1_1"],
)
def test_grey_images_and_the_class_count_reach_every_library(name: str) -> None:
    task = make_task(channels=1, size_px=32)
    model = factory.build(name, task).eval()
    assert model(torch.zeros(2, *task.shape)).shape == (2, 5)


def test_a_bare_name_is_torchvisions_before_timms() -> None:
    assert type(factory.build("resnet18", make_task(3, 32))).__module__.startswith("torchvision")
    assert type(factory.build("timm:resnet18", make_task(3, 32))).__module__.startswith("timm")


def test_the_small_stem_keeps_the_resolution() -> None:
    model = factory.build("resnet18-small", make_task(3, 32))
    model.avgpool = nn.Identity()
    model.fc = nn.Identity()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 512 * 4 * 4)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet18-smal", "resnet18-small"),
        ("convnet-3-128", "convnet-d3-w128"),
        ("mobilenet_v3_smal", "mobilenet_v3_small"),
        ("timm:vit_tiny_patch16_244", "timm:vit_tiny_patch16_224"),
    ],
)
def test_an_unknown_model_is_met_with_the_nearest_names(name: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        factory.build(name, make_task())
    assert f"did you mean {near}" in caught.value.expected
    assert "attar list models" in caught.value.fix


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("tim:resnet18", "unknown model library"),
        ("convnet-d3-w8-batsh", "unknown normalisation"),
        ("convnet-d0-w8", "no layers"),
        ("resnet19-small", "no ResNet of depth 19"),
        ("convnet-d5-w8", "16x16 px"),
        ("densenet121", "cannot take images of 16x16 px"),
    ],
)
def test_names_and_sizes_that_cannot_be_are_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        factory.build(name, make_task())


def test_every_listed_name_of_attars_own_is_built() -> None:
    names = factory.names("attar")
    assert "convnet-d3-w128" in names
    assert factory.build(names[0], make_task()).training
    assert "resnet18" in factory.names("torchvision")
    assert "vit_tiny_patch16_224" in factory.names("timm")


def test_penultimate_is_the_input_of_the_last_linear_layer() -> None:
    task = make_task(3, 32)
    images = torch.randn(2, *task.shape, generator=torch.Generator().manual_seed(0))
    for name in ("convnet-d2-w4", "test_vit"):
        model = factory.build(name, task).eval()
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        features = factory.penultimate(model, images)
        assert torch.equal(last(features), model(images))
        assert not last._forward_pre_hooks


def test_penultimate_needs_a_linear_layer() -> None:
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.AdaptiveAvgPool2d(1))
    with pytest.raises(ConfigError, match="no features"):
        factory.penultimate(model, torch.zeros(1, 1, 8, 8))


def test_num_parameters() -> None:
    assert factory.num_parameters(nn.Linear(3, 2)) == 8


@pytest.mark.parametrize(("width", "groups"), [(8, 1), (32, 2), (50, 2), (128, 8)])
def test_groups_of_channels_divide_any_width(width: int, groups: int) -> None:
    network = factory.build(f"convnet-d1-w{width}-group", Task(("a", "b"), 1, 8, 8, Normalization((0.5,), (0.5,))))
    assert {module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)} == {groups}


def test_an_image_of_one_pixel_asks_for_a_higher_resolution() -> None:
    with pytest.raises(ConfigError) as found:
        ConvNet(10, 3, 1, 1)
    assert "convnet" not in str(found.value.fix)
    assert "--resolution" in str(found.value.fix)
