"""An exponential moving average of a network's weights and BatchNorm buffers (Polyak averaging), or of other tensors.

After step t = 0, 1, ...: average <- d average + (1 - d) weights, with d = min(decay, (1 + t) / (10 + t)), so that
the random weights of the start are soon forgotten. Counters (integer buffers) are the network's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class Average:
    """The average of one network's weights, beside it, on its device; a decay of 0 keeps none.

    Tensors by name, which are changed in place, will do in place of a network.
    """

    def __init__(self, model: nn.Module | Mapping[str, Tensor], decay: float) -> None:
        tensors = model.state_dict() if isinstance(model, nn.Module) else model
        live = {key: value for key, value in tensors.items() if decay and value.is_floating_point()}
        self._live = live  # these share their memory with the network
        self._values = {key: value.clone() for key, value in live.items()}
        self._decay = decay
        self.num_steps = 0
        """How many steps are in the average."""

    def update(self) -> None:
        """Take in the weights as they are after a step."""
        decay = min(self._decay, (1 + self.num_steps) / (10 + self.num_steps))
        for key, value in self._live.items():
            self._values[key].lerp_(value, 1 - decay)
        self.num_steps += 1

    def apply(self) -> None:
        """Give the network the averaged weights."""
        for key, value in self._live.items():
            value.copy_(self._values[key])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Lend the network the averaged weights: it has its own again afterwards."""
        own = {key: value.clone() for key, value in self._live.items()}
        self.apply()
        try:
            yield
        finally:
            for key, value in self._live.items():
                value.copy_(own[key])

    def state(self) -> dict[str, Tensor]:
        """The averages by name, for a checkpoint."""
        return self._values

    def restore(self, state: Mapping[str, Tensor], num_steps: int) -> None:
        """Take back what `state` gave, on the CPU."""
        for key, value in self._values.items():
            value.copy_(state[key])
        self.num_steps = num_steps
