"""The package against attar's own batteries."""

import torch
from outside_method import ConfidencePenalty, MatchedMeans, depthwise

from attar.methods import methods
from attar.models.factory import build
from attar.testing import TASK, check_method, check_strategy


def test_the_method_keeps_the_contract():
    check_method(MatchedMeans, {"network": "convnet-d1-w4", "num_real": 4})


def test_the_strategy_keeps_the_contract():
    check_strategy(ConfidencePenalty)


def test_attar_knows_all_three():
    assert methods()["means"] is MatchedMeans
    assert build("depthwise", TASK)(torch.zeros(2, *TASK.shape)).shape == (2, TASK.num_classes)
    assert depthwise(TASK) is not None
