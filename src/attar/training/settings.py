"""How a network is trained: the settings, and what they mean as a learning rate."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from attar.augment.operations import AugmentationName, Mode, Per, within_tiles
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
    """Images in a batch; auto: by the size of the set, 10 up to 50 images, 50 up to 10,000, 100 beyond. If memory runs
    out, lower it and raise `accumulate` by the same factor: neither the images per step nor the number of steps
    changes."""
    optimizer: str = "sgd"
    """Optimiser of the network's weights: sgd, adam, adamw, muon (orthogonalised steps for kernels and matrices, AdamW
    for the rest, at the same rate), or the name of any other in torch.optim or timm.optim, such as lamb or lion."""
    learning_rate: float = Field(default=0.01, gt=0, allow_inf_nan=False)
    """Learning rate before the schedule; lower it if the loss diverges."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of sgd, and of others that have one, such as muon, for which 0.95 is usual."""
    nesterov: bool = False
    """Use Nesterov's form of momentum with sgd."""
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    """L2 penalty (sgd, adam) or decoupled decay (adamw); decay_norms says which parameters have it."""
    decay_norms: bool = True
    """Whether norms and biases decay too. false: only weights of two or more dimensions do (matrices and kernels), as
    in RDED's students and in SRe2L's on ImageNet-1K."""
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = "step"
    """Learning rate over the epochs: constant; times 0.1 at each milestone; down to 0 along a cosine; or up for the
    first 30 % and then down to almost 0 (one-cycle; the momentum stays)."""
    milestones: tuple[float, ...] = (0.5,)
    """Where the step schedule lowers the rate: as fractions of all epochs (0.625) or as whole epochs (150)."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs of linear warm-up, starting at `warmup_start` times the rate."""
    warmup_start: float = Field(default=0.0, ge=0, lt=1)
    """Where the warm-up starts, as a fraction of the rate; SRe2L's networks for Tiny-ImageNet: 0.01."""
    cosine_part: float = Field(default=1.0, gt=0, le=1)
    """How much of the cosine is used: 1 ends at 0; 0.5 at half the rate, as RDED's students do."""
    schedule_by: Literal["step", "epoch"] = "step"
    """When the schedule changes the rate: at every step, or once at the start of each epoch, as the code of SRe2L and
    RDED does."""
    augment: AugmentationName = "dsa"
    """Augmentation: dsa, dsa-noflip, none, or operations joined by '_' such as flip_crop. Soft labels for every epoch
    bring their own views, and this is then not applied (see `attar show relabel`)."""
    augment_mode: Mode | None = None
    """Apply one operation per draw, or all in turn; none: one for the dsa names, all for lists."""
    augment_per: Per = "operation"
    """What is drawn separately. batch: all images of a batch share one draw; operation: they share the operation, and
    each has its own parameters, as published with dsa; image: each image has its own operation and parameters."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over the classes."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of a moving average of weights and BatchNorm statistics, which becomes the result; 0: no average,
    the last step is the result. 0.999 or more suits long trainings."""
    soft_loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    """Loss on soft labels. cross-entropy: with the teacher's probabilities, whose gradient is that of the KL
    divergence; mse: the mean squared difference to the teacher's logits, without a temperature, for labels that are
    made per view (relabel.labels epochs or online)."""
    hard_epochs: int = Field(default=0, ge=0)
    """With soft labels per view: how many of the epochs, in the middle, use hard labels, with CutMix and strong
    smoothing (HALD). Only the labels of the other epochs are stored: 150 of 300 halve them."""
    hard_smoothing: float = Field(default=0.8, ge=0, lt=1)
    """Label smoothing in those epochs; HALD publishes 0.8."""
    hard_cutmix: float = Field(default=1.0, ge=0, le=1)
    """Fraction of the batches in those epochs that CutMix mixes."""
    temperature: float = Field(default=1.0, gt=0, le=1000)
    """T of soft labels: both the teacher's and the student's logits are divided by it. A higher T gives more weight to
    the classes that the teacher finds unlikely; SRe2L publishes 20."""
    temperature_squared: bool = False
    """Multiply the loss on soft labels by T², which keeps the size of its gradient; SRe2L does so at 64 px, but not at
    224."""
    cutmix: float = Field(default=0.0, ge=0, le=1)
    """Fraction of batches in which each image shows a box of another (CutMix); published: 0.5 on CIFAR, 1 on
    ImageNet."""
    mixup: float = Field(default=0.0, ge=0, le=1)
    """Fraction of batches in which each image is blended with another (MixUp); published: 1."""
    mix_alpha: float = Field(default=1.0, gt=0)
    """The mixing ratio is drawn from Beta(mix_alpha, mix_alpha); published: 1 on CIFAR."""
    cutout_px: int = Field(default=0, ge=0)
    """Side of a square blanked in each image (CutOut), which may lie partly outside it; published: 16 on CIFAR-10, 8 on
    CIFAR-100. 0: none."""
    randaugment: int = Field(default=0, ge=0, le=10)
    """How many RandAugment operations each image gets, after the augmentation; published: 2. 0: none."""
    randaugment_magnitude: int = Field(default=9, ge=0, le=30)
    """Magnitude of these operations, 0..30."""
    optimizer_options: dict[str, Any] = {}
    """Further options of the optimiser, such as {betas: [0.9, 0.99]}."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged for one optimiser step; the last step of an epoch may have fewer.
    BatchNorm's statistics are still of one batch. SRe2L publishes 2 batches of 512 at 224 px."""
    sync_batch_norm: bool = False
    """When several processes share each batch, normalise by the images of all of them rather than by each process's
    own. GPUs only."""
    memory_format: Literal["auto", "channels_last", "contiguous"] = "auto"
    """Memory layout of images and weights; the last bits of results differ. auto: channels_last on a CUDA device, and
    on a CPU for networks with BatchNorm, which then take two thirds of the time or as long as before; other networks
    get slower."""

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

    def on(self, tiles: int) -> Self:
        """The same for images that hold `tiles` by `tiles` others: each is seen through one of them at a time."""
        augment = within_tiles(self.augment, tiles)
        return self if augment == self.augment else self.model_copy(update={"augment": augment})

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
