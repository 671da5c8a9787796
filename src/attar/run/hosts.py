"""What several hosts bring: which pieces of each stage they share, when the busiest is done, and where that stops.

Of N processes each takes every N-th item of a stage, and all wait for the last (`Engine.share`). What is no item one
of them does while the others wait, and what each must do is not shortened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attar.squeeze.rehearsal import EVERYWHERE, Estimate


@dataclass(frozen=True)
class Shared:
    """Pieces of a stage: what one is called, how many there are, and seconds by one process and by all."""

    part: str
    items: str
    num_items: int
    one_s: float
    shared_s: float

    @property
    def gain(self) -> float:
        """How many times sooner it is done."""
        return self.one_s / self.shared_s if self.shared_s else 1.0

    @property
    def shared_by(self) -> str:
        """What the pieces are, in words."""
        if not self.items:
            return "one of them does it"
        first, *rest = self.items.split()
        if self.items == EVERYWHERE:
            return self.items
        return " ".join([f"{self.num_items:,}", first + "s" * (self.num_items > 1), *rest])


@dataclass(frozen=True)
class Hosts:
    """What `num` processes, each on a machine or a GPU of its own, take for the stages of a run."""

    num: int
    shared: tuple[Shared, ...]

    @property
    def total_s(self) -> float:
        """Seconds from the start to the end."""
        return sum(one.shared_s for one in self.shared)

    @property
    def gain(self) -> float:
        """How many times sooner the run ends than by one process."""
        return sum(one.one_s for one in self.shared) / self.total_s if self.total_s else 1.0

    @property
    def host_hours(self) -> float:
        """Hours of all of them together, those of waiting too: times a price by the hour, the bill."""
        return self.num * self.total_s / 3600

    @property
    def stops_at(self) -> int:
        """The most processes of which any has something to do that another has not."""
        return max((one.num_items for one in self.shared), default=1)


def with_hosts(estimates: Sequence[Estimate], num: int) -> Hosts:
    """What `num` processes make of these estimates."""
    found = dict.fromkeys((one.part, one.items) for one in estimates)
    return Hosts(num, tuple(_shared(part, items, estimates, num) for part, items in found))


def _shared(part: str, items: str, estimates: Sequence[Estimate], num: int) -> Shared:
    """What the estimates of a part say of its pieces of one kind, made by every `num`-th process."""
    own = [one for one in estimates if (one.part, one.items) == (part, items)]
    seconds = dict.fromkeys(sorted(place for one in own for place in one.places), 0.0)
    for one in own:
        for place in one.places:
            seconds[place] += one.total_s / len(one.places)
    each, one_s = list(seconds.values()), sum(one.total_s for one in own)
    if not items or items == EVERYWHERE:
        return Shared(part, items, 1, one_s, one_s)
    return Shared(part, items, len(each), one_s, max(sum(each[rank::num]) for rank in range(num)))
