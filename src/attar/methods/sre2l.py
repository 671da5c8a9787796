"""SRe2L: recover images from what one trained network remembers of the real ones.

    L = CE(φ(a(x)), y) + α Σ_l w_l ( ||μ_l(a(x)) - mean_l||₂ + ||σ²_l(a(x)) - var_l||₂ )
        + α_tv TV(a(x)) + α_l2 mean_i ||a(x_i)||₂                            w_first = 10, other w_l = 1

over every BatchNorm layer l of the frozen teacher φ; a = a random crop back to full size, flip and roll, one
draw for the chunk in each step; Adam; pixels clamped after each step; the last iterate is kept.

Source: Yin, Xing and Shen, "Squeeze, Recover and Relabel: Dataset Condensation at ImageNet Scale From A New
Perspective", NeurIPS 2023, equations 7 to 10. The curriculum of the crops is that of Yin and Shen, "Dataset
Distillation via Curriculum Data Synthesis in Large Data Era", TMLR 2024.

Differs from the authors' code: a chunk holds as many classes as fit whatever the number of processes; pixels are
stored as whole 8-bit values, losslessly; α may be given in the teacher's own unit (`alpha_bn: auto`), and the
statistics in each channel's (`statistics_unit: channel`); where the teacher knows more classes than the source has,
φ(x) is over those of the source, or over all (`rivals: known`); images may be optimised by their spectrum
(`parametrisation: spectrum`), see `attar.methods.spectrum`; and their contrast may be set to what the first layer's
statistics say of the real images' (`contrast: statistics`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from attar.losses.statistics import Watched
from attar.methods import matching, spectrum
from attar.methods.base import (
    Distillate,
    Generators,
    Metrics,
    RealImages,
    Synthetic,
    Teacher,
    clamp_pixels,
    whole_pixels,
)
from attar.methods.matching import ByStatistics, MatchingSettings
from attar.task import Normalization, Task

_ROUNDS, _MOST_GAIN = 4, 4.0


class Sre2lSettings(MatchingSettings):
    """Settings of SRe2L."""

    statistics_unit: Literal["plain", "channel"] = "plain"
    """Unit of the distance at each BatchNorm. plain: as published, so that layers with large values count most;
    channel: each channel's own standard deviation and variance, and every layer alike however wide it is, which is
    ours. It suits networks whose layers differ in scale by orders of magnitude, such as EfficientNet-Lite."""
    parametrisation: Literal["pixels", "spectrum"] = "pixels"
    """What is optimised. pixels: the images, as published; spectrum: their Fourier coefficients, scaled by 1 /
    frequency, with decorrelated colours and a sigmoid to valid pixels, as in feature visualisation. It shows more of
    the classes and less grain; noise then begins nearly grey, and Adam wants momentum 0.9 and second_beta 0.999."""
    rivals: Literal["named", "known"] = "named"
    """Which classes an image has to be told from, where the teacher knows more than the source has. named: those of
    the source; known: all that the teacher knows, so that a goldfish has to be likelier than a coho salmon as well.
    With few of many classes it makes the difference between an image that anybody can name and one that is only
    unlike the others."""
    contrast: Literal["kept", "statistics"] = "kept"
    """How far the finished images are from their mean colour. kept: as optimised; statistics: so far that the input of
    the teacher's first BatchNorm varies as much as it did on the real images, which is ours. A few hundred steps from
    noise end with half of the contrast of photographs; a person sees more in all of it."""


class Sre2l(ByStatistics[Sre2lSettings, Teacher]):
    """Squeeze, recover, relabel."""

    name = "sre2l"
    typical = True
    summary = "images from a teacher's BatchNorm statistics, at any resolution; soft labels for every epoch"
    source = "Yin et al., NeurIPS 2023, equations 7 to 10"
    Settings = Sre2lSettings
    knowledge = "teacher"

    def __init__(self, settings: Sre2lSettings, task: Task, ipc: int) -> None:
        super().__init__(settings, task, ipc)
        self._watched: Watched | None = None

    def init(self, picked: Tensor, real: RealImages, knowledge: Teacher, rngs: Generators) -> Synthetic:
        """As all do it; or the spectrum of that, where noise is of the spectrum itself."""
        if not self._by_spectrum:
            return super().init(picked, real, knowledge, rngs)
        if self.settings.start == "noise":
            begun = torch.stack([spectrum.noise(self.task, rngs("noise", place)) for place in picked.tolist()])
            return Synthetic(self.labels()[picked], {"spectrum": begun})
        images = super().init(picked, real, knowledge, rngs)
        return Synthetic(images.labels, {"spectrum": spectrum.encode(images.variables["images"], self.task)})

    def gradient(
        self,
        synthetic: Synthetic,
        picked: Tensor,
        real: RealImages,
        knowledge: Teacher,
        rng: torch.Generator,
        done: float = 0.0,
    ) -> tuple[dict[str, Tensor], Metrics]:
        """One look of the teacher at the chunk, through one draw of the crops."""
        settings, teacher = self.settings, self._watch(knowledge)
        picked = matching.class_by_class(synthetic.labels, picked)
        labels = synthetic.labels[picked]
        chosen = synthetic.variables[self._variable][picked].detach().requires_grad_()

        views = matching.look(settings, self._images(chosen), rng, done)
        logits, statistics = teacher(views)  # Σ_l w_l ( ||μ_l - mean_l||₂ + ||σ²_l - var_l||₂ )
        classification = F.cross_entropy(logits, labels)
        loss = classification + matching.alpha_of(settings, teacher) * statistics
        for prior in matching.priors(settings, views):
            loss = loss + prior

        gradient = matching.by_variable(self._variable, loss, chosen, picked, synthetic)
        return gradient, matching.metrics(loss, classification, statistics, logits, labels)

    def finish(self, synthetic: Synthetic, knowledge: Teacher) -> Distillate:
        """With the contrast that is asked for, rounded to whole 8-bit pixels."""
        made = super().finish(synthetic, knowledge)
        if self.settings.contrast == "kept":
            return made
        images = self.decode(synthetic).detach()
        images = with_variance(images, self._watch(knowledge).first_variance, self.task.normalization)
        return replace(made, images=whole_pixels(images, self.task.normalization))

    def decode(self, synthetic: Synthetic) -> Tensor:
        """The images, or those of the spectra."""
        return self._images(synthetic.variables[self._variable])

    def learning_rates(self) -> dict[str, float]:
        """Of the images, or of their spectra."""
        return {self._variable: self.settings.lr_images}

    def project(self, synthetic: Synthetic) -> None:
        """Clamp to valid pixels, which those of a spectrum are already."""
        if not self._by_spectrum:
            super().project(synthetic)

    @classmethod
    def works_without_images(cls, settings: Sre2lSettings) -> bool:
        """Where images start as noise."""
        return not cls.starts_from_real(settings)

    @property
    def _by_spectrum(self) -> bool:
        return self.settings.parametrisation == "spectrum"

    @property
    def _variable(self) -> str:
        return "spectrum" if self._by_spectrum else "images"

    def _images(self, variable: Tensor) -> Tensor:
        """Normalised images (b, c, h, w) of so many rows of the variable."""
        return spectrum.decode(variable, self.task) if self._by_spectrum else variable

    def _watch(self, knowledge: Teacher) -> Watched:
        if self._watched is None:
            in_units = self.settings.statistics_unit == "channel"
            model = knowledge.all_classes() if self.settings.rivals == "known" else knowledge.model
            at_once = self.settings.images_at_once
            self._watched = Watched(model, self.settings.first_weight, standardised=in_units, at_once=at_once)
        return self._watched


def with_variance(images: Tensor, measured: Callable[[Tensor], float], normalization: Normalization) -> Tensor:
    """Normalised images (b, c, h, w), so far from their mean colour that `measured` is near 1 of them, and valid.

    Args:
        images: any.
        measured: a variance of images over the one that is wanted; it grows with the square of their contrast, but
            for what is cut off at black and white, for which a few rounds make up.
        normalization: says what pixels are valid.
    """
    mean, gain = images.mean((0, 2, 3), keepdim=True), 1.0
    made = images
    for _ in range(_ROUNDS):
        gain = min(gain * max(measured(made), 1e-12) ** -0.5, _MOST_GAIN)
        made = mean + gain * (images - mean)
        clamp_pixels(made, normalization)
    return made
