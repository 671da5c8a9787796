"""Randomness as a pure function of (seed, stage, item, step).

Nothing here or above keeps a random state: a generator is derived where it is used. So a resumed run
is bit-identical to an unbroken one, and a draw can be replayed from its keys alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


def derive(seed: int, *keys: str | int) -> int:
    """Hash a seed and any keys into 63 bits; distinct keys give independent streams."""
    text = "\x1f".join(f"{type(key).__name__}:{key}" for key in (seed, *keys))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *keys: str | int) -> torch.Generator:
    """Make a CPU generator for these keys. Draw on the CPU and move: draws then agree across devices."""
    return torch.Generator().manual_seed(derive(seed, *keys))


@contextmanager
def scoped(seed: int, *keys: str | int) -> Iterator[None]:
    """Seed torch's global generator inside the block and restore it after: for weights, dropout."""
    devices = list(range(_num_gpus()))
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(derive(seed, *keys))  # a tenth of torch.manual_seed's time
        if devices:
            torch.cuda.manual_seed_all(derive(seed, *keys))
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(derive(seed, *keys))
        yield


@cache
def _num_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
