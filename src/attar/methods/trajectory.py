"""What mtt and tesla share: settings, the synthetic state, and the matching problem of one step.

A step draws an expert and a start epoch t, T- <= t < T+, takes θ₀ = expert_t and θ* = expert_{t+M}, and N batches
of synthetic images with one augmentation each. How the gradient is computed is the subclass's own.

In lower precision only the network runs in it: θ, λ, the loss and all sums stay float32.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from attar.augment.operations import Augmentation, AugmentationName, Per
from attar.config import Config
from attar.errors import ArtifactError
from attar.losses.trajectory import Matching, MatchingGradient, soft_cross_entropy
from attar.methods.aligned import right_logits, right_members
from attar.methods.base import (
    Distillate,
    Generators,
    Labeller,
    Metrics,
    Optimised,
    RealImages,
    Segment,
    Synthetic,
    Trajectories,
    clamp_pixels,
    random_members,
)
from attar.methods.clusters import central_members

_RATE_RANGE = (1e-6, 100.0)
"""Step sizes β between which a training makes sense; beyond, the images have stopped to count, or it has run off."""
_DOUBTFUL_LOSS = 2.0

_LABELLED_AT_ONCE = 256
"""Images that θ* is shown at once for its labels: activations of all of 50,000 would fill any memory."""


class TrajectorySettings(Config):
    """Settings of trajectory matching. Symbols are those of the papers."""

    num_steps: int = Field(20, ge=1)
    """N: how many steps a network is trained on the synthetic images, from a point of an expert's training; the images
    are changed so that it ends where the expert went. More steps reach further, and take as many times longer."""
    expert_epochs: int = Field(2, ge=1)
    """M: how many epochs on the real images the N steps stand for: the expert's parameters that are aimed at are those
    M epochs after the start. At most squeeze.epochs."""
    max_start_epoch: int = Field(5, ge=1)
    """T+: a start is a random epoch of an expert's training before this one, 0 to T+ - 1. Early epochs teach easy
    patterns, late ones hard ones, which only many images per class can hold: raise it with ipc."""
    min_start_epoch: int = Field(0, ge=0)
    """T-: starts are from this epoch on. Above 0 it leaves out the easy patterns, which helps with many images."""
    initial_max_start_epoch: int | None = Field(None, ge=1)
    """T+ at the first iteration, from where it grows to max_start_epoch: easy patterns first, and hard ones added to
    what is there. none: T+ is the same throughout. Difficulty alignment (DATM, ICLR 2024) does so."""
    growth: float = Field(0.5, gt=0, le=1)
    """The part of the iterations after which T+ has grown from initial_max_start_epoch to max_start_epoch."""
    batch_size: int | None = Field(None, ge=1)
    """Synthetic images in each of the N steps, all of them in turn; none: all in each. Fewer save time and memory."""
    augment: AugmentationName = "dsa"
    """Random changes of each synthetic batch, through which the images learn to be trained under the same: set
    train.augment alike. dsa: one of colour, crop, cutout, flip, scale, rotate; dsa-noflip for digits; none."""
    augment_per: Per = "operation"
    """What has a draw of its own in each of the N steps. batch: all images share one; operation: they share the
    operation, and each has its own parameters of it, as published; image: each image has its own. On ten images of
    CIFAR-10 the three are within a point (python benchmarks/draws.py)."""
    labels: Literal["hard", "expert", "learnt"] = "hard"
    """What the images are labelled with. hard: their class; expert: in each step what the expert aimed at says of the
    images as they are, good with many classes, and at the end the mean of what all experts say at every epoch that may
    be aimed at; learnt: probabilities, 0.9 for the class at first, optimised with the images."""
    label_start: Literal["class", "expert"] = "class"
    """What learnt labels begin as. class: 0.9 for the class; expert: the mean logits of the finished experts that get
    the image right, as in DATM."""
    label_momentum: float | None = Field(None, ge=0, lt=1)
    """Momentum of the label logits (sgd); none: recover.momentum. DATM: 0.9."""
    start: Literal["real", "right", "kmeans", "noise"] = "real"
    """What the images begin as. real: random real images of their class; right: those of them that a finished expert
    classifies right, as in DATM; kmeans: those nearest to the centres of ipc clusters of their class's pixels, so that
    what is learnt begins where a good coreset ends; noise: unit noise."""
    max_loss: float | None = Field(None, gt=0)
    """A step whose loss is above this is not taken; none: all are. DATM: 1, where steps lead nowhere."""
    leave_out: float = Field(0.0, ge=0, lt=1)
    """Part of the parameters, those that came nearest to the expert's, that the loss leaves out; PAD: 0.5."""
    initial_rate: float | None = Field(None, gt=0)
    """β at the beginning: the learning rate of the N steps, itself learnt. Too high, and the loss is far above 1 from
    the start; too low, and nothing moves. none takes the experts' learning rate, over 1 - momentum."""
    lr_images: float = Field(100.0, gt=0)
    """Learning rate of the images. It grows with classes and pixels: 30 for digits at 8 px, 3000 for CIFAR-10 served
    best with ten classes and one image each; the published settings have 1000 to 10000."""
    lr_rate: float = Field(1e-2, ge=0)
    """How fast β itself is learnt: the learning rate of its logarithm, so that it stays positive; 0 keeps β fixed."""
    lr_labels: float = Field(1.0, gt=0)
    """Learning rate of the label logits, the numbers whose softmax is the labels; used with labels=learnt."""
    lossless: bool = False
    """Keep the pixels within 0..1, so that 8-bit images hold the result up to rounding; else they may leave that range,
    as published, and are stored as floats beside the images."""

    def window(self, done: float, num_epochs: int) -> tuple[int, int]:
        """First and last start epoch (both included) when the part `done` (0..1) of all iterations lies behind.

        `num_epochs` is how long the experts were trained: no start is so late that its end is missing.
        """
        before = self.max_start_epoch
        if self.initial_max_start_epoch is not None and done < self.growth:
            grown = (self.max_start_epoch - self.initial_max_start_epoch) * done / self.growth
            before = self.initial_max_start_epoch + int(grown)
        return self.min_start_epoch, min(before - 1, num_epochs - self.expert_epochs)

    def target_epochs(self, num_epochs: int) -> range:
        """Epochs after which an expert may be θ*: those M after a start of the window, as wide as it ever gets."""
        first, last = self.window(1.0, num_epochs)
        return range(first + self.expert_epochs, last + self.expert_epochs + 1)


TrajectorySettingsT = TypeVar("TrajectorySettingsT", bound=TrajectorySettings)


class TrajectoryMatching(Optimised[TrajectorySettingsT, Trajectories]):
    """Base of the trajectory methods; `matching_gradient` is theirs."""

    Settings: ClassVar[type[Config]] = TrajectorySettings
    knowledge = "trajectories"
    separable = False
    mixed_precision = True

    @abstractmethod
    def matching_gradient(self, problem: Matching, images: Tensor, targets: Tensor, rate: Tensor) -> MatchingGradient:
        """Loss L and gradients by images, targets and step size."""

    @classmethod
    def problems(cls, settings: TrajectorySettingsT, sections: Mapping[str, Config]) -> list[str]:
        """An expert must train at least T- + M epochs, starts need a range, and float16 is too narrow."""
        found, trained = [], getattr(sections["squeeze"], "epochs", 1)
        wanted, low, first = settings.expert_epochs, settings.min_start_epoch, settings.initial_max_start_epoch
        if wanted > trained:
            found.append(
                f"method.expert_epochs={wanted} is more than squeeze.epochs={trained}: no expert goes that far"
            )
        elif low + wanted > trained:
            found.append(
                f"method.min_start_epoch={low} and method.expert_epochs={wanted} reach beyond squeeze.epochs={trained}"
            )
        if low >= settings.max_start_epoch:
            found.append(f"method.min_start_epoch={low} must be less than max_start_epoch={settings.max_start_epoch}")
        if first is not None and not low < first <= settings.max_start_epoch:
            found.append(
                f"method.initial_max_start_epoch={first} must be more than min_start_epoch={low} and at most "
                f"max_start_epoch={settings.max_start_epoch}"
            )
        if settings.max_loss is not None and getattr(sections.get("recover"), "draws_per_step", 1) > 1:
            found.append("method.max_loss leaves out single segments: recover.draws_per_step must be 1")
        if getattr(sections.get("run"), "precision", "") == "16-mixed":
            found.append(
                "run.precision=16-mixed is too narrow for gradients of trajectories; use bf16-mixed or 32-true"
            )
        return found

    @classmethod
    def starts_from_real(cls, settings: TrajectorySettingsT) -> bool:
        """Unless the start is noise."""
        return settings.start != "noise"

    @classmethod
    def labeller(cls, settings: TrajectorySettingsT, knowledge: Trajectories) -> Labeller | None:
        """With labels=expert every θ* that a step may match, by the mean of their probabilities."""
        if settings.labels != "expert":
            return None
        return knowledge.labeller(settings.target_epochs(knowledge.num_epochs))

    @classmethod
    def keeps_pixels_valid(cls, settings: TrajectorySettingsT) -> bool:
        """Where lossless."""
        return settings.lossless

    def learning_rates(self) -> dict[str, float]:
        """Rates of the images, of log β and of the label logits."""
        return {
            "images": self.settings.lr_images,
            "log_rate": self.settings.lr_rate,
            "label_logits": self.settings.lr_labels,
        }

    def momenta(self) -> dict[str, float]:
        """Of the label logits, where they have their own."""
        own = self.settings.label_momentum
        return {} if own is None else {"label_logits": own}

    def limits(self) -> dict[str, tuple[float, float]]:
        """Of log β."""
        low, high = _RATE_RANGE
        return {"log_rate": (math.log(low), math.log(high))}

    def doubts(self, metrics: Mapping[str, float]) -> str:
        """A loss far above 1: the steps lead away from the expert."""
        loss = float(metrics["loss"])
        if loss <= _DOUBTFUL_LOSS:
            return ""
        return (
            f"the matching loss stays at {loss:.3g}, far above 1, which is where steps lead nowhere: try "
            f"--set method.initial_rate={float(metrics['learning_rate']) / 3:.3g}, fewer num_steps or a lower lr_images"
        )

    def calmer(self, synthetic: Synthetic, num_taken: int) -> list[str]:
        """Before the first step nothing has been learnt yet, so that β itself must be too high."""
        if num_taken:
            return super().calmer(synthetic, num_taken)
        return [f"method.initial_rate={float(synthetic.variables['log_rate'].exp()) / 3:.3g}"]

    def looked_at(self, count: int) -> int:
        """All of them, to find clusters or those that are right."""
        return super().looked_at(count) if self.settings.start in ("real", "noise") else count

    def init(self, picked: Tensor, real: RealImages, knowledge: Trajectories, rngs: Generators) -> Synthetic:
        """Start from real images of each class (or noise) and the experts' learning rate."""
        labels = self.labels()[picked]
        images = self._begin(picked, real, knowledge, rngs)
        rate = self.settings.initial_rate or knowledge.learning_rate
        variables = {"images": images, "log_rate": torch.tensor(math.log(rate))}
        if self.settings.labels == "learnt":
            logits = _sure_logits(labels, self.task.num_classes)
            if self.settings.label_start == "expert":
                logits = right_logits(images, labels, knowledge, logits)
            variables["label_logits"] = logits
        return Synthetic(labels, variables)

    def gradient(
        self,
        synthetic: Synthetic,
        picked: Tensor,
        real: RealImages,
        knowledge: Trajectories,
        rng: torch.Generator,
        done: float = 0.0,
    ) -> tuple[dict[str, Tensor], Metrics]:
        """Match one random segment of one random expert; raises ArtifactError where the expert is no good."""
        images = synthetic.variables["images"]
        lower = _asked_precision(images.device.type)
        with torch.autocast(images.device.type, enabled=False):
            segment = self._draw_segment(knowledge, rng, done)
            problem = self._problem(knowledge, segment, picked, images, rng, lower)
            rate = synthetic.variables["log_rate"].exp()
            targets = self._targets(synthetic, knowledge, segment.target)
            found = self.matching_gradient(problem, images, targets, rate)
            gradients = {"images": found.images, "log_rate": found.rate * rate}
            if self.settings.labels == "learnt":
                gradients["label_logits"] = _through_softmax(targets, found.targets)
        loss = float(found.loss)
        if not math.isfinite(loss):
            _require_sound(segment)
        elif self.settings.max_loss is not None and loss > self.settings.max_loss:
            gradients = {}
        return gradients, {"loss": loss, "learning_rate": float(rate)}

    def project(self, synthetic: Synthetic) -> None:
        """Clamp to valid pixels where asked."""
        if self.settings.lossless:
            clamp_pixels(synthetic.variables["images"], self.task.normalization)

    @classmethod
    def gives_soft_labels(cls, settings: TrajectorySettings) -> bool:
        """Where they are the experts' or learnt."""
        return settings.labels != "hard"

    def finish(self, synthetic: Synthetic, knowledge: Trajectories) -> Distillate:
        """Images, learnt step size, and the labels of the chosen mode."""
        images = synthetic.variables["images"].detach()
        soft = None
        if self.settings.labels == "learnt":
            soft = synthetic.variables["label_logits"].detach().softmax(dim=1).cpu()
        elif labeller := self.labeller(self.settings, knowledge):
            soft = labeller.soft_labels(images).cpu()
        return Distillate(
            images=images.float().cpu(),
            labels=synthetic.labels.cpu(),
            soft_labels=soft,
            learning_rate=float(synthetic.variables["log_rate"].exp()),
        )

    def _begin(self, picked: Tensor, real: RealImages, experts: Trajectories, rngs: Generators) -> Tensor:
        """The images (n, channels, height, width) that all begin as."""
        start, wanted = self.settings.start, self.labels()
        if start == "noise":
            return torch.randn((len(picked), *self.task.shape), generator=rngs())
        if start == "real":
            return real.images(random_members(real.labels, wanted, picked, rngs())).clone()
        if start == "right":
            return real.images(right_members(real, wanted, experts, rngs())[picked]).clone()
        return real.images(central_members(real, wanted, picked, rngs)).clone()

    def _draw_segment(self, experts: Trajectories, rng: torch.Generator, done: float) -> Segment:
        expert = int(torch.randint(experts.num_experts, (), generator=rng))
        low, high = self.settings.window(done, experts.num_epochs)
        first = low + int(torch.randint(high - low + 1, (), generator=rng))
        return experts.segment(expert, first, first + self.settings.expert_epochs)

    def _problem(
        self,
        experts: Trajectories,
        segment: Segment,
        picked: Tensor,
        images: Tensor,
        rng: torch.Generator,
        lower: torch.dtype | None,
    ) -> Matching:
        augmentation, per = Augmentation(self.settings.augment), self.settings.augment_per
        batches = epochs_of_batches(picked.cpu(), self.settings.batch_size, self.settings.num_steps, rng)
        draws = [augmentation.draw(rng, len(batch), self.task.shape, per) for batch in batches]

        def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
            with _running_in(lower, device.type):
                logits = experts.flat(theta, x)
            return soft_cross_entropy(logits.to(y.dtype), y)

        device, dtype = images.device, images.dtype
        return Matching(
            start=segment.start.to(device, dtype),
            target=segment.target.to(device, dtype),
            batches=[batch.to(device) for batch in batches],
            loss=loss,
            augment=lambda i, x: augmentation.apply(x, draws[i]),
            leave_out=self.settings.leave_out,
        )

    def _targets(self, synthetic: Synthetic, experts: Trajectories, target: Tensor) -> Tensor:
        images = synthetic.variables["images"]
        if self.settings.labels == "learnt":
            return synthetic.variables["label_logits"].softmax(dim=1)
        if self.settings.labels == "expert":
            theta = target.to(images.device, images.dtype)
            with torch.no_grad():
                return torch.cat([experts.flat(theta, part).softmax(dim=1) for part in images.split(_LABELLED_AT_ONCE)])
        return F.one_hot(synthetic.labels, self.task.num_classes).to(images.device, images.dtype)


def epochs_of_batches(picked: Tensor, batch_size: int | None, num: int, rng: torch.Generator) -> list[Tensor]:
    """Draw `num` batches of indices: shuffled passes through `picked`, so that none is left out for long."""
    if batch_size is None or batch_size >= len(picked):
        return [picked] * num
    batches: list[Tensor] = []
    while len(batches) < num:
        batches += picked[torch.randperm(len(picked), generator=rng)].split(batch_size)
    return batches[:num]


def _asked_precision(device: str) -> torch.dtype | None:
    """The lower precision that the caller's autocast asks for; None where it asks for none."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _running_in(lower: torch.dtype | None, device: str) -> AbstractContextManager[Any]:
    return nullcontext() if lower is None else torch.autocast(device, lower, cache_enabled=False)


def _require_sound(segment: Segment) -> None:
    """Where the loss is not finite, ask first whether the expert is."""
    if not bool(segment.start.isfinite().all() and segment.target.isfinite().all()):
        raise ArtifactError(
            f"{segment.label}: its parameters are not finite numbers",
            expected="experts whose training went well",
            fix="lower squeeze.learning_rate and start over with --fresh",
        )


def _sure_logits(labels: Tensor, num_classes: int, probability: float = 0.9) -> Tensor:
    """Logits whose softmax gives `probability` to the class and spreads the rest evenly."""
    gap = math.log(probability * max(num_classes - 1, 1) / (1 - probability))
    return F.one_hot(labels, num_classes).float() * gap


def _through_softmax(probabilities: Tensor, gradient: Tensor) -> Tensor:
    """Pull a gradient by probabilities (n, classes) back to their logits."""
    return probabilities * (gradient - (gradient * probabilities).sum(dim=1, keepdim=True))
