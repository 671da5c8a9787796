"""Where and in which precision the work runs."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar, get_args

import torch

from attar.errors import ConfigError, unknown
from attar.runtime.machine import Precision, device_name
from attar.runtime.memory import keep_freed_memory
from attar.runtime.precision import advice, auto_precision, processor_flags
from attar.runtime.processes import Processes, alone

T = TypeVar("T")
_AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Engine:
    """A device and a precision, checked: raises ConfigError where this machine has no such thing.

    `precision` is never auto: what that means on the device is chosen here, where nobody chose before.

    Args:
        device: auto, cpu, cuda, cuda:1 for one of several GPUs, or mps.
        precision: of forward passes; auto: bf16-mixed on a GPU that has it, else 32-true.
        processes: this one among those that share the work; None: it must be the only one.
        threads: of this process, where a number was asked for; None: what suits the work, at most all.
    """

    def __init__(
        self,
        device: str = "auto",
        precision: str = "auto",
        processes: Processes | None = None,
        threads: int | None = None,
    ) -> None:
        device_name(device)
        if precision not in get_args(Precision):
            raise unknown("precision", precision, get_args(Precision))
        self.processes, self.threads = processes or alone(), threads
        self.device = device_named(device)
        if self.device.type == "cuda" and self.processes.num > 1 and not self.processes.apart:
            self.device = torch.device("cuda", self.processes.local_rank % torch.cuda.device_count())
        if precision == "16-mixed" and self.device.type == "cpu":
            raise ConfigError("float16 training needs a GPU", fix="--precision bf16-mixed or 32-true")
        self.precision = auto_precision(self.device) if precision == "auto" else precision
        if self.device.type == "cpu":
            keep_freed_memory()
        elif self.device.type == "cuda":
            torch.backends.cudnn.deterministic = True  # a run that goes on is to end with the same bits

    @property
    def leads(self) -> bool:
        """Whether this process does what only one may do, in its `turn`."""
        return self.processes.rank == 0 or self.processes.apart

    def turn(self) -> AbstractContextManager[None]:
        """Keep other shards, each of which leads, from what only one may do; raises no error, but waits."""
        return self.processes.turn()

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's share of independent pieces of work: every n-th of them, for n processes."""
        return list(items)[self.processes.rank :: self.processes.num]

    def barrier(self, needs: Iterable[Path] = ()) -> None:
        """Wait until all processes have come here, which leaves the files `needs`.

        Shards never meet: they look for these files. Raises OthersMissingError where one is not there.
        """
        self.processes.barrier(needs)

    def warn(self, say: Callable[[str], None]) -> None:
        """Say where this machine is slow at the precision, with the measured factor; the process that leads does."""
        if self.leads and (sentence := advice(self.device, self.precision)):
            say(sentence)

    def wait(self) -> None:
        """Wait until the device has done all that it was given: a GPU works on while the processor goes ahead."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def autocast(self) -> AbstractContextManager[Any]:
        """Context in which a forward pass runs in the chosen precision; weights and losses stay float32."""
        dtype = _AUTOCAST.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """Let torch compute with so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_named(name: str) -> torch.device:
    """The device of a name; auto: a GPU where there is one. Raises ConfigError where this machine has none of it."""
    if name == "auto":
        return torch.device(_best_device())
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("no CUDA device was found", expected="a GPU that torch can use", fix="--device cpu, or auto")
    if (index := name.partition(":")[2]) and int(index) >= (count := torch.cuda.device_count()):
        raise ConfigError(f"there is no GPU {name}", expected=f"cuda:0 to cuda:{count - 1}")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("no Apple GPU was found", fix="--device cpu, or auto")
    return torch.device(name)


def hardware(device: torch.device) -> dict[str, Any]:
    """Describe this machine for manifests and records."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": gpu or str(device),
        "processor": _processor(),
        "processor_flags": list(processor_flags()),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
