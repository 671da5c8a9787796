"""Which arithmetic a device is good at: what `precision: auto` means, and a warning where another was asked for.

A processor multiplies bfloat16 quickly only with instructions of its own (AVX512-BF16 or AMX on x86, bf16 on ARM).
Without them torch emulates it, at many times the time of float32.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional as F

_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
"""Flags of processors that have such instructions; any of them will do."""
SHOWN_FLAGS = ("avx2", "avx512f", *_BF16_FLAGS)
AUTO_LEAST_PX = 64
"""Images from this size on gain from bfloat16 on a processor that has it; smaller ones mostly wait for other things."""
MEASURE_S = 0.5


def processor_flags() -> tuple[str, ...]:
    """Which of the flags that matter for speed this processor has; empty where the system doesn't say."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return ()
    found = next((line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return tuple(flag for flag in SHOWN_FLAGS if flag in found)


def _has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16.

    ONEDNN_MAX_CPU_ISA, by which oneDNN can be held to older instructions of a processor, is heeded.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    allowed = most in ("ALL", "DEFAULT") or any(name in most for name in ("BF16", "FP16", "AMX", "AVX10"))
    return allowed and any(flag in processor_flags() for flag in _BF16_FLAGS)


def auto_precision(device: torch.device, gains: bool = False) -> str:
    """What `auto` is on a device; `gains`: whether the work at hand is of the kind that gains on a processor too."""
    suits = _has_bf16(device) and (device.type == "cuda" or gains)
    return "bf16-mixed" if suits else "32-true"


def advice(device: torch.device, precision: str) -> str:
    """A sentence where the precision is a bad choice on this device, with the measured factor; else empty."""
    if device.type != "cpu" or precision != "bf16-mixed" or _has_bf16(device):
        return ""
    return (
        f"{precision} takes about {slowdown():.0f} times as long as 32-true on this CPU, which has no "
        "instructions for bfloat16 (AVX512-BF16 or AMX): --precision 32-true, or auto, is quicker"
    )


@cache
def slowdown() -> float:
    """Time of a convolution and its gradient in bfloat16 over that in float32 on the processor; half a second."""
    images, weight = torch.randn(8, 64, 32, 32), torch.randn(64, 64, 3, 3)
    took = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, w = (value.to(dtype).to(memory_format=torch.channels_last) for value in (images, weight))
        x.requires_grad_()
        F.conv2d(x, w, padding=1).sum().backward()  # the first call chooses a kernel
        started, num = time.perf_counter(), 0
        while num == 0 or (time.perf_counter() - started < MEASURE_S / 2 and num < 20):
            F.conv2d(x, w, padding=1).sum().backward()
            num += 1
        took[dtype] = (time.perf_counter() - started) / num
    return took[torch.bfloat16] / took[torch.float32]
