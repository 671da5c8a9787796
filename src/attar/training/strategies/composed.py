"""Strategies that are added up: `dlb+ddgsd`.

    loss = supervised (of the one that has its own, or cross-entropy) + the terms of all

At most one of them makes the batches and at most one replaces the targets; the others add terms, and there are as many
views as one of them needs. All look at the same logits, so that the sum costs one pass of the network. Those that are
`alone` have logits of other images than the batch's, and are not added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from attar.errors import ConfigError, unknown
from attar.runtime.team import Team
from attar.training.settings import TrainSettings
from attar.training.strategies.base import Batch, Part, Strategy, Teaches

Kinds = Mapping[str, type[Strategy]]


def find(name: str, known: Kinds) -> Callable[[TrainSettings, int], Strategy]:
    """What makes the strategy of this name, or the sum of several joined by '+'.

    Raises ConfigError for a name that isn't known, and for a sum in which two would do the same.
    """
    names = name.split("+")
    for one in names:
        if one not in known:
            raise unknown("strategy", one, known, fix="several are joined by '+', such as dlb+ddgsd")
    kinds = [known[one] for one in names]
    if len(kinds) == 1:
        return kinds[0]
    _require_composable(name, kinds)
    return partial(_Sum, kinds)


def _require_composable(name: str, kinds: Sequence[type[Strategy]]) -> None:
    if by_itself := next((kind.name for kind in kinds if kind.alone), None):
        raise ConfigError(
            f"strategy {name}: {by_itself} cannot be added to others: not all of its logits are of images of the batch",
            expected=f"{by_itself} by itself, or a sum without it",
            fix=f"--strategy {by_itself}; label_smoothing, cutmix and mixup go with it",
        )
    targets = [kind.name for kind in kinds if kind.supervised is not Strategy.supervised]
    samplers = [kind.name for kind in kinds if kind.batches is not Strategy.batches]
    for clashing, what in ((targets, "say what the targets are"), (samplers, "make the batches")):
        if len(clashing) > 1:
            raise ConfigError(
                f"strategy {name}: {' and '.join(clashing)} both {what}",
                expected="strategies that add to each other, such as dlb+ddgsd, dlb+ps-kd, byot+dlb",
                fix="ce is in every strategy; label_smoothing goes with every one" if "ce" in clashing else "",
            )
    if len(set(kinds)) < len(kinds):
        raise ConfigError(f"strategy {name} names one of them twice")


class _Sum(Strategy):
    """Several strategies as one."""

    name, summary = "sum", "several strategies as one"

    def __init__(self, kinds: Sequence[type[Strategy]], settings: TrainSettings, num_images: int) -> None:
        self.views = max(kind.views for kind in kinds)
        super().__init__(settings, num_images)
        self.parts = [kind(settings, num_images) for kind in kinds]
        for part in self.parts:
            part.batch_size = self.batch_size
        first = self.parts[0]
        self._sampler = next((part for part in self.parts if type(part).batches is not Strategy.batches), first)
        self.repeats = self._sampler.repeats
        self.remembers_images = any(part.remembers_images for part in self.parts)
        self.adds_up = all(part.adds_up for part in self.parts)
        self._judge = next((part for part in self.parts if type(part).supervised is not Strategy.supervised), first)

    @property
    def num_fresh(self) -> int:
        """Of the one that makes the batches."""
        return self._sampler.num_fresh

    def join(self, team: Team) -> None:
        """All of them train with other processes."""
        super().join(team)
        for part in self.parts:
            part.join(team)

    def meet(self, labels: Tensor) -> None:
        """Tell all of them."""
        for part in self.parts:
            part.meet(labels)

    def prepare(self, model: nn.Module, example: Callable[[], Tensor], teacher: Teaches | None) -> None:
        """Prepare all of them."""
        for part in self.parts:
            part.prepare(model, example, teacher)
        extras = [part.extra for part in self.parts if part.extra is not None]
        self.extra = nn.ModuleList(extras) if extras else None

    def release(self) -> None:
        """Release all of them."""
        for part in self.parts:
            part.release()

    def batches(self, epoch: int, rng: torch.Generator) -> list[Part]:
        """Batches of the one that makes its own."""
        return self._sampler.batches(epoch, rng)

    def groups(self, epoch: int, step: int, num: int) -> list[tuple[int, int, int]]:
        """Groups of the one that makes the batches."""
        return self._sampler.groups(epoch, step, num)

    def view_epochs(self, epoch: int, order: Sequence[Tensor], mixed: bool) -> list[Tensor]:
        """Views of the one that makes the batches."""
        return self._sampler.view_epochs(epoch, order, mixed)

    def passes(self, num: int) -> list[slice]:
        """Passes of the one that makes the batches."""
        return self._sampler.passes(num)

    def look(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits of all views, at which all of them look."""
        logits = super().look(model, batch)
        for part in self.parts:
            part.rows = self.rows
        return logits

    def supervised(self, logits: Tensor, batch: Batch) -> Tensor:
        """Loss of the one that has its own targets."""
        return self._judge.supervised(logits, batch)

    def term(self, logits: Tensor, batch: Batch) -> Tensor | None:
        """All terms together."""
        terms = [term for part in self.parts if (term := part.term(logits, batch)) is not None]
        return torch.stack(terms).sum() if terms else None

    def synchronize(self) -> None:
        """Synchronize each of them."""
        for part in self.parts:
            part.synchronize()

    def memory(self) -> dict[str, Tensor]:
        """What all of them remember, by their names."""
        return {f"{part.name}.{key}": value for part in self.parts for key, value in part.memory().items()}

    def common(self) -> dict[str, Tensor]:
        """What all of them have in common with those of the other processes, by their names."""
        return {f"{part.name}.{key}": value for part in self.parts for key, value in part.common().items()}

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        """Give each what it remembered."""
        for part in self.parts:
            prefix = f"{part.name}."
            part.restore({key.removeprefix(prefix): value for key, value in memory.items() if key.startswith(prefix)})
