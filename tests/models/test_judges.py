"""The networks that distilled small images are judged with, beside the ConvNet: VGG, AlexNet-like, ResNet."""

import pytest
import torch
from torch import nn

from attar.catalogue import names
from attar.errors import ConfigError
from attar.models import factory
from attar.models.flat import FlatModel
from attar.task import Normalization, Task


def make_task(size_px: int = 32, channels: int = 3, num_classes: int = 10) -> Task:
    return Task(
        tuple(map(str, range(num_classes))),
        channels,
        size_px,
        size_px,
        Normalization((0.5,) * channels, (0.25,) * channels),
    )


# The convolutions' and the last layer's values, counted by hand: 10 classes, 3 channels, biases, scale and shift of
# each normalisation. The VGG figures are those that are told of these networks on CIFAR-10 everywhere.
@pytest.mark.parametrize(
    ("name", "num"),
    [
        ("vgg11-small", 9_231_114),
        ("vgg11-small-batch", 9_231_114),
        ("vgg13-small", 9_416_010),
        ("vgg16-small", 14_728_266),
        ("vgg19-small", 20_040_522),
        ("alexnet-small", 1_872_202),
        ("alexnet-small-batch", 1_872_202 + 2 * 960),
        ("resnet18-small", 11_173_962),
        ("resnet18-small-instance", 11_173_962),
    ],
)
def test_sizes_are_the_known_ones(name: str, num: int) -> None:
    assert factory.num_parameters(factory.build(name, make_task())) == num


@pytest.mark.parametrize("size_px", [32, 64])
@pytest.mark.parametrize("name", ["vgg11-small", "alexnet-small", "alexnet-small-group", "resnet18-small-instance"])
def test_small_images_of_other_sizes_and_grey_ones(name: str, size_px: int) -> None:
    task = make_task(size_px, channels=1, num_classes=7)
    model = factory.build(name, task)
    logits = model(torch.randn(2, *task.shape, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert len(set(logits[0].tolist())) == 7


@pytest.mark.parametrize("name", ["vgg11-small", "alexnet-small", "resnet18-small-instance"])
def test_without_batch_norm_parameters_are_all_there_is(name: str) -> None:
    FlatModel(factory.build(name, make_task()))
    assert not [module for module in factory.build(name, make_task()).modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("name", ["vgg11-small", "alexnet-small", "resnet18-small-instance"])
def test_features_end_in_one_linear_layer(name: str) -> None:
    task = make_task()
    model = factory.build(name, task).eval()
    found = factory.last_linear(model, torch.zeros(1, *task.shape))
    assert found is not None
    assert found[1].ndim == 2
    assert len([module for module in model.modules() if isinstance(module, nn.Linear)]) == 1


def test_they_are_listed() -> None:
    listed = [name for name, family in names("models") if family == "attar"]
    assert {"vgg11-small", "vgg11-small-batch", "alexnet-small", "resnet18-small-instance"} <= set(listed)
    for name in listed:
        factory.require_known(name)


@pytest.mark.parametrize(
    ("name", "size_px", "says"),
    [
        ("vgg11-small", 16, "16x16 px image 5 times"),
        ("alexnet-small", 4, "4x4 px image 3 times"),
        ("resnet18-small-instance", 8, "instance normalisation"),
        ("vgg12-small", 32, "no VGG of depth 12"),
        ("vgg11-small-batsh", 32, "unknown normalisation"),
        ("resnet18-small-instans", 32, "unknown normalisation"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(name: str, size_px: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        factory.build(name, make_task(size_px))
    assert caught.value.fix
    assert caught.value.expected


def test_the_error_for_a_small_image_names_a_network_that_takes_it() -> None:
    for name, size_px in (("vgg11-small", 16), ("alexnet-small", 4), ("resnet18-small-instance", 8)):
        with pytest.raises(ConfigError) as caught:
            factory.build(name, make_task(size_px))
        word = next(word.strip(",") for word in caught.value.fix.split() if "-" in word and not word.startswith("--"))
        assert factory.build(word, make_task(size_px))
