"""CIM: four easy real images in each synthetic one, changed until each tile has the features of its whole image.

    for each class:  of `candidates` random real images, keep the 4 · ipc of lowest CE(φ(x), y)
                     image j of n = those ranked j, n + j, 2n + j, 3n + j, each shrunk to a quarter
    for each step:   L = Σ_tiles mean | f(a(x)) - f(a(enlarged tile of s + δ)) |     x: the tile's own real image
                     one step of AdamW on δ (in pixels)                              a: one draw of DSA for both

f is the input of a layer inside the teacher φ. Students and φ, which labels each view, see a tile at a time.

Source: Shang, Sun, Shi, Wang and Lin, "Condensing Large-Scale Datasets Directly with Minimal Information Loss", ECCV
2026, arXiv 2607.00916, equation 7. Published: 300 candidates, 200 steps of AdamW at 0.01; f is the input of the last
linear layer up to 64 px, and of `layer3` of torchvision's ResNet-18 at 224 px.

Differs from the authors' code: a chunk of images shares a draw of DSA, where theirs draws one for each class; pixels
are stored as whole 8-bit values in 0..1, where theirs keeps floats that may leave it; students always see a tile, where
theirs see the whole image one time in four.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from attar.augment.operations import Augmentation, AugmentationName
from attar.config import Config
from attar.errors import ConfigError
from attar.methods import mosaics
from attar.methods.base import (
    Distillate,
    Generators,
    Metrics,
    Optimised,
    RealImages,
    Synthetic,
    Teacher,
    whole_pixels,
)
from attar.methods.choosing import AT_ONCE
from attar.methods.mosaics import SIDE, TILES
from attar.methods.protocol import SOFT_LABELS
from attar.models.factory import penultimate
from attar.models.resnet import resnet18_for
from attar.task import Task

_INSIDE_FROM_PX = 128
"""From this size on `layer: auto` looks inside a ResNet."""


class CimSettings(Config):
    """Settings of CIM."""

    candidates: int = Field(300, ge=1)
    """Real images of each class, drawn at random, of which the easiest are kept; more are drawn where the tiles need
    them, fewer where the class has no more."""
    layer: str = "auto"
    """Layer of the teacher whose input is matched, by its path in the network, such as layer3. auto: layer3 of networks
    that have one, from 128 px on; the last linear layer otherwise."""
    lr_images: float = Field(0.01, gt=0)
    """Learning rate of what is added to the images, in pixels of 0..1 (AdamW)."""
    augment: AugmentationName = "flip_crop_cutout"
    """Random changes that a tile and its real image share, all of them in turn; crop_cutout for digits."""


class Cim(Optimised[CimSettings, Teacher]):
    """Condensing with minimal information loss."""

    name = "cim"
    summary = "four easy real images in each, changed until each tile has the features of its whole image"
    source = "Shang et al., ECCV 2026, equation 7"
    Settings = CimSettings
    knowledge = "teacher"
    separable = True
    mixed_precision = True
    hands_over_8bit = True
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **SOFT_LABELS,
        "evaluate": {"protocol": "cim"},
        "recover": {
            "iterations": 200,
            "optimizer": "adam",
            "momentum": 0.9,
            "weight_decay": 0.01,
            "chunk_size": 25,
        },
    }

    def __init__(self, settings: CimSettings, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        mosaics.require_room(task)
        self._kept: dict[tuple[int, int], Tensor] = {}

    @classmethod
    def keeps_pixels_valid(cls, settings: CimSettings) -> bool:
        """Images end as whole 8-bit pixels."""
        return True

    @classmethod
    def default_model(cls, task: Task) -> str:
        """ResNet-18, its stem by the resolution."""
        return resnet18_for(task.height_px, task.width_px)

    def looked_at(self, count: int) -> int:
        """The candidates."""
        return min(count, max(self.settings.candidates, TILES * self.ipc))

    def init(self, picked: Tensor, real: RealImages, knowledge: Teacher, rngs: Generators) -> Synthetic:
        """The mosaics, with nothing added; beside them the real image of each tile (n, 4, c, h, w)."""
        labels = self.labels()
        whole = torch.empty(len(picked), TILES, *self.task.shape)
        for label in labels[picked].unique().tolist():
            rng = rngs("class", label)
            key = label, rng.initial_seed()
            if key not in self._kept:
                self._kept[key] = self._easiest(label, real, knowledge, rng)
            ours = labels == label
            ranks, there = (ours.cumsum(0) - 1)[picked], ours[picked]
            found = mosaics.members(self._kept[key], ranks[there], int(ours.sum()))
            whole[there] = real.images(found.flatten()).unflatten(0, found.shape)
        begun = mosaics.mosaic(whole.unbind(1), self.task.shape[1:], "nearest")
        return Synthetic(labels[picked], {"added": torch.zeros_like(begun)}, {"begun": begun, "whole": whole})

    def gradient(
        self,
        synthetic: Synthetic,
        picked: Tensor,
        real: RealImages,
        knowledge: Teacher,
        rng: torch.Generator,
        done: float = 0.0,
    ) -> tuple[dict[str, Tensor], Metrics]:
        """Show the teacher every tile and its real image, through one draw of DSA."""
        added = synthetic.variables["added"].detach().requires_grad_()
        tiles = mosaics.unfold(self._images(added, synthetic))
        whole = synthetic.fixed["whole"].transpose(0, 1).flatten(0, 1)
        augmentation = Augmentation(self.settings.augment, "all")
        draw = augmentation.draw(rng, 1, self.task.shape, "batch")
        look = self._look(knowledge.model)
        with torch.no_grad():
            wanted = look(augmentation.apply(whole, draw))
        found = look(augmentation.apply(tiles, draw))
        distances = (found.float() - wanted.float()).abs().mean(1)
        loss = distances.sum()
        (gradient,) = torch.autograd.grad(loss, added)
        return {"added": gradient}, {"loss": loss.detach(), "distance": distances.detach().mean()}

    def decode(self, synthetic: Synthetic) -> Tensor:
        """The mosaics and what was added to them."""
        return self._images(synthetic.variables["added"], synthetic)

    def learning_rates(self) -> dict[str, float]:
        """Of what is added."""
        return {"added": self.settings.lr_images}

    def finish(self, synthetic: Synthetic, knowledge: Teacher) -> Distillate:
        """Round to whole 8-bit pixels."""
        images = whole_pixels(self.decode(synthetic), self.task.normalization)
        return Distillate(images, synthetic.labels.cpu(), exact_8bit=True, tiles=SIDE)

    def _images(self, added: Tensor, synthetic: Synthetic) -> Tensor:
        """Normalised images with `added` (n, c, h, w), which is in pixels of 0..1."""
        std = added.new_tensor(self.task.normalization.std).view(-1, 1, 1)
        return synthetic.fixed["begun"] + added / std

    @torch.no_grad()
    def _easiest(self, label: int, real: RealImages, teacher: Teacher, rng: torch.Generator) -> Tensor:
        """Indices of the candidates of a class, the easiest first, 4 · ipc or all."""
        members = (real.labels == label).nonzero().squeeze(1)
        drawn = members[torch.randperm(len(members), generator=rng)[: self.looked_at(len(members))]]
        losses = []
        for part in drawn.split(AT_ONCE):
            logits = teacher.logits(real.images(part)).float().cpu()
            losses.append(F.cross_entropy(logits, torch.full((len(part),), label), reduction="none"))
        return drawn[torch.cat(losses).argsort(stable=True)][: TILES * self.ipc]

    def _look(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Features (b, d) of images (b, c, h, w): the flattened input of the layer that is matched."""
        path, modules = self.settings.layer, dict(model.named_modules())
        if path == "auto":
            inside = "layer3" in modules and min(self.task.height_px, self.task.width_px) >= _INSIDE_FROM_PX
            path = "layer3" if inside else ""
        if not path:
            return lambda images: penultimate(model, images)
        if path not in modules:
            raise ConfigError(
                f"{type(model).__name__} has no layer {path!r}",
                expected=f"one of its paths, such as {', '.join(name for name, _ in model.named_children())}",
                fix="--set method.layer=auto",
            )
        return lambda images: _input_of(modules[path], model, images)


class _Reached(Exception):  # noqa: N818
    """Ends a forward pass at the layer that is looked at."""


def _input_of(layer: nn.Module, model: nn.Module, images: Tensor) -> Tensor:
    """What goes into a layer of a network on images (b, c, h, w), flattened to (b, d); nothing behind it is run."""
    found: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0].flatten(1))
        raise _Reached

    hook = layer.register_forward_pre_hook(keep)
    try:
        model(images)
    except _Reached:
        pass
    finally:
        hook.remove()
    return found[0]
