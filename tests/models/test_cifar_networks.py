"""The networks that training strategies are compared with at 32 and 64 px: thin and wide ResNets, DenseNets."""

import pytest
import torch
from torch import Tensor, nn

from attar.errors import ConfigError
from attar.models import factory
from attar.models.cifar_resnet import PaddedShortcut
from attar.models.flat import FlatModel
from attar.models.norms import batch_norms
from attar.task import Normalization, Task
from attar.training.strategies.exits import stages

SMALL = (
    "resnet8-cifar",
    "resnet8-projected",
    "resnet11-bottleneck",
    "wrn-10-1",
    "wrn-11-1",
    "densenet-7-4",
    "densenet-bc-10-4",
)


def make_task(size_px: int = 32, channels: int = 3, num_classes: int = 10) -> Task:
    names = tuple(map(str, range(num_classes)))
    return Task(names, channels, size_px, size_px, Normalization((0.5,) * channels, (0.25,) * channels))


# As told of these networks on CIFAR-10: He et al. 2016, table 6 (0.27 0.46 0.66 0.85 1.7 M); Zagoruyko and Komodakis
# 2016, table 4 (WRN-16-8 11.0 M, 28-10 36.5 M, 40-2 2.2 M); Huang et al. 2017, table 2 (40-12 1.0 M, BC-100-12 0.8 M).
@pytest.mark.parametrize(
    ("name", "num"),
    [
        ("resnet20-cifar", 269_722),
        ("resnet32-cifar", 464_154),
        ("resnet44-cifar", 658_586),
        ("resnet56-cifar", 853_018),
        ("resnet110-cifar", 1_727_962),
        ("wrn-16-8", 10_961_370),
        ("wrn-28-10", 36_479_194),
        ("wrn-40-2", 2_243_546),
        ("densenet-40-12", 1_019_722),
        ("densenet-bc-100-12", 769_162),
        ("densenet-bc-40-12", 176_122),
    ],
)
def test_sizes_are_the_published_ones(name: str, num: int) -> None:
    with torch.device("meta"):
        model = factory.bare("attar", name, make_task())
    assert factory.num_parameters(model) == num
    layers = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    named = int(name.replace("resnet", "-").split("-")[2 if "bc" in name else 1])
    uncounted = 2 if "wrn" in name else 0  # 6n + 4 are the stem, 6n, the last one, and two of the three shortcuts
    assert len([path for path in layers if "downsample" not in path]) + uncounted == named


# Counted in the released code of DLB, whose networks give the same logits from the same weights.
@pytest.mark.parametrize(
    ("name", "num"),
    [
        ("vgg16-hidden512", 15_299_748),
        ("vgg19-hidden512", 20_612_004),
        ("resnet32-projected", 472_756),
        ("resnet110-bottleneck", 1_170_868),
        ("wrn-20-8", 6_871_220),
        ("densenet-bc-40-12", 188_092),
    ],
)
def test_networks_of_dlbs_code_have_its_sizes_at_100_classes(name: str, num: int) -> None:
    with torch.device("meta"):
        model = factory.bare("attar", name, make_task(num_classes=100))
    assert factory.num_parameters(model) == num
    assert name in factory.names("attar")


def test_projections_are_all_that_resnet32_projected_has_more() -> None:
    model = factory.build("resnet32-projected", make_task())
    shortcuts = [module for path, module in model.named_modules() if path.endswith("downsample")]
    assert sum(map(factory.num_parameters, shortcuts)) == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64 == 466_906 - 464_154
    assert not any(isinstance(module, PaddedShortcut) for module in model.modules())


def test_a_vgg_with_hidden_layers_is_the_small_one_with_two_more() -> None:
    task = make_task(64)
    model, small = factory.build("vgg11-hidden24", task), factory.build("vgg11-small-batch", task)
    assert str(model.get_submodule("features")) == str(small.get_submodule("features"))
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [(one.in_features, one.out_features) for one in linear] == [(512, 24), (24, 24), (24, 10)]
    assert all(0.005 < float(one.weight.detach().std()) < 0.015 for one in linear)
    assert not any(one.bias.any() for one in linear)
    features = factory.penultimate(model.eval(), torch.randn(2, *task.shape))
    assert features.shape == (2, 24)
    assert (features >= 0).all()
    assert "vgg16-hidden512-instance" not in factory.names("attar")
    assert not batch_norms(factory.build("vgg11-hidden24-instance", task))


def test_wrn_20_8_is_made_of_bottlenecks() -> None:
    """Counted by hand: 8 x 16 channels and so on within, 64, 128 and 256 without, scale and shift of each norm."""
    before, expected = 16, 3 * 9 * 16 + 2 * 16
    for width in (16, 32, 64):
        within, without = 8 * width, 4 * width
        for k in range(2):
            expected += before * within + 9 * within**2 + within * without + 2 * (2 * within + without)
            expected += 0 if k else before * without + 2 * without
            before = without
    with torch.device("meta"):
        model = factory.bare("attar", "wrn-20-8", make_task())
    assert factory.num_parameters(model) == expected + 256 * 10 + 10


@pytest.mark.parametrize(
    ("norm", "size_px"),
    [("", 64), ("-layer", 64), *((norm, 32) for norm in ("", "-instance", "-group", "-layer", "-none"))],
)
@pytest.mark.parametrize("name", SMALL)
def test_images_of_both_sizes_under_every_norm(name: str, norm: str, size_px: int) -> None:
    task = make_task(size_px, channels=1, num_classes=7)
    model = factory.build(name + norm, task)
    images = torch.randn(3, *task.shape, generator=torch.Generator().manual_seed(0))
    model(images).square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
    if norm:
        FlatModel(model)
        assert not batch_norms(model)


@pytest.mark.parametrize("name", SMALL)
def test_three_stages_halve_twice_and_are_where_exits_go(name: str) -> None:
    model, sizes = factory.build(name, make_task()).eval(), list[int]()

    def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(output.shape[-1])

    for stage in stages(model, "byot"):
        stage.register_forward_hook(keep)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = factory.penultimate(model, images)
    assert sizes == ([32, 16, 8] if "densenet" not in name else [16, 8, 8])
    assert torch.equal(model.get_submodule("fc")(features), model(images))


@pytest.mark.parametrize("name", SMALL)
def test_batch_norms_are_registered_in_the_order_in_which_they_run(name: str) -> None:
    model, ran = factory.build(name, make_task()), list[nn.Module]()
    for module in batch_norms(model):
        module.register_forward_hook(lambda module, inputs, output: ran.append(module))
    model(torch.zeros(2, 3, 32, 32))
    assert ran == batch_norms(model)


def test_a_padded_shortcut_takes_every_second_position_and_adds_zeros() -> None:
    maps = torch.arange(2 * 4 * 5 * 5).float().view(2, 4, 5, 5)
    found = PaddedShortcut()(maps)
    assert found.shape == (2, 8, 3, 3)
    assert torch.equal(found[:, 2:6], maps[:, :, ::2, ::2])
    assert not found[:, :2].any()
    assert not found[:, 6:].any()


def test_a_dense_layer_keeps_all_maps_before_it() -> None:
    model = factory.build("densenet-10-4", make_task()).eval()
    stage = model.get_submodule("layer1")
    assert isinstance(stage, nn.Sequential)
    maps = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    grown = stage[1](stage[0](maps))
    assert grown.shape == (2, 24, 8, 8)
    assert torch.equal(grown[:, :16], maps)


@pytest.mark.parametrize(
    ("name", "size_px", "says"),
    [
        ("resnet18-cifar", 32, "no ResNet for CIFAR has 18 layers"),
        ("resnet2-cifar", 32, "has 2 layers"),
        ("resnet18-projected", 32, "no ResNet for CIFAR has 18 layers"),
        ("resnet32-bottleneck", 32, "no ResNet of bottlenecks in three stages has 32 layers"),
        ("vgg12-hidden512", 32, "no VGG of depth 12"),
        ("vgg16-hidden0", 32, "hidden layers of 0 units"),
        ("wrn-18-8", 32, "no wide ResNet has 18 layers"),
        ("wrn-16-0", 32, "no channels"),
        ("densenet-41-12", 32, "no such DenseNet of 41 layers"),
        ("densenet-bc-43-12", 32, "no such DenseNet of 43 layers"),
        ("densenet-40-0", 32, "grow by 0"),
        ("wrn-16-8-batsh", 32, "unknown normalisation"),
        ("resnet20-cifar-instance", 4, "instance normalisation"),
    ],
)
def test_what_cannot_be_is_refused_with_a_name_that_can(name: str, size_px: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        factory.build(name, make_task(size_px))
    if caught.value.fix:
        word = next(word.strip(",") for word in caught.value.fix.split() if "-" in word)
        factory.require_known(word)
        factory.build(word.replace("-8-", "-1-"), make_task(size_px))


def test_they_are_listed() -> None:
    listed = factory.names("attar")
    assert {"vgg16-small-batch", "vgg19-small-batch", "resnet32-cifar", "wrn-20-8", "densenet-40-12"} <= set(listed)
