"""DLB: self-distillation from the last mini-batch.

    B_t = [ the n new images of B_{t-1} | n new images ]             n = batch_size / 2
    L   = CE(all 2n) + alpha tau² KL( softmax(z_{t-1} / tau) || softmax(z_t / tau) )     on the shared half

z_{t-1} are the logits that the previous iteration gave the shared images under another augmentation; no gradient flows
into them. The first iteration is n images and cross-entropy alone. The memory, n rows of logits, crosses the borders of
epochs: the first batch of an epoch shares the last new images of the epoch before, however few these are.

In an epoch each image is new once and so is seen twice: an epoch takes twice the steps of `ce`, an image seen costs the
same. With CutMix or MixUp the shared half keeps the partners, boxes and shares that it had when it was new, under fresh
crops and mirrors: so z_{t-1} and z_t are of the same mixture. (Neither paper nor code says what they do.)

Under soft labels for every epoch, views are given, each with its own label. Where they show one image, the shared half
has its next view, so that E epochs go through the views and labels of 2 E. Where they are mixtures, another view has
other partners and nothing to agree on: the shared half has the view again that it had, and agrees on the same pixels.
The loss of soft labels at a temperature T above 1 needs `temperature_squared`, or a lower alpha here, to keep up with
this term: 56 % instead of 87 was measured without (docs/LOG.md).

The networks of the authors' code are vgg16-hidden512, vgg19-hidden512, resnet32-projected, resnet110-bottleneck,
wrn-20-8 and densenet-bc-40-12; the paper has resnet18-small, resnet50-small and wrn-16-8 too. Settings for CIFAR are
sgd, nesterov, learning_rate 0.05, weight_decay 5e-4, batch_size 128 (theirs is n: 64), epochs 240, milestones 150, 180
and 210; for Tiny-ImageNet, at 32 px, learning_rate 0.2, batch_size 256 (128) and epochs 200. `attar study cifar100` and
`tiny-imagenet` have all of it.

Several processes that train together have a memory each: of the n new images each takes its part, which it sees again
in the next step. The overlap of a process with the batch before is then its own, and so is the KL term; the mean over
processes is that over all images.

Source: Shen et al., "Self-Distillation from the Last Mini-Batch for Consistency Regularization", CVPR 2022, eq. 4-6.
Differs from the authors' code:

- Both halves go through the network together, as the paper draws it. Theirs are two passes, the new half first, so that
  BatchNorm sees each half by itself: `apart`.
- `batch_size` counts both halves; theirs counts the new one.
- The accuracy that counts is the last epoch's; their code keeps the best on the test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from attar.config import Config
from attar.training.strategies.base import Batch, Part, Strategy, shard_batch, split_batches
from attar.training.strategies.targets import divergence


class DLBSettings(Config):
    """Self-distillation from the last mini-batch."""

    alpha: float = Field(default=1.0, ge=0)
    """Weight of the consistency with the last mini-batch; 0: cross-entropy on the same batches."""
    tau: float = Field(default=3.0, gt=0)
    """Temperature of both predictions."""
    apart: bool = False
    """Pass the new half through the network first and then the shared half, as the authors' code does: BatchNorm sees
    each half by itself, and its running statistics are updated with the shared half last."""


class DLB(Strategy):
    """Half of each batch is of the last one, and must agree with what was predicted there."""

    name = "dlb"
    summary = "half of each batch is of the last one and agrees with what was predicted there; images are seen twice"
    source = "Shen et al. 2022, Self-Distillation from the Last Mini-Batch for Consistency Regularization (CVPR)"
    Settings = DLBSettings
    repeats = 2

    _indices = torch.zeros(0, dtype=torch.int64)
    _logits = torch.zeros(0, 0)
    _born = torch.zeros(2, dtype=torch.int64)
    """What was new in the last iteration: indices (n,), logits (n, classes), and the epoch and step of it."""
    _shared: tuple[int, ...] = ()
    """Images of all processes that each batch of the epoch shares with the one before."""

    @property
    def num_fresh(self) -> int:
        """Half of a batch."""
        return max(2, self.batch_size // 2)

    def batches(self, epoch: int, rng: torch.Generator) -> list[Part]:
        """The new images of the batch before, then new ones; each image is new once an epoch."""
        order = split_batches(torch.randperm(self.num_images, generator=rng), self.num_fresh)
        new = [shard_batch(images, self.team) for images in order]
        before = [self._last(new[-1], epoch), *new[:-1]]
        self._shared = tuple(part.num for part in before)
        return [shared + fresh for shared, fresh in zip(before, new, strict=True)]

    def _last(self, like: Part, epoch: int) -> Part:
        """What was new in the last batch of the epoch before, which was as long as `like`, that of this epoch."""
        if self.team.num > 1 and epoch:
            return replace(like, indices=self._indices)
        return Part.whole(self._indices)

    def groups(self, epoch: int, step: int, num: int) -> list[tuple[int, int, int]]:
        """The shared half is mixed as it was when it was new."""
        num_shared = len(self._indices)
        born_epoch, born_step = self._born.tolist()
        shared = [(num_shared, born_epoch, born_step)] if num_shared else []
        return [*shared, (num - num_shared, epoch, step)]

    def view_epochs(self, epoch: int, order: Sequence[Tensor], mixed: bool) -> list[Tensor]:
        """Views 2 e where images are new and 2 e + 1 where they are shared; where views are mixed, e in both."""
        made, born, num_shared = [], epoch - 1, len(self._indices)
        for indices in order:
            new = torch.full_like(indices[num_shared:], epoch if mixed else 2 * epoch)
            shared = torch.full_like(indices[:num_shared], born if mixed else 2 * born + 1)
            made.append(torch.cat([shared, new]))
            born, num_shared = epoch, len(new)
        return made

    def passes(self, num: int) -> list[slice]:
        """One pass for all; or one for the new half, then one for the shared half."""
        num_shared = len(self._indices)
        if self.settings.own(DLBSettings).apart and 0 < num_shared < num:
            return [slice(num_shared, num), slice(0, num_shared)]
        return [slice(0, num)]

    def term(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """Divergence of the shared half from the last prediction; what is new becomes the memory."""
        num_shared, num = len(self._indices), len(batch.indices)
        if not torch.equal(batch.indices[:num_shared], self._indices):
            raise ValueError("the batch does not begin with what was new in the one before")
        logits, last = logits[:num], self._logits.to(logits)
        self._indices, self._logits = batch.indices[num_shared:], logits[num_shared:].detach().clone()
        self._born = torch.tensor([batch.epoch, batch.step])
        if not num_shared:
            return None
        own = self.settings.own(DLBSettings)
        term = own.alpha * divergence(logits[:num_shared], last, own.tau)
        if batch.num_of_all is None:
            return term
        # the loop weighs this by the process's part of all images; of the shared ones it may have another part
        return term * (num_shared / self._shared[batch.step]) / (num / batch.num_of_all)

    def memory(self) -> dict[str, Tensor]:
        """Indices and logits of the last new images, and when they were new."""
        return {"indices": self._indices, "logits": self._logits, "born": self._born}

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        """Take back what `memory` gave."""
        self._indices, self._logits, self._born = memory["indices"], memory["logits"], memory["born"]
