"""Networks by name: attar's own, torchvision's and timm's, with the right classes and input channels.

    convnet-d3-w128[-NORM]               any depth and width; NORM is instance (where none is named), batch,
                                         layer, group or none
    resnet18-small[-NORM]                3x3 stride-1 stem, no max-pool: for images up to about 64 px; 34, 50, 101 and
                                         152 too; batch where no NORM is named
    vgg11-small[-NORM]                   VGG that ends in one linear layer, from 32 px; 13, 16 and 19 too; instance
    vgg16-hidden512[-NORM]               the same with two hidden layers of 512, any size, before the last; batch
    alexnet-small[-NORM]                 AlexNet-like, from 8 px; none where no NORM is named
    resnet32-cifar[-NORM]                thin ResNet of three stages, any 6n + 2 layers: 20, 44, 56, 110 too; batch
    resnet32-projected[-NORM]            the same with 1x1 convolutions in the shortcuts; batch
    resnet110-bottleneck[-NORM]          thin ResNet of three stages of bottlenecks, any 9n + 2 layers; batch
    wrn-16-8[-NORM]                      wide ResNet of 6n + 4 layers (wrn-20-8: of bottlenecks), its factor; batch
    densenet-40-12[-NORM]                DenseNet, its layers and growth; densenet-bc-100-12 with bottlenecks; batch
    vit-tiny[-pP], bnvit-tiny[-pP]       ViT-Tiny with LayerNorm or BatchNorm, in patches of P px; vit-dD-wW[-pP]
                                         and bnvit-dD-wW[-pP] for any depth and width
    torchvision:NAME, timm:NAME, NAME    a bare name is looked up in torchvision first, then in timm

A name means the same network at every resolution: `resnet18` is torchvision's, even at 32 px. Weights are random;
released and foreign ones are read by `models/weights.py`. Other packages bring networks as entry points, and programs
hand them over (`NETWORKS`).
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from attar.errors import ConfigError, unknown
from attar.models.alexnet import SmallAlexNet
from attar.models.cifar_resnet import bottleneck_resnet, cifar_resnet, wide_resnet
from attar.models.convnet import NORMS, ConvNet, Norm
from attar.models.densenet import densenet
from attar.models.names import OWN, SHAPES, library_names
from attar.models.resnet import DEPTHS, small_resnet
from attar.models.vgg import SmallVgg
from attar.models.vit import require_whole_patches, vit
from attar.registry import Registry
from attar.runtime.files import digest
from attar.runtime.seeding import scoped
from attar.task import Task

Family = Literal["attar", "torchvision", "timm"]


@dataclass(frozen=True)
class Network:
    """A network beside attar's own patterns and the libraries'."""

    name: str
    build: Callable[[Task], nn.Module]
    """Makes one with random weights; whoever calls has seeded torch."""


_OPTIONS: dict[str, dict[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
"""What torchvision's builders need to return plain logits in training too."""


def _accepted(thing: Any, name: str) -> Network:
    """What another package or a program calls a network: a function that makes one, or one to be made anew."""
    if isinstance(thing, Network):
        found = thing
    elif isinstance(thing, nn.Module):
        found = Network(name or f"{type(thing).__name__}-{_structure(thing)}", partial(_anew, thing))
    elif callable(thing):
        found = Network(name or getattr(thing, "__name__", type(thing).__name__), thing)
    else:
        raise ConfigError(f"{thing!r} is no network", expected="a name, an nn.Module, or a function that makes one")
    if "<lambda>" in found.name:
        raise ConfigError("a lambda has no name to store results by", fix="hand over a function made with def")
    if any(_is_taken(family, found.name) for family in get_args(Family)):
        raise ConfigError(f"there is a network {found.name!r} already", fix="give yours another name")
    return found


NETWORKS: Registry[Network] = Registry("attar.models", "model", lambda: (), _accepted)
"""Networks that other packages bring, and that programs hand over."""


def _structure(model: nn.Module) -> str:
    """A short hash of a network's modules and the shapes of its parameters, which tells two of one class apart."""
    modules = [[path, type(module).__qualname__, module.extra_repr()] for path, module in model.named_modules()]
    return digest([modules, [[name, list(value.shape)] for name, value in model.state_dict().items()]])[:6]


def _anew(model: nn.Module, task: Task) -> nn.Module:
    """A copy of a network with new weights."""
    fresh = copy.deepcopy(model)
    for path, module in fresh.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            raise ConfigError(
                f"{type(model).__name__}.{path} has parameters of its own, and no reset_parameters to draw them anew",
                fix="hand over a function that makes the network instead: def my_network(task): return Mine(...)",
            )
    return fresh


def build(name: str, task: Task, *, seed: int = 0) -> nn.Module:
    """Make the network `name` for `task`: images (b, *task.shape) to logits (b, task.num_classes).

    The weights are a function of (seed, name). Raises ConfigError where the name is not known, naming the
    nearest, and where the network cannot take images of the task's size.
    """
    family, own_name = find(name)
    with scoped(seed, "model", name):
        model = _FAMILIES[family](own_name, task)
    if not isinstance(model, ConvNet):
        _try_out(model, name, task)
    return model


def bare(family: Family, own_name: str, task: Task) -> nn.Module:
    """A network by the name that its family has for it, with whatever weights, not tried out on images."""
    return _FAMILIES[family](own_name, task)


def require_known(name: str) -> None:
    """Raise ConfigError, naming the nearest, where no network has this name."""
    find(name)


def find(name: str) -> tuple[Family, str]:
    """The library that a network's name belongs to, and the name there; raises ConfigError where none has it."""
    family, colon, rest = name.partition(":")
    if colon:
        if family not in get_args(Family):
            raise unknown("model library", family, get_args(Family), fix="write timm:NAME or torchvision:NAME")
        candidates = [(cast("Family", family), rest)]
    else:
        candidates = [(known, name) for known in get_args(Family)]
    for known, own_name in candidates:
        if _has(known, own_name):
            return known, own_name
    raise _unknown_model(name, [known for known, _ in candidates])


def names(family: Family) -> list[str]:
    """Names of one family for `attar list models`; attar's own are examples of their patterns."""
    match family:
        case "attar":
            convnets = ["convnet-d3-w128", *(f"convnet-d3-w128-{norm}" for norm in NORMS), "convnet-d4-w128"]
            resnets = [*(f"resnet{depth}-small" for depth in DEPTHS), "resnet18-small-instance"]
            others = ["vgg11-small", "vgg11-small-batch", "vgg16-small-batch", "vgg19-small-batch"]
            others += ["vgg16-hidden512", "vgg19-hidden512", "alexnet-small", "alexnet-small-instance"]
            cifar = [f"resnet{depth}-cifar" for depth in (20, 32, 44, 56, 110)]
            cifar += ["resnet32-projected", "resnet110-bottleneck", "wrn-16-8", "wrn-20-8", "wrn-28-10"]
            cifar += ["densenet-40-12", "densenet-bc-40-12", "densenet-bc-100-12"]
            return [*convnets, *resnets, *others, *cifar, "vit-tiny", "bnvit-tiny", *NETWORKS]
        case library:
            return list(library_names(library))


def penultimate(model: nn.Module, images: Tensor) -> Tensor:
    """Features (b, d) of normalised images (b, c, h, w): what goes into the linear layer that runs last.

    Gradients flow; the mode (train, eval) is the caller's. Raises ConfigError where there is no such layer.
    """
    last = last_linear(model, images)
    if last is None or last[1].ndim != 2:
        raise ConfigError(
            f"{type(model).__name__} has no features: it does not end in a linear layer over one vector",
            expected="a network that ends in nn.Linear",
            fix="use a ConvNet or a ResNet, for example convnet-d3-w128-batch",
        )
    return last[1]


def last_linear(model: nn.Module, images: Tensor) -> tuple[str, Tensor] | None:
    """Path of the linear layer that runs last on normalised images (b, c, h, w), and its input; None without one."""
    found: dict[str, Tensor] = {}

    def keeper(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            found.clear()
            found[path] = args[0]

        return keep

    linears = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_pre_hook(keeper(path)) for path, module in linears]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return next(iter(found.items()), None)


def num_parameters(model: nn.Module) -> int:
    """Number of trained values in a network."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _has(family: Family, name: str) -> bool:
    return (family == "attar" and name in NETWORKS) or _is_taken(family, name)


def _is_taken(family: Family, name: str) -> bool:
    if family == "attar":
        return any(pattern.fullmatch(name) for pattern in OWN.values())
    if family == "torchvision":
        return name in library_names(family)
    if name.partition(".")[0] in library_names(family):
        return True
    import timm  # which takes seconds; it knows former names too, and those that a program has registered

    return bool(timm.is_model(name))


def _unknown_model(name: str, families: list[Family]) -> ConfigError:
    known = dict.fromkeys(known for family in families for known in names(family))
    library, colon, own_name = name.rpartition(":")
    near = [library + colon + one for one in difflib.get_close_matches(own_name, known, n=4, cutoff=0.5)]
    return ConfigError(
        f"unknown model {name!r}",
        expected=f"did you mean {' or '.join(near)}?"
        if near
        else f"one of {', '.join(SHAPES)}, or any model of torchvision or timm",
        fix="`attar list models` lists all of them",
    )


def _own(name: str, task: Task) -> nn.Module:
    if name in NETWORKS:
        return _made(NETWORKS[name], task)
    kind, parts = next((kind, parts) for kind, pattern in OWN.items() if (parts := pattern.fullmatch(name)))
    return _OWN[kind](parts, task)


def _made(network: Network, task: Task) -> nn.Module:
    try:
        model = network.build(task)
    except ConfigError:
        raise
    except Exception as error:  # whatever another's code raises
        raise _misfit(network.name, task, error) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{network.name} made no network but {type(model).__name__}", expected="an nn.Module")
    return model


def _convnet(parts: re.Match[str], task: Task) -> nn.Module:
    norm = _norm(parts, "instance")
    depth, width = int(parts[1]), int(parts[2])
    if min(depth, width) < 1:
        raise ConfigError(f"{parts[0]} has no layers", expected="a depth and a width of at least 1")
    return ConvNet(task.num_classes, *task.shape, depth=depth, width=width, norm=norm)


def _small_resnet(parts: re.Match[str], task: Task) -> nn.Module:
    size_px = min(task.height_px, task.width_px)
    return small_resnet(int(parts[1]), task.num_classes, task.channels, size_px, _norm(parts, "batch"))


def _small_vgg(parts: re.Match[str], task: Task) -> nn.Module:
    return SmallVgg(task.num_classes, *task.shape, depth=int(parts[1]), norm=_norm(parts, "instance"))


def _hidden_vgg(parts: re.Match[str], task: Task) -> nn.Module:
    depth, hidden, norm = int(parts[1]), int(parts[2]), _norm(parts, "batch")
    return SmallVgg(task.num_classes, *task.shape, depth=depth, norm=norm, hidden=hidden)


def _small_alexnet(parts: re.Match[str], task: Task) -> nn.Module:
    return SmallAlexNet(task.num_classes, *task.shape, norm=_norm(parts, "none"))


def _cifar_resnet(parts: re.Match[str], task: Task) -> nn.Module:
    projected = parts[2] == "projected"
    return cifar_resnet(parts[0], int(parts[1]), task, _norm(parts, "batch"), projected=projected)


def _bottleneck_resnet(parts: re.Match[str], task: Task) -> nn.Module:
    return bottleneck_resnet(parts[0], int(parts[1]), task, _norm(parts, "batch"))


def _wide_resnet(parts: re.Match[str], task: Task) -> nn.Module:
    return wide_resnet(parts[0], int(parts[1]), int(parts[2]), task, _norm(parts, "batch"))


def _densenet(parts: re.Match[str], task: Task) -> nn.Module:
    return densenet(parts[0], int(parts[2]), int(parts[3]), task, _norm(parts, "batch"), compact=bool(parts[1]))


def _vit(parts: re.Match[str], task: Task) -> nn.Module:
    return vit(parts[0], task.num_classes, *task.shape)


def _norm(parts: re.Match[str], default: Norm) -> Norm:
    """The normalisation that a name ends in; raises ConfigError where there is no such one."""
    name, given = parts[0], parts["norm"]
    if given is not None and given not in NORMS:
        raise unknown("normalisation", given, NORMS, fix=f"write {name.removesuffix(given)}instance, for example")
    return cast("Norm", given or default)


def _torchvision(name: str, task: Task) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = dict(_OPTIONS.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = task.height_px
    try:
        model: nn.Module = models.get_model(name, weights=None, num_classes=task.num_classes, **options)
    except (ValueError, AssertionError) as error:
        raise _misfit(name, task, error) from error
    _set_input_channels(model, task.channels)
    return model


def _timm(name: str, task: Task) -> nn.Module:
    from timm.layers.patch_embed import PatchEmbed

    size_px = (task.height_px, task.width_px)
    try:
        model = timm_model(name, size_px, num_classes=task.num_classes, in_chans=task.channels)
    except (ValueError, AssertionError, RuntimeError, ZeroDivisionError, TypeError) as error:
        raise _misfit(name, task, error) from error
    for module in model.modules():
        if isinstance(module, PatchEmbed) and module.img_size == size_px and not module.dynamic_img_pad:
            require_whole_patches(name, size_px, module.patch_size)
    return model


def timm_model(name: str, size_px: tuple[int, int], **options: Any) -> nn.Module:
    """Make timm's network of this name for images (h, w), where it asks for a size; raises what timm raises."""
    import timm

    try:
        model: nn.Module = timm.create_model(name, img_size=size_px, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = timm.create_model(name, **options)  # a network for any size
    return model


def _set_input_channels(model: nn.Module, channels: int) -> None:
    """Give a torchvision network, which expects 3 channels, a first convolution for `channels`."""
    if channels == 3:
        return
    path, first = next((path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    fresh = nn.Conv2d(
        channels,
        first.out_channels,
        cast("tuple[int, int]", first.kernel_size),
        stride=cast("tuple[int, int]", first.stride),
        padding=cast("tuple[int, int]", first.padding),
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(fresh.weight, mode="fan_out", nonlinearity="relu")
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, fresh)


def _try_out(model: nn.Module, name: str, task: Task) -> None:
    """Run one black image through: what cannot take the task's size fails here, before any work."""
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *task.shape))
    except (RuntimeError, ValueError, AssertionError, IndexError, TypeError) as error:
        raise _misfit(name, task, error) from error
    finally:
        model.train()
    if not isinstance(logits, Tensor) or logits.shape != (1, task.num_classes):
        raise ConfigError(
            f"{name} does not give one score per class",
            expected="an image classifier",
            fix="choose another model",
        )


def _misfit(name: str, task: Task, error: Exception) -> ConfigError:
    reason = str(error).strip().splitlines()
    return ConfigError(
        f"{name} cannot take images of {task.height_px}x{task.width_px} px with {task.channels} channels: "
        f"{reason[0] if reason else type(error).__name__}",
        expected="images large enough for the network and, for a transformer, a multiple of its patch size",
        fix="use a higher --resolution or a network for small images: convnet-d3-w128, resnet18-small",
    )


_FAMILIES: dict[Family, Callable[[str, Task], nn.Module]] = {
    "attar": _own,
    "torchvision": _torchvision,
    "timm": _timm,
}

_OWN: dict[str, Callable[[re.Match[str], Task], nn.Module]] = {
    "convnet": _convnet,
    "resnet-small": _small_resnet,
    "vgg-small": _small_vgg,
    "vgg-hidden": _hidden_vgg,
    "alexnet": _small_alexnet,
    "resnet-cifar": _cifar_resnet,
    "resnet-bottleneck": _bottleneck_resnet,
    "wrn": _wide_resnet,
    "densenet": _densenet,
    "vit": _vit,
}
"""What makes a network of the parts that the pattern of its family finds in its name."""
