"""Device, precision and thread count, through Lightning Fabric."""

from __future__ import annotations

import platform
from typing import Any, Literal, cast, get_args

import torch
from lightning_fabric import Fabric

from attar.errors import ConfigError, unknown

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


class Engine:
    """Where and in which precision the work runs: `fabric.device`, `fabric.autocast()`."""

    def __init__(self, device: str = "auto", precision: str = "32-true") -> None:
        if device not in get_args(Device):
            raise unknown("device", device, get_args(Device))
        if precision not in get_args(Precision):
            raise unknown("precision", precision, get_args(Precision))
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(
                "no CUDA device was found", expected="a GPU that torch can use", fix="--device cpu, or auto"
            )
        if device == "mps" and not torch.backends.mps.is_available():
            raise ConfigError("no Apple GPU was found", fix="--device cpu, or auto")
        if precision == "16-mixed" and device in ("cpu", "auto") and not torch.cuda.is_available():
            raise ConfigError("float16 training needs a GPU", fix="--precision bf16-mixed or 32-true")
        self.fabric = Fabric(accelerator=device, devices=1, precision=cast(Precision, precision))
        self.device = self.fabric.device
        self.precision = precision

    def autocast(self) -> Any:
        """Context in which a forward pass runs in the chosen precision."""
        return self.fabric.autocast()


def hardware(device: torch.device) -> dict[str, Any]:
    """Describe this machine for manifests and records."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": gpu or str(device),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 (a device file, not a path of ours)
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"
