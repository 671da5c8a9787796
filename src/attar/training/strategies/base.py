"""The contract of a training strategy: which images make a batch, what the loss is, and what it remembers.

    loss = supervised(logits, batch) + term(logits, batch)

`supervised` compares the network's logits with targets, by default by cross-entropy; `term` is what a strategy adds. A
strategy overrides one of them, and its batches where it must, so that strategies can be added up: see `composed.py`.

The loop (`training/loop.py`) owns optimiser, schedule, augmentation, resume and events. A strategy is one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from attar.config import Config
from attar.runtime.team import Team
from attar.training.mixing import Mix
from attar.training.settings import TrainSettings
from attar.training.strategies.targets import cross_entropy


class Teaches(Protocol):
    """A trained network that labels images."""

    def logits(self, images: Tensor) -> Tensor:
        """Logits (b, classes) of normalised images (b, c, h, w), without gradient."""


@dataclass(frozen=True)
class Part:
    """What one process takes of a batch."""

    indices: Tensor
    """Places (b,) of its images in the training set, int64, on the CPU."""
    rows: Tensor
    """Rows (b,) of these in the batch of all processes, int64: what is drawn for each image is drawn by row."""
    num: int
    """Images of the batch of all processes."""

    @classmethod
    def whole(cls, indices: Tensor) -> Part:
        """A batch (n,) of one process."""
        return cls(indices, torch.arange(len(indices)), len(indices))

    def __add__(self, other: Part) -> Part:
        """One batch of two, one behind the other."""
        rows = torch.cat([self.rows, self.num + other.rows])
        return Part(torch.cat([self.indices, other.indices]), rows, self.num + other.num)


@dataclass(frozen=True)
class Batch:
    """One batch of one step, on the device of the network."""

    epoch: int
    """From 0."""
    step: int
    """From 0 in each epoch."""
    indices: Tensor
    """Places (b,) of the images in the training set, int64, on the CPU."""
    targets: Tensor
    """Classes int64 (b,), or probabilities or a teacher's logits, float (b, classes); not mixed."""
    view: Callable[[int], Tensor]
    """`view(k)` gives the normalised images (b, c, h, w) under their k-th independent augmentation, mixed in one way
    for all k; replayed views, whose labels are theirs alone, are the same for every k."""
    targets_are_logits: bool = False
    """Whether float targets are logits."""
    mix: Mix | None = None
    """How the images are mixed; None: they are not."""
    num_of_all: int | None = None
    """Images of the batch of all processes, of which these are one's; None: there is one process."""
    rows: Tensor | None = None
    """Rows (b,) of these images in the batch of all processes, int64, on the CPU; None where there is one."""

    @property
    def images(self) -> Tensor:
        """The images (b, c, h, w) under their first augmentation."""
        return self.view(0)

    def seen(self, views: int) -> Tensor:
        """The images (v b, c, h, w) under their first `views` augmentations, one behind the other."""
        return self.view(0) if views == 1 else torch.cat([self.view(k) for k in range(views)])


class Strategy:
    """One way to train. Subclasses are final.

    Args:
        settings: of the training; what belongs to one strategy alone is in a group of its own.
        num_images: size of the training set.
    """

    name: ClassVar[str]
    """As typed after `--strategy`."""
    summary: ClassVar[str]
    """One line for `attar list strategies`."""
    source: ClassVar[str] = ""
    """The paper."""
    Settings: ClassVar[type[Config] | None] = None
    """The class of its own settings, each field with its docstring; `self.settings.own(Settings)` gives them."""
    views: int = 1
    """Augmentations of each image in a batch; `batch_size` counts them all."""
    repeats: int = 1
    """Batches of an epoch that each image is in."""
    remembers_images: bool = False
    """Whether it remembers what was predicted for an image, which is nothing that a mixture could be told by."""
    adds_up: bool = True
    """Whether its losses over the parts of a batch, weighed by their images, add up to that over the batch."""
    alone: ClassVar[bool] = False
    """Whether it is added to no other, since not all of its logits are of images of the batch."""
    extra: nn.Module | None = None
    """Trained along with the network and dropped at the end; set by `prepare`. The loss of every batch depends on all
    of its parameters."""
    team: Team = Team()
    """The processes that train together, of which each has a strategy of its own."""
    rows: tuple[slice, ...] = ()
    """Rows of the views (v b) that each pass of the last `look` took, in the order in which the passes ran."""

    def __init__(self, settings: TrainSettings, num_images: int) -> None:
        self.settings, self.num_images = settings, num_images
        self.batch_size = max(1, settings.batch_for(num_images) // self.views)
        """Images of a batch of all processes, each of which is shown in all views."""

    @classmethod
    def group(cls) -> str:
        """The name of its own settings in the section `train`."""
        return cls.name.replace("-", "_")

    @property
    def num_fresh(self) -> int:
        """Images of a batch that have not been in the one before; processes share these evenly."""
        return self.batch_size

    def join(self, team: Team) -> None:
        """Train with other processes."""
        self.team = team

    @property
    def showings(self) -> int:
        """How often each image goes through the network in an epoch: in so many batches, under so many views."""
        return self.repeats * self.views

    def meet(self, labels: Tensor) -> None:
        """Learn the classes int64 (n,) of the training images, as they are trained on; called before `prepare`."""

    def prepare(self, model: nn.Module, example: Callable[[], Tensor], teacher: Teaches | None) -> None:
        """Get ready to train `model`, of which `example()` (1, c, h, w) is an input on its device.

        Raises ConfigError where the network, or the lack of a teacher, does not allow the strategy.
        """

    def release(self) -> None:
        """Undo what `prepare` did to the network."""

    def batches(self, epoch: int, rng: torch.Generator) -> list[Part]:
        """This process's part of every batch of an epoch; by default each image once, in random order."""
        order = torch.randperm(self.num_images, generator=rng)
        return [shard_batch(batch, self.team) for batch in split_batches(order, self.num_fresh)]

    def groups(self, epoch: int, step: int, num: int) -> list[tuple[int, int, int]]:
        """Sizes of the groups of a batch of `num` images that are mixed among themselves, and whence their draws are.

        As (size, epoch, step), in the order of the batch; asked for before its loss.
        """
        return [(num, epoch, step)]

    def view_epochs(self, epoch: int, order: Sequence[Tensor], mixed: bool) -> list[Tensor]:
        """For views that are replayed: the epoch whose view each image (b,) of every batch shows, int64.

        By default, this epoch. `mixed`: views are of several images. Asked for after `batches`, which made `order`.
        """
        return [torch.full_like(indices, epoch) for indices in order]

    def passes(self, num: int) -> list[slice]:
        """Parts of `num` images that go through the network by themselves, first to last; by default all at once."""
        return [slice(0, num)]

    def look(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits (v b, classes), float32, of all views, one view behind the other."""
        images, num = batch.seen(self.views), len(batch.indices)
        parts = self.passes(num)
        if len(parts) > 1:
            places = [(k * num, part) for k in range(self.views) for part in parts]
            self.rows = tuple(slice(first + part.start, first + part.stop) for first, part in places)
        else:
            self.rows = (slice(0, len(images)),)
        return self.whole([model(images[rows]) for rows in self.rows]).float()

    def whole(self, parts: Sequence[Tensor]) -> Tensor:
        """What the passes of the last `look` gave, (b_k, ...) each, as one tensor (v b, ...) in the batch's order.

        A hook may have collected parts of earlier passes too, such as an evaluation's; these are left out.
        """
        if len(self.rows) == 1:
            return parts[-1]
        pairs = zip(self.rows, parts[-len(self.rows) :], strict=True)
        return torch.cat([part for _, part in sorted(pairs, key=lambda pair: int(pair[0].start))])

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """Scalar loss of logits (v b, classes) against the targets."""
        return cross_entropy(logits, batch, self.settings)

    def term(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """Scalar that is added; None: nothing is."""
        return None

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Scalar loss of a batch; gradients flow into the model."""
        logits = self.look(model, batch)
        loss, added = self.supervised(logits, batch), self.term(logits, batch)
        return loss if added is None else loss + added

    def synchronize(self) -> None:
        """Make `common` the same in all processes; called after the first and the last step of an epoch."""

    def memory(self) -> dict[str, Tensor]:
        """What later steps need of earlier ones, each process its own; kept in the checkpoint."""
        return {}

    def common(self) -> dict[str, Tensor]:
        """What later steps need of earlier ones of all processes; kept in the checkpoint."""
        return {}

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        """Take back what `memory` and `common` gave, on the CPU."""
        assert not memory, "a strategy with a memory takes it back"


def split_batches(order: Tensor, size: int) -> list[Tensor]:
    """Cut indices (n,) into parts of `size`.

    A last part of one image joins the one before, since BatchNorm cannot train on a single image.
    """
    parts = list(torch.split(order, size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def shard_batch(batch: Tensor, team: Team) -> Part:
    """This process's run of indices (n,); runs differ in length by one at most.

    A process has at least two or none, for the same reason: of a few images the first processes have all.
    """
    num_sharing = min(team.num, max(1, len(batch) // 2))
    size, rest = divmod(len(batch), num_sharing)
    first = team.rank * size + min(team.rank, rest)
    rows = torch.arange(first, first + size + (team.rank < rest)) if team.rank < num_sharing else batch.new_empty(0)
    return Part(batch[rows], rows, len(batch))


def keep(kept: list[Tensor], given: Tensor) -> None:
    """Keep what a part of the network gave in a step; what it gives in inference mode, in which networks are tested, is
    dropped, as that of thousands of images would stay until the next step."""
    if not torch.is_inference_mode_enabled():
        kept.append(given)
