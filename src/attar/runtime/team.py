"""Processes that take every step of one piece of work together.

Where a step is cut into draws, each a function of its number, their mean is summed in the order of these numbers, in
every process, so that its bits do not depend on how many processes there are, nor on who was first. A draw that fails
in one process stops all of them: nobody is left waiting. `total` sums what each process has, the same bits in all of
them, but others for another number of processes.

Words, numbers and draws go by gloo, through the memory of the host. Sums of `total` and the gradients of a training
stay on a GPU and go by NCCL, where the team was formed for one (`form_team`).
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, distributed

from attar.errors import AttarError, ConfigError
from attar.runtime.peers import wait
from attar.runtime.processes import PATIENCE, Processes, all_there, watch_of

T = TypeVar("T")

Draw = Callable[[int], Mapping[str, Tensor]]
"""The number of a draw -> tensors by name, each draw with the same names, shapes and types."""


@dataclass(frozen=True)
class Team:
    """This process, `rank` among the `num` that work together."""

    rank: int = 0
    num: int = 1
    group: Any = None
    """Their process group on gloo; None for one alone, and for all processes that were started."""
    device_group: Any = None
    """Their process group for tensors on a GPU, on NCCL; None where there is none."""

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
        on_gpu = tensor.device.type == "cuda" and self.device_group is not None
        there, group = (tensor, self.device_group) if on_gpu else (tensor.cpu(), self.group)
        with all_there(self.num):
            wait(distributed.all_reduce(there, group=group, async_op=True), None if on_gpu else watch_of())
        return there.to(tensor.device)

    def tell(self, number: int) -> int:
        """The number that the first process brings."""
        return int(self._gather(torch.tensor([number]))[0])

    def collect(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """Tensors of any shapes of every process, in the order of the processes, on the CPU."""
        if self.num == 1:
            return [dict(tensors)]
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return [safetensors.torch.load(found) for found in self.gather_bytes(safetensors.torch.save(plain))]

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
        texts = [text.decode() for text in self.gather_bytes(trouble.encode())]
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

    def gather_bytes(self, told: bytes) -> list[bytes]:
        """The bytes of every process, of any length, in the order of the processes."""
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
            wait(distributed.all_gather(found, tensor, group=self.group, async_op=True), watch_of())
        return found


def team(processes: Processes, num: int, device: torch.device | None = None) -> Team | None:
    """The first `num` of the processes as a team, None in the others; see `form_team`.

    Raises ConfigError in all of them where `device` is not one of its own for each, or is not for teams.
    """
    if num > 1 and device is not None and (problem := problem_with(device, processes)):
        raise problem
    return form_team(processes, [range(num)], device)


def form_team(processes: Processes, runs: Sequence[range], device: torch.device | None = None) -> Team | None:
    """Form one team of each run of ranks; returns this process's, None where it is in none.

    All processes must call this, with the same disjoint runs. `device` is where the team sums tensors: a GPU that no
    other process has (see `problem_with`), else the CPU, as where it is None.
    """
    mine: Team | None = None
    for run in runs:
        ranks, group, device_group = list(run), None, None
        if len(run) > 1:
            group = distributed.new_group(ranks, timeout=PATIENCE, backend="gloo")
            if device is not None and device.type == "cuda":
                inside = device if processes.rank in run else None  # NCCL connects at once, on this GPU alone
                device_group = distributed.new_group(ranks, timeout=PATIENCE, backend="nccl", device_id=inside)
        if processes.rank in run:
            mine = Team(processes.rank - run.start, len(run), group, device_group)
    return mine


def share_out(
    items: Sequence[T], processes: Processes, most: Callable[[T], int], device: torch.device
) -> list[tuple[T, Team]]:
    """This process's items, each with the team that works on it; all processes must call this.

    Of at least as many items as processes each takes every n-th, alone. Fewer are worked on by teams of neighbouring
    ranks, as large as the processes allow, but no larger than `most` of the item; the other processes have none.
    Shards, which never meet, work alone.
    """
    num = processes.num
    if num == 1 or len(items) >= num or processes.apart:
        return [(item, Team()) for item in list(items)[processes.rank :: num]]
    largest = [most(item) for item in items]
    if max(largest, default=1) > 1 and problem_with(device, processes):
        largest = [1] * len(items)
    runs = split_ranks(num, largest)
    members = form_team(processes, runs, device)
    return [(item, members) for item, run in zip(items, runs, strict=True) if members and processes.rank in run]


def split_ranks(num: int, most: Sequence[int]) -> list[range]:
    """Disjoint runs of the ranks 0..num-1, one for each of at most `num` items, each no longer than its `most`."""
    size, rest = divmod(num, max(1, len(most)))
    runs, first = [], 0
    for k, largest in enumerate(most):
        length = max(1, min(size + (k < rest), largest))
        runs.append(range(first, first + length))
        first += length
    return runs


def problem_with(device: torch.device, processes: Processes) -> ConfigError | None:
    """Why the processes cannot sum tensors on this kind of device; all of them must ask, and get the same answer."""
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return ConfigError(
            f"several processes cannot train one network on {device.type}",
            expected="CUDA devices, one for each process, or the CPU",
            fix="start one process, or --device cpu",
        )
    return shared_device(Team(processes.rank, processes.num), _gpu_name(device))


def shared_device(members: Team, name: str) -> ConfigError | None:
    """The error where two processes bring the same name of a device; the same in all of them."""
    names = set(members.gather_bytes(name.encode()))
    if len(names) == members.num:
        return None
    return ConfigError(
        f"{members.num} processes have {len(names)} GPU{'s' * (len(names) > 1)}, and each that trains with others "
        "needs one of its own",
        expected="no more processes on a machine than it has GPUs",
        fix="torchrun with a lower --nproc-per-node",
    )


def _gpu_name(device: torch.device) -> str:
    """What tells a GPU from those of all machines, whatever its number in this process."""
    return f"{platform.node()} {torch.cuda.get_device_properties(device).uuid}"
