"""Processes that take every step of one piece of work together.

Where a step is cut into draws, each a function of its number, their mean is summed in the order of these numbers, in
every process, so that its bits do not depend on how many processes there are, nor on who was first. A draw that fails
in one process stops all of them: nobody is left waiting. `total` sums what each process has, the same bits in all of
them, but others for another number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, distributed

from attar.errors import AttarError
from attar.runtime.processes import PATIENCE, Processes, all_there

Draw = Callable[[int], Mapping[str, Tensor]]
"""The number of a draw -> tensors by name, each draw with the same names, shapes and types."""


@dataclass(frozen=True)
class Team:
    """This process, `rank` among the `num` that work together; `group` is torch's name for them, None for one alone."""

    rank: int = 0
    num: int = 1
    group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes for all of them."""
        return self.rank == 0

    def mean(self, draw: Draw, num_draws: int) -> dict[str, Tensor]:
        """Mean of the tensors of draws 0..num_draws-1, at least one for each process, the same bits in all of them.

        Raises what a draw of this process raised, and AttarError where one of another process failed.
        """
        total: dict[str, Tensor] = {}
        mine: Mapping[str, Tensor] = {}
        for first in range(0, num_draws, self.num):
            number = first + self.rank
            if number < num_draws:  # else this is the last round: what is sent once more is not added
                mine = self._tried(partial(draw, number))
            else:
                self._hear("")
            for found in self._exchange(mine)[: num_draws - first]:
                total = {name: total[name] + value if total else value for name, value in found.items()}
        return {name: value / num_draws for name, value in total.items()} if num_draws > 1 else total

    def total(self, tensor: Tensor) -> Tensor:
        """Sum of the tensors of all processes, which have one shape; what is given may be overwritten."""
        if self.num == 1:
            return tensor
        there = tensor.cpu()
        with all_there(self.num):
            distributed.all_reduce(there, group=self.group)
        return there.to(tensor.device)

    def tell(self, number: int) -> int:
        """The number that the first process brings."""
        return int(self._gather(torch.tensor([number]))[0])

    def collect(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Tensors of any shapes of every process, in the order of the processes, on the CPU."""
        if self.num == 1:
            return [dict(tensors)]
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return [safetensors.torch.load(found) for found in self._gather_bytes(safetensors.torch.save(plain))]

    def require_same(self, number: int, what: str) -> None:
        """Wait for the others; raise AttarError where they bring another number."""
        numbers = [int(other) for other in self._gather(torch.tensor([number]))]
        if len(set(numbers)) > 1:
            raise AttarError(
                f"the processes disagree on {what}: {', '.join(map(str, numbers))}",
                expected="a run folder that all of them see",
                fix="run the same command again; put --out on a disk that all machines share",
            )

    def _tried(self, work: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Do it, and tell the others how it went before any of them waits for its tensors."""
        try:
            found = work()
        except Exception as error:
            self._hear(str(error) or type(error).__name__, fails=True)
            raise
        self._hear("")
        return found

    def _hear(self, trouble: str, fails: bool = False) -> None:
        """Tell each other what went wrong; raise it where it is another's."""
        texts = [text.decode() for text in self._gather_bytes(trouble.encode())]
        if any(texts) and not fails:
            rank = next(rank for rank, text in enumerate(texts) if text)
            raise AttarError(f"process {rank} stopped: {texts[rank]}", fix="mend that, and run the same command again")

    def _exchange(self, mine: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Every process's tensors, in the order of the processes, on the device of this one's."""
        if self.num == 1:
            return [dict(mine)]
        flat = [tensor.detach().cpu().reshape(-1).view(torch.uint8) for tensor in mine.values()]
        sizes = [len(piece) for piece in flat]
        return [
            {
                name: piece.clone().view(tensor.dtype).view(tensor.shape).to(tensor.device)
                for piece, (name, tensor) in zip(received.split(sizes), mine.items(), strict=True)
            }
            for received in self._gather(torch.cat(flat))
        ]

    def _gather_bytes(self, told: bytes) -> list[bytes]:
        """What every process tells, of any length."""
        lengths = [int(length) for length in self._gather(torch.tensor([len(told)]))]
        if not any(lengths):
            return [b""] * self.num
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(told)] = torch.frombuffer(bytearray(told), dtype=torch.uint8) if told else padded[:0]
        found = self._gather(padded)
        return [text[:length].numpy().tobytes() for text, length in zip(found, lengths, strict=True)]

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        """This tensor of every process."""
        if self.num == 1:
            return [tensor]
        found = [torch.empty_like(tensor) for _ in range(self.num)]
        with all_there(self.num):
            distributed.all_gather(found, tensor, group=self.group)
        return found


def team(processes: Processes, num: int) -> Team | None:
    """The first `num` of the processes as a team, None in the others; all of them must call this, once."""
    if num == 1:
        return Team() if processes.rank == 0 else None
    group = distributed.new_group(list(range(num)), timeout=PATIENCE)
    return Team(processes.rank, num, group) if processes.rank < num else None
