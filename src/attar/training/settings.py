"""How a network is trained: the settings, and what they mean as a learning rate."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from attar.augment.operations import Augmentation, Mode, Per
from attar.config import ConfigT
from attar.options import LabelNoise, Supervision
from attar.training.optimizers import make_optimizer, problem_with

__all__ = ["TrainSettings", "learning_rate", "make_optimizer"]

_STEP_FACTOR = 0.1
_BATCHES = ((50, 10), (10_000, 50))
"""Batch sizes for sets up to so many images: RDED takes 10 and 50 for one and ten images of ten classes, RD3 finds 50
best for 10,000 images, where others take 100 to 1,024."""
_LARGEST_BATCH = 100
_CYCLE_RISE, _CYCLE_START, _CYCLE_END = 0.3, 1 / 25, 1e-4 / 25
"""One-cycle: part of the epochs in which the rate rises, and its start and end as parts of the highest."""


class TrainSettings(LabelNoise, Supervision):
    """How a network is trained from scratch; `section.py` adds the settings of strategies.

    The defaults are the protocol by which trajectory matching (Cazenavette et al. 2022) judges distilled
    images; there too the rate falls once, just past half.
    """

    epochs: int = Field(default=1000, ge=1)
    """Passes over the training images; the network after the last one is the result."""
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1)] = 256
    """Images in a batch; auto: by the number of images, 10 up to 50 of them, 50 up to 10,000, 100 beyond. Where memory
    runs out, lower it and raise `accumulate` by the same factor: a step then has as many images, and there are as many
    steps."""
    optimizer: str = "sgd"
    """The optimiser of the network's weights: sgd, adam, adamw, muon (orthogonal steps of kernels and matrices, AdamW's
    of the rest, at the same rate), or the name of any other of torch.optim or timm.optim, such as lamb or lion."""
    learning_rate: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    """Learning rate before the schedule; lower it where the loss diverges."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd, and of others that have one, such as muon, for which 0.95 is usual."""
    nesterov: bool = False
    """Nesterov's form of the momentum of sgd."""
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    """L2 penalty (sgd, adam) or decoupled decay (adamw); see decay_norms for what has it."""
    decay_norms: bool = True
    """Whether norms and biases decay too. False: only weights of two dimensions and more do (matrices and kernels), as
    RDED trains its students and SRe2L those on ImageNet-1K."""
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = "step"
    """Learning rate over the epochs: as it is, times 0.1 at each milestone, down to 0 along a cosine, or up for the
    first three tenths and down to almost 0 (one-cycle; the momentum stays)."""
    milestones: tuple[float, ...] = (0.5,)
    """Where the step schedule lowers the rate: fractions of all epochs (0.625), or whole epochs (150)."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs over which the rate first rises in a line, from the part `warmup_start` of it."""
    warmup_start: float = Field(default=0.0, ge=0, lt=1)
    """Where the warm-up begins, as a part of the rate; SRe2L's networks for Tiny-ImageNet: 0.01."""
    cosine_part: float = Field(default=1.0, gt=0, le=1)
    """How much of the cosine is gone through: 1 ends at 0; 0.5 at half the rate, as RDED's students do."""
    schedule_by: Literal["step", "epoch"] = "step"
    """When the rate follows the schedule: at each step, or at the start of an epoch for all of it, as the code of SRe2L
    and RDED does."""
    augment: str = "dsa"
    """Augmentation: dsa, dsa-noflip, none, or operations joined by '_' such as flip_crop. Not applied under soft labels
    for every epoch, which bring their own (see `attar show relabel`)."""
    augment_mode: Mode | None = None
    """Apply one operation per draw or all in turn; none: one for the dsa names, all for lists."""
    augment_per: Per = "operation"
    """What has a draw of its own. batch: all images of a batch share one; operation: they share the operation that is
    applied, and each has its own parameters of it, as published with dsa; image: each image has its own."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over the classes."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of a moving average of weights and BatchNorm statistics, which then is the result; 0: no average,
    the last step is the result. 0.999 or more suits long trainings."""
    soft_loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    """What soft labels are learnt by. cross-entropy: with the teacher's probabilities, which has the gradient of their
    divergence; mse: the mean square of the difference to the teacher's logits, at no temperature, for labels that are
    made of views (relabel.labels epochs or online)."""
    hard_epochs: int = Field(default=0, ge=0)
    """Under soft labels of views: how many of the epochs, in the middle, are on hard labels, with CutMix and much
    smoothing (HALD). The labels of the others are all that is stored: 150 of 300 epochs halve them."""
    hard_smoothing: float = Field(default=0.8, ge=0, lt=1)
    """Label smoothing of these epochs; HALD publishes 0.8."""
    hard_cutmix: float = Field(default=1.0, ge=0, le=1)
    """Part of the batches of these epochs that are mixed by CutMix."""
    temperature: float = Field(default=1.0, gt=0, le=1000)
    """T of soft labels: the teacher's and the student's logits are divided by it. A higher one makes more
    of the classes that the teacher holds for unlikely; SRe2L publishes 20."""
    temperature_squared: bool = False
    """Multiply the loss of soft labels by T², so that its gradient keeps its size; SRe2L does so at 64 px, not at
    224."""
    cutmix: float = Field(default=0.0, ge=0, le=1)
    """Part of the batches in which each image shows a box of another (CutMix); published: 0.5 on CIFAR, 1 on
    ImageNet."""
    mixup: float = Field(default=0.0, ge=0, le=1)
    """Part of the batches in which each image is blended with another (MixUp); published: 1."""
    mix_alpha: float = Field(default=1.0, gt=0)
    """The share that is mixed is drawn from Beta(mix_alpha, mix_alpha); published: 1 on CIFAR."""
    cutout_px: int = Field(default=0, ge=0)
    """Side of a square that is blanked in each image (CutOut), part of it perhaps outside; published: 16 on CIFAR-10,
    8 on CIFAR-100. 0: none."""
    randaugment: int = Field(default=0, ge=0, le=10)
    """Operations of RandAugment on each image, after the augmentation; published: 2. 0: none."""
    randaugment_magnitude: int = Field(default=9, ge=0, le=30)
    """How far these operations go, 0..30."""
    optimizer_options: dict[str, Any] = {}
    """Further options of the optimiser, such as {betas: [0.9, 0.99]}."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged for one step of the optimiser; the last step of an epoch may have fewer.
    BatchNorm's statistics are of one batch. SRe2L publishes 2 batches of 512 at 224 px."""
    sync_batch_norm: bool = False
    """Where several processes share each batch: BatchNorm normalises by the images of all of them, not by those of its
    process. On GPUs only."""
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    """Layout of images and weights; the last bits of results differ. auto is channels_last on a CUDA device, and on a
    processor for networks with BatchNorm, which take two thirds of the time so, or as long; others take longer."""

    @field_validator("augment")
    @classmethod
    def _known_augmentation(cls, spec: str) -> str:
        Augmentation(spec)
        return spec

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, name: str) -> str:
        if problem := problem_with(name):
            raise ValueError(problem)
        return name

    @field_validator("milestones")
    @classmethod
    def _fractions(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < place < 1 or (place >= 1 and place == int(place)) for place in milestones):
            raise ValueError("milestones are fractions of all epochs, between 0 and 1, or whole epochs")
        return milestones

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.soft_loss == "mse" and self.temperature_squared:
            raise ValueError("soft_loss mse compares logits and knows no temperature_squared")
        if self.hard_epochs and (self.hard_epochs >= self.epochs or self.strategy != "ce"):
            raise ValueError("hard_epochs leave at least one of the epochs soft, and go with the strategy ce alone")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs} must be fewer than epochs {self.epochs}")
        if self.warmup_epochs and self.schedule == "one-cycle":
            raise ValueError("one-cycle rises by itself; leave warmup_epochs at 0")
        if self.cosine_part < 1 and self.schedule != "cosine":
            raise ValueError(f"cosine_part is of the cosine schedule; the schedule is {self.schedule}")
        if self.warmup_epochs and self.schedule_by == "epoch" and not self.warmup_start:
            raise ValueError("a warm-up by epoch needs a warmup_start above 0, or its first epoch would teach nothing")
        if late := [place for place in self.milestones if place >= max(1, self.epochs)]:
            raise ValueError(
                f"milestone {late[0]:g} is not before the end, epoch {self.epochs}; fractions of all epochs always are"
            )
        if self.cutmix + self.mixup > 1:
            raise ValueError(f"cutmix {self.cutmix:g} and mixup {self.mixup:g} share the batches: together at most 1")
        return self

    @property
    def soft_epochs(self) -> int:
        """Epochs on soft labels, where labels are soft; at least one, however few are left when epochs are cut."""
        return max(1, self.epochs - self.hard_epochs)

    def is_hard(self, epoch: int) -> bool:
        """Whether this epoch, from 0, of a training on soft labels of views is on hard ones."""
        first = self.soft_epochs // 2
        return first <= epoch < first + self.epochs - self.soft_epochs

    def soft_epoch(self, epoch: int) -> int:
        """How many epochs on soft labels come before this one."""
        return epoch if epoch < self.soft_epochs // 2 else epoch - (self.epochs - self.soft_epochs)

    def batch_for(self, num_images: int) -> int:
        """Images in a batch of a set of so many."""
        if self.batch_size != "auto":
            return self.batch_size
        return next((size for most, size in _BATCHES if num_images <= most), _LARGEST_BATCH)

    def own(self, kind: type[ConfigT]) -> ConfigT:
        """The settings of one strategy; as they are by default where these are none of its."""
        return next((value for value in vars(self).values() if isinstance(value, kind)), None) or kind()


def learning_rate(settings: TrainSettings, epoch: float) -> float:
    """Learning rate at a point of training; `epoch` counts from 0 and is fractional within an epoch."""
    if settings.schedule_by == "epoch":
        epoch = math.floor(epoch)
    if epoch < settings.warmup_epochs:
        start = settings.warmup_start
        return settings.learning_rate * (start + (1 - start) * epoch / settings.warmup_epochs)
    match settings.schedule:
        case "constant":
            factor = 1.0
        case "step":
            factor = _STEP_FACTOR ** sum(epoch >= _milestone(settings, place) for place in settings.milestones)
        case "cosine":
            done = (epoch - settings.warmup_epochs) / (settings.epochs - settings.warmup_epochs)
            factor = (1 + math.cos(math.pi * done * settings.cosine_part)) / 2
        case "one-cycle":
            factor = _one_cycle(epoch / settings.epochs)
    return settings.learning_rate * factor


def _milestone(settings: TrainSettings, place: float) -> float:
    return place * settings.epochs if place < 1 else place


def _one_cycle(done: float) -> float:
    """Part of the highest rate after this part of training: up and down along half a cosine each (Smith 2018)."""
    if done < _CYCLE_RISE:
        return _CYCLE_START + (1 - _CYCLE_START) * (1 - math.cos(math.pi * done / _CYCLE_RISE)) / 2
    falling = (done - _CYCLE_RISE) / (1 - _CYCLE_RISE)
    return _CYCLE_END + (1 - _CYCLE_END) * (1 + math.cos(math.pi * falling)) / 2
