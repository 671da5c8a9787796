"""RDED: stitch each image from the crops of real images that a teacher is surest of; optimise nothing.

    for each class y:
        draw `candidates` real images, and of each `crops_per_image` crops, at the size of a patch
        keep of each image the crop with the lowest CE(φ(crop), y), and of those the ipc · N lowest
        image j of n holds the patches ranked j, n + j, ..., (N - 1) n + j

Labels come from the same teacher, for every epoch, by the relabel stage.

Source: Sun, Shi, Yu and Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
Paradigm", CVPR 2024, algorithm 1. Published settings: 300 candidates with 5 crops each, scale 0.08 to 1.

Differs from the authors' code: crops are smoothed when they shrink and brought to their tile in one step; images that
aren't square are cropped in their own proportions; pixels are stored rounded and lossless, not truncated and as JPEG;
where a class has fewer images than patches are wanted, second crops are taken. `auto` stitches four patches from 64 px
on, whereas their scripts for Tiny-ImageNet (64 px) stitch none: patches_per_image=1 does as they do. `pick: spread`
and crop_min_scale are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from attar.config import Config
from attar.methods.base import Distillate, Generators, RealImages, Selector, Synthetic, Teacher, whole_pixels
from attar.methods.patches import Patches, PatchSettings
from attar.methods.protocol import SOFT_LABELS
from attar.models.resnet import resnet18_for
from attar.task import Task


class RdedSettings(PatchSettings):
    """Settings of RDED."""


class Rded(Selector[RdedSettings, Teacher]):
    """Realistic and diverse patches, stitched."""

    name = "rded"
    summary = "images stitched from the real crops that a teacher is surest of; optimises nothing"
    source = "Sun et al., CVPR 2024, algorithm 1"
    Settings = RdedSettings
    knowledge = "teacher"
    separable = True
    hands_over_8bit = True
    defaults = {**SOFT_LABELS, "recover": {"iterations": 0, "chunk_size": 100}}

    def __init__(self, settings: RdedSettings, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        self._patches = Patches(settings, task, self.labels())

    @classmethod
    def problems(cls, settings: RdedSettings, sections: Mapping[str, Config]) -> list[str]:
        """Stitched images are not optimised."""
        return [f"{problem}; sre2l can begin with them" for problem in super().problems(settings, sections)]

    @classmethod
    def keeps_pixels_valid(cls, settings: RdedSettings) -> bool:
        """Images end as whole 8-bit pixels."""
        return True

    @classmethod
    def default_model(cls, task: Task) -> str:
        """ResNet-18, its stem by the resolution."""
        return resnet18_for(task.height_px, task.width_px)

    def looked_at(self, count: int) -> int:
        """The images that patches are looked for in."""
        return self._patches.looked_at(count)

    def init(self, picked: Tensor, real: RealImages, knowledge: Teacher, rngs: Generators) -> Synthetic:
        """Choose the patches of each class and stitch them."""
        images = self._patches.images(picked, real, knowledge, rngs)
        return Synthetic(self.labels()[picked], {"images": images})

    def finish(self, synthetic: Synthetic, knowledge: Teacher) -> Distillate:
        """Resizing leaves values between the pixels: round to whole ones, which is what is stored and trained on."""
        images = whole_pixels(synthetic.variables["images"], self.task.normalization)
        return Distillate(images, synthetic.labels.cpu(), exact_8bit=True)
