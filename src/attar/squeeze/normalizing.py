"""Which normalisation were foreign weights trained under? Stated, known, or told by real images.

Where nothing is known, some hundred real images are shown to the network under each of the usual normalisations. The
one is taken under which the statistics at its BatchNorms are nearest to those that it has learnt:

    R = sum over layers of ||mean - running_mean||_2 + ||var - running_var||_2

which is the loss that recovery minimises (`losses/statistics.py`). Small images are shown whole and shifted by up to an
eighth, as nearly all training on them does: the black border alone moves R further than one usual normalisation is from
another (ResNet-20 of CIFAR-10, trained under ImageNet's: 61 whole and 7 shifted; under CIFAR's 53 and 36). A network
without BatchNorm is judged by its cross-entropy, if it knows the classes at all.

Where the library that has the network says how it normalises, that stays unless another is at half its distance.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attar.augment.operations import Crop
from attar.data.loading import RealSet
from attar.models.norms import batch_norms
from attar.models.weights import library_normalization
from attar.normalizations import parse_normalization
from attar.runtime.engine import Engine
from attar.runtime.seeding import generator
from attar.squeeze.class_order import weak
from attar.squeeze.real_statistics import Measuring
from attar.task import Normalization, Task

NUM_IMAGES = 200
BATCH = 50
SMALL_PX = 64
"""Up to this size the constants of small datasets are tried, and shifted images. Larger ones are mostly trained on as
crops of any size, under which R was no smaller than on whole ones."""
_SHIFTED_WITHIN = 2.5
"""Normalisations further away than the nearest times this are not tried on shifted images."""
_AHEAD_OF_LIBRARY, _AHEAD_OF_SOURCE = 0.5, 0.9
"""Part of the distance under the library's normalisation, or the source's, below which another one is taken."""
_LEAST_GAIN = 0.02
"""Cross-entropy that another normalisation must gain at least."""

By = Literal["stated", "known", "statistics", "loss", "library", "assumed"]


@dataclass(frozen=True)
class Found:
    """A normalisation, and how it was found.

    Attributes:
        normalization: of as many channels as the network takes.
        name: imagenet, half and the like; source, library, or given.
        by: stated (settings), known (released weights, or a file of attar), statistics, loss, or, where nothing could
            be measured, library or assumed.
        fits: R, or the cross-entropy, under each normalisation that was tried.
    """

    normalization: Normalization
    name: str
    by: By
    fits: Mapping[str, float] = field(default_factory=dict)

    def note(self) -> dict[str, Any]:
        """What is stored beside the weights."""
        numbers = {"mean": self.normalization.mean, "std": self.normalization.std}
        fits = {name: round(fit, 4) for name, fit in self.fits.items()}
        return {"name": self.name, "by": self.by, **numbers, "fits": fits}

    def sentence(self) -> str | None:
        """What a person is told; None where there was nothing to find out."""
        if self.by in ("stated", "known"):
            return None
        mean, std = (" ".join(f"{v:.4g}" for v in of) for of in (self.normalization.mean, self.normalization.std))
        fits = ", ".join(f"{name} {fit:.4g}" for name, fit in sorted(self.fits.items(), key=lambda item: item[1]))
        why = {
            "statistics": f"distance of real images from the BatchNorm statistics under each: {fits}",
            "loss": f"cross-entropy of real images under each: {fits}",
            "library": "the library's own for this network, which real images could not test",
            "assumed": "assumed, as the weights do not say and real images could not tell",
        }[self.by]
        name = {"library": "the network's library", "source": "the source's own numbers"}.get(self.name, self.name)
        return (
            f"the weights' images are taken to be normalised by {name}, mean {mean}, std {std} ({why}); "
            "squeeze.weights_normalization states another"
        )


def find_normalization(
    network: nn.Module, model: str, data: RealSet, task: Task, channels: int, seed: int, engine: Engine
) -> Found:
    """Find under which normalisation the network `model`, its weights loaded, was trained.

    Args:
        network: takes images of `channels` channels; it is left as it is, in evaluation mode.
        model: its name.
        data: real images, of which a few are shown.
        task: of these images.
        channels: as many as `task` has, or more where that is grey.
        seed: of the choice of images, and of their shifts.
        engine: the device.
    """
    network.eval()
    tried = candidates(model, task, channels)
    first = next(iter(tried))
    if len(tried) == 1 or not len(data):
        return Found(tried[first], first, "library" if first == "library" else "assumed")
    picked = torch.randperm(len(data), generator=generator(seed, "normalization"))[:NUM_IMAGES]
    pixels = data.split.pixels(picked).float().div(255)
    shown = copy.deepcopy(network).to(engine.device)
    if batch_norms(shown):
        by: By = "statistics"
        fits = _distances(shown, tried, pixels, seed)
    else:
        by, fits = "loss", _losses(shown, tried, pixels, data.labels[picked], task.num_classes)
    fits = {name: fit for name, fit in fits.items() if math.isfinite(fit)}
    if first not in fits:
        return Found(tried[first], first, "library" if first == "library" else "assumed")
    best = min(fits, key=lambda name: fits[name])
    ahead = _AHEAD_OF_LIBRARY if first == "library" else _AHEAD_OF_SOURCE
    enough = fits[best] < ahead * fits[first] and (by == "statistics" or fits[first] - fits[best] > _LEAST_GAIN)
    name = best if enough else first
    return Found(tried[name], name, by, fits)


def candidates(model: str, task: Task, channels: int) -> dict[str, Normalization]:
    """Normalisations to try, the one to keep in doubt first: the library's own where it has one, else the source's.

    Whitened images have one alone, as no other network than one trained on them can take them.
    """
    source = of_source(task, channels)
    if source.whitening is not None:
        return {"source": source}
    library = library_normalization(model)
    names = ["imagenet", "half", "unit"]
    if max(task.height_px, task.width_px) <= SMALL_PX:
        names += ["cifar", "cifar100", "svhn", "mnist", "fashion-mnist"]
    named = {name: parse_normalization(name, channels) for name in names}
    ordered = {**({"library": library} if library else {}), "source": source, **named}
    found: dict[str, Normalization] = {}
    for name, one in ordered.items():
        if len(one.mean) == channels and one not in found.values():
            found[name] = one
    return found


def of_source(task: Task, channels: int) -> Normalization:
    """The source's own, for a network of `channels` channels: the same for each where its images are grey."""
    own = task.normalization
    if own.whitening is not None or len(own.mean) == channels:
        return own
    return Normalization(own.mean * channels, own.std * channels)


@torch.no_grad()
def distance(network: nn.Module, images: Tensor) -> float:
    """R of normalised images (n, c, h, w), n > 0: how far their statistics are from those that were learnt."""
    measuring = Measuring(network, 1)
    for some in images.split(BATCH):
        measuring.add(some, torch.zeros(len(some), dtype=torch.int64, device=some.device))
    total = 0.0
    for norm, layer in zip(batch_norms(network), measuring.statistics(), strict=True):
        assert isinstance(norm.running_mean, Tensor)
        assert isinstance(norm.running_var, Tensor)
        mean, var = norm.running_mean.float().cpu(), norm.running_var.float().cpu()
        total += float((layer.mean - mean).norm() + (layer.var - var).norm())
    return total


def _distances(network: nn.Module, tried: Mapping[str, Normalization], pixels: Tensor, seed: int) -> dict[str, float]:
    device = next(network.parameters()).device

    def under(normalization: Normalization, some: Tensor) -> Tensor:
        return normalization.normalize(_as_wide(some, normalization)).to(device)

    fits = {name: distance(network, under(one, pixels)) for name, one in tried.items()}
    if max(pixels.shape[-2:]) > SMALL_PX:
        return fits
    crop, near = Crop(), _SHIFTED_WITHIN * min(fits.values())
    num, *shape = pixels.shape
    shift = crop.draw(generator(seed, "normalization", "shift"), num, (shape[0], shape[1], shape[2]))
    black = crop.apply(pixels, shift)
    for name, one in tried.items():
        if fits[name] <= near:
            grey = crop.apply(under(one, pixels).cpu(), shift).to(device)  # zeros come in after normalisation
            fits[name] = min(fits[name], distance(network, under(one, black)), distance(network, grey))
    return fits


@torch.no_grad()
def _losses(
    network: nn.Module, tried: Mapping[str, Normalization], pixels: Tensor, labels: Tensor, num_classes: int
) -> dict[str, float]:
    """Cross-entropy under each; none where the network does not know the classes under any of them."""
    device = next(network.parameters()).device
    losses, accuracies = {}, []
    for name, one in tried.items():
        images = one.normalize(_as_wide(pixels, one)).to(device)
        logits = torch.cat([network(some).float().cpu() for some in images.split(BATCH)])
        losses[name] = float(F.cross_entropy(logits, labels))
        accuracies.append(100 * float((logits.argmax(1) == labels).float().mean()))
    return {} if weak(max(accuracies), num_classes) else losses


def _as_wide(pixels: Tensor, normalization: Normalization) -> Tensor:
    return pixels.expand(-1, len(normalization.mean), -1, -1)
