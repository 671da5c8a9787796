"""What a machine has that matters to attar, for `attar doctor` and for reports of bugs."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch

from attar.artifacts.run import versions
from attar.data.named import NAMED
from attar.errors import AttarError
from attar.report.formats import binary_size
from attar.runtime.engine import hardware
from attar.runtime.precision import auto_precision, processor_flags

EXTRAS = ("tensorboard", "wandb", "torch-pruning", "medmnist", "submitit")


def checkup(data_dir: str = "") -> dict[str, Any]:
    """What there is, by name, each a line or a list of lines; `data_dir` is searched for datasets that go by name."""
    cpu = torch.device("cpu")
    flags = processor_flags()
    found = {
        "attar": ", ".join(f"{name} {number}" for name, number in versions().items()),
        "python": f"{platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}",
        "devices": [*_gpus(), f"cpu: {hardware(cpu)['processor']}"],
        "bfloat16": "in the CPU; photographs gain from it" if _has_bf16() else "not in the CPU",
        "flags": ", ".join(flags) or "not told by the system",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} cores (--workers chooses)",
        "memory": _memory(),
        "disk": f"{binary_size(shutil.disk_usage(Path.cwd()).free)} free in {Path.cwd()}",
        "extras": _extras(),
    }
    if data_dir:
        found["datasets"] = _data_sets(Path(data_dir))
    return found


def _gpus() -> list[str]:
    cuda = [
        f"cuda:{k}: {torch.cuda.get_device_name(k)}, {binary_size(torch.cuda.get_device_properties(k).total_memory)}"
        for k in range(torch.cuda.device_count())
    ]
    return [*cuda, *(["mps: Apple GPU"] if torch.backends.mps.is_available() else [])]


def _has_bf16() -> bool:
    return auto_precision(torch.device("cpu"), gains=True) == "bf16-mixed"


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return "not told by the system"
    return binary_size(pages * size)


def _extras() -> str:
    from importlib.metadata import PackageNotFoundError, version

    told = []
    for name in EXTRAS:
        try:
            told.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            told.append(f"{name}: not installed")
    return ", ".join(told)


def _data_sets(folder: Path) -> list[str]:
    """Data sets by name that can be read from a folder."""
    found = []
    for name, source in NAMED.own.items():
        try:
            read = source.read(folder, False)
        except (AttarError, OSError, TypeError):
            continue
        found.append(
            f"{name}: {len(read.class_names)} classes, {', '.join(f'{len(s):,} {n}' for n, s in read.splits.items())}"
        )
    return found or [f"none that goes by name in {folder}"]
