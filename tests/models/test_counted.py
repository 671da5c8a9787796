"""Networks that are counted without being built have as many parameters as those that are."""

from __future__ import annotations

import pytest
import torch

from attar.described import EXAMPLE, norms_of
from attar.models import factory
from attar.models.convnet import NORMS
from attar.models.counted import counted
from attar.models.names import OWN

SMALL = (
    *("convnet-d1-w1", "wrn-10-1", "wrn-11-1", "resnet8-cifar", "resnet8-projected", "resnet11-bottleneck"),
    *("densenet-7-1", "densenet-13-5", "densenet-bc-10-1", "resnet18-small", "alexnet-small", "vgg11-small"),
    "vgg11-hidden1",
)
"""The smallest of each kind, with every normalisation."""
OTHERS = (
    *("convnet-d2-w8", "convnet-d5-w48", "convnet-d5-w48-group", "wrn-16-2", "wrn-29-3", "resnet26-projected"),
    *("resnet20-bottleneck", "densenet-bc-22-7", "densenet-bc-16-16-group", "vgg13-small", "vgg16-hidden12"),
    *(
        "convnet-d2-w33-group",
        "densenet-13-5-group",
        "vit-d2-w48-p8",
        "bnvit-d1-w1-p1",
        "vit-d3-w100-p32",
        "bnvit-d2-w24-p16",
    ),
)
NAMES = [f"{name}-{norm}" for name in SMALL for norm in NORMS] + [*SMALL, *OTHERS]
NONE = (
    *("convnet-d6-w8", "convnet-d0-w8", "convnet-d2-w0", "convnet-d2-w8-batsh", "wrn-12-2"),
    *("wrn-16-0", "wrn-4-2", "wrn-2-1", "resnet9-cifar", "resnet2-cifar", "resnet12-bottleneck", "resnet2-bottleneck"),
    *("densenet-4-2", "densenet-8-2", "densenet-7-0", "densenet-bc-13-4", "resnet20-small", "vgg12-small"),
    *("vgg11-hidden0", "vit-d0-w8", "vit-d1-w8-p3", "vit-d1-w8-p64", "vit-d1-w8-p0"),
)


def built(name: str) -> tuple[int, str] | None:
    """What a network itself has, if it can be made."""
    try:
        with torch.device("meta"):
            model = factory.bare("attar", name, EXAMPLE)
    except ValueError:
        return None
    return factory.num_parameters(model), norms_of(model)


@pytest.mark.parametrize("family", OWN)
def test_a_network_is_counted_as_it_is_built(family: str) -> None:
    names = {name for name in [*NAMES, *NONE, *factory.names("attar")] if OWN[family].fullmatch(name)}
    assert {name: counted(name) for name in names} == {name: built(name) for name in names}


@pytest.mark.parametrize("name", NONE)
def test_a_network_that_cannot_be_built_is_not_counted(name: str) -> None:
    assert any(pattern.fullmatch(name) for pattern in OWN.values())
    assert counted(name) is None


def test_what_is_no_name_of_attars_is_not_counted() -> None:
    assert counted("resnet18") is None
    assert counted(f"convnet-d2-w{'9' * 5000}") is None
