"""Optimisers by name: sgd, adam, adamw and muon, and every other of torch.optim and timm."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attar.errors import ConfigError
from attar.training.muon import Muon, split

if TYPE_CHECKING:
    from attar.training.settings import TrainSettings

OWN = ("sgd", "adam", "adamw", "muon")
_UNFIT = ("optimizer", "lbfgs", "sparseadam")
"""Of torch.optim: the base class, one that asks for the loss several times a step, one for sparse gradients."""


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Make the optimiser of all parameters of a network, on the device where they are.

    Raises ConfigError where the optimiser does not take the options or the parameters.
    """
    try:
        groups = _groups(model, settings)
        return _make(split(model, groups) if settings.optimizer == "muon" else groups, settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"the optimiser {settings.optimizer} cannot be made: {str(error).splitlines()[0]}",
            expected="options that it takes, for the network at hand",
            fix="mend train.optimizer_options, or choose another optimizer",
        ) from error


def _groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Parameters of a network by whether weights decay: one group of all, or those that do and those that do not.

    By the rule of SRe2L's and RDED's released code: parameters decay that are weights by their names and have two
    dimensions or more; biases, norms, and a transformer's class token and positions do not.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if settings.decay_norms:
        return [{"params": [parameter for _, parameter in named]}]
    decaying, others = list[nn.Parameter](), list[nn.Parameter]()
    for name, parameter in named:
        (decaying if "weight" in name and parameter.ndim > 1 else others).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _make(parameters: list[dict[str, Any]], settings: TrainSettings) -> torch.optim.Optimizer:
    rate, decay, options = settings.learning_rate, settings.weight_decay, dict(settings.optimizer_options)
    # One kernel per step: on tiny networks the plain implementations cost a third of the step.
    fused = options.pop("fused", True)
    match settings.optimizer:
        case "sgd":
            return uncompiled(torch.optim.SGD)(
                parameters,
                rate,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
                weight_decay=decay,
                fused=fused,
                **options,
            )
        case "adam":
            return uncompiled(torch.optim.Adam)(parameters, rate, weight_decay=decay, fused=fused, **options)
        case "adamw":
            return uncompiled(torch.optim.AdamW)(parameters, rate, weight_decay=decay, fused=fused, **options)
        case "muon":
            options.setdefault("nesterov", settings.nesterov or bool(settings.momentum))
            return uncompiled(Muon)(parameters, rate, settings.momentum, weight_decay=decay, **options)
        case name if kind := _torch_names().get(name):
            given = {"weight_decay": decay, "momentum": settings.momentum, "nesterov": settings.nesterov}
            known = inspect.signature(kind).parameters
            chosen = {key: given[key] for key in given if key in known} | settings.optimizer_options
            made: torch.optim.Optimizer = kind(parameters, lr=rate, **chosen)
            return made
    timms: torch.optim.Optimizer = _timm().create_optimizer_v2(
        parameters,
        opt=settings.optimizer.removeprefix("timm:"),
        lr=rate,
        weight_decay=decay,
        momentum=settings.momentum,
        **settings.optimizer_options,
    )
    return timms


@cache
def uncompiled(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """An optimiser's class whose methods are not marked for torch's compiler to pass over.

    At the first call of a marked one torch imports its compiler: two seconds and 150 MB of each process that trains.
    No optimiser is compiled here.
    """
    marked = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in marked}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


def problem_with(name: str) -> str | None:
    """What is wrong with an optimiser's name, the nearest names with it; None where there is such an optimiser."""
    if name in OWN or name in _torch_names():
        return None
    found: list[str] = _timm().list_optimizers()
    if name.removeprefix("timm:") in found:
        return None
    near = difflib.get_close_matches(
        name.removeprefix("timm:").lower(), [*OWN, *_torch_names(), *found], n=3, cutoff=0.5
    )
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown optimizer {name!r}; {hint}known: {', '.join([*OWN, *_torch_names()])}, and those of timm.optim"


def _timm() -> Any:
    return importlib.import_module("timm.optim")


def _torch_names() -> dict[str, Any]:
    """Classes of torch.optim by their names in lower case, beside the own ones."""
    found = {
        name.lower(): kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    return {name: kind for name, kind in found.items() if name not in (*OWN, *_UNFIT)}


def take_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State of an optimiser for a checkpoint: tensors and plain numbers, by `index.key` or, of a group, `gINDEX.key`.

    Of the groups only what the optimiser itself has changed. Raises ConfigError where it keeps anything else.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for path, value in _kept(optimizer):
        if isinstance(value, Tensor):
            tensors[path] = value
        elif isinstance(value, bool | int | float):
            numbers[path] = value
        else:
            raise ConfigError(
                f"{type(optimizer).__name__} keeps {path} as a {type(value).__name__}, which no checkpoint holds",
                expected="an optimiser whose state is tensors and numbers",
                fix="choose another optimizer, such as sgd, adamw or lamb",
            )
    return tensors, numbers


def give_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Give a fresh optimiser what `take_state` took, in the layout of its parameters.

    A fused optimiser goes through both as they lie in memory: in another layout it would move the wrong weights.
    """
    state: dict[int, dict[str, Any]] = {}
    groups = optimizer.state_dict()["param_groups"]
    for path, value in {**tensors, **numbers}.items():
        index, _, key = path.partition(".")
        if index.startswith("g"):
            groups[int(index[1:])][key] = value
        else:
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, held in optimizer.state.items():
        for key, value in held.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                held[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _kept(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    """All that an optimiser has come to know since it was made."""
    stored = optimizer.state_dict()
    for index, state in stored["state"].items():
        yield from ((f"{index}.{key}", value) for key, value in state.items() if value is not None)
    for index, group in enumerate(stored["param_groups"]):
        for key, value in group.items():
            if key not in ("params", "lr", *optimizer.defaults):
                yield f"g{index}.{key}", value
