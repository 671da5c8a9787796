"""What a machine can be asked for, by name; `engine.py` says whether this one has it. Needs no torch."""

from __future__ import annotations

from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
