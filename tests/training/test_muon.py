"""Muon against torch's own on matrices, against AdamW on the rest, and by what orthogonal means."""

import pytest
import torch
from torch import nn

from attar.errors import ConfigError
from attar.training.muon import Muon, orthogonalized, split
from attar.training.optimizers import make_optimizer
from attar.training.section import TrainSection


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stepped(kind: type[torch.optim.Optimizer], start: torch.Tensor, num: int = 3, **options: object) -> torch.Tensor:
    """A parameter after steps along the gradients of fixed seeds."""
    parameter = nn.Parameter(start.clone())
    groups = [{"params": [parameter], **({"matrices": True} if kind is Muon else {})}]
    optimizer = kind(groups, **options)
    for seed in range(1, num + 1):
        parameter.grad = rand(*start.shape, seed=seed)
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_on_matrices_it_is_torchs_own_to_its_bfloat16(shape: tuple[int, int], nesterov: bool) -> None:
    start = rand(*shape)
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1, "ns_steps": 5}
    ours = stepped(Muon, start, **options)
    theirs = stepped(torch.optim.Muon, start, adjust_lr_fn="match_rms_adamw", **options)
    assert (ours - theirs).norm() < 0.03 * (theirs - start).norm()


def test_a_kernel_moves_as_the_matrix_of_its_rows() -> None:
    start = rand(6, 3, 3, 3)
    options = {"lr": 0.1, "weight_decay": 0.1}
    assert torch.equal(stepped(Muon, start, **options), stepped(Muon, start.flatten(1), **options).view(6, 3, 3, 3))
    laid = start.to(memory_format=torch.channels_last)
    torch.testing.assert_close(stepped(Muon, laid, **options), stepped(Muon, start, **options))


def test_steps_bring_singular_values_near_one_and_keep_their_directions() -> None:
    matrix = rand(8, 30)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    spread = torch.linalg.svdvals(orthogonalized(matrix, 5))
    assert values.max() / values.min() > 2
    assert 0.6 < float(spread.min()) < float(spread.max()) < 1.3
    turned = left.T @ orthogonalized(matrix, 5) @ right.T
    assert (turned - torch.diag(turned.diagonal())).abs().max() < 1e-4


def test_the_rest_is_adamw() -> None:
    start, ours, theirs = rand(7), nn.Parameter(rand(7)), nn.Parameter(rand(7))
    mine = Muon([{"params": [ours]}], lr=0.01, weight_decay=0.2)
    adamw = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.2)
    for seed in range(4):
        ours.grad = theirs.grad = rand(7, seed=seed)
        mine.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs)
    assert not torch.equal(ours, start)


def test_kernels_and_hidden_matrices_are_moved_and_the_classifier_is_not() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    matrices, rest = split(net, [{"params": list(net.parameters())}])
    assert [names[id(one)] for one in matrices["params"]] == ["0.weight", "3.weight"]
    assert len(rest["params"]) == len(names) - 2
    made = make_optimizer(net, TrainSection(optimizer="muon", decay_norms=False, weight_decay=0.1))
    told = [(group["matrices"], group["weight_decay"], len(group["params"])) for group in made.param_groups]
    assert told == [(True, 0.1, 2), (False, 0.1, 1), (False, 0.0, 5)]
    assert made.param_groups[0]["nesterov"] is True


def test_what_it_does_not_take_is_told() -> None:
    with pytest.raises(ConfigError, match="muon cannot be made"):
        make_optimizer(nn.Linear(2, 2), TrainSection(optimizer="muon", optimizer_options={"ns_steps": 0}))
